"""An ARC task: its grids, which are checked when they are read, and the hashes that identify them."""

from __future__ import annotations

import hashlib
import reprlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from etrm.config import SIDE
from etrm.errors import DataError

COLOURS = 10
"""The number of colours of a grid, including 0 (background)."""

Grid: TypeAlias = npt.NDArray[np.uint8]
"""A grid of colours, (rows, columns) uint8."""


@dataclass(frozen=True, eq=False)
class Pair:
    """An input grid and its output grid. The output is None only if it was never published."""

    input: Grid
    output: Grid | None

    @cached_property
    def hash(self) -> str:
        """A hash of the contents of both grids."""
        output = "unknown" if self.output is None else hash_grid(self.output)
        return _sha(hash_grid(self.input), output)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pair) and self.hash == other.hash

    def __hash__(self) -> int:
        return hash(self.hash)

    @property
    def grids(self) -> tuple[Grid, ...]:
        """The known grids, the input first."""
        return (self.input,) if self.output is None else (self.input, self.output)


@dataclass(frozen=True)
class Task:
    """A task: demonstration pairs, and test pairs whose inputs are the queries."""

    id: str
    demos: tuple[Pair, ...]
    tests: tuple[Pair, ...]

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """All pairs: the demonstrations, then the test pairs."""
        return self.demos + self.tests

    @property
    def grids(self) -> tuple[Grid, ...]:
        """All known grids."""
        return tuple(grid for pair in self.pairs for grid in pair.grids)

    @cached_property
    def max_side(self) -> int:
        """The longest side of any grid."""
        return int(max(max(grid.shape) for grid in self.grids))

    @property
    def demo_side(self) -> int:
        """The longest side of the demonstrations' inputs; 0 without demonstrations."""
        return max((max(pair.input.shape) for pair in self.demos), default=0)

    @cached_property
    def hash(self) -> str:
        """A hash of the set of pairs, independent of their order, their role and the task's id."""
        return _sha(*sorted({pair.hash for pair in self.pairs}))

    @cached_property
    def canonical(self) -> str:
        """A hash of the id and of every pair in its order and role."""
        return _sha(self.id, "demos", *(p.hash for p in self.demos), "tests", *(p.hash for p in self.tests))


def hash_grid(grid: Grid) -> str:
    """Return the SHA-256 of the shape and the colours of a grid."""
    digest = hashlib.sha256(f"{grid.shape[0]}x{grid.shape[1]}:".encode())
    digest.update(np.ascontiguousarray(grid, dtype=np.uint8).tobytes())
    return digest.hexdigest()


def parse_task(task_id: str, raw: Any, where: str, *, outputs: bool = True) -> Task:
    """Read a task from the JSON of the ARC format.

    Args:
        task_id: the id of the task.
        raw: the result of ``json.load``.
        where: the name of the file, for errors.
        outputs: whether every test pair must have its output.

    Raises:
        DataError: the task is malformed. The error names the file, the task and the pair.
    """
    name = f"{where}: task {task_id}"
    if (
        not task_id or not task_id.isprintable()
    ):  # such an id cannot be printed, used as a file name, or hashed
        raise DataError(
            "task.unprintable-id",
            f"{where}: a task id is empty or has characters that cannot be printed",
            got=ascii(task_id),
            allowed="printable characters",
            next_step="correct the file, then run etrm data check --source SOURCE",
        )
    if not isinstance(raw, dict):
        raise DataError(
            "task.not-an-object",
            f"{name} is not a JSON object",
            got=shorten(raw),
            allowed='{"train": [...], "test": [...]}',
            next_step="correct the file, then run etrm data check --source SOURCE",
        )
    demos = _pairs(raw, "train", name, outputs=True)
    tests = _pairs(raw, "test", name, outputs=outputs)
    return Task(task_id, demos, tests)


