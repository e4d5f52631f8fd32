"""Augmentation of a task: a dihedral transform and a permutation of colours. Both can be inverted exactly.

The numbers of the transforms and the format of the names follow the published TRM code.
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
    "unchanged",
    "rotated by 90 degrees counter-clockwise",
    "rotated by 180 degrees",
    "rotated by 90 degrees clockwise",
    "mirrored left to right",
    "mirrored top to bottom",
    "transposed",
    "transposed, then rotated by 180 degrees",
)
"""The transforms in words."""
TOTAL = 8 * 362880
"""The number of augmentations: 8 transforms times 9! permutations."""


def dihedral(grid: Grid, number: int) -> Grid:
    """Apply one of the 8 symmetries of the square: 0 to 3 rotate by multiples of 90 degrees, 4 to 7 reflect."""
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
    raise ArgumentError(
        "augment.unknown-transform", f"there is no dihedral transform {number}; the numbers are 0 to 7"
    )


@dataclass(frozen=True)
class Augmentation:
    """A transform (see :func:`dihedral`) and the new colour of each colour. Colour 0 stays 0."""

    dihedral: int
    colours: tuple[int, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.dihedral < 8:
            raise ArgumentError(
                "augment.unknown-transform",
                f"there is no dihedral transform {self.dihedral}; the numbers are 0 to 7",
            )
        if sorted(self.colours) != list(range(COLOURS)) or self.colours[0] != 0:
            raise ArgumentError(
                "augment.not-a-permutation",
                f"{self.colours} is not a permutation of the colours 0 to 9 that keeps 0",
            )

    def apply(self, grid: Grid) -> Grid:
        """Return the augmented grid."""
        return dihedral(self._table[grid], self.dihedral)

    def pair(self, pair: Pair) -> Pair:
        """Return a pair with both grids augmented."""
        return Pair(self.apply(pair.input), None if pair.output is None else self.apply(pair.output))

    @cached_property
    def _table(self) -> Grid:
        return np.array(self.colours, dtype=np.uint8)

    @cached_property
    def inverted(self) -> Augmentation:
        """Return the inverse augmentation. It exists in this form because recolouring and moving cells commute."""
        return Augmentation(INVERSE_DIHEDRAL[self.dihedral], tuple(np.argsort(self.colours).tolist()))

    def inverse(self, grid: Grid) -> Grid:
        """Return the grid that :meth:`apply` turns into this one."""
        return self.inverted.apply(grid)

    @property
    def swaps_sides(self) -> bool:
        """Whether the transform turns rows into columns."""
        return SWAPS_SIDES[self.dihedral]

    @property
    def words(self) -> str:
        """A description for readers: the transform, and the colours that change."""
        changed = [f"{old}→{new}" for old, new in enumerate(self.colours) if old != new]
        return f"{TRANSFORMS[self.dihedral]}; colours {' '.join(changed) or 'kept'}"

    @property
    def name(self) -> str:
        """A short text from which :meth:`parse` rebuilds this."""
        return f"t{self.dihedral}{SEPARATOR}{''.join(map(str, self.colours))}"

    @classmethod
    def parse(cls, name: str) -> Augmentation:
        """Return the augmentation of a :attr:`name`.

        Raises:
            DataError: the text is not the name of an augmentation.
        """
        transform, _, colours = name.partition(SEPARATOR)
        try:
            if not transform.startswith("t") or not (transform[1:] + colours).isdecimal():
                raise ValueError(name)
            return cls(int(transform[1:]), tuple(int(digit) for digit in colours))
        except ValueError as error:
            raise DataError(
                "augment.unknown-name",
                f"{name!r} is not the name of an augmentation",
                allowed=f"names such as {identity().name!r}",
            ) from error


def identity() -> Augmentation:
    """Return the augmentation that changes nothing."""
    return Augmentation(0, tuple(range(COLOURS)))


def draw_augmentation(rng: np.random.Generator) -> Augmentation:
    """Return a uniformly random augmentation."""
    transform = int(rng.integers(8))
    return Augmentation(transform, (0, *(int(colour) for colour in 1 + rng.permutation(COLOURS - 1))))


@lru_cache(maxsize=1024)
def list_augmentations(task_id: str, n: int, seed: int) -> tuple[Augmentation, ...]:
    """Return the first n augmentations of a task: the identity, then distinct random ones.

    They depend only on the id and the seed. A larger n adds more without changing the first ones.
    """
    if not 1 <= n <= TOTAL:
        raise ArgumentError(
            "augment.impossible-number", f"there are not {n} distinct augmentations, only {TOTAL}"
        )
    digest = hashlib.sha256(task_id.encode()).digest()
    words = np.frombuffer(digest, dtype="<u4").tolist()
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *words])))
    found = {identity(): None}
    while len(found) < n:
        found[draw_augmentation(rng)] = None
    return tuple(found)


def name_augmented(task_id: str, augmentation: Augmentation) -> str:
    """Return the name of a task under an augmentation. The augmentation can be read from it, see :func:`parse_name`."""
    return f"{task_id}{SEPARATOR}{augmentation.name}"


def parse_name(name: str) -> tuple[str, Augmentation]:
    """Return the task id and the augmentation of a :func:`name_augmented`. A bare task id means the identity.

    Raises:
        DataError: the part after the id is not the name of an augmentation.
    """
    parts = name.rsplit(SEPARATOR, 2)
    if len(parts) == 1:
        return name, identity()
    return parts[0], Augmentation.parse(SEPARATOR.join(parts[1:]))
