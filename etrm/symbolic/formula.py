"""The language of formulas over grids: conditions on cells, and rules that paint the cells which meet one.

A formula is true of cells to a degree between 0 and 1; ``touching(x, y) and colour(y, 3)`` has the free variables x
and y. A rule turns a grid into a grid; ``where edge(x) paint 3`` paints every cell x of the edge. ``str`` writes a
formula or rule as text, and :func:`etrm.symbolic.parser.parse` reads it back: equal texts are equal formulas.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from etrm.errors import FormulaError

COLOURS = 10
"""Number of colours of a grid, black (0) included."""
BLACK = 0  # as in ARC
LARGEST_COUNT = 30
"""Largest number of ``size``, which larger components have too."""
MOST_GUARDS = 100
"""Largest number of learned predicates of a kind."""
CELL = "x"
"""The free variable of a guard: the cell that is painted."""

Sort: TypeAlias = Literal["cell", "colour", "count", "guard"]

LIMITS: Mapping[Sort, int] = {"colour": COLOURS, "count": LARGEST_COUNT + 1, "guard": MOST_GUARDS}
"""Arguments that are numbers, from 0 to below this."""

PREDICATES: Mapping[str, tuple[Sort, ...]] = {
    "true": (),
    "edge": ("cell",),
    "inner": ("cell",),
    "corner": ("cell",),
    "colour": ("cell", "colour"),
    "same_colour": ("cell", "cell"),
    "touching": ("cell", "cell"),
    "same_row": ("cell", "cell"),
    "same_column": ("cell", "cell"),
    "left_of": ("cell", "cell"),
    "above": ("cell", "cell"),
    "between": ("cell", "cell", "cell"),
    "ray": ("cell", "cell"),
    "enclosed": ("cell",),
    "size": ("cell", "count"),
    "largest": ("cell",),
    "smallest": ("cell",),
    "majority": ("cell",),
    "minority": ("cell",),
    "learned": ("cell", "guard"),
    "related": ("cell", "cell", "guard"),
}
"""Every predicate with the sorts of its arguments; cells come first, and at most one number follows them.
:mod:`etrm.symbolic.predicates` says what each one means."""


@dataclass(frozen=True)
class MapKind:
    """What the name of a map means.

    Attributes:
        numbers: lowest and highest value of each of its numbers.
        resizes: whether the painted grid may have another size than the grid that is read.
        parts: places of the numbers of a part, each of which is below the number of parts that follows it.
    """

    numbers: tuple[tuple[int, int], ...] = ()
    resizes: bool = False
    parts: tuple[int, ...] = ()


_STEP, _COPIES, _PART = (-29, 29), (1, 30), (0, 29)
MAPS: Mapping[str, MapKind] = {
    "identity": MapKind(),
    "flip_rows": MapKind(),
    "flip_columns": MapKind(),
    "rotate_180": MapKind(),
    "rotate_90": MapKind(resizes=True),
    "rotate_270": MapKind(resizes=True),
    "transpose": MapKind(resizes=True),
    "antitranspose": MapKind(resizes=True),
    "left": MapKind(),
    "right": MapKind(),
    "up": MapKind(),
    "down": MapKind(),
    "offset": MapKind((_STEP, _STEP)),
    "wrap": MapKind((_STEP, _STEP)),
    "tile": MapKind((_COPIES, _COPIES), resizes=True),
    "mirror": MapKind((_COPIES, _COPIES), resizes=True),
    "scale": MapKind((_COPIES, _COPIES), resizes=True),
    "shrink": MapKind((_COPIES, _COPIES), resizes=True),
    "part": MapKind((_PART, _COPIES, _PART, _COPIES), resizes=True, parts=(0, 2)),
    "crop": MapKind(resizes=True),
    "crop_to": MapKind(((0, COLOURS - 1),), resizes=True),
}
"""Every map with its numbers; :mod:`etrm.symbolic.maps` says which cell each one reads."""


@dataclass(frozen=True)
class Map:
    """Which cell is read for a cell: a name of :data:`MAPS` and its numbers.

    Raises:
        FormulaError: no such map, or not its numbers.
    """

    name: str
    numbers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.name not in MAPS:
            raise FormulaError(
                "formula.unknown-map", f"no map {self.name!r}", got=self.name, allowed=", ".join(MAPS)
            )
        limits, parts = MAPS[self.name].numbers, MAPS[self.name].parts
        fits = len(limits) == len(self.numbers) and all(
            type(number) is int and low <= number <= high
            for number, (low, high) in zip(self.numbers, limits, strict=True)
        )
        fits = fits and all(self.numbers[place] < self.numbers[place + 1] for place in parts)
        if not fits:
            raise FormulaError(
                "formula.wrong-numbers",
                f"map {self.name} cannot take these numbers",
                got=", ".join(map(str, self.numbers)) or "none",
                allowed=", ".join(
                    f"{low} to {high}" + " and below the next one" * (place in parts)
                    for place, (low, high) in enumerate(limits)
                )
                or "none",
            )

    @property
    def resizes(self) -> bool:
        """Whether the painted grid may have another size than the grid that is read."""
        return MAPS[self.name].resizes

    def __str__(self) -> str:
        return f"{self.name}({', '.join(map(str, self.numbers))})" if self.numbers else self.name


KEYWORDS = ("not", "and", "or", "implies", "forall", "exists", "where", "paint", "then", "also")


def _check_variable(name: str) -> None:
    if not re.fullmatch("[a-z][a-z0-9_]*", name) or name in KEYWORDS:
        raise FormulaError(
            "formula.not-a-variable",
            f"{name!r} cannot be the name of a variable",
            got=repr(name),
            allowed="lower-case letters, digits and underscores, except " + ", ".join(KEYWORDS),
        )


@dataclass(frozen=True)
class Cell:
    """A cell: a variable, or the cell that a map reads for it (``x.left``).

    Raises:
        FormulaError: the variable's name is a keyword, or cannot be read back.
    """

    variable: str
    map: Map | None = None

    def __post_init__(self) -> None:
        _check_variable(self.variable)

    def __str__(self) -> str:
        return self.variable if self.map is None else f"{self.variable}.{self.map}"


@dataclass(frozen=True)
class Atom:
    """A predicate of cells and at most one number.

    Raises:
        FormulaError: no such predicate, or not its arguments.
    """

    name: str
    arguments: tuple[Cell | int, ...] = ()

    def __post_init__(self) -> None:
        if self.name not in PREDICATES:
            raise FormulaError(
                "formula.unknown-predicate",
                f"no predicate {self.name!r}",
                got=self.name,
                allowed=", ".join(PREDICATES),
            )
        sorts = PREDICATES[self.name]
        fits = len(sorts) == len(self.arguments) and all(map(_belongs, self.arguments, sorts))
        if not fits:
            raise FormulaError(
                "formula.wrong-arguments",
                f"predicate {self.name} cannot take these arguments",
                got=", ".join(map(str, self.arguments)) or "none",
                allowed=", ".join(map(describe, sorts)) or "none",
            )

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The arguments that are cells."""
        return tuple(argument for argument in self.arguments if isinstance(argument, Cell))

    @property
    def number(self) -> int | None:
        """The argument that is a number; None where there is none."""
        last = self.arguments[-1] if self.arguments else None
        return last if isinstance(last, int) else None

    def __str__(self) -> str:
        return f"{self.name}({', '.join(map(str, self.arguments))})" if self.arguments else self.name


