"""The context that the decoder receives, compared with the one that the encoder computes, in one forward pass.

Shapes: B rows, P context tokens, D hidden.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from etrm.batch import Batch
from etrm.config import Config, with_settings
from etrm.data import Sample
from etrm.data.sample import CELLS
from etrm.data.task import COLOURS
from etrm.data.tokens import FIRST_COLOUR
from etrm.errors import DataError
from etrm.investigation.evidence.reasons import InspectionFacts, VerdictReason
from etrm.investigation.runs.measured_run import training_queries
from etrm.investigation.runs.zero_weights import fill_zeros
from etrm.model.encoders import Encoded
from etrm.model.symbolic_variant import SymbolicVariant
from etrm.model.variant import Given, Variant
from etrm.symbolic.selector import FitSelector
from etrm.training.scoring.predictor import make_batch
from etrm.training.trainer import Trainer

Integers = npt.NDArray[np.integer]
Flags = npt.NDArray[np.bool_]
Belongs = Callable[[int, int, Integers], Flags]
"""Whether tokens belong to a part: from the number of their demonstration, that of the last one, and positions."""
ROWS = 16
"""Rows of the batch, each of another task."""
ROUNDING = 1e-5
"""Largest difference, relative to the size of what is compared, that counts as none."""
SAME = 5e-3
"""The same for the context of a row on its way, as root mean squares: bfloat16 rounds by .1 %, which matters to no
learning."""


class ContextReason(StrEnum):
    """What happens to the context between the encoder and the decoder."""

    NOT_FINITE = "h3.not-finite"
    WRONG_SHAPE = "h3.wrong-shape"
    CHANGED = "h3.changed-on-its-way"
    OTHER_ROWS = "h3.depends-on-other-rows"
    UNUSED = "h3.unused"
    UNREAD = "h3.demonstrations-unread"
    SILENT = "h3.zeros-for-a-row"
    ARRIVES = "h3.arrives-and-is-used"


class DemoPart(StrEnum):
    """A part of the demonstrations, on which the context of a row must depend."""

    INPUTS = "inputs"
    OUTPUTS = "outputs"
    LAST = "last"

    @property
    def words(self) -> str:
        """The part as a report names it."""
        return {
            DemoPart.INPUTS: "the inputs of its demonstrations",
            DemoPart.OUTPUTS: "the outputs of its demonstrations",
            DemoPart.LAST: "the last demonstration",
        }[self]


@dataclass(frozen=True)
class ContextTrace(InspectionFacts):
    """The context on its way from the encoder to the decoder.

    Attributes:
        finite: whether every number that the decoder receives is finite.
        shape, wanted_shape: shapes of the context that it receives and of the one that it is built for, without the
            rows.
        same: largest difference between the received context of a row and the encoder's, as root mean squares relative
            to that of all rows; in a step in which rows start and in one in which they continue, in evaluation and in
            training.
        scale: the factor of the received context to the encoder's, by least squares.
        aligned: cosine of the two.
        used: largest change of a logit where every row gets the demonstrations of another task, relative to the size
            of the logits.
        others: largest change of the context of a row where only demonstrations of other rows change, relative to its
            size; 0 where rows are independent.
        rms: root mean square of the encoder's context.
        unread: parts of the demonstrations on which the context of some row does not depend.
        silent: whether some row receives zeros in one of these steps.
        constant: whether the encoder returns the same context for all rows.
        compared: whether the received context is known, because the core has an argument ``context``.
    """

    finite: bool
    shape: tuple[int, ...]
    wanted_shape: tuple[int, ...]
    same: float
    scale: float
    aligned: float
    used: float
    others: float
    rms: float
    unread: tuple[DemoPart, ...]
    silent: bool
    constant: bool = False
    compared: bool = True

    @property
    def unused(self) -> bool:
        """Whether no demonstration reaches the decoder by value, so nothing before it can have a gradient."""
        return self.used <= ROUNDING

    @property
    def changed(self) -> bool:
        """Whether the decoder receives another context than the encoder computes."""
        return self.same > SAME

    @property
    def dropped(self) -> bool:
        """Whether what the encoder computes is lost on its way to the logits."""
        return self.unused or not self.finite or self.silent

    @property
    def lost(self) -> bool:
        """Whether something is lost between demonstrations and decoder, which cuts its gradient too."""
        return self.dropped or bool(self.unread)

    @property
    def holds(self) -> bool:
        """Whether the context changes, or is lost, between encoder and decoder."""
        return self.lost or self.changed or self.shape != self.wanted_shape or self.others > ROUNDING

    @property
    def reasons(self) -> list[VerdictReason]:
        """What is wrong with the path of the context, or that nothing is."""
        if not self.finite:
            words = "the context that the decoder receives is not finite"
            return [VerdictReason(ContextReason.NOT_FINITE, words)]
        if self.shape != self.wanted_shape:
            words = (
                f"the decoder receives a context of shape {self.shape} and is built for {self.wanted_shape}"
            )
            return [VerdictReason(ContextReason.WRONG_SHAPE, words)]
        found = []
        if self.changed:
            words = "the decoder does not receive the encoder's context, but "
            words += f"{self.scale:.3g} times it, with cosine {self.aligned:.2f}"
            found.append(VerdictReason(ContextReason.CHANGED, words))
        if self.others > ROUNDING:
            words = f"the context of a row changes by {self.others:.2g} of its size with demonstrations of other rows"
            found.append(VerdictReason(ContextReason.OTHER_ROWS, words))
        if self.unused:
            words = "no logit changes where every row gets the demonstrations of another task"
            found.append(VerdictReason(ContextReason.UNUSED, words))
        if self.unread and not self.unused:
            parts = " or ".join(part.words for part in self.unread)
            found.append(
                VerdictReason(ContextReason.UNREAD, f"the context of some row does not depend on {parts}")
            )
        if self.silent and not self.changed:
            found.append(VerdictReason(ContextReason.SILENT, "the decoder receives zeros for some row"))
        words = "the decoder receives the encoder's context row by row, and "
        if not self.compared:
            words = "what the decoder receives is not known, because its core has no argument `context`, but "
        words += f"other demonstrations change its logits by {self.used:.2g} of their size"
        return found or [VerdictReason(ContextReason.ARRIVES, words)]


def trace_context(config: Config) -> ContextTrace:
    """Build a model as a run would, and trace the context of one batch.

    Raises:
        EtrmError: the model cannot be built, or there is only one task.
    """
    trainer = Trainer(with_settings(config, monitor={"enabled": False}))
    queries = training_queries(trainer)  # one for each task, because a drawn batch may hold a single task
    if len(queries) < 2:
        raise DataError(
            "investigate.single-task",
            "whether the context is used can only be measured with the demonstrations of two tasks",
            got=f"{len(trainer.tasks)} training task",
        )
    found = trace_model(trainer.model, queries)
    if not found.constant:
        return found
    # A last layer that begins at zero hides the demonstrations until it is trained.
    fill_zeros(trainer)
    return replace(trace_model(trainer.model, queries), rms=found.rms)


def trace_model(model: Variant, queries: Sequence[Sample]) -> ContextTrace:
    """Trace the context of one batch in a model, which is then in evaluation mode.

    Args:
        model: the model.
        queries: the queries of the batch, at least two, each of another task.
    """
    rows = min(ROWS, len(queries) // 2)
    samples = queries[:rows]
    # From outside the batch: a mean over its rows would not change if they exchanged theirs.
    others = [replace(s, demos=o.demos) for s, o in zip(samples, queries[rows:], strict=False)]
    model = model.eval()
    batch, mismatched = make_batch(model, samples), make_batch(model, others)
    neighbours = make_batch(model, [samples[0], *others[1:]])
    first, second = _follow(model, batch, 2)
    with _mix_templates(model):
        own, other = (_follow(model, demos)[0].logits for demos in (batch, mismatched))
    neighbour = _follow(model, neighbours)[0]
    # The context may change in training only.
    steps = [first, second, *_follow(model.train(), batch, 2)]
    model.eval()
    encoded = first.encoded
    worst = max(steps, key=lambda step: step.change)
    return ContextTrace(
        finite=all(bool(step.given.isfinite().all()) for step in steps),
        shape=tuple(first.given.shape[1:]),
        wanted_shape=model.context_shape,
        same=worst.change,
        scale=worst.scale,
        aligned=worst.aligned,
        used=_measure_change(other, own),
        others=_measure_change(neighbour.given[0], first.given[0]),
        rms=float(encoded.square().mean().sqrt()),
        unread=_find_unread(model, samples),
        silent=any(step.silent for step in steps),
        constant=rows > 1 and _measure_change(encoded[1:], encoded[:1]) <= ROUNDING,
        compared=all(step.named for step in steps),
    )


@contextmanager
def _mix_templates(model: Variant) -> Iterator[None]:
    """Let a symbolic solver answer by all templates, because the best one may be the same for all demonstrations."""
    if not isinstance(model, SymbolicVariant):
        yield
        return
    selection, training = model.core.selection, model.core.training
    model.core.selection = "soft"
    model.core.train()
    try:
        yield
    finally:
        model.core.selection = selection
        model.core.train(training)


@torch.no_grad()
def _find_unread(model: Variant, samples: Sequence[Sample]) -> tuple[DemoPart, ...]:
    """A metamorphic test of the encoder alone: in other colours, each part has to change the context of every row.

    A context of codes or of maxima may stay the same in some colours, so all of them are tried.
    """
    encoded = _read_demos(model, samples)
    found = []
    last = [replace(s, demos=s.demos[-1:]) for s in samples]
    for part, belongs in PARTS.items():
        rated = _list_rated(model, last if part is DemoPart.LAST else samples)
        rows = [row for row in rated if len(samples[row].demos) > 1 or part is not DemoPart.LAST]
        if part is DemoPart.LAST and DemoPart.INPUTS in found:  # whose input alone changes
            continue
        rows = _list_unmoved(model, samples, encoded, rows, belongs)
        if part is DemoPart.LAST:  # a coarse context may not depend on any single demonstration
            coarse = _list_unmoved(model, samples, encoded, rows, _is_first_input)
            rows = [row for row in rows if row not in coarse]
        if rows:
            found.append(part)
    return tuple(found)


def _list_unmoved(
    model: Variant, samples: Sequence[Sample], encoded: Tensor, rows: Sequence[int], belongs: Belongs
) -> list[int]:
    """Those of some rows whose context stays the same, whatever colours a part of their demonstrations has."""
    size = encoded.double().square().mean().sqrt().clamp(min=1e-30)
    waiting = [*rows]
    for shift in range(1, COLOURS):
        if not waiting:
            break
        changed = _read_demos(model, [_recolour(samples[row], belongs, shift) for row in waiting])
        moved = (changed.double() - encoded[waiting].double()).abs().flatten(1).amax(1) / size
        waiting = [row for row, change in zip(waiting, moved.tolist(), strict=True) if change <= ROUNDING]
    return waiting


def _list_rated(model: Variant, samples: Sequence[Sample]) -> list[int]:
    """The rows on whose demonstrations the context can depend.

    A fit to outputs of a size that no template makes rates all templates alike, whatever the colours are. If that is
    so in all rows, it says nothing about the tasks, and all are returned.
    """
    rows = [*range(len(samples))]
    if not isinstance(model, SymbolicVariant) or not isinstance(model.encoder.selector, FitSelector):
        return rows
    rated, count = _read_demos(model, samples), model.core.templates.enumerated
    fits = rated[:, :count] - model.encoder.selector(rated.new_zeros(1, count))
    spread = fits.amax(1) - fits.amin(1)
    return torch.nonzero(spread > ROUNDING * fits.abs().max()).flatten().tolist() or rows


def _read_demos(model: Variant, samples: Sequence[Sample]) -> Tensor:
    """The context; of a symbolic solver the logits before its softmax, which rounds small differences to none."""
    demos = make_batch(model, samples).demos
    if isinstance(model, SymbolicVariant):
        return model.encoder.rate(demos).logits
    assert model.encoder is not None
    encoded: Encoded = model.encoder(demos)
    return encoded.context


def _is_first_input(demo: int, last: int, positions: Integers) -> Flags:
    return (positions < CELLS) & (demo == 0)


PARTS: dict[DemoPart, Belongs] = {
    DemoPart.INPUTS: lambda demo, last, positions: positions < CELLS,
    DemoPart.OUTPUTS: lambda demo, last, positions: positions >= CELLS,
    DemoPart.LAST: lambda demo, last, positions: (positions < CELLS) & (demo == last),
}
"""The tokens of each part.

