"""What the decoder is given, against what the encoder said: read from one forward pass.

Shapes: B rows, P context tokens, D hidden.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from etrm.batch import Batch
from etrm.config import Config, with_overrides
from etrm.data import collate
from etrm.errors import DataError
from etrm.investigation.measure import training_queries
from etrm.model.recursive import RecursiveModel
from etrm.training.trainer import Trainer

ROWS = 16
"""Rows of the batch, each of another task."""
ROUNDING = 1e-5
"""Largest difference, relative to the size of what is compared, that counts as none."""
SAME = 2e-2
"""The same for the context on its way: bfloat16 rounds a number by up to .2 %, the largest are some five times the root
mean square, and no learning hangs on that."""


@dataclass(frozen=True)
class Passage:
    """The context on its way from the encoder to the decoder.

    Attributes:
        finite: every number that the decoder is given is finite.
        shape, wanted_shape: of what it is given, and of what it was made for, without the rows.
        same: the largest difference to what the encoder said, relative to its size.
        scale: the factor by which what it is given is what the encoder said, by least squares.
        aligned: cosine of the two.
        used: the largest change of a logit where every row gets another task's demonstrations, relative
            to the logits' size.
        others: the largest change of a row's context where only other rows' demonstrations change,
            relative to its size; 0 where every row is on its own.
        rms: of the encoder's own context.
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

    @property
    def unused(self) -> bool:
        """Whether no demonstration reaches the decoder, by value: nothing behind it can have a gradient."""
        return self.used <= ROUNDING

    @property
    def holds(self) -> bool:
        """Whether something stands between encoder and decoder, or nothing gets through."""
        return (
            not self.finite
            or self.shape != self.wanted_shape
            or self.unused
            or self.same > SAME
            or self.others > ROUNDING
        )

    @property
    def words(self) -> str:
        """What is wrong, or that nothing is."""
        if not self.finite:
            return "the context that the decoder is given is not finite"
        if self.shape != self.wanted_shape:
            return f"the decoder is given a context of {self.shape} and was made for {self.wanted_shape}"
        parts = []
        if self.same > SAME:
            parts.append(
                f"the decoder is not given what the encoder says: {self.scale:.3g} times it, cosine {self.aligned:.2f}"
            )
        if self.others > ROUNDING:
            parts.append(
                f"a row's context changes by {self.others:.2g} of its size with other rows' demonstrations"
            )
        if self.unused:
            parts.append("no logit changes where every row gets another task's demonstrations")
        if parts:
            return "; ".join(parts)
        return (
            "the decoder is given what the encoder says, row by row, and other demonstrations change its logits by "
            f"{self.used:.2g} of their size"
        )


def passage(config: Config) -> Passage:
    """Build a subject as a run would, and follow the context of one batch.

    Raises:
        EtrmError: the subject cannot be built, or there is but one task.
    """
    trainer = Trainer(with_overrides(config, ("monitor.enabled=false",)))
    queries = training_queries(trainer)  # one of a task, for a drawn batch may hold one task alone
    if len(queries) < 2:
        raise DataError(
            "whether the context is used can only be asked with demonstrations of two tasks",
            got=f"{len(trainer.tasks)} training task",
        )
    rows = min(ROWS, len(queries) // 2)
    samples = queries[:rows]
    # From outside the batch: a mean over its rows stays what it is when they exchange theirs.
    others = [replace(s, demos=o.demos) for s, o in zip(samples, queries[rows:], strict=False)]
    batch, foreign = collate(samples), collate(others)
    neighbours = collate([samples[0], *others[1:]])
    model = trainer.model.eval()
    said, given, logits = _follow(model, batch)
    _, _, other_logits = _follow(model, foreign)
    _, beside, _ = _follow(model, neighbours)
    core, width = model.core.context_tokens, model.core.H_init.shape[0]
    flat_said, flat_given = said.flatten().double(), given.flatten().double()
    comparable = said.shape == given.shape
    return Passage(
        finite=bool(given.isfinite().all()),
        shape=tuple(given.shape[1:]),
        wanted_shape=(core, width),
        same=_change(given, said) if comparable else float("inf"),
        scale=float(flat_given @ flat_said / (flat_said @ flat_said)) if comparable else float("nan"),
        aligned=float(torch.cosine_similarity(flat_given, flat_said, dim=0)) if comparable else float("nan"),
        used=_change(other_logits, logits),
        others=_change(beside[0], given[0]),
        rms=float(said.square().mean().sqrt()),
    )


@torch.no_grad()
def _follow(model: RecursiveModel, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """What the encoder said last, what the core was given, and the logits of one ACT step from a fresh carry."""
    assert model.encoder is not None
    said: list[Tensor] = []
    given: list[Tensor] = []
    hooks = (
        model.encoder.register_forward_hook(lambda module, args, output: said.append(output.context)),
        model.core.register_forward_pre_hook(
            lambda module, args, kwargs: given.append(_argument(module, args, kwargs)), with_kwargs=True
        ),
    )
    try:
        _, output = model(model.initial_carry(batch.size), batch)
    finally:
        for hook in hooks:
            hook.remove()
    logits = output.logits
    if batch.valid is not None:
        logits = logits * batch.valid.unsqueeze(-1)
    return said[-1], given[-1], logits


def _argument(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> Tensor:
    """The context among the core's arguments, the third."""
    return kwargs["context"] if "context" in kwargs else args[2]


def _change(new: Tensor, old: Tensor) -> float:
    """The largest difference of an element, relative to the root mean square of the old ones."""
    size = old.double().square().mean().sqrt()
    return float((new.double() - old.double()).abs().max() / size.clamp(min=1e-30))
