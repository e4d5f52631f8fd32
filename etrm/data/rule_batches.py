"""Tasks of the rule family, drawn in blocks of many tasks at a time: the same distribution as :mod:`etrm.data.rules`.

A block is a pure function of the family, the side and its number. Each of its places is drawn again, in rounds, until
its task is determined by its demonstrations; round r of block b draws all random numbers of a block from
``Philox(SeedSequence([SEED, 4, held_out, side, b, r]))``, in the order of :class:`RuleNumbers`.

Shapes: n places of a block, M demonstrations at most, s side of the grids, K = M + 1 grids of a task, C = 10 colours.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from etrm.data.rules import (
    CONDITIONS,
    FILLED,
    KINDS,
    MOST_DRAWS,
    PALETTE,
    SEED,
    SHIFTS,
    TaskRule,
    find_held_out,
    freeze_grid,
    list_places,
    refuse_demos,
)
from etrm.data.task import COLOURS, Pair, Task

VERSION = "rule-blocks-1"
"""The version of the blocks. It changes if any task changes."""
BLOCK = 512  # places: numpy costs the same per call for few, and a block of them is drawn in 50 ms

Bools = npt.NDArray[np.bool_]
Colours = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int64]

_CHANGES = tuple(shift for shift in SHIFTS if shift != (0, 0))
_MOVES_NOTHING = SHIFTS.index((0, 0))
_STREAM = 4  # the second word of the seed, which no other stream of random numbers has
_NAMES = tuple(CONDITIONS)


@dataclass(frozen=True)
class RuleFamily:
    """What the tasks of a block have in common.

    Attributes:
        combinations: the combinations of parts, which come in turn.
        held_out: whether the rules are those of the evaluation subset.
        demos: the numbers of demonstrations, which come in turn.
    """

    combinations: tuple[frozenset[str], ...]
    held_out: bool
    demos: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class RuleBlock:
    """Some tasks with grids of one side.

    Attributes:
        inputs, outputs: (n, K, s, s) uint8 colours: the demonstrations, black grids where a task has fewer than M, and
            the query.
        demos: (n,) int64 numbers of demonstrations.
        rules: the ids of the n rules.
    """

    inputs: Colours
    outputs: Colours
    demos: Numbers
    rules: tuple[str, ...]

    def rows(self, chosen: Numbers) -> RuleBlock:
        """Return some of the tasks."""
        return RuleBlock(
            self.inputs[chosen],
            self.outputs[chosen],
            self.demos[chosen],
            tuple(self.rules[row] for row in chosen.tolist()),
        )

    def task(self, row: int, number: int) -> Task:
        """Return one task, named by a number."""
        pairs = [
            Pair(freeze_grid(a), freeze_grid(b))
            for a, b in zip(self.inputs[row], self.outputs[row], strict=True)
        ]
        return Task(name_task(number, self.rules[row]), tuple(pairs[: self.demos[row]]), (pairs[-1],))


def name_task(number: int, rule: str) -> str:
    """Return the id of a task, from which :func:`etrm.data.rules.parse_rule_id` reads its rule."""
    return f"{number:06d}-{rule}"


@dataclass(frozen=True, eq=False)
class RuleNumbers:
    """The random numbers of n places, in the order in which they are drawn.

    Attributes:
        order: (n, 9) float64; their places in rising order, plus 1, are the palette; a task has its first
            ``sizes`` colours.
        became: (n, 9) float64; likewise what a colour map makes of the palette.
        sizes: (n,) int64 numbers of colours.
        dihedral: (n,) int64 1 to 7.
        shift: (n,) int64 0 to 7, the place among the shifts that move something.
        condition: (n,) int64 0 to 5, the place among the conditions.
        colour: (n,) int64 1 to 9, the colour of recoloured cells.
        filled: (n, K, s, s) float32; below :data:`FILLED` a cell is not black.
        cells: (n, K, s, s) float32, the place of a cell's colour in the palette, as a share of ``sizes``.
    """

    order: npt.NDArray[np.float64]
    became: npt.NDArray[np.float64]
    sizes: Numbers
    dihedral: Numbers
    shift: Numbers
    condition: Numbers
    colour: Numbers
    filled: npt.NDArray[np.float32]
    cells: npt.NDArray[np.float32]

    def rows(self, chosen: Numbers) -> RuleNumbers:
        """Return the numbers of some places."""
        return RuleNumbers(*(getattr(self, field.name)[chosen] for field in fields(self)))


def draw_numbers(family: RuleFamily, side: int, block: int, turn: int) -> RuleNumbers:
    """Draw the numbers of one round of a block."""
    words = [SEED, _STREAM, int(family.held_out), side, block, turn]
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))
    shape = (BLOCK, max(family.demos) + 1, side, side)
    return RuleNumbers(
        order=rng.random((BLOCK, COLOURS - 1)),
        became=rng.random((BLOCK, COLOURS - 1)),
        sizes=rng.integers(PALETTE[0], PALETTE[1] + 1, BLOCK),
        dihedral=rng.integers(1, 8, BLOCK),
        shift=rng.integers(len(_CHANGES), size=BLOCK),
        condition=rng.integers(len(CONDITIONS), size=BLOCK),
        colour=rng.integers(1, COLOURS, BLOCK),
        filled=rng.random(shape, np.float32),
        cells=rng.random(shape, np.float32),
    )


@lru_cache(maxsize=16)
def draw_block(family: RuleFamily, side: int, block: int) -> RuleBlock:
    """Return a block of tasks.

    Raises:
        DataError: so few demonstrations do not determine a rule.
    """
    turns = block * BLOCK + np.arange(BLOCK)
    combinations = len(family.combinations)
    demos = np.array(family.demos)[turns // combinations % len(family.demos)]
    parts = np.array([[kind in names for kind in KINDS] for names in family.combinations])
    has = parts[turns % combinations]
    shape = (BLOCK, max(family.demos) + 1, side, side)
    inputs, outputs = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    rules = [""] * BLOCK
    pending = np.arange(BLOCK)
    turn, failed = 0, 0
    while len(pending):
        drawn = draw_numbers(family, side, block, turn).rows(pending)
        tried = _Candidates(drawn, has[pending], demos[pending])
        for row in np.flatnonzero(tried.find_determined()).tolist():
            rule = tried.rule(row).id
            if find_held_out(rule) == family.held_out:
                place = pending[row]
                inputs[place], outputs[place], rules[place] = tried.inputs[row], tried.outputs[row], rule
        left = pending[[not rules[place] for place in pending.tolist()]]
        failed = failed + len(left) if len(left) == len(pending) else 0
        if failed >= MOST_DRAWS:
            raise refuse_demos(int(demos[left].min()), side)
        pending = left
        turn += 1
    return RuleBlock(inputs, outputs, demos, tuple(rules))


class _Candidates:
    """Tasks that were drawn and not yet checked.

    Attributes:
        inputs, outputs: (n, K, s, s) uint8 colours.
    """

    def __init__(self, drawn: RuleNumbers, has: Bools, demos: Numbers) -> None:
        self.moves, self.shifts, self.maps, self.recolours = has.T  # in the order of KINDS
        self._drawn, grids = drawn, drawn.filled.shape[1]
        self._rows = np.arange(len(has))[:, None]
        self.palette = drawn.order.argsort(1).astype(np.uint8) + np.uint8(1)
        self.became = drawn.became.argsort(1).astype(np.uint8) + np.uint8(1)
        self.used = np.arange(COLOURS - 1) < drawn.sizes[:, None]
        shown = np.arange(grids) < demos[:, None]
        shown[:, -1] = True
        self._demo = shown[:, :-1, None, None]
        cells = (drawn.cells * drawn.sizes[:, None, None, None]).astype(np.int64)
        colours = self.palette[self._rows, cells.reshape(len(has), -1)].reshape(cells.shape)
        self.inputs = np.where((drawn.filled < FILLED) & shown[:, :, None, None], colours, np.uint8(0))
        table = np.tile(np.arange(COLOURS, dtype=np.uint8), (len(has), 1))
        changed = np.where(self.used & self.maps[:, None], self.became, self.palette)
        np.put_along_axis(table, self.palette.astype(np.int64), changed, 1)
        self.images = self._moved()
        mapped = table[self._rows, self.images.reshape(len(has), -1)].reshape(self.images.shape)
        self.hidden = self._recoloured(mapped)
        self.outputs = np.where(self.hidden, drawn.colour.astype(np.uint8)[:, None, None, None], mapped)

    def _moved(self) -> Colours:
        """The inputs after the transform and the shift of each task."""
        shift = np.array([SHIFTS.index(change) for change in _CHANGES])[self._drawn.shift]
        geometry = len(SHIFTS) * np.where(self.moves, self._drawn.dihedral, 0) + np.where(
            self.shifts, shift, _MOVES_NOTHING
        )
        return _move(self.inputs, geometry)

    def _recoloured(self, mapped: Colours) -> Bools:
        """The cells that the recolouring of each task hides."""
        hidden = np.zeros(mapped.shape, dtype=bool)
        for number, name in enumerate(_NAMES):
            rows = np.flatnonzero(self.recolours & (self._drawn.condition == number))
            if len(rows):
                hidden[rows] = CONDITIONS[name](mapped[rows]) & (mapped[rows] != 0)
        return hidden

    def find_determined(self) -> Bools:
        """Whether the demonstrations of each task (n,) determine its rule, and a copy of the query is wrong."""
        kept = ~(self.maps & ((self.palette == self.became) & self.used).any(1))
        kept &= (self.inputs[:, -1] != self.outputs[:, -1]).any((1, 2))
        kept &= ~self.maps | self._shows_all_colours()
        rows = np.flatnonzero(kept)
        given = self.inputs[rows, :-1]
        wanted = np.where(self._demo[rows], self.outputs[rows, :-1], np.uint8(0))
        kept[rows] = count_explanations(given, wanted) == 1
        return kept

    def _shows_all_colours(self) -> Bools:
        """Whether the demonstrations show what every colour of the palette becomes."""
        seen = np.zeros((len(self.palette), COLOURS), dtype=bool)
        visible = np.where(self.hidden, np.uint8(0), self.images)[:, :-1]
        seen[self._rows, visible.reshape(len(seen), -1)] = True
        return np.asarray((seen[self._rows, self.palette] | ~self.used).all(1))

    def rule(self, row: int) -> TaskRule:
        """The rule of one task."""
        drawn, size = self._drawn, int(self._drawn.sizes[row])
        pairs = zip(self.palette[row, :size].tolist(), self.became[row, :size].tolist(), strict=True)
        recolouring = _NAMES[drawn.condition[row]], int(drawn.colour[row])
        return TaskRule(
            dihedral=int(drawn.dihedral[row]) if self.moves[row] else 0,
            shift=_CHANGES[drawn.shift[row]] if self.shifts[row] else (0, 0),
            colours=tuple(sorted(pairs)) if self.maps[row] else (),
            recolour=recolouring if self.recolours[row] else None,
        )


def _move(grids: Colours, geometry: Numbers) -> Colours:
    """Return (n, k, s, s) grids, each moved by its geometry (n,): the transform times 9 plus the shift."""
    flat = grids.reshape(*grids.shape[:2], -1)
    if (geometry == _MOVES_NOTHING).all():
        return grids
    cells = np.concatenate((np.zeros((*grids.shape[:2], 1), np.uint8), flat), 2)
    index = list_places(grids.shape[-1]).astype(np.int64)[geometry][:, None]
    return np.take_along_axis(cells, index, 2).reshape(grids.shape)


def count_explanations(given: Colours, wanted: Colours) -> Numbers:
    """Count the rules of the family that explain the demonstrations of many tasks.

    It is the number of rules that :func:`etrm.data.rules.find_explanations` returns for each.

    Args:
        given: (n, D, s, s) inputs; a demonstration that is all black says nothing.
        wanted: (n, D, s, s) outputs.
    """
    if not len(given):
        return np.zeros(0, np.int64)
    rows, geometry = _find_geometries(given, wanted)
    if not len(rows):
        return np.zeros(len(given), np.int64)
    images = _move(given[rows], geometry)
    moved = (geometry // len(SHIFTS) > 0).astype(np.int64) + (geometry % len(SHIFTS) != _MOVES_NOTHING)
    inside = images != 0
    hides = [np.zeros(images.shape, dtype=bool), *(test(images) & inside for test in CONDITIONS.values())]
    found = np.zeros(len(given), np.int64)
    for number, hidden in enumerate(hides):
        maps, possible = _check_maps(images, wanted[rows], hidden)
        parts = moved + maps + (number > 0)
        ways = possible & (parts >= 1) & (parts <= 2)
        found += np.bincount(
            rows, ways * (_count_colours(wanted[rows], hidden) if number else 1), len(given)
        ).astype(np.int64)
    return found


def _find_geometries(given: Colours, wanted: Colours) -> tuple[Numbers, Numbers]:
    """Return the pairs of a task and a geometry under which its black cells are where they should be."""
    n, demos, side = given.shape[:3]
    places = list_places(side).astype(np.int64)
    black = np.concatenate((np.ones((n, demos, 1), bool), (given == 0).reshape(n, demos, side**2)), 2)
    target = (wanted == 0).reshape(n, demos, side**2)
    rows, geometry = np.nonzero((black[:, 0][:, places] == target[:, 0, None]).all(2))
    for demo in range(1, demos):
        cells = np.take_along_axis(black[rows, demo], places[geometry], 1)
        fits = (cells == target[rows, demo]).all(1)
        rows, geometry = rows[fits], geometry[fits]
    return rows, geometry


def _check_maps(images: Colours, wanted: Colours, hidden: Bools) -> tuple[Bools, Bools]:
    """Return of each row whether its visible cells show a map of colours, and whether a rule explains them at all."""
    n, cells = len(images), images[0].size
    pairs = np.where(hidden, 0, images.astype(np.int64) * COLOURS + wanted).reshape(n, cells)
    seen = np.zeros((n, COLOURS * COLOURS), dtype=bool)
    seen[np.arange(n)[:, None], pairs] = True
    table = seen.reshape(n, COLOURS, COLOURS)[:, 1:, 1:]
    same = np.eye(COLOURS - 1, dtype=bool)
    changes = np.asarray((table & ~same).any((1, 2)))
    one_to_one = (table.sum(1) <= 1).all(1) & (table.sum(2) <= 1).all(1) & ~(table & same).any((1, 2))
    return changes, ~changes | one_to_one


def _count_colours(wanted: Colours, hidden: Bools) -> Numbers:
    """Return the number of colours (n,) that the hidden cells may have been given: all if there are none."""
    n = len(wanted)
    least = np.where(hidden, wanted, np.uint8(COLOURS)).reshape(n, -1).min(1)
    most = np.where(hidden, wanted, np.uint8(0)).reshape(n, -1).max(1)
    return np.where(most == 0, COLOURS - 1, (least == most).astype(np.int64))
