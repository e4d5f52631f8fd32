"""Named terms of the loss: which of them train a module."""

from __future__ import annotations

from collections.abc import Iterator

from diagnostics.causes import Cause
from diagnostics.records import ModuleRecord, StepRecord
from diagnostics.rules.options import Values
from diagnostics.rules.parameter_checks import first_few
from diagnostics.rules.rule import CRITICAL, WARNING, Family, Observation, Rule, lasting, learners

TASK_CUT = Cause(
    "task-cut",
    "argmax, .item(), a comparison or detach() between the module and the task's terms, or the terms do not"
    " use its result",
)
TASK_ZERO = Cause("task-zero", "a factor of zero or a flat function between the module and the task's terms")

CANCELLED = Cause(
    "cancelled",
    "the gradient of {term} arrives at {reader} and cancels, or meets a factor of zero, on its way here; other terms"
    " train it",
    remedy="Pass a gradient straight through as x + (q - x).detach(): without detach() the two x cancel.",
)


def find_regulariser_alone(record: StepRecord, options: Values) -> Iterator[Observation]:
    """TERM001; only where the gradient of every term of the task was measured."""
    task = {name: term for name, term in record.terms.items() if not term.regulariser}
    if not task or any(term.unknown is not None for term in task.values()):
        return
    for name, module in learners(record):
        kinds = [term.modules[name].kind for term in task.values()]
        others = [
            each
            for each, term in record.terms.items()
            if term.regulariser and term.unknown is None and term.modules[name].kind == "some"
        ]
        if "some" in kinds or not (others or _trains(module)):
            continue
        teachers = first_few(others) or "a part of the loss that is no named term"
        message = f"{name}: {teachers} trains it; no gradient comes from the task ({first_few(task)})"
        cause = TASK_ZERO if "zero" in kinds else TASK_CUT
        yield Observation(name, 0.0, message, cause, key=cause)


def find_cancelled(record: StepRecord, options: Values) -> Iterator[Observation]:
    """TERM002."""
    for name, module in learners(record):
        readers = [other for other, sources in record.into.items() if name in sources and other != name]
        if not _trains(module):
            continue  # GRAD002
        for term, reach in record.terms.items():
            if reach.unknown is not None or reach.modules[name].kind != "zero":
                continue
            reader = next((each for each in readers if reach.modules[each].kind == "some"), None)
            if reader is not None:
                message = f"{name}: {term} has only zero gradient in it, and trains {reader}, which reads it"
                yield Observation(name, 0.0, message, CANCELLED.of(term=term, reader=reader), key=term)


def _trains(module: ModuleRecord) -> bool:
    return module.params_none + module.params_zero < module.params_trainable


TERM001 = Rule(
    "TERM001",
    CRITICAL,
    "Only a regulariser trains the module",
    "task_terms",
    "Let the task's terms reach it: a soft choice instead of argmax, tensors instead of .item(). The probe `Response`"
    " tells whether they use its result.",
    find_regulariser_alone,
    lasting(5, why="a gate or head that starts at zero ends with the first update"),
    causes=(TASK_CUT, TASK_ZERO),
    what="The module receives gradient, but only from terms of the loss that are among `regularisers`.",
    why="Its gradients and movement look healthy, but it learns nothing about the task.",
    example="`loss = pixels + 0.01 * entropy`, where the pixels depend on `probabilities.argmax(1)`.",
    false_alarms="A term of the task that was not given, or was declared a regulariser, as a codebook loss may be.",
    explains=frozenset({"TERM002"}),
    spreads="backward",
    rank=35,
)
TERM002 = Rule(
    "TERM002",
    WARNING,
    "The gradient of a term cancels before the module",
    "task_terms",
    "Find where the gradient becomes zero between the two modules.",
    find_cancelled,
    lasting(5, why="a gate or a weight that starts at zero ends with the first update"),
    causes=(CANCELLED,),
    what="Every element of a named term's gradient is zero in a module that other terms train, although a graph leads"
    " there, and the term trains a module that reads it.",
    why="The module does not learn what its reader needs, and the other terms make its gradient look healthy.",
    example="`decoder(x + (quantised - x))`, and a commitment loss that trains the encoder.",
    false_alarms="A gradient that is multiplied by 0 for the first part of the training.",
)
FAMILY = Family(35, "Terms of the loss", (TERM001, TERM002))