Of the last one only the input, since in other colours as a whole it is explained as well by what moves cells."""


def _recolour(sample: Sample, belongs: Belongs, shift: int) -> Sample:
    """The sample with every colour of a part of its demonstrations replaced by the one ``shift`` places further."""
    demos = []
    for number, demo in enumerate(sample.demos):
        here = belongs(number, len(sample.demos) - 1, demo.positions) & (demo.tokens >= FIRST_COLOUR)
        other = FIRST_COLOUR + (demo.tokens - FIRST_COLOUR + shift) % COLOURS
        demos.append(replace(demo, tokens=np.where(here, other, demo.tokens).astype(demo.tokens.dtype)))
    return replace(sample, demos=tuple(demos))


@dataclass(frozen=True)
class _Step:
    """The last full output of the encoder, the context that the core received (B, P, D), and the logits of a step.

    ``named`` is whether the core has an argument ``context``; else ``given`` is what the context policy returned.
    """

    encoded: Tensor
    given: Tensor
    logits: Tensor
    named: bool

    @property
    def comparable(self) -> bool:
        return self.encoded.shape == self.given.shape

    @property
    def change(self) -> float:
        if not self.comparable:
            return float("inf")
        apart = (self.given.double() - self.encoded.double()).square().flatten(1).mean(1).amax()
        return float((apart / self.encoded.double().square().mean().clamp(min=1e-60)).sqrt())

    @property
    def silent(self) -> bool:
        rows = self.given.double().square().flatten(1).mean(1).sqrt()
        return bool((rows <= ROUNDING * self.encoded.double().square().mean().sqrt()).any())

    @property
    def scale(self) -> float:
        encoded, given = self.encoded.flatten().double(), self.given.flatten().double()
        return float(given @ encoded / (encoded @ encoded)) if self.comparable else float("nan")

    @property
    def aligned(self) -> float:
        encoded, given = self.encoded.flatten().double(), self.given.flatten().double()
        return float(torch.cosine_similarity(given, encoded, dim=0)) if self.comparable else float("nan")


@torch.no_grad()
def _follow(model: Variant, batch: Batch, steps: int = 1) -> list[_Step]:
    """ACT steps from a fresh carry; in all but the first, every row continues."""
    assert model.encoder is not None
    encoded: list[Tensor] = []
    given: list[Tensor] = []

    def keep_context(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given.extend(_find_context(module, args, kwargs))

    hooks = (
        model.encoder.register_forward_hook(lambda module, args, output: encoded.append(output.context)),
        model.core.register_forward_pre_hook(keep_context, with_kwargs=True),
    )
    found: list[_Step] = []
    policy = model.context_policy

    def follow_policy(*call: Any) -> Given:
        chosen = policy(*call)
        encoded.append(chosen.context)
        return chosen

    if model.config.own_variant:  # its policy may change what the encoder returns
        model.context_policy = follow_policy
    carry = model.initial_carry(batch.size)
    try:
        for _ in range(steps):
            given.clear()
            carry, output = model(carry, batch)
            carry = replace(carry, halted=torch.zeros_like(carry.halted))
            logits = output.logits
            if batch.valid is not None:
                logits = logits * batch.valid.unsqueeze(-1)
            if not encoded:  # the context comes from elsewhere: compare it with the output of the encoder
                model.encoder(batch.demos)
            named = bool(given)
            if not named and model.config.own_variant:
                given.append(encoded[-1])
            # An encoder that is not called again, or not for every row, keeps its last output.
            whole = [context for context in encoded if context.shape == given[-1].shape]
            found.append(_Step((whole or encoded)[-1], given[-1], logits, named))
    finally:
        model.context_policy = policy
        for hook in hooks:
            hook.remove()
    return found


def _find_context(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The argument of the core that is named context; nothing if none is."""
    arguments = inspect.signature(module.forward).bind(*args, **kwargs).arguments
    return [arguments["context"]] if "context" in arguments else []


def _measure_change(new: Tensor, old: Tensor) -> float:
    """The largest difference of an element, relative to the root mean square of the old ones."""
    size = old.double().square().mean().sqrt()
    return float((new.double() - old.double()).abs().max() / size.clamp(min=1e-30))
