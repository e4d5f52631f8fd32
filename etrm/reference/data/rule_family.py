"""The reference of the rule family: what a rule does to a grid, and which rules explain demonstrations.

A rule has one or two parts. They are applied in this order: one of the 8 turns of a square; a shift by one cell, with
black moving in; other colours for all colours but black; and one colour for the cells that meet a condition. Nothing is
shared with :mod:`etrm.data.rules`, which the reference checks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import combinations

import numpy as np

from etrm.data.sources import TaskSet
from etrm.data.task import Grid, Pair, Task
from etrm.reference.data.canvas import turn_grid
from etrm.reference.departure import Departure, PipelineStage

KINDS = "dihedral", "shift", "colours", "recolour"
CONDITIONS = "edge", "inner", "touching", "alone", "covered", "open"
SHIFTS = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
COLOURS = range(1, 10)
SIZES = 1, 2
"""Parts of a rule."""
SHORTEST, LONGEST = 3, 6
"""Sides of the grids."""
FILLED = 0.7
"""The probability that a cell of an input is not black."""
SEED = 20_250_704  # that of the family; another one makes other tasks
DEMOS = 3
"""Demonstrations of a task, if no setting says otherwise."""
COUNTS = {"training": 1000, "evaluation": 200}
"""Tasks of a subset, if no setting says otherwise."""
HELD_OUT = 4
"""One of this many rules is held out."""
EXPLAINED = 200
"""Tasks of a set of which all explanations are listed, about a millisecond each."""


@dataclass(frozen=True)
class PlainRule:
    """A rule; the default values change nothing.

    Attributes:
        turn: one of the 8 turns, see :func:`etrm.reference.data.canvas.turn_grid`.
        shift: the rows down and the columns to the right.
        colours: the pairs of a colour and what it becomes, in rising order.
        recolour: a condition, and the colour of the cells that meet it.
    """

    turn: int = 0
    shift: tuple[int, int] = (0, 0)
    colours: tuple[tuple[int, int], ...] = ()
    recolour: tuple[str, int] | None = None

    @classmethod
    def read(cls, name: str) -> PlainRule:
        """Read the name of a rule, such as ``shift-u.+recolour-edge-5``.

        Raises:
            ValueError: the name has another form.
        """
        words = dict(part.split("-", 1) for part in name.split("+"))
        moves, pairs = words.get("shift", ".."), words.get("colours", "")
        condition, _, colour = words.get("recolour", "").partition("-")
        return cls(
            turn=int(words.get("dihedral", 0)),
            shift=("u.d".index(moves[0]) - 1, "l.r".index(moves[1]) - 1),
            colours=tuple((int(pair[0]), int(pair[1])) for pair in pairs.split(".") if pair),
            recolour=(condition, int(colour)) if colour else None,
        )

    @property
    def parts(self) -> frozenset[str]:
        """The names of the parts that it has."""
        given = self.turn != 0, self.shift != (0, 0), self.colours != (), self.recolour is not None
        return frozenset(kind for kind, has in zip(KINDS, given, strict=True) if has)

    @property
    def name(self) -> str:
        """The name of the rule, see :meth:`read`."""
        words = {
            "dihedral": f"{self.turn}",
            "shift": "u.d"[self.shift[0] + 1] + "l.r"[self.shift[1] + 1],
            "colours": ".".join(f"{old}{new}" for old, new in self.colours),
            "recolour": "" if self.recolour is None else f"{self.recolour[0]}-{self.recolour[1]}",
        }
        return "+".join(f"{kind}-{words[kind]}" for kind in KINDS if kind in self.parts)

    @property
    def held_out(self) -> bool:
        """Whether the rule belongs to the evaluation subset, which follows from the digest of its name."""
        return sha256(self.name.encode()).digest()[0] % HELD_OUT == 0

    def apply(self, grid: Grid) -> Grid:
        """Return the output of an input."""
        moved = move_grid(turn_grid(grid, self.turn), self.shift)
        became = dict(self.colours)
        mapped = [[became.get(colour, colour) for colour in row] for row in moved.tolist()]
        if self.recolour is not None:
            condition, new = self.recolour
            met = list_met(mapped, condition)
            mapped = [
                [new if (r, c) in met else colour for c, colour in enumerate(row)]
                for r, row in enumerate(mapped)
            ]
        return np.array(mapped, dtype=np.uint8)


def move_grid(grid: Grid, shift: tuple[int, int]) -> Grid:
    """Return a grid whose cells are moved down and to the right; those that leave it are lost."""
    rows, columns = grid.shape
    wide = np.zeros((rows + 2, columns + 2), dtype=np.uint8)
    down, right = shift
    wide[1 + down : 1 + down + rows, 1 + right : 1 + right + columns] = grid
    return wide[1:-1, 1:-1]


def list_met(grid: Sequence[Sequence[int]], condition: str) -> set[tuple[int, int]]:
    """Return the places of the cells that are not black and meet a condition."""
    last = len(grid) - 1
    found = set()
    for r, row in enumerate(grid):
        for c, colour in enumerate(row):
            near = [(r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)]
            inside = [grid[a][b] for a, b in near if 0 <= a <= last and 0 <= b <= last]
            edge, touching = len(inside) < len(near), colour in inside
            covered = r > 0 and grid[r - 1][c] != 0
            met = {
                "edge": edge,
                "inner": not edge,
                "touching": touching,
                "alone": not touching,
                "covered": covered,
                "open": not covered,
            }
            if colour and met[condition]:
                found.add((r, c))
    return found


def list_explanations(demos: Sequence[Pair]) -> list[PlainRule]:
    """Return all rules that turn each input into its output.

    What a colour becomes is part of a rule only where the demonstrations show it. A condition that no cell meets counts
    once with each colour.
    """
    found, outputs = list[PlainRule](), [demo.grids[1] for demo in demos]
    black = [output.ravel() == 0 for output in outputs]
    for turn in range(8):
        turned = [turn_grid(demo.input, turn) for demo in demos]
        for shift in SHIFTS:
            moved = list[Grid]()
            for grid, wanted in zip(turned, black, strict=True):
                moved.append(move_grid(grid, shift))
                if ((moved[-1].ravel() == 0) != wanted).any():
                    break  # no other part changes which cells are black
            else:
                found += _list_colourings(PlainRule(turn, shift), list(zip(moved, outputs, strict=True)))
    return [rule for rule in found if len(rule.parts) in SIZES]


def _list_colourings(rule: PlainRule, moved: Sequence[tuple[Grid, Grid]]) -> Iterator[PlainRule]:
    """Yield a rule of a turn and a shift with all colours and conditions that turn moved grids into outputs."""
    for condition in (None, *CONDITIONS):
        shown, became = set[tuple[int, int]](), set[int]()
        for before, after in moved:
            met = set() if condition is None else list_met(before.tolist(), condition)
            became |= {int(after[place]) for place in met}
            shown |= {
                (int(old), int(after[place]))
                for place, old in np.ndenumerate(before)
                if old and place not in met
            }
        unchanged = all(old == new for old, new in shown)
        exchanged = all(old != new for old, new in shown) and (
            len({old for old, _ in shown}) == len({new for _, new in shown}) == len(shown)
        )
        if not (unchanged or exchanged) or len(became) > 1:
            continue
        mapped = replace(rule, colours=() if unchanged else tuple(sorted(shown)))
        if condition is None:
            yield mapped
        else:
            yield from (replace(mapped, recolour=(condition, colour)) for colour in became or COLOURS)


# -- sets of tasks ------------------------------------------------------------------------------------


def list_combinations(source: str) -> list[frozenset[str]]:
    """Return the combinations of parts that tasks of a source have in turn: those it names, or all of one or two."""
    _, _, named = source.partition(":")
    if named:
        return [frozenset(one.strip().split("+")) for one in named.split(",")]
    return [frozenset(one) for size in SIZES for one in combinations(KINDS, size)]


def compare_rule_tasks(
    tasks: TaskSet, stage: PipelineStage, *, count: int | None, demos: int | None, max_side: int
) -> list[Departure]:
    """Return a departure if listed tasks of the family are not what their names and the settings say.

    Args:
        tasks: the tasks.
        stage: the stage of a departure.
        count: the number of tasks that the settings name, if they name one.
        demos: the same of demonstrations.
        max_side: the longest side of a grid.
    """
    wanted, found = COUNTS[tasks.subset] if count is None else count, list[Departure]()
    if len(tasks) != wanted:
        where = f"{len(tasks)} instead of {wanted}"
        found.append(Departure(stage, "number of tasks", abs(len(tasks) - wanted) / wanted, 0.0, where))
    parts, every = list_combinations(tasks.source), -(-len(tasks) // EXPLAINED)
    wrong = list[tuple[str, str]]()
    for place, task in enumerate(tasks):
        number, _, name = task.id.partition("-")
        rule = PlainRule.read(name)
        fault = _find_fault(task, rule, DEMOS if demos is None else demos, max_side)
        index = int(number)
        if not fault and rule.held_out != (tasks.subset == "evaluation"):
            fault = f"has a rule that is not of subset {tasks.subset}"
        if not fault and (
            rule.parts != parts[index % len(parts)] or (max_side >= LONGEST and index != place)
        ):
            fault = f"is not the one at place {place}, or has other parts than its place says"
        if not fault and place % every == 0 and list_explanations(task.demos) != [rule]:
            fault = "has demonstrations that another rule explains too"
        wrong += [(task.id, fault)] if fault else []
    if wrong:
        name, fault = wrong[0]
        found.append(
            Departure(stage, "rules of the tasks", len(wrong) / len(tasks), 0.0, f"task {name} {fault}")
        )
    return found


def _find_fault(task: Task, rule: PlainRule, demos: int, max_side: int) -> str:
    """Return what is wrong with the grids of a task; empty if nothing is."""
    if (len(task.demos), len(task.tests)) != (demos, 1):
        return f"has {len(task.demos)} demonstrations and {len(task.tests)} queries, not {demos} and 1"
    sides = {side for grid in task.grids for side in grid.shape}
    if len(sides) != 1 or not SHORTEST <= max(sides) <= min(LONGEST, max_side):
        return f"has grids with sides {', '.join(map(str, sorted(sides)))}"
    if any(not np.array_equal(rule.apply(pair.input), pair.grids[-1]) for pair in task.pairs):
        return "has an output of another rule"
    if np.array_equal(task.tests[0].input, task.tests[0].grids[-1]):
        return "has an output that is its input"
    return ""
