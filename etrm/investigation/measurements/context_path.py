"""What the decoder is given, against what the encoder said: read from one forward pass.

Shapes: B rows, P context tokens, D hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from etrm.batch import Batch
from etrm.config import Config, with_overrides
from etrm.data import Sample
from etrm.data.sample import CELLS
from etrm.data.task import COLOURS
from etrm.data.tokens import FIRST_COLOUR
from etrm.errors import DataError
from etrm.investigation.evidence import Found, Reason
from etrm.investigation.runs.measured_run import training_queries
from etrm.model.variant import Variant
from etrm.training.scoring.predictor import make_batch
from etrm.training.trainer import Trainer

Integers = npt.NDArray[np.integer]
Flags = npt.NDArray[np.bool_]
ROWS = 16
"""Rows of the batch, each of another task."""
ROUNDING = 1e-5
"""Largest difference, relative to the size of what is compared, that counts as none."""
SAME = 5e-3
"""The same for a row's context on its way, as root mean squares: bfloat16 rounds by .1 %, and no learning hangs on
that."""


class PassageReason(StrEnum):
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
    """A part of the demonstrations, which the context of a row must depend on."""

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
class Passage(Found):
    """The context on its way from the encoder to the decoder.

    Attributes:
        finite: every number that the decoder is given is finite.
        shape, wanted_shape: of what it is given, and of what it was made for, without the rows.
        same: the largest difference of a row to what the encoder said, root mean square relative to that of all rows,
            in a step in which rows begin and in one in which they go on, in evaluation and in training.
        scale: the factor by which what it is given is what the encoder said, by least squares.
        aligned: cosine of the two.
        used: the largest change of a logit where every row gets another task's demonstrations, relative
            to the logits' size.
        others: the largest change of a row's context where only other rows' demonstrations change,
            relative to its size; 0 where every row is on its own.
        rms: of the encoder's own context.
        unread: parts of the demonstrations that change the context of some row by nothing.
        silent: some row, in one of these steps, is given zeros.
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

    @property
    def unused(self) -> bool:
        """Whether no demonstration reaches the decoder, by value: nothing behind it can have a gradient."""
        return self.used <= ROUNDING

    @property
    def changed(self) -> bool:
        """Whether the decoder is given something else than what the encoder says."""
        return self.same > SAME

    @property
    def lost(self) -> bool:
        """Whether something does not get from the demonstrations to the decoder, which then cuts its gradient too."""
        return self.unused or not self.finite or self.silent or bool(self.unread)

    @property
    def holds(self) -> bool:
        """Whether something stands between encoder and decoder, or nothing gets through."""
        return self.lost or self.changed or self.shape != self.wanted_shape or self.others > ROUNDING

    @property
    def reasons(self) -> list[Reason]:
        """What is wrong with the way of the context, or that nothing is."""
        if not self.finite:
            words = "the context that the decoder is given is not finite"
            return [Reason(PassageReason.NOT_FINITE, words)]
        if self.shape != self.wanted_shape:
            words = f"the decoder is given a context of {self.shape} and was made for {self.wanted_shape}"
            return [Reason(PassageReason.WRONG_SHAPE, words)]
        found = []
        if self.changed:
            words = "the decoder is not given what the encoder says: "
            words += f"{self.scale:.3g} times it, cosine {self.aligned:.2f}"
            found.append(Reason(PassageReason.CHANGED, words))
        if self.others > ROUNDING:
            words = (
                f"a row's context changes by {self.others:.2g} of its size with other rows' demonstrations"
            )
            found.append(Reason(PassageReason.OTHER_ROWS, words))
        if self.unused:
            words = "no logit changes where every row gets another task's demonstrations"
            found.append(Reason(PassageReason.UNUSED, words))
        if self.unread and not self.unused:
            parts = ", nor of ".join(part.words for part in self.unread)
            found.append(Reason(PassageReason.UNREAD, f"the context of some row says nothing of {parts}"))
        if self.silent and not self.changed:
            found.append(Reason(PassageReason.SILENT, "the decoder is given zeros for some row"))
        words = "the decoder is given what the encoder says, row by row, and other demonstrations change its "
        words += f"logits by {self.used:.2g} of their size"
        return found or [Reason(PassageReason.ARRIVES, words)]


