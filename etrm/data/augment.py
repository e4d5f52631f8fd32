"""Augmentation of a task: a dihedral transform and a permutation of colours, each exactly invertible.

The numbering of the transforms and the form of the names follow the published TRM code.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from etrm.data.task import COLOURS, Grid, Pair
from etrm.errors import ArgumentError, DataError

SEPARATOR = "|||"
INVERSE_DIHEDRAL = (0, 3, 2, 1, 4, 5, 6, 7)
"""Number of the transform that undoes each."""
SWAPS_SIDES = (False, True, False, True, False, False, True, True)
TRANSFORMS = (
    "as it is",
    "a quarter turn to the left",
    "a half turn",
    "a quarter turn to the right",
    "left and right exchanged",
    "top and bottom exchanged",
    "rows and columns exchanged",
    "rows and columns exchanged, then a half turn",
)
"""The transforms in words."""
TOTAL = 8 * 362880
"""Number of augmentations: 8 transforms times 9! permutations."""


def dihedral(grid: Grid, number: int) -> Grid:
    """One of the 8 symmetries of the square: 0-3 rotate by quarter turns, 4-7 reflect."""
    match number:
        case 0:
            return grid
        case 1:
            return grid[:, ::-1].T
        case 2:
            return grid[::-1, ::-1]
        case 3:
            return grid.T[:, ::-1]
        case 4:
            return grid[:, ::-1]
        case 5:
            return grid[::-1]
        case 6:
            return grid.T
        case 7:
            return grid[::-1, ::-1].T
    raise ArgumentError("augment.unknown-transform", f"no dihedral transform {number}; there are 0 to 7")


@dataclass(frozen=True)
class Augmentation:
    """A transform (see :func:`dihedral`) and the colour that each colour becomes; 0 stays 0."""

    dihedral: int
    colours: tuple[int, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.dihedral < 8:
            raise ArgumentError(
                "augment.unknown-transform", f"no dihedral transform {self.dihedral}; there are 0 to 7"
            )
        if sorted(self.colours) != list(range(COLOURS)) or self.colours[0] != 0:
            raise ArgumentError(
                "augment.not-a-permutation",
                f"{self.colours} is not a permutation of the colours 0 to 9 that keeps 0",
            )

    def apply(self, grid: Grid) -> Grid:
        """The augmented grid."""
        return dihedral(self._table[grid], self.dihedral)

    def pair(self, pair: Pair) -> Pair:
        """Both grids of a pair augmented."""
        return Pair(self.apply(pair.input), None if pair.output is None else self.apply(pair.output))

    @cached_property
    def _table(self) -> Grid:
        return np.array(self.colours, dtype=np.uint8)

    @cached_property
    def inverted(self) -> Augmentation:
        """The augmentation that takes this one back: recolouring and moving cells commute."""
        return Augmentation(INVERSE_DIHEDRAL[self.dihedral], tuple(np.argsort(self.colours).tolist()))

    def inverse(self, grid: Grid) -> Grid:
        """The grid that :meth:`apply` turns into this one."""
        return self.inverted.apply(grid)

    @property
    def swaps_sides(self) -> bool:
        """Whether rows become columns."""
        return SWAPS_SIDES[self.dihedral]

    @property
    def words(self) -> str:
        """What it does, to be read: the transform, and the colours that change."""
        changed = [f"{old}→{new}" for old, new in enumerate(self.colours) if old != new]
        return f"{TRANSFORMS[self.dihedral]}; colours {' '.join(changed) or 'kept'}"

    @property
    def name(self) -> str:
        """A short text from which :meth:`parse` rebuilds this."""
        return f"t{self.dihedral}{SEPARATOR}{''.join(map(str, self.colours))}"

    @classmethod
    def parse(cls, name: str) -> Augmentation:
        """The inverse of :attr:`name`.

        Raises:
            DataError: the text names no augmentation.
        """
        transform, _, colours = name.partition(SEPARATOR)
        try:
            if not transform.startswith("t") or not (transform[1:] + colours).isdecimal():
                raise ValueError(name)
            return cls(int(transform[1:]), tuple(int(digit) for digit in colours))
        except ValueError as error:
            raise DataError(
                "augment.unknown-name",
                f"{name!r} names no augmentation",
                allowed=f"for instance {identity().name!r}",
            ) from error


def identity() -> Augmentation:
    """The augmentation that changes nothing."""
    return Augmentation(0, tuple(range(COLOURS)))


def draw_augmentation(rng: np.random.Generator) -> Augmentation:
    """A uniformly random augmentation."""
    transform = int(rng.integers(8))
    return Augmentation(transform, (0, *(int(colour) for colour in 1 + rng.permutation(COLOURS - 1))))


@lru_cache(maxsize=1024)
def list_augmentations(task_id: str, n: int, seed: int) -> tuple[Augmentation, ...]:
    """The first n augmentations of a task: the identity, then distinct random ones.

    They depend on the id and the seed alone; a larger n only adds to them.
    """
    if not 1 <= n <= TOTAL:
        raise ArgumentError(
            "augment.impossible-number", f"cannot take {n} distinct augmentations; there are {TOTAL}"
        )
    digest = hashlib.sha256(task_id.encode()).digest()
    words = np.frombuffer(digest, dtype="<u4").tolist()
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *words])))
    found = {identity(): None}
    while len(found) < n:
        found[draw_augmentation(rng)] = None
    return tuple(found)


def name_augmented(task_id: str, augmentation: Augmentation) -> str:
    """The name of a task under an augmentation, which carries the way back."""
    return f"{task_id}{SEPARATOR}{augmentation.name}"


def parse_name(name: str) -> tuple[str, Augmentation]:
    """The inverse of :func:`name_augmented`; a bare task id stands for the identity.

    Raises:
        DataError: the part behind the id names no augmentation.
    """
    parts = name.rsplit(SEPARATOR, 2)
    if len(parts) == 1:
        return name, identity()
    return parts[0], Augmentation.parse(SEPARATOR.join(parts[1:]))
