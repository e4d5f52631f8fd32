"""Steps in which no backward pass runs."""

from __future__ import annotations

from collections.abc import Iterator

from diagnostics.causes import Cause
from diagnostics.records import StepRecord
from diagnostics.rules.options import Values
from diagnostics.rules.rule import CRITICAL, UNTRAINED, Family, Observation, Rule, lasting, learners

NO_BACKWARD = Cause(
    "no-backward",
    "backward() is not called in the step, or the loss has no graph to these modules, as torch.tensor(loss.item())",
)


def find_missing_backward(record: StepRecord, options: Values) -> Iterator[Observation]:
    """STEP001; not where an optimiser was given and did not step, as in the other player's turn of a GAN."""
    if any(parameter.reach.kind != "none" for parameter in record.parameters.values()):
        return
    trained = list(learners(record))
    ready = any(call.requires_grad for _, module in trained for call in module.calls)
    idle = bool(record.optimizers) and not any(record.optimizers)
    reached = any(call.reached for module in record.modules.values() for call in module.calls)
    if ready and not (idle or reached):
        message = "model: no backward pass came to any watched module, though its outputs require gradient"
        yield Observation("", 0.0, message, NO_BACKWARD)


STEP001 = Rule(
    "STEP001",
    CRITICAL,
    "No backward pass",
    "calls_with_gradient",
    "Call loss.backward() inside the monitored step, before optimizer.step().",
    find_missing_backward,
    lasting(5),
    causes=(NO_BACKWARD,),
    what="Outputs of the watched modules require gradient, but none of them and none of their parameters receives"
    " one, although the optimiser steps.",
    why="Nothing is trained.",
    example="`optimizer.zero_grad(); loss = criterion(model(x), y); optimizer.step()`.",
    false_alarms="All trained modules are left out of `watch`.",
    explains=UNTRAINED | {"GRAD001", "MOVE003", "CALL002", "LOSS002"},
    everywhere=True,
    rank=1,
)
FAMILY = Family(15, "Backward pass", (STEP001,))
