"""The assertion that the loss falls, and its rule."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import takewhile
from statistics import median

from torch import Tensor, nn

from diagnostics.causes import Cause
from diagnostics.errors import InvalidValue
from diagnostics.recording.tensors import as_number
from diagnostics.rules.rule import CRITICAL, Family, Rule
from diagnostics.selection import check_function
from diagnostics.testing.failure import CheckFailed, failure
from diagnostics.testing.fit_assertions import LOSS_NOT_FINITE
from diagnostics.testing.survey import explained, fate_table, survey_training

SOME_STILL = Cause(
    "some-still",
    "{still} of {total} parameters did not move",
    remedy="Find out why with `assert_trains`, which names the cause for each of them.",
)
ALL_MOVE = Cause(
    "all-move",
    "all parameters move",
    remedy="Train one batch with `assert_overfits_batch`: if that works, the steps are too few or too small;"
    " otherwise check that labels and loss belong to these inputs.",
)
RISES = Cause(
    "rises",
    "the updates raise the loss",
    remedy="Lower the learning rate, and check the sign of the loss and `maximize`.",
)
LOSS001 = Rule(
    "LOSS001",
    CRITICAL,
    "The loss does not fall",
    "loss_fall",
    "Read the table from the loss backwards: look for the fault in the first module without gradient or movement.",
    source="assertion",
    causes=(SOME_STILL, ALL_MOVE, RISES, LOSS_NOT_FINITE),
    arguments="assert_loss_decreases",
    what="`assert_loss_decreases`: the median loss of the last fifth of the steps is not below that of the first"
    " fifth by the required share, or not finite.",
    why="The model cannot even fit the data of the test.",
    example="A learning rate of 0.",
    false_alarms="Too few steps, or batches so different that the loss is mostly noise.",
)
RISE = 0.1  # of the first loss: more than batches differ
_DIVERGES = 10.0  # times the first loss, before a loss that is not finite: no logarithm of zero is announced like this
FAMILY = Family(150, "Loss and its gradient", (LOSS001,))


def assert_loss_decreases(
    model: nn.Module, train_step: Callable[[], Tensor | float], *, steps: int = 50, by: float = 0.1
) -> list[float]:
    """The median loss of the last fifth of `steps` is below that of the first fifth. It trains the model.

    Args:
        model: The model.
        train_step: One whole training step, which returns the loss.
        steps: Number of training steps.
        by: Required fall, as a share of the size of the first median.

    Returns:
        The losses.

    Raises:
        AssertionError: It falls less, or a loss is not finite.
        ValueError: `steps` is below 5.
    """
    __tracebackhide__ = True
    check_function("train_step", train_step)
    if steps < 5:
        raise InvalidValue(
            "assertions.too-few-steps", "steps must be at least {least}, found {got}", least=5, got=steps
        )
    losses: list[float] = []
    fates = survey_training(model, lambda: losses.append(as_number(train_step())), steps)
    fifth = steps // 5
    start, end = median(losses[:fifth]), median(losses[-fifth:])
    fall = (start - end) / abs(start) if start else start - end
    if all(map(math.isfinite, losses)) and fall >= by:
        return losses
    idle = [fate for fate in fates if fate.trainable and not fate.changed]
    message = (
        f"the loss went from {start:.4g} to {end:.4g} in {steps} steps; it must fall by {by:.3g} of its size"
    )
    finite = list(takewhile(math.isfinite, losses))
    if len(finite) < len(losses):
        cause = RISES if finite and abs(finite[-1]) > _DIVERGES * abs(finite[0]) else LOSS_NOT_FINITE
    elif fall < -RISE and any(fate.changed for fate in fates):
        cause = RISES  # weights that stand still cannot raise it
    elif idle:
        cause = explained(SOME_STILL.of(still=len(idle), total=len(fates)), idle, fates)
    else:
        cause = ALL_MOVE
    found = failure(LOSS001, "", message, fall, by, cause, steps)
    raise CheckFailed([found], fate_table(fates, [fate.name for fate in idle]))
