"""Modules that are trained while they are in evaluation mode."""

from __future__ import annotations

from collections.abc import Iterator

from diagnostics.causes import Cause
from diagnostics.records import StepRecord
from diagnostics.rules.options import Values
from diagnostics.rules.parameter_checks import first_few
from diagnostics.rules.rule import WARNING, Family, Observation, Rule, lasting, learners

LEFT_IN_EVALUATION = Cause(
    "left-in-evaluation",
    "eval() was called, perhaps for an evaluation, and train() was not called afterwards",
)


def find_evaluation_mode(record: StepRecord, options: Values) -> Iterator[Observation]:
    """MODE001."""
    for name, module in learners(record):
        if module.state == "arrived" and module.evaluating:
            layers = first_few(layer or name for layer in module.evaluating)
            message = f"{name}: it is trained in evaluation mode, which matters for {layers}"
            yield Observation(name, float(len(module.evaluating)), message, LEFT_IN_EVALUATION)


MODE001 = Rule(
    "MODE001",
    WARNING,
    "Trained in evaluation mode",
    "layers",
    "Call train() on the model before the step.",
    find_evaluation_mode,
    lasting(5, why="more than one odd step after an evaluation"),
    causes=(LEFT_IN_EVALUATION,),
    what="A module is trained in evaluation mode, and holds layers to which that matters: dropout, batch"
    " statistics, recurrent or attention layers with dropout.",
    why="Dropout does nothing, and batch norms use old statistics.",
    example="`model.eval()` in the evaluation function, and no `model.train()` after it.",
    false_alarms="A backbone that is tuned in evaluation mode on purpose. Single frozen batch norms do not count"
    " while the module around them trains.",
    spreads="together",
    rank=200,
)
FAMILY = Family(80, "Frozen, shared and evaluation mode", (MODE001,))
