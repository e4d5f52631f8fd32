"""How many tasks the library of a symbolic solver can express, before any training.

A formula expresses a task if it gives the right output for every pair of it, demonstrations and queries. To find one
by all pairs is an oracle, for it sees the answers; to find one by the demonstrations alone is a search, as in
:mod:`etrm.symbolic.search`. Both may join two conditions for each pair of colours, and several pairs of colours, so
they find at least what the templates of the solver express.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from etrm.config import SymbolicConfig
from etrm.data import Task
from etrm.evaluation import binomial_interval
from etrm.symbolic.formula import BLACK, Rule
from etrm.symbolic.search import Array, Demo, apply_crisply, find_recolouring
from etrm.symbolic.solver import SymbolicCore
from etrm.symbolic.templates import Templates

OUTSIDE = -1
"""Stands for a cell outside of the grid among the cells around a cell."""


@dataclass(frozen=True)
class ExpressibleTasks:
    """What a library expresses of some tasks.

    Attributes:
        split: the name of the split, ``training`` or ``held-out``.
        tasks: number of tasks of the split.
        searched: number of tasks that were searched; evenly spread where it is fewer.
        searched_right: tasks whose queries the first formula that explains the demonstrations solves.
        fixed: tasks that a formula without learned predicates expresses.
        learned: tasks that a template with a learned guard could express; None if there are no learned guards.
        expressed: tasks that either of them expresses.
    """

    split: str
    tasks: int
    searched: int
    searched_right: int
    fixed: int
    learned: int | None
    expressed: int

    @property
    def share(self) -> float:
        """The share of the searched tasks that the library expresses."""
        return self.expressed / self.searched

    @property
    def interval(self) -> tuple[float, float]:
        """Of the share in the whole split: exact if all were searched, else binomial (95 %).

        What learned predicates of pairs of cells could express beyond that is not known, so with learned guards the
        upper end is 1.
        """
        low, high = (self.share,) * 2
        if self.searched < self.tasks:
            low, high = binomial_interval(self.expressed, self.searched)
        return low, high if self.learned is None else 1.0


def measure_expressible(
    config: SymbolicConfig, tasks: Sequence[Task], split: str, at_most: int
) -> ExpressibleTasks:
    """Search and oracle on some tasks.

    Args:
        config: families, and the reach of learned guards.
        tasks: tasks whose outputs are known; queries without an output are left out.
        split: the name of the split.
        at_most: the largest number of tasks to search.
    """
    templates = SymbolicCore(config).templates
    chosen = [tasks[place] for place in np.linspace(0, len(tasks) - 1, min(at_most, len(tasks))).astype(int)]
    found = [_find(task, templates) for task in chosen]
    learns = "learned" in config.families
    could = [learns and could_guard(_pairs(task), config.reach) for task in chosen]
    return ExpressibleTasks(
        split,
        len(tasks),
        len(chosen),
        searched_right=sum(right for _, right in found),
        fixed=sum(expressed for expressed, _ in found),
        learned=sum(could) if learns else None,
        expressed=sum(fixed or guard for (fixed, _), guard in zip(found, could, strict=True)),
    )


def could_guard(pairs: Sequence[Demo], reach: int) -> bool:
    """Whether a guard that sees the cells around a cell could make one recolouring explain every pair.

    A template gives cells of one colour, or of any colour but black, one other colour. A guard can do that if no cell
    that changes looks like one that stays.

    Args:
        pairs: inputs and outputs.
        reach: the distance in cells that the guard sees.
    """
    if any(given.shape != wanted.shape for given, wanted in pairs):
        return False
    before, after = (np.concatenate([pair[side].ravel() for pair in pairs]) for side in (0, 1))
    changed = before != after
    sources, targets = set(before[changed].tolist()), set(after[changed].tolist())
    if len(targets) != 1 or (BLACK in sources and len(sources) > 1):
        return False
    (target,) = targets
    around = [window for given, _ in pairs for window in _see(given, reach)]
    change = {window for window, here in zip(around, changed, strict=True) if here}
    stay = {
        window
        for window, here, colour in zip(around, changed, before, strict=True)
        if not here and colour != target
    }
    return not change & stay


def explains(rule: Rule, pairs: Sequence[Demo]) -> bool:
    """Whether a rule gives the right output for every pair; the first one is tried first, for most rules fail it."""
    return all(
        np.array_equal(made, wanted)
        for part in (pairs[:1], pairs[1:])
        if part
        for made, (_, wanted) in zip(apply_crisply(rule, [given for given, _ in part]), part, strict=True)
    )


def _find(task: Task, templates: Templates) -> tuple[bool, bool]:
    """Whether a fixed formula expresses the task, and whether search by its demonstrations solves its queries."""
    pairs = _pairs(task)
    demos, queries = pairs[: len(task.demos)], pairs[len(task.demos) :]
    by_demos = [rule for rule in templates.rules if explains(rule, demos)]
    expressed = any(explains(rule, queries) for rule in by_demos)
    expressed = expressed or find_recolouring(pairs, templates.conditions) is not None
    recolouring = find_recolouring(demos, templates.conditions)
    first = by_demos[:1] if recolouring is None else [recolouring]
    return expressed, bool(first and queries) and explains(first[0], queries)


def _pairs(task: Task) -> list[Demo]:
    return [(pair.input, pair.output) for pair in task.pairs if pair.output is not None]


def _see(grid: Array, reach: int) -> list[bytes]:
    """The colours around every cell, row by row."""
    padded = np.pad(grid.astype(np.int8), reach, constant_values=OUTSIDE)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * reach + 1,) * 2)
    return [window.tobytes() for row in windows for window in row]
