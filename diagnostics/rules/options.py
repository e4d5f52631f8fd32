"""Numbers of the rules that a user can set: each with its default, its bounds, its meaning and the reason for it."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from diagnostics.errors import InvalidValue


@dataclass(frozen=True)
class Option:
    """One number of a rule.

    Attributes:
        default: Value unless it is set.
        low: Smallest value allowed.
        high: Largest value allowed.
        meaning: Meaning of the number, in a few words.
        whole: Whether it must be a whole number.
        why: Reason for the default, or its source.
    """

    default: float
    low: float
    high: float
    meaning: str
    whole: bool = False
    why: str = ""


Values = Mapping[str, float]
"""Values of the options of one rule, by name."""


def settle(
    rules: Mapping[str, Mapping[str, Option]], given: Mapping[str, Values] | None = None
) -> dict[str, dict[str, float]]:
    """The value of every option of every rule: the given one, else the default.

    Args:
        rules: Options of each rule, by id and name.
        given: Values to set, by id and name.

    Raises:
        ValueError: There is no such rule or option, or a value is out of bounds.
    """
    values = {rule: {name: option.default for name, option in known.items()} for rule, known in rules.items()}
    for rule, wanted in (given or {}).items():
        if rule not in rules:
            raise InvalidValue(
                "options.unknown-rule",
                "options: there is no rule {got!r}{hint}",
                got=rule,
                hint=_nearest(rule, rules),
            )
        for name, value in wanted.items():
            if name not in rules[rule]:
                raise InvalidValue(
                    "options.unknown-option",
                    "options: {rule} has no option {got!r}{hint}",
                    rule=rule,
                    got=name,
                    hint=_nearest(name, rules[rule]),
                )
            values[rule][name] = _checked(f"{rule}.{name}", rules[rule][name], value)
    return values


def _checked(name: str, option: Option, value: float) -> float:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    whole = number and (not option.whole or float(value).is_integer())
    if not number or math.isnan(value) or not whole or not option.low <= value <= option.high:
        raise InvalidValue(
            "options.not-allowed",
            "options: {name} must be {kind} from {low:g} to {high:g}, found {got!r}",
            name=name,
            kind="a whole number" if option.whole else "a number",
            low=option.low,
            high=option.high,
            got=value,
        )
    return float(value)


def _nearest(name: str, known: Iterable[str]) -> str:
    listed = list(known)
    close = difflib.get_close_matches(name, listed, n=1, cutoff=0.5)
    if close:
        return f"; nearest: {close[0]}"
    return f"; there are: {', '.join(listed)}" if listed else "; it has none"
