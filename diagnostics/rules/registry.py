"""Every rule that comes with the toolkit, found in the files of the families; and the pages of rules.

A family is a module with a `FAMILY` in one of `PACKAGES` or below it. A new one is found because its file is there.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cache
from importlib import import_module
from pkgutil import walk_packages
from typing import Protocol

from torch import nn

from diagnostics.causes import Cause
from diagnostics.errors import InvalidType, InvalidValue, UnknownName
from diagnostics.findings import Finding
from diagnostics.rules.options import Option
from diagnostics.rules.page import page
from diagnostics.rules.rule import Family, Rule

PACKAGES = ("diagnostics.rules.families", "diagnostics.auditing.probes", "diagnostics.testing")
"""Where families are looked for: rules of a monitor, of the probes of an audit, and of assertions in tests."""


class RecordsOperations(Protocol):
    """Records the operations of some steps, and judges them.

    Attributes:
        unfollowed: Why there is nothing to judge.
        others: Modules outside of the model whose calls are recorded too, by name.
    """

    unfollowed: Cause | None
    others: Mapping[str, nn.Module]

    def watch(self, samples: int) -> AbstractContextManager[None]:
        """Surrounds one recorded step."""

    def explain(self, found: Sequence[Finding], into: Mapping[str, frozenset[str]]) -> list[Finding]:
        """The findings of a monitor with those in the operations; into: module -> those that feed it."""


@cache
def families() -> tuple[Family, ...]:
    """The families, in the order of lists."""
    return tuple(sorted(_find_families(), key=lambda family: family.place))


def _find_families() -> Iterator[Family]:
    for package in PACKAGES:
        for found in walk_packages(import_module(package).__path__, f"{package}."):
            family = getattr(import_module(found.name), "FAMILY", None)
            if isinstance(family, Family):
                yield family


def first_steps(model: nn.Module, owner: Callable[[str], str]) -> RecordsOperations:
    """Make the recorder of a monitor's first steps; imported by name, because auditing stands above the monitor.

    Args:
        model: The model.
        owner: Function full name of a module -> the innermost watched module that contains it.
    """
    found: RecordsOperations = import_module("diagnostics.auditing.first_steps").FirstSteps(model, owner)
    return found


@cache
def built_in_rules() -> tuple[Rule, ...]:
    """The rules of all families, in the order of lists."""
    return tuple(rule for family in families() for rule in family.rules)


def with_own(own: Iterable[Rule]) -> tuple[Rule, ...]:
    """The built-in rules and those of a user.

    Raises:
        InvalidType: One of them is not a rule.
        InvalidValue: One has no check, a wrong default option, or the id of another rule.
    """
    rules = list(built_in_rules())
    for rule in own:
        check_rule(rule)
        if any(rule.id == known.id for known in rules):
            raise InvalidValue(
                "rules.duplicate-id", "there are two rules {got!r}; choose another id", got=rule.id
            )
        rules.append(rule)
    return tuple(rules)


def check_rule(rule: object, source: str = "rules") -> Rule:
    """Refuse an object that cannot be run as a rule of a user.

    Args:
        rule: Anything.
        source: Origin of the object, for the message.

    Raises:
        InvalidType: It is not an instance of `Rule`.
        InvalidValue: Its id, check, causes or bound cannot be used.
    """
    if not isinstance(rule, Rule):
        raise InvalidType(
            "rules.not-a-rule",
            "{source}: expected an instance of diagnostics.Rule, found {got}",
            source=source,
            got=f"the class {rule.__name__}"
            if isinstance(rule, type)
            else f"an object of type {type(rule).__name__}",
        )
    problems = [
        ("id", rule.id, "letters and digits, such as MINE001", not (rule.id.isalnum() and rule.id.isascii())),
        ("source", rule.source, '"step" or "history"', rule.source not in ("step", "history")),
        (
            "check",
            rule.check,
            "a function check(record, options)",
            rule.source == "step" and not callable(rule.check),
        ),
        (
            "history_check",
            rule.history_check,
            "a function history_check(run, options)",
            rule.source == "history" and not callable(rule.history_check),
        ),
        ("causes", rule.causes, "a tuple of at least one diagnostics.Cause", not rule.causes),
        (
            "bound",
            rule.bound,
            "the name of an option, or ''",
            bool(rule.bound) and rule.bound not in rule.options,
        ),
    ]
    for field, got, expected, wrong in problems:
        if wrong:
            raise InvalidValue(
                "rules.unusable-rule",
                "{source}: {field} of the rule {rule!r} must be {expected}, found {got!r}",
                source=source,
                rule=rule.id,
                field=field,
                expected=expected,
                got=got,
            )
    return rule


def options_of(rules: Iterable[Rule]) -> dict[str, Mapping[str, Option]]:
    """The options of rules, by id."""
    return {rule.id: rule.options for rule in rules}


def find_rule(rule: str, rules: Sequence[Rule] | None = None) -> Rule:
    """The rule with this id.

    Args:
        rule: Id of the rule.
        rules: Rules to choose from; by default those that come with the toolkit.

    Raises:
        UnknownName: There is none; the error names the nearest ids.
    """
    known = {each.id: each for each in (built_in_rules() if rules is None else rules)}
    if rule not in known:
        raise UnknownName(
            "rules.unknown-rule",
            "no rule {rule!r}; there are {allowed}",
            rule=rule,
            allowed=", ".join(difflib.get_close_matches(rule.upper(), known, cutoff=0.7) or known),
        )
    return known[rule]


def explain(rule: str | Rule) -> str:
    """The page of a rule as markdown: what it looks for, why, its causes by code, false alarms, remedy and options.

    Args:
        rule: Id of a rule of the toolkit, or a rule of your own.

    Raises:
        UnknownName: No rule has this id.
    """
    return page(rule if isinstance(rule, Rule) else find_rule(rule))
