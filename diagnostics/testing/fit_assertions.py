"""Assertions before a long training: the loss starts at that of a guess, and one batch can be learnt by heart."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from diagnostics.causes import Cause
from diagnostics.errors import InvalidValue
from diagnostics.recording.tensors import as_number, stored_values, tensors_in
from diagnostics.report.tables import cell, text_table
from diagnostics.rules.rule import CRITICAL, WARNING, Family, Rule
from diagnostics.selection import check_function, select_modules, with_submodules
from diagnostics.testing.failure import CheckFailed, failure
from diagnostics.testing.survey import explained, fate_table, survey_training
from diagnostics.testing.trials import untouched

ABOVE_GUESS = Cause(
    "above-guess",
    "the answers are confident and wrong before training: weights or inputs are too large, or the loss is a"
    " sum instead of a mean",
    remedy="Normalise the inputs, start the last layer small, and average the loss over samples.",
)
BELOW_GUESS = Cause(
    "below-guess",
    "before training, the loss is below that of a guess: the inputs contain the labels, or the loss is scaled"
    " or masked",
    remedy="Look for the label among the inputs, and for a factor, a mask or a second softmax in the loss.",
)
LOSS_NOT_FINITE = Cause(
    "loss-not-finite",
    "an overflow, a division by zero or the logarithm of zero",
    remedy="Find the first module whose output is not finite: `diagnostics.first_nonfinite`.",
)
STILL = Cause(
    "parameters-still",
    "{still} of {total} trainable parameters did not move",
    remedy="Find out why with `assert_trains`, which names the cause for each of them.",
)
DIVERGED = Cause(
    "diverged",
    "the loss more than doubled or is not finite",
    remedy="Lower the learning rate, and check the sign of the loss and `maximize`.",
)
STUCK = Cause(
    "stuck",
    "all parameters move but the loss does not fall far: labels that do not belong to these inputs, equal"
    " inputs, a wrong loss, or a learning rate that is too low",
    remedy="Give one batch without augmentation and dropout; check labels, loss and learning rate on it.",
)

INIT001 = Rule(
    "INIT001",
    WARNING,
    "The first loss is not that of a guess",
    "loss",
    "Compare the loss of the untrained model with that of equal chances.",
    source="assertion",
    causes=(ABOVE_GUESS, BELOW_GUESS, LOSS_NOT_FINITE),
    arguments="assert_initial_loss",
    what="`assert_initial_loss`: the loss before training differs from the expected one by more than the tolerance.",
    why="An untrained model should answer like a guess. If its loss is lower or much higher, the loss or the"
    " inputs are wrong.",
    example="Logits of scale 100 before cross-entropy.",
    false_alarms="A last layer that starts at the class frequencies on purpose.",
)
FIT001 = Rule(
    "FIT001",
    CRITICAL,
    "The model cannot overfit one batch",
    "loss_share",
    "Find out on this one batch why the model does not learn; more data will not help.",
    source="assertion",
    causes=(STILL, DIVERGED, STUCK, LOSS_NOT_FINITE),
    arguments="assert_overfits_batch",
    what="`assert_overfits_batch`: training on one batch does not bring the loss down to the required share.",
    why="A model that cannot overfit one batch learns nothing from many.",
    example="Labels that are shuffled anew in every step.",
    false_alarms="A loss with a floor, as label smoothing or a penalty has: raise `to`. Two equal inputs with"
    " different labels.",
)
_DOUBLE = 2.0  # of the first loss: beyond the noise of labels that change
FAMILY = Family(155, "Loss and its gradient", (INIT001, FIT001))


def assert_initial_loss(
    model: nn.Module, loss: Callable[[], Tensor], *, expected: float, tolerance: float = 0.25
) -> float:
    """The loss before training is that of a guess. It leaves the model as it was.

    Args:
        model: The untrained model.
        loss: Function that runs the forward pass and returns the loss, a scalar tensor.
        expected: Loss of a guess: `math.log(classes)` for cross-entropy, `math.log(2)` for a binary one, the
            variance of the targets for a squared error.
        tolerance: Allowed difference, as a share of `expected`.

    Returns:
        The loss.

    Raises:
        AssertionError: The difference is larger, or the loss is not finite.
        ValueError: `expected` is not above 0.
    """
    __tracebackhide__ = True
    check_function("loss", loss)
    if not expected > 0.0:
        raise InvalidValue(
            "assertions.expected-loss", "expected must be a loss above 0, found {got}", got=expected
        )
    with untouched(model), torch.no_grad(), _output_sizes(model) as sizes:
        found = float(loss())
    if abs(found - expected) <= tolerance * expected:
        return found
    above = ABOVE_GUESS if found > expected else BELOW_GUESS
    cause = above if math.isfinite(found) else LOSS_NOT_FINITE
    message = f"the loss before training is {found:.4g}, a guess has {expected:.4g}"
    table = text_table(("module, in order of execution", "size of its output"), sizes)
    raise CheckFailed([failure(INIT001, "", message, found, expected, cause)], table)


@contextmanager
def _output_sizes(model: nn.Module) -> Iterator[list[tuple[str, str]]]:
    """The root mean square of what each watched module returns first, in the order of the calls."""
    sizes: list[tuple[str, str]] = []

    def note(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            values = next((each for each in tensors_in(output) if each.is_floating_point()), None)
            if values is not None:
                sizes.append((name, cell(float(stored_values(values).float().square().mean().sqrt()))))

        return hook

    watched = select_modules(with_submodules(model), None)
    handles = [module.register_forward_hook(note(name or "(output)")) for name, module in watched.items()]
    try:
        yield sizes
    finally:
        for handle in handles:
            handle.remove()


def assert_overfits_batch(
    model: nn.Module, train_step: Callable[[], Tensor | float], *, steps: int = 200, to: float = 0.1
) -> list[float]:
    """Training on one batch brings the loss down to `to` times its first value. It trains the model.

    Args:
        model: The model.
        train_step: One whole training step on the same batch each time, which returns the loss.
        steps: Largest number of training steps.
        to: Share of the first loss that must be reached.

    Returns:
        The losses, up to the first that is low enough.

    Raises:
        AssertionError: It is not reached.
        ValueError: `steps` is below 2, or the first loss is not above 0, so that it has no share.
    """
    __tracebackhide__ = True
    check_function("train_step", train_step)
    if steps < 2:
        raise InvalidValue(
            "assertions.too-few-steps-to-fit",
            "steps must be at least {least}, found {got}",
            least=2,
            got=steps,
        )
    losses: list[float] = []

    def step() -> None:
        if not (losses and losses[-1] <= to * losses[0]):
            loss = train_step()
            losses.append(as_number(loss))

    fates = survey_training(model, step, steps)
    if losses[0] <= 0.0:
        raise InvalidValue(
            "assertions.loss-not-above-0",
            "the first loss must be above 0 for a share of it, found {got}; return one that is 0 for a perfect fit",
            got=losses[0],
        )
    if losses[-1] <= to * losses[0]:
        return losses
    still = [fate for fate in fates if fate.trainable and not fate.changed]
    total = sum(fate.trainable for fate in fates)
    if still:
        cause = explained(STILL.of(still=len(still), total=total), still, fates)
    elif not math.isfinite(losses[0]):
        cause = LOSS_NOT_FINITE
    else:
        cause = STUCK if losses[-1] <= _DOUBLE * losses[0] else DIVERGED
    message = (
        f"the loss of one batch went from {losses[0]:.4g} to {losses[-1]:.4g} in {len(losses)} steps; needed"
        f" {to * losses[0]:.4g}"
    )
    share = losses[-1] / losses[0] if losses[0] else math.nan
    found = failure(FIT001, "", message, share, to, cause, len(losses))
    raise CheckFailed([found], fate_table(fates, [fate.name for fate in still]))