def describe(sort: Sort) -> str:
    """What an argument of a sort may be, in words."""
    return "a cell" if sort == "cell" else f"a {sort} from 0 to {LIMITS[sort] - 1}"


def _belongs(argument: Cell | int, sort: Sort) -> bool:
    if sort == "cell" or isinstance(argument, Cell):
        return sort == "cell" and isinstance(argument, Cell)
    return type(argument) is int and 0 <= argument < LIMITS[sort]


@dataclass(frozen=True)
class Not:
    """The negation of a formula."""

    body: Formula

    def __str__(self) -> str:
        return f"not {_operand(self.body, _TIGHTEST)}"


@dataclass(frozen=True)
class And:
    """Both formulas hold."""

    left: Formula
    right: Formula

    def __str__(self) -> str:
        return f"{_operand(self.left, _AND)} and {_operand(self.right, _AND + 1)}"


@dataclass(frozen=True)
class Or:
    """One of the formulas holds, or both."""

    left: Formula
    right: Formula

    def __str__(self) -> str:
        return f"{_operand(self.left, _OR)} or {_operand(self.right, _OR + 1)}"


@dataclass(frozen=True)
class Implies:
    """The right formula holds where the left one does."""

    left: Formula
    right: Formula

    def __str__(self) -> str:
        return f"{_operand(self.left, _IMPLIES + 1)} implies {_operand(self.right, _IMPLIES)}"


@dataclass(frozen=True)
class ForAll:
    """The body holds for every cell of the grid."""

    variable: str
    body: Formula

    def __post_init__(self) -> None:
        _check_variable(self.variable)

    def __str__(self) -> str:
        return f"forall {self.variable}: {self.body}"


