"""The rule family: an endless stream of small tasks, each with a hidden rule that its demonstrations determine.

A rule has one or two of four parts, applied in this order: a dihedral transform, a shift (cells that leave the grid are
lost), a permutation of colours, and a recolouring of the cells that meet a condition. Black (0) always stays black.
Every task has three demonstrations and one query, with square grids of the same side. A task is kept only if its rule
is the only rule of the family that explains the demonstrations, so the answer always follows from them.

The split is by rules, not tasks: whether a rule is held out depends only on its name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache, cached_property, lru_cache
from itertools import combinations

import numpy as np
import numpy.typing as npt

from etrm.data.augment import dihedral
from etrm.data.task import COLOURS, Grid, Pair, Task
from etrm.errors import DataError

VERSION = "rules-1"
"""The version of the family. It changes if any task changes."""
SEED = 20_250_704  # any number does; another one makes other tasks
DEMOS = 3
"""The default number of demonstrations of a task, in the range of ARC."""
SIDES = (3, 6)
"""The shortest and longest side of a grid."""
PALETTE = (2, 4)
"""The smallest and largest number of colours in the inputs of a task, without black."""
HELD_OUT = 4
"""One of this many rules is held out."""
TASKS = {"training": 1000, "evaluation": 200}
"""The default number of tasks of a subset."""

SHIFTS = tuple((down, right) for down in (-1, 0, 1) for right in (-1, 0, 1))
"""Every shift, the one that moves nothing included."""
FILLED = 0.7
"""The probability that an input cell is not black."""

MOST_DRAWS = 20_000
"""The largest number of draws in a row without a task that its demonstrations determine. Of the rarest kind with two
demonstrations, one in 200 is such a task. One demonstration of side 3 determines no rule of one part, because a
recolouring of its inner cell explains it, too."""

Mask = npt.NDArray[np.bool_]


def _neighbours(grids: Grid) -> Iterator[Grid]:
    """Yield the grids whose cells are the upper, lower, left and right neighbours of each cell; 0 outside."""
    for step in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        yield _shifted(grids, step)


def _edge(grids: Grid) -> Mask:
    mask = np.ones(grids.shape, dtype=bool)
    mask[..., 1:-1, 1:-1] = False
    return mask


def _touching(grids: Grid) -> Mask:
    return np.logical_or.reduce([near == grids for near in _neighbours(grids)])


def _covered(grids: Grid) -> Mask:
    return _shifted(grids, (1, 0)) != 0


CONDITIONS: dict[str, Callable[[Grid], Mask]] = {
    "edge": _edge,
    "inner": lambda grids: ~_edge(grids),
    "touching": _touching,
    "alone": lambda grids: ~_touching(grids),
    "covered": _covered,
    "open": lambda grids: ~_covered(grids),
}
"""The conditions for recolouring cells of (..., n, n) grids that are not black: whether they are on the edge, next to a
cell of the same colour, or below a cell that is not black. The conditions depend only on which cells share a colour,
not on the colours themselves."""


@dataclass(frozen=True)
class TaskRule:
    """A hidden rule. The default values change nothing.

    Attributes:
        dihedral: the number of the transform, see :func:`etrm.data.augment.dihedral`.
        shift: the shift, in rows down and columns to the right.
        colours: the (from, to) pairs of all colours in the task's inputs, in ascending order. No two colours become
            equal, and every colour changes.
        recolour: the condition, and the new colour of the cells that meet it.
    """

    dihedral: int = 0
    shift: tuple[int, int] = (0, 0)
    colours: tuple[tuple[int, int], ...] = ()
    recolour: tuple[str, int] | None = None

    @property
    def kinds(self) -> tuple[str, ...]:
        """The names of the rule's parts."""
        return tuple(field.name for field in fields(self) if getattr(self, field.name) != field.default)

    @cached_property
    def id(self) -> str:
        """The parts as text, for instance ``dihedral-3+colours-14.42``."""
        words = {
            "dihedral": str(self.dihedral),
            "shift": "u.d"[1 + self.shift[0]] + "l.r"[1 + self.shift[1]],
            "colours": ".".join(f"{a}{b}" for a, b in self.colours),
            "recolour": "-".join(map(str, self.recolour or ())),
        }
        return "+".join(f"{kind}-{words[kind]}" for kind in self.kinds)

    @property
    def held_out(self) -> bool:
        """Whether the rule belongs to the evaluation subset."""
        return find_held_out(self.id)

    def apply(self, grids: Grid) -> Grid:
        """Return the outputs of (..., n, n) inputs."""
        place = len(SHIFTS) * self.dihedral + SHIFTS.index(self.shift)
        out = _table(self.colours)[_moved(grids)[place]]
        if self.recolour is not None:
            condition, colour = self.recolour
            out = np.where(CONDITIONS[condition](out) & (out != 0), np.uint8(colour), out)
        return out


