"""Held-out tasks that were trained on, also under another id, in another role, turned, recoloured, or in part.

Two tasks share pairs if one turn (of 8) and one exchange of colours turn the ones into the others. Small or regular
pairs coincide by chance, such as blank grids or 3x3 grids of two colours. So a held-out task is reported only if the
pairs that it shares with a training task hold more information than chance explains. The information of a pair is the
length of a code for its input grid alone, because a rule determines the output:

- two unrelated inputs of ``b`` bits coincide with probability ``2**-b``;
- ``n`` training tasks and ``m`` held-out tasks under 8 turns give ``8 * n * m`` opportunities;
- so ``b`` must exceed ``log2(8 * n * m)`` by a margin, which bounds the expected number of false reports.

The code (:func:`measure_bits`) predicts each cell from its left and upper neighbours and names no colours, so a blank
grid, a stripe or a chequerboard costs few bits however large it is. Of the 400 evaluation tasks of ARC-AGI-1, 396 are
found if they are trained on under an augmentation; the others hold too little.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import TypeAlias

import numpy as np

from etrm.data.sources import TaskSet
from etrm.data.task import Grid, Pair
from etrm.reference.data.canvas import Integers, turn_grid
from etrm.reference.departure import Departure, PipelineStage

Shapes: TypeAlias = tuple[tuple[int, int], ...]
"""The rows and columns of each grid of a pair."""
WHOLE = 10
"""Margin in bits where all pairs of a held-out task are shared: a false report in one of a thousand comparisons."""
PART = 40
"""Margin in bits where some pairs are not shared. It is larger because authors use a regular pattern twice: in
ARC-AGI-1, the evaluation task 50a16a69 has a chequerboard of the training task caa06a1f, of 37 bits."""
PRIOR = 0.1
"""Pseudo-count of each colour in the code: small, because most cells of a grid follow from their neighbours."""


@dataclass(frozen=True)
class SharedTask:
    """A held-out task, and a training task that has its pairs.

    Attributes:
        held_out: the id of the held-out task.
        trained: the id of the training task.
        pairs: the number of different pairs that they share.
        of: the number of different pairs of the held-out task.
        bits: the information of the shared pairs.
    """

    held_out: str
    trained: str
    pairs: int
    of: int
    bits: float


def compare_split(train: TaskSet, held_out: TaskSet, allowed: Collection[str] = ()) -> list[Departure]:
    """Return a departure if held-out tasks were trained on, see :func:`find_leaked_tasks`.

    Args:
        train: the tasks that the run really trains on.
        held_out: the tasks that it is evaluated on.
        allowed: the ids of tasks that may be on both sides; ``all`` allows every task.
    """
    if "all" in allowed:
        return []
    leaks = [found for found in find_leaked_tasks(train, held_out) if found.held_out not in allowed]
    if not leaks:
        return []
    first = leaks[0]
    where = f"task {first.held_out} has {first.pairs} of {first.of} pairs of training task {first.trained}"
    return [Departure(PipelineStage.DATA, "held-out tasks", len(leaks) / len(held_out), 0.0, where)]


def find_leaked_tasks(train: TaskSet, held_out: TaskSet) -> list[SharedTask]:
    """Return every held-out task whose id or pairs are in training, with the task that it shares most with.

    The time grows with the number of pairs of both sets.
    """
    owners: dict[bytes, list[tuple[str, Pair]]] = defaultdict(list)
    pairs = [(task.id, pair) for task in train for pair in task.pairs]
    for form, owner in zip(find_forms([pair for _, pair in pairs]), pairs, strict=True):
        owners[form].append(owner)
    trained = {task.id for task in train}
    chance = math.log2(8 * len(train) * len(held_out))
    found = []
    for task, forms in zip(held_out, _split_forms(held_out), strict=True):
        own = dict(zip(forms, task.pairs, strict=True))
        best = SharedTask(task.id, task.id, 0, len(own), 0.0) if task.id in trained else None
        matches: dict[str, list[tuple[Pair, Pair]]] = defaultdict(list)
        for form, pair in own.items():
            for name, other in owners.get(form, ()):
                matches[name].append((pair, other))
        for name, both in matches.items():
            if _sum_bits({pair for pair, _ in both}) <= chance + WHOLE:
                continue  # chance explains them whatever the turns and colours
            shared, bits = _share_most(both)
            enough = bits > chance + (WHOLE if shared == len(own) else PART)
            if (enough or name == task.id) and (best is None or bits > best.bits):
                best = SharedTask(task.id, name, shared, len(own), bits)
        found += [best] if best else []
    return found


def _split_forms(tasks: TaskSet) -> Iterator[list[bytes]]:
    forms = iter(find_forms([pair for task in tasks for pair in task.pairs]))
    for task in tasks:
        yield [next(forms) for _ in task.pairs]


def _sum_bits(pairs: Collection[Pair]) -> float:
    return sum(_measure_input(pair) for pair in pairs)


@lru_cache(maxsize=4096)  # a blank pair may be in every task
def _measure_input(pair: Pair) -> float:
    return measure_bits(pair.input)


def _share_most(matches: Sequence[tuple[Pair, Pair]]) -> tuple[int, float]:
    """Return the number and the bits of the pairs that one turn and one exchange of colours map to their partners."""
    best: set[Pair] = set()
    for turn in range(8):
        maps = [(pair, _map_colours(pair, other, turn)) for pair, other in matches]
        for _, first in maps:
            colours, pairs = dict(first), set[Pair]()
            for pair, one in maps:
                if one and _agree(colours, one):
                    colours |= one
                    pairs.add(pair)
            best = max(best, pairs, key=_sum_bits)
        if len(best) == len({pair for pair, _ in matches}):
            break  # no other turn shares more
    return len(best), _sum_bits(best)


def _map_colours(pair: Pair, other: Pair, turn: int) -> dict[int, int]:
    """Return the colours of a pair and what they become in another one; empty if the turn does not lead there."""
    here, there = _cells(pair), _cells(other)
    if _uncolour(_shapes(pair), here[None], turn) != _uncolour(_shapes(other), there[None], 0):
        return {}
    turned = here[_turn(_shapes(pair), turn)[1]]
    return dict(zip(turned.tolist(), there.tolist(), strict=True))


def _agree(first: Mapping[int, int], second: Mapping[int, int]) -> bool:
    """Return whether two maps are parts of one exchange of colours."""
    both = {*first.items(), *second.items()}
    return len(both) == len({old for old, _ in both}) == len({new for _, new in both})


def find_forms(pairs: Sequence[Pair]) -> list[bytes]:
    """Return bytes for each pair: two pairs have the same if a turn and an exchange of colours turn one into the other.

    Pairs of equal shapes are computed together, because sets have tens of thousands of pairs.
    """
    forms = [b""] * len(pairs)
    groups: dict[Shapes, list[int]] = defaultdict(list)
    for place, pair in enumerate(pairs):
        groups[_shapes(pair)].append(place)
    for shapes, places in groups.items():
        cells = np.stack([_cells(pairs[place]) for place in places])
        turns = [_uncolour(shapes, cells, turn) for turn in range(8)]
        for place, *found in zip(places, *turns, strict=True):
            forms[place] = min(found)
    return forms


def _shapes(pair: Pair) -> Shapes:
    return tuple((int(grid.shape[0]), int(grid.shape[1])) for grid in pair.grids)


def _cells(pair: Pair) -> Grid:
    return np.concatenate([grid.ravel() for grid in pair.grids])


def _turn(shapes: Shapes, turn: int) -> tuple[bytes, Integers]:
    """Return the shapes of turned grids, and the (cells,) places that their cells had before."""
    counts = accumulate((rows * columns for rows, columns in shapes), initial=0)
    turned = [
        turn_grid(start + np.arange(rows * columns).reshape(rows, columns), turn)
        for start, (rows, columns) in zip(counts, shapes, strict=False)  # the last count is the sum
    ]
    return bytes(side for grid in turned for side in grid.shape), np.concatenate(
        [grid.ravel() for grid in turned]
    )


def _uncolour(shapes: Shapes, cells: Grid, turn: int) -> list[bytes]:
    """Return for each row of (n, cells) colours its turned shapes, and for each cell the first cell of its colour."""
    sides, places = _turn(shapes, turn)
    turned = cells[:, places]
    count, length = turned.shape
    # Backwards, so that of the cells of a colour the first one is assigned last.
    first = np.zeros((count, 10), dtype=np.uint16)
    first[np.arange(count)[:, None], turned[:, ::-1]] = np.arange(length, dtype=np.uint16)[::-1]
    return [sides + row.tobytes() for row in np.take_along_axis(first, turned, axis=1)]


def measure_bits(grid: Grid) -> float:
    """Return the length in bits of an adaptive code for a grid, up to an exchange of colours.

    Each cell is predicted from how often each colour came after the same left and upper neighbours, with a
    pseudo-count of PRIOR; the alphabet is the colours so far and "a new one".
    """
    counts: dict[tuple[int, int], Counter[int]] = defaultdict(Counter)
    seen: set[int] = set()
    bits = 0.0
    new = -1
    for (row, column), colour in np.ndenumerate(grid):
        left = int(grid[row, column - 1]) if column else new
        upper = int(grid[row - 1, column]) if row else new
        before = counts[left, upper]
        symbol = int(colour) if colour in seen else new
        bits -= math.log2((before[symbol] + PRIOR) / (before.total() + PRIOR * (len(seen) + 1)))
        seen.add(int(colour))
        before[int(colour)] += 1
    return bits
