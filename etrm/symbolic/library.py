"""The formulas that a solver chooses from, family by family.

A family holds whole rules, and conditions on a cell. Rules are enumerated. A condition represents many rules,
``where colour(x, s) and CONDITION paint t`` for every two colours s and t, alone or joined to another condition. These
are too many to enumerate, so a solver chooses a condition for each pair of colours that the demonstrations show.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from etrm.config import SymbolicConfig
from etrm.config.symbolic import Family
from etrm.symbolic.formula import (
    BLACK,
    CELL,
    COLOURS,
    TRUE,
    And,
    Atom,
    Cell,
    Exists,
    Formula,
    Map,
    Not,
    Rule,
    Then,
    Where,
)

ORIGINAL = 152
"""Number of templates of the original solver."""
COLOUR_PAIRS = COLOURS * (COLOURS - 1)
"""Number of recolourings of one colour into another one."""


@dataclass(frozen=True)
class Contents:
    """What a family holds.

    Attributes:
        rules: whole rules.
        conditions: formulas with the free variable x.
    """

    rules: tuple[Rule, ...] = ()
    conditions: tuple[Formula, ...] = ()

    @property
    def recolourings(self) -> int:
        """Number of rules that one condition and a pair of colours make."""
        return COLOUR_PAIRS * len(self.conditions)


@dataclass(frozen=True)
class Library:
    """The families that a config lists.

    Attributes:
        families: contents by name, in the order of the config.
    """

    families: Mapping[Family, Contents]

    @classmethod
    def of(cls, config: SymbolicConfig) -> Library:
        """The library of a config."""
        return cls({name: _FAMILIES[name](config) for name in config.families})

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules of all families, each once."""
        return tuple(dict.fromkeys(rule for family in self.families.values() for rule in family.rules))

    @property
    def conditions(self) -> tuple[Formula, ...]:
        """The conditions of all families, each once."""
        every = (condition for family in self.families.values() for condition in family.conditions)
        return tuple(dict.fromkeys(every))


def recolour(condition: Formula, source: int, target: int) -> Where:
    """The rule that gives the cells of one colour another one where a condition holds."""
    of_source = Atom("colour", (_X, source))
    return Where(of_source if condition == TRUE else And(of_source, condition), target)


# -- families -------------------------------------------------------------------------------------

_X, _Y = Cell(CELL), Cell("y")
_STEPS = tuple(step for step in product((-1, 0, 1), repeat=2) if step != (0, 0))
_SYMMETRIES = (
    "flip_rows",
    "flip_columns",
    "rotate_180",
    "rotate_90",
    "rotate_270",
    "transpose",
    "antitranspose",
)
_POSITIONS = ("edge", "inner", "corner")


def _paint_all(name: str, *numbers: int) -> Where:
    return Where(TRUE, Map(name, numbers))


def _original(_config: SymbolicConfig) -> Contents:
    """The templates of the original: fills, recolourings, maps and pairs of maps; recolouring without a condition."""
    fills = [Where(Atom(name, (_X,)), colour) for name in _POSITIONS for colour in range(COLOURS)]
    recolourings = [recolour(TRUE, s, t) for s, t in product(range(COLOURS), repeat=2) if s != t]
    names = ("flip_columns", "flip_rows", "rotate_90", "left", "right", "up", "down")
    maps = [_paint_all(name) for name in names]
    pairs = [Then(first, second) for first, second in product(maps[:5], repeat=2)]
    return Contents((*fills, *recolourings, *maps, *pairs), (TRUE,))