def find_held_out(rule: str) -> bool:
    """Return whether the rule with an id belongs to the evaluation subset."""
    return hashlib.sha256(rule.encode()).digest()[0] % HELD_OUT == 0


KINDS = tuple(field.name for field in fields(TaskRule))
"""The names of the parts."""
COMBINATIONS = tuple(frozenset(names) for size in (1, 2) for names in combinations(KINDS, size))
"""The parts that rules are made of."""


def parse_rule_id(task_id: str) -> str:
    """Return the id of the rule of a task of the family."""
    return task_id.partition("-")[2]


def find_explanations(demos: Sequence[Pair]) -> list[TaskRule]:
    """Return every rule of the family that turns each input into its output: the oracle of the family.

    A part that has no visible effect in the demonstrations counts once for each value that it could have, so a single
    explanation means that the demonstrations determine the whole rule. A permutation is determined for the colours that
    occur.
    """
    given = np.stack([pair.input for pair in demos])
    wanted = np.stack([pair.output for pair in demos if pair.output is not None])
    found = []
    images = _moved(given)
    fits = ((images != 0) == (wanted != 0)).all(
        axis=(1, 2, 3)
    )  # no other part creates or removes black cells
    for index in np.flatnonzero(fits):
        geometry, moved = _GEOMETRIES[index], images[index]
        for condition in (None, *CONDITIONS):
            hidden = np.zeros(moved.shape, dtype=bool)
            if condition is not None:
                hidden = CONDITIONS[condition](moved) & (moved != 0)
            shown = {(int(a), int(b)) for a, b in zip(moved[~hidden], wanted[~hidden], strict=True)} - {
                (0, 0)
            }
            for rule in _with_colours(geometry, shown):
                found += _with_recolour(rule, condition, wanted[hidden])
    return [rule for rule in found if frozenset(rule.kinds) in COMBINATIONS]


_GEOMETRIES = tuple(TaskRule(dihedral=number, shift=shift) for number in range(8) for shift in SHIFTS)


def _with_colours(rule: TaskRule, shown: set[tuple[int, int]]) -> list[TaskRule]:
    """Return the rule with the permutation that the demonstrations show: none, or one that changes every colour."""
    if all(a == b for a, b in shown):
        return [rule]
    before, after = {a for a, _ in shown}, {b for _, b in shown}
    if any(a == b for a, b in shown) or not len(shown) == len(before) == len(after):
        return []
    return [replace(rule, colours=tuple(sorted(shown)))]


def _with_recolour(rule: TaskRule, condition: str | None, became: npt.NDArray[np.uint8]) -> list[TaskRule]:
    """Return the rule with a recolouring of cells that ``became`` these colours; with any colour if there are none."""
    if condition is None:
        return [rule]
    seen = {int(colour) for colour in became}
    if len(seen) > 1:
        return []
    return [replace(rule, recolour=(condition, colour)) for colour in seen or range(1, COLOURS)]


@lru_cache(maxsize=8)
def draw_rule_tasks(
    source: str, subset: str, max_side: int, count: int | None, demos: int = DEMOS
) -> tuple[Task, ...]:
    """Return the first tasks of the family.

    Args:
        source: the source, ``rules``, or ``rules:`` and combinations of parts, for instance
            ``rules:colours`` or ``rules:shift,dihedral+colours``.
        subset: the subset, ``training`` or ``evaluation``; no rule is in both.
        max_side: the longest side of a grid.
        count: the number of tasks; :data:`TASKS` by default.
        demos: the number of demonstrations of a task; with another number all tasks are others.

    Raises:
        DataError: the source names a part that does not exist, no grid is small enough, or so few demonstrations do not
            determine a rule.
    """
    wanted = parse_combinations(source)
    list_sides(source, max_side)
    tasks: list[Task] = []
    index = 0
    while len(tasks) < (TASKS[subset] if count is None else count):
        task = _task(wanted, subset, max_side, index, demos)
        tasks += [] if task is None else [task]
        index += 1
    return tuple(tasks)


def list_sides(source: str, max_side: int) -> range:
    """Return the sides of the grids up to a longest one.

    Raises:
        DataError: no grid is small enough.
    """
    if max_side < SIDES[0]:
        raise DataError(
            "data.no-task-left",
            f"{source}: no task is left",
            got=f"a largest side of {max_side}",
            allowed=f"at least {SIDES[0]}",
            next_step="raise data.max_side, which is --max-side in etrm data check",
        )
    return range(SIDES[0], min(SIDES[1], max_side) + 1)


def parse_combinations(source: str) -> tuple[frozenset[str], ...]:
    """Return the combinations of parts that a source names, in its order.

    Raises:
        DataError: the source names a part that does not exist.
    """
    name, colon, text = source.partition(":")
    if not colon:
        return COMBINATIONS
    wanted = tuple(frozenset(item.strip().split("+")) for item in text.split(","))
    unknown = [item for item, parts in zip(text.split(","), wanted, strict=True) if parts not in COMBINATIONS]
    if unknown:
        raise DataError(
            "data.unknown-rules",
            f"the source {name} does not have the combination of parts {unknown[0]!r}",
            allowed=", ".join("+".join(kind for kind in KINDS if kind in parts) for parts in COMBINATIONS),
            next_step="name one of these combinations",
        )
    return wanted


