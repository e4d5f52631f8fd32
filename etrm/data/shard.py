"""One task under its fixed augmentations, as a safetensors file that is read by memory map.

An augmentation moves and recolours cells but keeps their number, so the concatenated grids of a task have the same
length under every augmentation. Augmentations that give the same grids share a row:

    cells       (rows, cells)  uint8    colours; the grids in the order of ``Task.grids``, row by row
    row         (n,)           uint32   the row of each augmentation
    transform   (n, 11)        uint8    for each augmentation: the dihedral transform, then the ten colours

The header contains the task and the SHA-256 of the three arrays, so that an interrupted build can check them.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from etrm.data.augment import SWAPS_SIDES, Augmentation, dihedral, list_augmentations
from etrm.data.task import Grid, Pair, Task

_DTYPES = {"U8": "u1", "U32": "<u4"}
_META = "etrm"  # a single key, because the order of several in the file is not fixed


def encode(task: Task, augmentations: int, seed: int) -> bytes:
    """Return the file of a task. The same task, number and seed give the same bytes."""
    chosen = list_augmentations(task.id, augmentations, seed)
    transform = np.array([(one.dihedral, *one.colours) for one in chosen], dtype=np.uint8)
    moved = np.stack([_laid_out([dihedral(grid, number) for grid in task.grids]) for number in range(8)])
    every = np.take_along_axis(transform[:, 1:], moved[transform[:, 0]], axis=1)
    first, row = _distinct(every, transform[:, 0], [grid.shape for grid in task.grids])
    tensors: dict[str, npt.NDArray[Any]] = {"cells": every[first], "row": row, "transform": transform}
    meta = {"task": task.canonical, "sha256": _digest(tensors)}
    return save(tensors, {_META: json.dumps(meta, sort_keys=True)})


def _laid_out(grids: list[Grid]) -> npt.NDArray[np.uint8]:
    return np.concatenate([grid.ravel() for grid in grids])


def _distinct(
    every: npt.NDArray[np.uint8], transforms: npt.NDArray[np.uint8], shapes: list[tuple[int, ...]]
) -> tuple[list[int], npt.NDArray[np.uint32]]:
    """Return the first augmentation of each distinct set of grids, and for every augmentation the index of its set.

    The key includes the shapes, so that a 1x4 grid and a 4x1 grid with the same cells differ.
    """
    rows: dict[bytes, int] = {}
    first: list[int] = []
    row = np.empty(len(every), dtype=np.uint32)
    for number, (cells, transform) in enumerate(zip(every, transforms, strict=True)):
        turned = [shape[::-1] if SWAPS_SIDES[transform] else shape for shape in shapes]
        key = hashlib.sha256(str(turned).encode() + cells.tobytes()).digest()
        if key not in rows:
            rows[key] = len(first)
            first.append(number)
        row[number] = rows[key]
    return first, row


@dataclass(frozen=True, eq=False)
class Shard:
    """A file of :func:`encode`, mapped into memory.

    Attributes:
        task: the hash of the task's id and pairs (``Task.canonical``).
        sha256: the SHA-256 of the three arrays, as the header states it.
        cells, row, transform: the arrays, see above.
    """

    task: str
    sha256: str
    cells: npt.NDArray[np.uint8]
    row: npt.NDArray[np.uint32]
    transform: npt.NDArray[np.uint8]

    @classmethod
    def open(cls, path: Path) -> Shard:
        """Map a file into memory.

        Raises:
            OSError: the file cannot be read.
            ValueError: the file is not a shard, or is truncated.
        """
        raw = np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))
        length = int.from_bytes(raw[:8].tobytes(), "little")
        try:
            header = json.loads(raw[8 : 8 + length].tobytes())
            meta = json.loads(header["__metadata__"][_META])
            arrays = {name: _array(raw[8 + length :], header[name]) for name in ("cells", "row", "transform")}
            return cls(meta["task"], meta["sha256"], **arrays)
        except (KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"not a shard of a store: {type(error).__name__} {error}") from error

    @property
    def whole(self) -> bool:
        """Return whether the arrays match their digest; reads all of them."""
        return _digest({"cells": self.cells, "row": self.row, "transform": self.transform}) == self.sha256

    def augmentation(self, number: int) -> Augmentation:
        """Return the ``number``-th fixed augmentation of the task."""
        turn, *colours = self.transform[number].tolist()
        return Augmentation(turn, tuple(colours))

    def pairs(self, task: Task, number: int) -> dict[Pair, Pair]:
        """Return every pair of the task under the ``number``-th augmentation. The grids are views of the file."""
        swaps = SWAPS_SIDES[self.transform[number, 0]]
        cells = self.cells[self.row[number]]
        ends = accumulate((grid.size for grid in task.grids), initial=0)
        grids = iter(
            cells[start:end].reshape(grid.shape[::-1] if swaps else grid.shape)
            for grid, (start, end) in zip(task.grids, pairwise(ends), strict=True)
        )
        return {pair: Pair(next(grids), None if pair.output is None else next(grids)) for pair in task.pairs}


def _array(data: npt.NDArray[np.uint8], entry: dict[str, Any]) -> npt.NDArray[Any]:
    start, end = entry["data_offsets"]
    return data[start:end].view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])


def _digest(tensors: dict[str, npt.NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for name, values in sorted(tensors.items()):
        digest.update(f"{name}{values.shape}".encode())
        digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()