def passage(config: Config) -> Passage:
    """Build a subject as a run would, and follow the context of one batch.

    Raises:
        EtrmError: the subject cannot be built, or there is but one task.
    """
    trainer = Trainer(with_overrides(config, ("monitor.enabled=false",)))
    queries = training_queries(trainer)  # one of a task, for a drawn batch may hold one task alone
    if len(queries) < 2:
        raise DataError(
            "investigate.single-task",
            "whether the context is used can only be measured with the demonstrations of two tasks",
            got=f"{len(trainer.tasks)} training task",
        )
    rows = min(ROWS, len(queries) // 2)
    samples = queries[:rows]
    # From outside the batch: a mean over its rows stays what it is when they exchange theirs.
    others = [replace(s, demos=o.demos) for s, o in zip(samples, queries[rows:], strict=False)]
    model = trainer.model.eval()
    batch, foreign = make_batch(model, samples), make_batch(model, others)
    neighbours = make_batch(model, [samples[0], *others[1:]])
    begin, go_on = _follow(model, batch, 2)
    other = _follow(model, foreign)[0]
    beside = _follow(model, neighbours)[0]
    # What stands in the way may do so in training alone.
    steps = [begin, go_on, *_follow(model.train(), batch, 2)]
    model.eval()
    tokens, width = model.config.context_tokens, model.config.hidden_size
    said = begin.said
    worst = max(steps, key=lambda step: step.change)
    return Passage(
        finite=all(bool(step.given.isfinite().all()) for step in steps),
        shape=tuple(begin.given.shape[1:]),
        wanted_shape=(tokens, width),
        same=worst.change,
        scale=worst.scale,
        aligned=worst.aligned,
        used=_change(other.logits, begin.logits),
        others=_change(beside.given[0], begin.given[0]),
        rms=float(said.square().mean().sqrt()),
        unread=_unread(model, samples),
        silent=any(step.silent for step in steps),
    )


@torch.no_grad()
def _unread(model: Variant, samples: Sequence[Sample]) -> tuple[DemoPart, ...]:
    """A metamorphic test of the encoder alone: under other colours, each part has to change every row's context."""
    assert model.encoder is not None
    said = model.encoder(make_batch(model, samples).demos).context
    size = said.double().square().mean().sqrt().clamp(min=1e-30)
    found = []
    for part, asked in PARTS.items():
        rows = [row for row, s in enumerate(samples) if len(s.demos) > 1 or part is not DemoPart.LAST]
        if not rows:
            continue
        recoloured = [_recoloured(samples[row], asked) for row in rows]
        changed = model.encoder(make_batch(model, recoloured).demos).context
        moved = (changed.double() - said[rows].double()).abs().flatten(1).amax(1) / size
        if bool((moved <= ROUNDING).any()):
            found.append(part)
    return tuple(found)


PARTS: dict[DemoPart, Callable[[int, int, Integers], Flags]] = {
    DemoPart.INPUTS: lambda demo, last, positions: positions < CELLS,
    DemoPart.OUTPUTS: lambda demo, last, positions: positions >= CELLS,
    DemoPart.LAST: lambda demo, last, positions: np.full(positions.shape, demo == last),
}
"""Which tokens of a demonstration are meant, given its number, that of the last, and its tokens' positions."""


def _recoloured(sample: Sample, asked: Callable[[int, int, Integers], Flags]) -> Sample:
    """The sample with the next colour in place of each in a part of its demonstrations."""
    demos = []
    for number, demo in enumerate(sample.demos):
        here = asked(number, len(sample.demos) - 1, demo.positions) & (demo.tokens >= FIRST_COLOUR)
        other = FIRST_COLOUR + (demo.tokens - FIRST_COLOUR + 1) % COLOURS
        demos.append(replace(demo, tokens=np.where(here, other, demo.tokens).astype(demo.tokens.dtype)))
    return replace(sample, demos=tuple(demos))


@dataclass(frozen=True)
class _Step:
    """What the encoder said last in full, what the core was given (B, P, D), and the logits of an ACT step."""

    said: Tensor
    given: Tensor
    logits: Tensor

    @property
    def comparable(self) -> bool:
        return self.said.shape == self.given.shape

    @property
    def change(self) -> float:
        if not self.comparable:
            return float("inf")
        apart = (self.given.double() - self.said.double()).square().flatten(1).mean(1).amax()
        return float((apart / self.said.double().square().mean().clamp(min=1e-60)).sqrt())

    @property
    def silent(self) -> bool:
        rows = self.given.double().square().flatten(1).mean(1).sqrt()
        return bool((rows <= ROUNDING * self.said.double().square().mean().sqrt()).any())

    @property
    def scale(self) -> float:
        said, given = self.said.flatten().double(), self.given.flatten().double()
        return float(given @ said / (said @ said)) if self.comparable else float("nan")

    @property
    def aligned(self) -> float:
        said, given = self.said.flatten().double(), self.given.flatten().double()
        return float(torch.cosine_similarity(given, said, dim=0)) if self.comparable else float("nan")


@torch.no_grad()
def _follow(model: Variant, batch: Batch, steps: int = 1) -> list[_Step]:
    """ACT steps from a fresh carry, in all but the first of which every row goes on."""
    assert model.encoder is not None
    said: list[Tensor] = []
    given: list[Tensor] = []
    hooks = (
        model.encoder.register_forward_hook(lambda module, args, output: said.append(output.context)),
        model.core.register_forward_pre_hook(
            lambda module, args, kwargs: given.append(_argument(module, args, kwargs)), with_kwargs=True
        ),
    )
    found: list[_Step] = []
    carry = model.initial_carry(batch.size)
    try:
        for _ in range(steps):
            carry, output = model(carry, batch)
            carry = replace(carry, halted=torch.zeros_like(carry.halted))
            logits = output.logits
            if batch.valid is not None:
                logits = logits * batch.valid.unsqueeze(-1)
            if not said:  # something else speaks in its place: held against what it would say
                model.encoder(batch.demos)
            # An encoder that is not asked again, or not for every row, has said what it said before.
            whole = [context for context in said if context.shape == given[-1].shape]
            found.append(_Step((whole or said)[-1], given[-1], logits))
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _argument(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> Tensor:
    """The context among the core's arguments, the third."""
    return kwargs["context"] if "context" in kwargs else args[2]


def _change(new: Tensor, old: Tensor) -> float:
    """The largest difference of an element, relative to the root mean square of the old ones."""
    size = old.double().square().mean().sqrt()
    return float((new.double() - old.double()).abs().max() / size.clamp(min=1e-30))