@dataclass(frozen=True)
class Exists:
    """The body holds for a cell of the grid."""

    variable: str
    body: Formula

    def __post_init__(self) -> None:
        _check_variable(self.variable)

    def __str__(self) -> str:
        return f"exists {self.variable}: {self.body}"


Formula: TypeAlias = Atom | Not | And | Or | Implies | ForAll | Exists

TRUE = Atom("true")

_IMPLIES, _OR, _AND, _TIGHTEST = 1, 2, 3, 4


def _operand(formula: Formula, tightness: int) -> str:
    """The text of an operand, in parentheses where it binds less tightly than its place needs."""
    binds: dict[type, int] = {ForAll: 0, Exists: 0, Implies: _IMPLIES, Or: _OR, And: _AND}
    text = str(formula)
    return text if binds.get(type(formula), _TIGHTEST) >= tightness else f"({text})"


def free_variables(formula: Formula) -> frozenset[str]:
    """The variables that no quantifier binds."""
    match formula:
        case Atom():
            return frozenset(cell.variable for cell in formula.cells)
        case Not(body):
            return free_variables(body)
        case ForAll(variable, body) | Exists(variable, body):
            return free_variables(body) - {variable}
    return free_variables(formula.left) | free_variables(formula.right)


def has_quantifier(formula: Formula) -> bool:
    """Whether a formula has a quantifier anywhere."""
    if isinstance(formula, ForAll | Exists):
        return True
    parts = (getattr(formula, name, None) for name in ("body", "left", "right"))
    return any(has_quantifier(part) for part in parts if part is not None)


@dataclass(frozen=True)
class Where:
    """Paints the cells where a guard holds: with a colour, or with the colour of the cell that a map reads.

    The output is a distribution over colours, guard * value + (1 - guard) * previous colour.

    Raises:
        FormulaError: the guard has a free variable besides x, the colour does not exist, or a value that changes the
            size of the grid has another guard than ``true``.
    """

    guard: Formula
    value: int | Map

    def __post_init__(self) -> None:
        others = free_variables(self.guard) - {CELL}
        if others:
            raise FormulaError(
                "formula.free-variables",
                f"a guard has one free variable, {CELL}",
                got=", ".join(sorted(others)),
                allowed="variables that a quantifier binds",
            )
        if not isinstance(self.value, Map):
            if type(self.value) is not int or not 0 <= self.value < COLOURS:
                raise FormulaError(
                    "formula.no-such-colour",
                    "no such colour",
                    got=str(self.value),
                    allowed=f"0 to {COLOURS - 1}",
                )
        elif self.value.resizes and self.guard != TRUE:
            raise FormulaError(
                "formula.guarded-resize",
                f"map {self.value.name} changes the size of the grid, so no cell may keep its colour",
                got=f"the guard {self.guard}",
                allowed=f"the guard {TRUE}",
            )

    @property
    def resizes(self) -> Map | None:
        """The map that may change the size of the grid; None where the size stays."""
        return self.value if isinstance(self.value, Map) and self.value.resizes else None

    def __str__(self) -> str:
        value = f"{CELL}.{self.value}" if isinstance(self.value, Map) else str(self.value)
        return f"where {self.guard} paint {value}"


@dataclass(frozen=True)
class Then:
    """The second rule applied to what the first one makes."""

    first: Rule
    second: Rule

    def __str__(self) -> str:
        second = f"({self.second})" if isinstance(self.second, Then) else str(self.second)
        return f"{self.first} then {second}"


@dataclass(frozen=True)
class Also:
    """The second rule paints over what the first one makes, and both read the same grid.

    Raises:
        FormulaError: a rule is not a single ``where``, or changes the size of the grid.
    """

    first: Where | Also
    second: Where

    def __post_init__(self) -> None:
        if not isinstance(self.second, Where) or not isinstance(self.first, Where | Also):
            raise FormulaError(
                "formula.also-of-sequence",
                "'also' joins rules that read the same grid",
                got="a sequence of rules",
                allowed="where ... also where ...",
            )
        for rule in (self.first, self.second):
            if isinstance(rule, Where) and rule.resizes is not None:
                raise FormulaError(
                    "formula.resize-beside-another",
                    f"map {rule.resizes} changes the size of the grid, so no other painting can be combined with it",
                    got=str(rule),
                    allowed="a sequence with 'then'",
                )

    def __str__(self) -> str:
        return f"{self.first} also {self.second}"


Rule: TypeAlias = Where | Then | Also