def parse_grid(raw: Any, name: str) -> Grid:
    """Read a grid from a list of rows of colours.

    Raises:
        DataError: the grid is ragged, empty or too large, or contains something that is not a colour.
    """
    if not isinstance(raw, list) or not raw:
        raise DataError(
            "task.not-a-grid",
            f"{name} is not a grid",
            got=shorten(raw),
            allowed="a list of rows, each a list of colours",
            next_step="correct the file, then run etrm data check --source SOURCE",
        )
    for r, row in enumerate(raw):
        if not isinstance(row, list):
            raise DataError(
                "task.row-not-a-list",
                f"{name} is not a grid: row {r} is not a list",
                got=shorten(row),
                allowed="a list of colours",
                next_step="correct the file, then run etrm data check --source SOURCE",
            )
        if len(row) != len(raw[0]):
            raise DataError(
                "task.ragged-grid",
                f"{name} is ragged: row {r} has another length than row 0",
                got=f"rows of {len(raw[0])} and {len(row)} cells",
                allowed="rows of equal length",
                next_step="correct the file, then run etrm data check --source SOURCE",
            )
    width = len(raw[0])
    if not (1 <= width <= SIDE and len(raw) <= SIDE):
        raise DataError(
            "task.bad-size",
            f"{name} has a size that is not allowed",
            got=f"{len(raw)}x{width}",
            allowed=f"sides from 1 to {SIDE}",
            next_step="correct the file, then run etrm data check --source SOURCE",
        )
    for r, row in enumerate(raw):
        for c, cell in enumerate(row):
            if type(cell) is not int or not 0 <= cell < COLOURS:
                raise DataError(
                    "task.bad-colour",
                    f"{name} has a value that is not a colour at row {r}, column {c}",
                    got=shorten(cell),
                    allowed=f"whole numbers from 0 to {COLOURS - 1}",
                    next_step="correct the file, then run etrm data check --source SOURCE",
                )
    grid = np.array(raw, dtype=np.uint8)
    grid.setflags(write=False)
    return grid


def _pairs(raw: dict[str, Any], key: str, name: str, *, outputs: bool) -> tuple[Pair, ...]:
    items = raw.get(key)
    if not isinstance(items, list) or not items:
        got = shorten(items) if key in raw else f"keys {sorted(map(str, raw))}"
        what = "demonstrations" if key == "train" else "test pairs"
        raise DataError(
            "task.no-pairs",
            f"{name} has no {what}",
            got=got,
            allowed=f'a list of pairs under "{key}"',
            next_step="correct the file, then run etrm data check --source SOURCE",
        )
    return tuple(_pair(item, f"{name}, {key} pair {i}", outputs=outputs) for i, item in enumerate(items))


def _pair(raw: Any, name: str, *, outputs: bool) -> Pair:
    if not isinstance(raw, dict) or "input" not in raw:
        raise DataError(
            "task.no-input",
            f"{name} has no input",
            got=shorten(raw),
            allowed='{"input": grid, "output": grid}',
            next_step="correct the file, then run etrm data check --source SOURCE",
        )
    output = raw.get("output")
    if output is None and outputs:
        raise DataError(
            "task.no-output",
            f"{name} has no output",
            got=f"keys {sorted(map(str, raw))}",
            allowed="an output grid",
            next_step="correct the file, then run etrm data check --source SOURCE",
        )
    return Pair(
        input=parse_grid(raw["input"], f"{name}, input"),
        output=None if output is None else parse_grid(output, f"{name}, output"),
    )


def _sha(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


class _Brief(reprlib.Repr):
    """Formats any value as one short line."""

    def repr_int(self, x: int, level: int) -> str:
        return super().repr_int(x, level) if abs(x) < 10**40 else f"a number of {x.bit_length()} bits"


_SHORT = _Brief()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 3, 60, 60


def shorten(value: Any, limit: int = 60) -> str:
    """Return a value as one short line for a message."""
    text = _SHORT.repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
