"""Parameters that several watched modules share."""

from __future__ import annotations

from collections.abc import Iterator

from diagnostics.causes import Cause
from diagnostics.records import StepRecord
from diagnostics.rules.options import Values
from diagnostics.rules.parameter_checks import first_few
from diagnostics.rules.rule import CRITICAL, NOTE, Family, Observation, Rule, lasting
from diagnostics.selection import has_role

SHARED_TENSOR = Cause("shared-tensor", "the same tensor is a parameter of {modules}")


def find_shared(record: StepRecord, options: Values) -> Iterator[Observation]:
    """SHARE001, for the module that is called first, whichever the model lists first."""
    place = {name: number for number, name in enumerate(record.order)}
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, parameter in record.parameters.items():
        if parameter.shared:
            holders = sorted(
                {parameter.owner, *parameter.shared}, key=lambda each: place.get(each, len(place))
            )
            apart = [each for each in holders if not holders[0].startswith(f"{each}.")]
            groups.setdefault(tuple(apart), []).append(name)
    for (first, *others), names in groups.items():
        text = f"{first}: {len(names)} parameters belong to another watched module too ({first_few(names)})"
        cause = SHARED_TENSOR.of(modules=", ".join(others))
        roles = [has_role(each, others=(first, *others)) for each in (first, *others)]
        severity = CRITICAL if any(roles) and not all(roles) else None
        yield Observation(first, float(len(names)), text, cause, key=cause, severity=severity)


SHARE001 = Rule(
    "SHARE001",
    NOTE,
    "Modules share parameters",
    "parameters",
    "If the weights are not tied on purpose, give each module its own: copy.deepcopy, or construct it anew.",
    find_shared,
    lasting(5, why="weights are tied or not; five steps as for other rules"),
    causes=(SHARED_TENSOR,),
    what="A parameter belongs to two watched modules, and neither contains the other. The finding is for the one"
    " called first; critical where one is called target, teacher, ema and the like.",
    why="Tied weights get the gradients of both places; if that is an accident, both learn the wrong thing.",
    example="`self.second = self.first`, or a list made by `[block] * 4`.",
    false_alarms="Weights that are tied on purpose, such as an embedding and the head.",
    rank=210,
)
FAMILY = Family(90, "Frozen, shared and target weights", (SHARE001,))