def _dihedral(_config: SymbolicConfig) -> Contents:
    """Symmetries, shifts, crops, tilings and magnifications, and pairs of them; symmetries of colours as conditions."""
    symmetries = [_paint_all(name) for name in _SYMMETRIES]
    shifts = [
        _paint_all(name, *step) for name in ("offset", "wrap") for step in product(range(-2, 3), repeat=2)
    ]
    parts = [
        _paint_all("part", row, rows, column, columns)
        for rows, columns in ((1, 2), (2, 1), (2, 2), (1, 3), (3, 1), (3, 3))
        for row, column in product(range(rows), range(columns))
    ]
    crops = [_paint_all("crop"), *(_paint_all("crop_to", colour) for colour in range(COLOURS)), *parts]
    copies = [
        _paint_all(name, *numbers)
        for name in ("tile", "mirror", "scale", "shrink")
        for numbers in product((1, 2, 3), repeat=2)
        if numbers != (1, 1)
    ]
    rules: tuple[Rule, ...] = (
        *(_paint_all("identity"), *symmetries, *shifts, *crops, *copies),
        *(Then(crop, symmetry) for crop in crops for symmetry in symmetries),
        *(Then(symmetry, copy) for symmetry in symmetries for copy in copies),
        *(Then(crop, copy) for crop in crops[: 1 + COLOURS] for copy in copies),
    )
    cells = [Cell(CELL, Map(name)) for name in _SYMMETRIES]
    same = [Atom("same_colour", (_X, cell)) for cell in cells]
    return Contents(
        rules, (*_and_not(same), *_of_each_colour(lambda c: [Atom("colour", (cell, c)) for cell in cells]))
    )


def _relational(_config: SymbolicConfig) -> Contents:
    """Where a cell lies in the grid, what lies around it, and in its row and column."""
    near = [Cell(CELL, Map("offset", step)) for step in _STEPS]
    touching, row, column = (Atom(name, (_X, _Y)) for name in ("touching", "same_row", "same_column"))
    seen = Atom("ray", (_X, _Y))
    sides = [Atom(name, pair) for name in ("left_of", "above") for pair in ((_X, _Y), (_Y, _X))]

    def of_colour(c: int) -> list[Formula]:
        is_c = Atom("colour", (_Y, c))
        adjacent = [Exists("y", And(relation, is_c)) for relation in (touching, row, column, seen)]
        on_sides = [Exists("y", And(side, is_c)) for side in sides]
        in_sight = [Exists("y", And(And(seen, side), is_c)) for side in sides]
        between = [And(after, before) for after, before in (on_sides[:2], on_sides[2:])]
        return [*(Atom("colour", (cell, c)) for cell in near), *adjacent, *between, *on_sides, *in_sight]

    same = Atom("same_colour", (_X, _Y))
    alike: list[Formula] = [Exists("y", And(relation, same)) for relation in (touching, row, column, seen)]
    alike += [Atom("same_colour", (_X, cell)) for cell in near]
    places = [Atom(name, (_X,)) for name in _POSITIONS]
    return Contents(conditions=(*_and_not([*places, *alike]), *_of_each_colour(of_colour)))


def _topological(_config: SymbolicConfig) -> Contents:
    """What cells of one colour enclose."""
    enclosed = Atom("enclosed", (_X,))
    adjacent = Exists("y", And(Atom("touching", (_X, _Y)), Atom("enclosed", (_Y,))))
    return Contents(conditions=_and_not([enclosed, adjacent]))


def _counting(_config: SymbolicConfig) -> Contents:
    """How large the cell's component is, and how frequent its colour."""
    ranks: list[Formula] = [Atom(name, (_X,)) for name in ("largest", "smallest", "majority", "minority")]
    sizes = [Atom("size", (_X, count)) for count in range(1, 11)]
    return Contents(conditions=_and_not([*ranks, *sizes]))


def _learned(config: SymbolicConfig) -> Contents:
    """The learned guards, alone and for another cell to which a learned relation leads."""
    guards = range(config.guards)
    alone = [Atom("learned", (_X, guard)) for guard in guards]
    pairs = [
        Exists("y", And(Atom("related", (_X, _Y, guard)), Atom("learned", (_Y, guard)))) for guard in guards
    ]
    return Contents(conditions=(*alone, *pairs))


def _of_each_colour(make: Callable[[int], Sequence[Formula]]) -> tuple[Formula, ...]:
    """Conditions of every colour, and the negations of those of black."""
    return (*_and_not(make(BLACK)), *(formula for c in range(1, COLOURS) for formula in make(c)))


def _and_not(formulas: Sequence[Formula]) -> tuple[Formula, ...]:
    """The formulas, each followed by its negation."""
    return tuple(either for formula in formulas for either in (formula, Not(formula)))


_FAMILIES: Mapping[Family, Callable[[SymbolicConfig], Contents]] = {
    "original": _original,
    "dihedral": _dihedral,
    "relational": _relational,
    "topological": _topological,
    "counting": _counting,
    "learned": _learned,
}
