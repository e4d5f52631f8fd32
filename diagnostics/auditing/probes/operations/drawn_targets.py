"""Whether the target of a loss is a random draw that the model has not seen.

The step is repeated with that draw replaced by another one, and all others kept: the target changes, and what the loss
compares it with does not.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode

from diagnostics.auditing.probes.operations.loss_targets import SCORE_DRAWN, TARGET_DRAWN
from diagnostics.auditing.probes.operations.operation_checks import LOSS003
from diagnostics.auditing.replay import trace_step, trace_training_step
from diagnostics.auditing.tracing.operation_trace import OperationTrace
from diagnostics.auditing.tracing.recorded_calls import LossCall, Pick
from diagnostics.auditing.tracing.torch_call import name_of
from diagnostics.findings import Finding
from diagnostics.recording.random_numbers import RandomState
from diagnostics.rules.rule import WARNING

_CHOICES = {"multinomial", "bernoulli"}
_DRAWS = {"randn", "randn_like", "rand", "rand_like", "normal", "normal_", "uniform_"}
_LOSSES = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")
_ELEMENTS = 32  # of a target, from which a likeness is no chance
_LIKE = 0.5
"""Cosine of a target and a draw from which the step is repeated."""
_OTHER = 0.5
"""Share of the mean square of both targets that is in their difference; soft labels with noise have less."""
_SAME = 1e-6  # relative change of an input of a loss, from which it depends on the draw


class _Draws(TorchFunctionMode):
    """Keeps what a step draws, and draws one of it anew."""

    def __init__(self, renewed: int | None = None, names: Collection[str] = _DRAWS) -> None:
        super().__init__()
        self._names = names
        self.drawn: list[Tensor] = []
        self._renewed = renewed

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call a function; one that draws a second time if it is the one to renew."""
        given = dict(kwargs or {})
        result = func(*args, **given)
        if name_of(func) in self._names and isinstance(result, Tensor):
            if len(self.drawn) == self._renewed:
                with _same_numbers_after(given.get("generator")):
                    result = func(*args, **given)
            with torch._C.DisableTorchFunction():
                self.drawn.append(result.detach().clone())
        return result


@contextmanager
def _same_numbers_after(generator: torch.Generator | None) -> Iterator[None]:
    """What the block draws has no effect on later draws."""
    state, own = RandomState(), None if generator is None else generator.get_state()
    try:
        yield
    finally:
        state.restore()
        if generator is not None and own is not None:
            generator.set_state(own)


def check_drawn_targets(
    model: nn.Module,
    step: Callable[[nn.Module, Any], Any],
    batch: Any,
    optimizers: Sequence[Optimizer],
) -> list[Finding]:
    """LOSS003 where a target is a draw of the step on which nothing depends that the model computes."""
    with _Draws() as draws:
        first = trace_step(model, step, batch, optimizers)
    calls = [] if first is None else [call for call in first.losses.compared if _may_be_drawn(call)]
    for number in sorted({found for call in calls if (found := _find_draw(call, draws.drawn)) is not None}):
        with _Draws(renewed=number):
            again = trace_step(model, step, batch, optimizers)
        call = None if first is None or again is None else _find_unseen(first, again)
        if call is not None:
            return [LOSS003.found_once("", TARGET_DRAWN.of(operation=call.operation), WARNING)]
    return []


_MOST_CHOICES = 4  # draws of a step that are renewed
_MOVED = 0.1
"""Share of the picks that must differ with another draw."""


def check_drawn_scores(
    model: nn.Module,
    step: Callable[[nn.Module, Any], Any],
    batch: Any,
    optimizers: Sequence[Optimizer],
    trace: OperationTrace,
) -> list[Finding]:
    """LOSS003 where a drawn number picks a log-probability, and its weight in the loss depends on another draw alone.

    The gradient of log p at a draw from p is zero on average, so that such a weight trains nothing.

    Args:
        trace: The step as it was recorded before; nothing is repeated where it picks nothing.
    """
    if not trace.scores.picks:
        return []
    with _Draws(names=_CHOICES) as draws:
        first = trace_training_step(model, step, batch, optimizers)
    count = min(len(draws.drawn), _MOST_CHOICES)
    if first is None or count < 2:
        return []
    changes = []
    for number in range(count):
        with _Draws(renewed=number, names=_CHOICES):
            again = trace_training_step(model, step, batch, optimizers)
        changes.append([] if again is None else list(map(_compare, first.scores.picks, again.scores.picks)))
    for pick, seen in zip(first.scores.picks, zip(*changes, strict=False), strict=False):
        if _PICKED_ANEW in seen and _WEIGHTED_ANEW in seen:
            return [LOSS003.found_once("", SCORE_DRAWN.of(operation=pick.operation), WARNING)]
    return []


_PICKED_ANEW, _WEIGHTED_ANEW = (True, False), (False, True)
"""Whether another draw picks other numbers, and whether it changes their weights in the loss."""


def _compare(one: Pick, other: Pick) -> tuple[bool, bool] | None:
    """The same for two picks in one place; None where they cannot be compared."""
    weights, others = one.at_result.value, other.at_result.value
    if weights is None or others is None or one.index.shape != other.index.shape:
        return None
    size = float(weights.abs().max()) if one.index.numel() >= _ELEMENTS else 0.0
    if size == 0:
        return None
    moved = float((one.index != other.index).float().mean()) > _MOVED
    return moved, float((weights - others).abs().max()) > _WEIGHED * size


_WEIGHED = 1e-6  # relative change of a weight, from which it depends on the draw


def _may_be_drawn(call: LossCall) -> bool:
    target = call.target
    return call.operation.name in _LOSSES and target.numel() >= _ELEMENTS and not call.made


def _find_draw(call: LossCall, drawn: Sequence[Tensor]) -> int | None:
    """The first draw that a target is like."""
    target = call.target.flatten().float()
    for number, draw in enumerate(drawn):
        if draw.numel() == target.numel() and draw.device == target.device:
            cosine = torch.nn.functional.cosine_similarity(target, draw.flatten().float(), dim=0)
            if float(cosine.abs()) > _LIKE:
                return number
    return None


def _find_unseen(first: OperationTrace, again: OperationTrace) -> LossCall | None:
    """The loss whose target is another one, if its input is the same."""
    for call, other in zip(first.losses.compared, again.losses.compared, strict=False):
        if call.values.shape == other.values.shape and call.target.shape == other.target.shape:
            size = float((call.target.square() + other.target.square()).sum())
            change = float((call.target - other.target).square().sum())
            moved = float((call.values - other.values).abs().max())
            if _may_be_drawn(call) and change > _OTHER * size:
                return call if moved <= _SAME * float(call.values.abs().max()) else None
    return None
