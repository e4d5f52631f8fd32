"""How many tasks a library of formulas explains, by search over demonstrations and without training.

A trained selector has to be compared with these numbers: of ARC-AGI-1, and of the held-out recolouring rules. As a
command: python -m benchmarks.library_search
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console

from etrm.config import SymbolicConfig
from etrm.data import Task, TaskSet, load_tasks
from etrm.symbolic.formula import COLOURS, Rule
from etrm.symbolic.library import Library
from etrm.symbolic.parser import parse
from etrm.symbolic.search import apply_crisply, find_recolouring, measure_agreement

SIDE, RULE_SIDE = 10, 6
"""Largest sides of the grids, those of the presets `symbolic` and `symbolic-rules`."""
ROWS = (
    "original templates, best by fit",
    "original templates, oracle",
    "dihedral family, best by fit",
    "dihedral family, oracle",
    "recolouring by one or two conditions",
    "any of the searches by fit",
    "whole library, one answer by fit",
)
RULES = "rules:recolour"
_SAME_BESIDE = "(exists y: touching(x, y) and same_colour(x, y))"
CONDITIONS = {
    "edge": "edge(x)",
    "inner": "inner(x)",
    "touching": _SAME_BESIDE,
    "alone": f"not {_SAME_BESIDE}",
    "covered": "not colour(x.up, 0)",
    "open": "colour(x.up, 0)",
}
"""The conditions of the recolouring rules (:data:`etrm.data.rules.CONDITIONS`) as formulas."""
GUARDS = {"no guard": (), "position": ("edge", "inner"), "the true conditions": tuple(CONDITIONS)}
"""Guards among which the search chooses; a rule without a guard paints every cell that is not black."""


@dataclass(frozen=True)
class Judged:
    """A rule on one task.

    Attributes:
        rule: the rule.
        fit: mean share of right cells over the demonstrations.
        solves: whether every cell of every test query is right.
    """

    rule: Rule
    fit: float
    solves: bool


def judge(task: Task, rule: Rule) -> Judged:
    """Apply a rule to the demonstrations and queries of a task."""
    pairs = [(pair.input, pair.output) for pair in task.pairs if pair.output is not None]
    made = apply_crisply(rule, [given for given, _ in pairs])
    right = [measure_agreement(grid, wanted) for grid, (_, wanted) in zip(made, pairs, strict=True)]
    demos, tests = right[: len(task.demos)], right[len(task.demos) :]
    return Judged(rule, sum(demos) / len(demos), bool(tests) and min(tests) == 1)


def pick_best(judged: Sequence[Judged]) -> Judged:
    """The one that fits best, the first of equals."""
    return max(judged, key=lambda one: one.fit)


def search_task(task: Task, library: Library) -> dict[str, Rule]:
    """The row of the table that each search solves the task in, with its rule."""
    judged = {name: [judge(task, rule) for rule in family.rules] for name, family in library.families.items()}
    demos = [(pair.input, pair.output) for pair in task.demos if pair.output is not None]
    recolouring = find_recolouring(demos, library.conditions)
    coloured = [] if recolouring is None else [judge(task, recolouring)]
    by_fit = {
        ROWS[0]: [pick_best(judged["original"])],
        ROWS[1]: judged["original"],
        ROWS[2]: [pick_best(judged["dihedral"])],
        ROWS[3]: judged["dihedral"],
        ROWS[4]: coloured,
        ROWS[6]: [pick_best([*coloured, *judged["original"], *judged["dihedral"]])],
    }
    by_fit[ROWS[5]] = [one for row in (0, 2, 4) for one in by_fit[ROWS[row]]]
    found = {}
    for row in ROWS:
        right = [one.rule for one in by_fit[row] if one.solves]
        if right:
            found[row] = right[0]
    return found


def search_guards(task: Task, names: Sequence[str]) -> tuple[bool, bool]:
    """Whether the recolouring that fits best solves the task, and whether any recolouring does.

    Args:
        task: a task of a recolouring rule.
        names: names of :data:`CONDITIONS`.
    """
    guards = ["not colour(x, 0)", *(f"not colour(x, 0) and {CONDITIONS[name]}" for name in names)]
    judged = [
        judge(task, parse(f"where {guard} paint {colour}")) for guard in guards for colour in range(COLOURS)
    ]
    return pick_best(judged).solves, any(one.solves for one in judged)


def print_guards(console: Console, count: int | None) -> None:
    """Print how many held-out recolouring rules each set of guards solves."""
    tasks = load_tasks(RULES, "evaluation", RULE_SIDE, count)
    console.print(f"\n{RULES}: {len(tasks)} held-out tasks")
    for name, names in GUARDS.items():
        found = [search_guards(task, names) for task in tasks]
        best, oracle = (sum(column) for column in zip(*found, strict=True))
        console.print(f"  {name}: {best} by fit, {oracle} by an oracle")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, and every solved task with its rule."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.library_search", description=__doc__)
    parser.add_argument("--tasks", type=int, help="number of tasks of each subset; all by default")
    given = parser.parse_args(arguments)
    console, library = Console(width=140, soft_wrap=True), Library.of(SymbolicConfig())
    for name, family in library.families.items():
        console.print(f"{name}: {len(family.rules)} rules, {len(family.conditions)} conditions")
    for subset in ("training", "evaluation"):
        tasks: TaskSet = load_tasks("arc-agi-1", subset, SIDE, given.tasks)
        found = {task.id: search_task(task, library) for task in tasks}
        console.print(f"\n{subset}: {len(tasks)} tasks within {SIDE}x{SIDE}", markup=False)
        for row in ROWS:
            count = sum(row in rules for rules in found.values())
            console.print(f"  {row}: {count} ({count / len(tasks):.1%})")
        for task_id, rules in found.items():
            if ROWS[5] in rules:
                console.print(f"  {task_id}: {rules[ROWS[5]]}", markup=False, highlight=False)
    print_guards(console, given.tasks)


if __name__ == "__main__":
    main()