def _task(
    wanted: Sequence[frozenset[str]], subset: str, max_side: int, index: int, demos: int
) -> Task | None:
    """Return a task of the stream, a pure function of the arguments; None if its grids are too large."""
    held_out = subset == "evaluation"
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([SEED, held_out, index])))
    side = int(rng.integers(SIDES[0], SIDES[1] + 1))
    if side > max_side:
        return None
    parts = wanted[index % len(wanted)]
    for _ in range(MOST_DRAWS):
        palette = np.sort(1 + rng.permutation(COLOURS - 1)[: rng.integers(PALETTE[0], PALETTE[1] + 1)])
        rule = _draw(rng, parts, palette)
        if frozenset(rule.kinds) != parts or rule.held_out != held_out:
            continue
        inputs = np.where(
            rng.random((demos + 1, side, side)) < FILLED,
            palette[rng.integers(len(palette), size=(demos + 1, side, side))],
            0,
        ).astype(np.uint8)
        outputs = rule.apply(inputs)
        if np.array_equal(inputs[-1], outputs[-1]):  # otherwise a copy of the query would be the answer
            continue
        pairs = tuple(Pair(freeze_grid(a), freeze_grid(b)) for a, b in zip(inputs, outputs, strict=True))
        if find_explanations(pairs[:demos]) == [rule]:
            return Task(f"{index:06d}-{rule.id}", pairs[:demos], pairs[demos:])
    raise refuse_demos(demos, side)


def refuse_demos(demos: int, side: int) -> DataError:
    """Return the error for a number of demonstrations that determine no rule on grids of a side."""
    return DataError(
        "data.undetermined-rules",
        "no task was found whose demonstrations determine its rule",
        got=f"demonstrations per task: {demos}, on grids of side {side}",
        allowed="2 or more demonstrations",
        next_step="set data.demos, or evaluate.demos for evaluation tasks, to larger numbers",
    )


def _draw(rng: np.random.Generator, parts: frozenset[str], palette: npt.NDArray[np.int64]) -> TaskRule:
    """Return a random rule of these parts, each uniform. A part with its default value makes the rule shorter."""
    rule = TaskRule()
    if "dihedral" in parts:
        rule = replace(rule, dihedral=int(rng.integers(8)))
    if "shift" in parts:
        rule = replace(rule, shift=SHIFTS[rng.integers(len(SHIFTS))])
    if "colours" in parts:
        became = 1 + rng.permutation(COLOURS - 1)[: len(palette)]
        moves = not (became == palette).any()
        pairs = zip(palette.tolist(), became.tolist(), strict=True)
        rule = replace(rule, colours=tuple(pairs) if moves else ())
    if "recolour" in parts:
        names = tuple(CONDITIONS)
        rule = replace(rule, recolour=(names[rng.integers(len(names))], int(rng.integers(1, COLOURS))))
    return rule


@cache
def list_places(side: int) -> npt.NDArray[np.uint8]:
    """Return (geometries, cells): the cell of the input at each position, counted from 1; 0 where black moves in."""
    cells = np.arange(1, side * side + 1, dtype=np.uint8).reshape(side, side)
    return np.stack([_shifted(dihedral(cells, g.dihedral), g.shift).ravel() for g in _GEOMETRIES])


def _moved(grids: Grid) -> Grid:
    """Return (..., n, n) grids as (geometries, ..., n, n), under every dihedral transform and shift."""
    side = grids.shape[-1]
    cells = np.concatenate(
        [np.zeros((*grids.shape[:-2], 1), np.uint8), grids.reshape(*grids.shape[:-2], -1)], -1
    )
    return np.moveaxis(cells[..., list_places(side)], -2, 0).reshape(-1, *grids.shape)


def _shifted(grids: Grid, shift: tuple[int, int]) -> Grid:
    """Return (..., n, n) grids shifted down and to the right, with black moving in."""
    out = np.zeros_like(grids)
    (into_r, from_r), (into_c, from_c) = (_overlap(step) for step in shift)
    out[..., into_r, into_c] = grids[..., from_r, from_c]
    return out


def _overlap(step: int) -> tuple[slice, slice]:
    if step >= 0:
        return slice(step, None), slice(None, -step or None)
    return slice(None, step), slice(-step, None)


def _table(colours: tuple[tuple[int, int], ...]) -> npt.NDArray[np.uint8]:
    table = np.arange(COLOURS, dtype=np.uint8)
    for before, after in colours:
        table[before] = after
    return table


def freeze_grid(grid: Grid) -> Grid:
    """Return a grid that nobody can change."""
    grid = np.ascontiguousarray(grid)
    grid.setflags(write=False)
    return grid
