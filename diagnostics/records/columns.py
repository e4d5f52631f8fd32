"""Records of several steps as one: each number is the column of its values.

Steps of one kind, such as those of a healthy training loop, are recorded and judged together. Where a comparison is
true for some of them and false for others, those that agree with the first one stay, and the rest is judged again.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Mapping, Sequence
from itertools import repeat
from typing import Any

from torch import Tensor


class Apart(Exception):
    """Something needs the number of a single step, such as its text."""


class Agreement:
    """The steps that have agreed in every comparison so far, by position."""

    def __init__(self, steps: Sequence[int]) -> None:
        self.steps = list(steps)

    def keep(self, outcomes: Sequence[Any], whole: bool) -> Any:
        """Keep the steps with the outcome of the first one, which is returned; `whole` if there is one for each."""
        first = outcomes[0] if not whole else outcomes[self.steps[0]]
        if outcomes.count(first) != len(outcomes):
            found = [outcomes[step] for step in self.steps] if whole else outcomes
            self.steps = [step for step, each in zip(self.steps, found, strict=True) if each is first]
        return first


class Column:
    """A number of each step, or a vector of each.

    Comparisons keep the steps that agree; whatever else needs the number of one step raises `Apart`.
    """

    __slots__ = ("agreement", "values")

    def __init__(self, values: Sequence[Any] | Tensor, agreement: Agreement) -> None:
        self.values, self.agreement = values, agreement

    def settle(self) -> Any:
        """The number of the first step, kept by all that have the same."""
        first = self.values[self.agreement.steps[0]]
        self.agreement.steps = [step for step in self.agreement.steps if self.values[step] == first]
        return first

    def _map(self, function: Callable[..., Any], *others: Any) -> tuple[list[Any], bool]:
        """The results for all steps; where some cannot be computed, for those that agree. And whether it is all."""
        columns = [other.values if isinstance(other, Column) else repeat(other) for other in others]
        try:
            return list(map(function, self.values, *columns)), True
        except (ArithmeticError, TypeError):  # a step that does not agree, such as one that divides by 0
            given = [(other.values if isinstance(other, Column) else None, other) for other in others]
            return [
                function(
                    self.values[step], *(other if values is None else values[step] for values, other in given)
                )
                for step in self.agreement.steps
            ], False

    def _compare(self, function: Callable[..., Any], *others: Any) -> bool:
        outcomes, whole = self._map(function, *others)
        return bool(self.agreement.keep(outcomes, whole))

    def compute(self, function: Callable[..., Any], *others: Any) -> Column:
        """A function of this number and others, step by step."""
        results, whole = self._map(function, *others)
        if not whole:
            known = dict(zip(self.agreement.steps, results, strict=True))
            results = [known.get(step) for step in range(len(self.values))]
        return Column(results, self.agreement)

    def __bool__(self) -> bool:
        return self._compare(bool)

    def __lt__(self, other: Any) -> bool:
        return self._compare(operator.lt, other)

    def __le__(self, other: Any) -> bool:
        return self._compare(operator.le, other)

    def __gt__(self, other: Any) -> bool:
        return self._compare(operator.gt, other)

    def __ge__(self, other: Any) -> bool:
        return self._compare(operator.ge, other)

    def __eq__(self, other: object) -> bool:
        return self._compare(operator.eq, other)

    def __ne__(self, other: object) -> bool:
        return self._compare(operator.ne, other)

    def __add__(self, other: Any) -> Column:
        return self.compute(operator.add, other)

    def __sub__(self, other: Any) -> Column:
        return self.compute(operator.sub, other)

    def __mul__(self, other: Any) -> Column:
        return self.compute(operator.mul, other)

    __radd__, __rmul__ = __add__, __mul__

    def __rsub__(self, other: Any) -> Column:
        return self.compute(_subtract_from, other)

    def __truediv__(self, other: Any) -> Column:
        return self.compute(operator.truediv, other)

    def __rtruediv__(self, other: Any) -> Column:
        return self.compute(_divide_into, other)

    def __pow__(self, other: Any) -> Column:
        return self.compute(operator.pow, other)

    def __neg__(self) -> Column:
        return self.compute(operator.neg)

    def __abs__(self) -> Column:
        return self.compute(abs)

    def _apart(self, *given: Any) -> Any:
        raise Apart

    __float__ = __int__ = __index__ = __hash__ = __format__ = __str__ = __repr__ = _apart
    __len__ = __iter__ = __getitem__ = _apart


def _subtract_from(one: Any, other: Any) -> Any:
    return other - one


def _divide_into(one: Any, other: Any) -> Any:
    return other / one


def largest_of(values: Sequence[Any], default: Any = 0.0) -> Any:
    """The largest of numbers or columns; which one that is may differ between steps."""
    column = next((value for value in values if isinstance(value, Column)), None)
    return max(values, default=default) if column is None else column.compute(_largest_but_first, *values)


def _largest_but_first(_: Any, *values: Any) -> Any:
    return max(values)


def number_at(value: Any, step: int) -> Any:
    """The number of one step, by position."""
    return value.values[step] if type(value) is Column else value


def numbers_at(values: Mapping[str, Any], step: int) -> dict[str, Any]:
    """The numbers of one step, by name."""
    return {name: value.values[step] if type(value) is Column else value for name, value in values.items()}


def at_step(value: Any, step: int) -> Any:
    """A record of several steps as that of one, by position."""
    if isinstance(value, Column):
        return value.values[step]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        found = {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
        single = {name: at_step(member, step) for name, member in found.items()}
        if all(single[name] is found[name] for name in found):
            return value
        return dataclasses.replace(value, **single)
    if isinstance(value, Mapping):
        members = {key: at_step(member, step) for key, member in value.items()}
        return value if all(members[key] is value[key] for key in members) else members
    if isinstance(value, tuple) and value and any(map(_may_hold_columns, value)):
        return tuple(at_step(member, step) for member in value)
    return value


def _may_hold_columns(value: Any) -> bool:
    return isinstance(value, (Column, tuple)) or dataclasses.is_dataclass(value)
