"""Modules that the model holds without registering them."""

from __future__ import annotations

from collections.abc import Iterator

from diagnostics.causes import Cause
from diagnostics.findings import Severity
from diagnostics.records import HiddenModule, StepRecord
from diagnostics.rules.options import Values
from diagnostics.rules.parameter_checks import first_few
from diagnostics.rules.rule import CRITICAL, NOTE, WARNING, Family, Observation, Rule, lasting

HIDDEN_AND_USED = Cause(
    "hidden-and-used", "it runs with gradients enabled, and no optimiser holds its weights"
)
HIDDEN = Cause("hidden", "its weights require gradient, but no function that lists parameters finds them")
HIDDEN_ON_PURPOSE = Cause(
    "hidden-on-purpose", "it is frozen, in an optimiser, or an average or target that runs without gradients"
)


def find_hidden_modules(record: StepRecord, options: Values) -> Iterator[Observation]:
    """HIDDEN001; a note where it looks meant, critical where weights are used that nothing trains."""
    groups: dict[tuple[str, bool], list[tuple[Severity, Cause, HiddenModule]]] = {}
    for hidden in record.hidden:
        cause, severity = _judge(hidden, bool(record.optimizers))
        groups.setdefault((hidden.owner, severity is NOTE), []).append((severity, cause, hidden))
    for (owner, meant), judged in groups.items():
        judged.sort(key=lambda entry: -entry[0])
        found = [hidden for _, _, hidden in judged]
        message = (
            f"{owner or 'model'}: {first_few(f'{hidden.path} ({hidden.kind})' for hidden in found)} not registered;"
            f" {sum(hidden.trainable for hidden in found)} of {sum(hidden.parameters for hidden in found)} parameters"
            f" require gradient, {sum(hidden.calls_grad_enabled for hidden in found)} of"
            f" {sum(hidden.calls for hidden in found)} calls had it enabled"
        )
        severity, cause, _ = judged[0]
        total = float(sum(hidden.parameters for hidden in found))
        yield Observation(owner, total, message, cause, key=meant, severity=severity)


def _judge(hidden: HiddenModule, optimizers: bool) -> tuple[Cause, Severity]:
    if not hidden.trainable or hidden.in_optimizers == hidden.trainable:
        return HIDDEN_ON_PURPOSE, NOTE
    if hidden.calls_grad_enabled:
        return (HIDDEN_AND_USED, CRITICAL) if optimizers else (HIDDEN, WARNING)
    return (HIDDEN_ON_PURPOSE, NOTE) if hidden.copy_of else (HIDDEN, WARNING)


HIDDEN001 = Rule(
    "HIDDEN001",
    WARNING,
    "Modules hidden in plain attributes",
    "parameters",
    "Keep modules in attributes, nn.ModuleList or nn.ModuleDict, and make the optimiser afterwards.",
    find_hidden_modules,
    lasting(5),
    causes=(HIDDEN_AND_USED, HIDDEN, HIDDEN_ON_PURPOSE),
    what="Lists, dictionaries or objects in the model (20,000 at most) hold modules or parameters that the model"
    " does not register. Critical if they run with gradients and no optimiser holds them; a note if it seems"
    " intended.",
    why="No optimiser moves them, no checkpoint holds them, and `.to(device)` leaves them.",
    example='`self.predicates = {"red": nn.Linear(8, 1)}`.',
    false_alarms="A fixed network that is kept out of checkpoints on purpose: set requires_grad to False.",
    explains=frozenset({"REACH005"}),
    rank=25,
)
FAMILY = Family(55, "Weights outside the model", (HIDDEN001,))
