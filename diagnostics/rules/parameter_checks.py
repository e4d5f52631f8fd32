"""Checks of parameters: a judge of one parameter becomes a check that makes one observation per module and cause."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator

from diagnostics.causes import Cause
from diagnostics.findings import Severity
from diagnostics.records import ParameterRecord, StepRecord
from diagnostics.rules.options import Values
from diagnostics.rules.rule import Observation

Judge = Callable[[StepRecord, ParameterRecord], Cause | None]
"""The cause of what is wrong with a parameter, None where all is well."""


def grouped(
    message: str, judge: Judge, notes: Collection[Cause] = ()
) -> Callable[[StepRecord, Values], Iterator[Observation]]:
    """A check that reports the judged parameters of each module and cause together.

    Args:
        message: Predicate about the parameters, such as "have no gradient".
        judge: Function that names the cause for a single parameter.
        notes: Causes that are worth a note alone.
    """
    minor = {cause.code for cause in notes}

    def check(record: StepRecord, options: Values) -> Iterator[Observation]:
        groups: dict[tuple[str, Cause], list[str]] = {}
        for name, parameter in record.parameters.items():
            cause = judge(record, parameter)
            if cause is not None:
                groups.setdefault((parameter.owner, cause), []).append(name)
        for (owner, cause), names in groups.items():
            total = sum(parameter.owner == owner for parameter in record.parameters.values())
            text = f"{owner or 'model'}: {len(names)} of {total} parameters {message} ({first_few(names)})"
            severity = Severity.NOTE if cause.code in minor else None
            yield Observation(owner, float(len(names)), text, cause, key=cause, severity=severity)

    return check


def first_few(names: Iterable[str]) -> str:
    """The first three names, with dots if there are more."""
    first, rest = list(names)[:3], list(names)[3:]
    return ", ".join(first) + (", ..." if rest else "")


def receives(parameter: ParameterRecord) -> bool:
    """Whether it is to be trained, and received a gradient that is not zero."""
    trainable = parameter.requires_grad and not parameter.expect_frozen
    return trainable and parameter.reach.kind in ("some", "all")
