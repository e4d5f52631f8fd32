"""The rule family by the reference: rules and explanations are those of the package, and planted changes are named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from etrm.data import Pair, TaskSet, load_tasks, rules
from etrm.data.rules import TaskRule, find_explanations
from etrm.reference.data.rule_family import (
    CONDITIONS,
    SHIFTS,
    PlainRule,
    compare_rule_tasks,
    list_combinations,
    list_explanations,
)
from etrm.reference.departure import Departure, PipelineStage

COUNT = 44  # each of the ten combinations of parts, several times


def load(subset: str = "evaluation") -> TaskSet:
    return load_tasks("rules", subset, max_tasks=COUNT)


def compare(tasks: TaskSet) -> list[Departure]:
    return compare_rule_tasks(tasks, PipelineStage.QUERIES, count=COUNT, demos=None, max_side=30)


def test_all_parts_do_what_they_do_in_the_package() -> None:
    random = np.random.default_rng(0)
    grids = random.integers(0, 4, (3, 5, 5)).astype(np.uint8)
    colours = ((1, 7), (2, 1), (3, 2))
    for turn in range(8):
        for place, shift in enumerate(SHIFTS):
            recolour = CONDITIONS[(turn + place) % len(CONDITIONS)], 5
            rule = TaskRule(turn, shift, colours, recolour)
            plain = PlainRule.read(rule.id)
            assert plain == PlainRule(turn, shift, colours, recolour)
            assert (plain.name, plain.parts, plain.held_out) == (rule.id, {*rule.kinds}, rule.held_out)
            np.testing.assert_array_equal([plain.apply(grid) for grid in grids], rule.apply(grids))


def test_explanations_are_those_of_the_oracle() -> None:
    several = 0
    for task in load():
        for count in (1, 2, 3):
            found = [rule.name for rule in list_explanations(task.demos[:count])]
            assert sorted(found) == sorted(rule.id for rule in find_explanations(task.demos[:count]))
            several += len(found) > 1
    assert several > 2


def test_tasks_of_both_subsets_depart_nowhere() -> None:
    assert list_combinations("rules") == [*rules.COMBINATIONS]
    assert compare(load()) == compare(load("training")) == []


def change_first(tasks: TaskSet, **changes: Any) -> TaskSet:
    first, *others = tasks.tasks
    return replace(tasks, tasks=(replace(first, **changes), *others))


def exchange_outputs(pairs: Sequence[Pair]) -> tuple[Pair, ...]:
    return tuple(Pair(one.input, other.output) for one, other in zip(pairs, reversed(pairs), strict=True))


@pytest.mark.parametrize("fault", ["fewer", "demos", "outputs", "subset", "another"])
def test_other_tasks_depart(fault: str) -> None:
    tasks, later = load(), load_tasks("rules", "evaluation", max_tasks=COUNT + 1).tasks[-1:]
    first = tasks.tasks[0]
    wrong = {
        "fewer": replace(tasks, tasks=tasks.tasks[:-1]),
        "demos": change_first(tasks, demos=first.demos[:2]),
        "outputs": change_first(tasks, demos=exchange_outputs(first.demos)),
        "subset": replace(tasks, subset="training"),
        "another": replace(tasks, tasks=tasks.tasks[1:] + later),
    }
    words = {
        "fewer": "43 instead of 44",
        "demos": "has 2 demonstrations",
        "outputs": "has an output of another rule",
        "subset": "has a rule that is not of subset training",
        "another": "is not the one at place 0",
    }
    [found] = compare(wrong[fault])
    assert words[fault] in found.where


def test_tasks_that_several_rules_explain_depart(monkeypatch: pytest.MonkeyPatch) -> None:
    class Contained(list[TaskRule]):
        """Equals a list of one of its rules."""

        def __eq__(self, other: object) -> bool:
            return isinstance(other, list) and other[0] in self

        __hash__ = None  # type: ignore[assignment]

    monkeypatch.setattr(rules, "find_explanations", lambda demos: Contained(find_explanations(demos)))
    drawn = rules.draw_rule_tasks.__wrapped__("rules", "evaluation", 30, COUNT)
    [found] = compare(TaskSet(drawn, "rules", "evaluation"))
    assert "another rule explains too" in found.where
