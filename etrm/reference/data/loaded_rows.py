"""What a loader drew, compared with the reference: the rows of a batch, and the episodes of several passes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from etrm.data.sources import TaskSet
from etrm.reference.data.canvas import PAD, UNSCORED, Integers
from etrm.reference.data.loader import Drawing, ReferenceLoader, ReferenceRow
from etrm.reference.departure import Departure, PipelineStage

Place = tuple[int, int]
"""A bucket, and an index in its stream."""
LIMIT = 512
"""Episodes that are compared at most: with small grids about a second."""
EDGE = 8
"""Episodes that are always compared at both ends of a pass, where a loader starts again."""


@dataclass(frozen=True, eq=False)
class LoadedRow:
    """One row as it was really loaded, without padding.

    Attributes:
        tokens: (S,) the tokens of the query.
        positions: (S,) their positions.
        labels: (S,) the labels.
        demos: the (L,) tokens and the (L,) positions of each demonstration.
        puzzle_id: the row of the puzzle table.
        serial: the number of the episode.
    """

    tokens: Integers
    positions: Integers
    labels: Integers
    demos: Sequence[tuple[Integers, Integers]]
    puzzle_id: int
    serial: int


def compare_batch(
    loader: ReferenceLoader,
    bucket: int,
    indices: Sequence[int],
    batch: Mapping[str, Any],
    *,
    step: int | None = None,
) -> list[Departure]:
    """Compare a collated batch with the reference, row by row.

    Args:
        loader: the reference.
        bucket: the bucket of the batch.
        indices: the index of each row in the stream of the bucket.
        batch: the tensors or arrays on the host, by name: ``inputs``, ``positions``, ``labels`` and ``valid``, all
            (B, S); ``puzzle_ids`` and ``sample_ids``, (B,); ``demos.tokens``, ``demos.positions`` and
            ``demos.valid``, all (N, L); ``demos.owner``, (N,). A mask may be None, which masks nothing.
        step: the 1-based step, for the departures.

    Returns:
        a departure for each tensor that differs; ``episode`` stands for a row that is another one altogether.
    """
    arrays = {name: None if values is None else np.asarray(values) for name, values in batch.items()}
    expected = [loader.row(bucket, index) for index in indices]
    differing = [
        (row.drawing, find_differences(row, found))
        for row, found in zip(expected, _unpack(arrays, len(indices)), strict=True)
    ]
    padding = _find_bad_padding(arrays, expected)
    for (_, names), bad in zip(differing, padding, strict=True):
        names |= bad
    return _summarise(differing, step, bucket)


def compare_passes(
    loader: ReferenceLoader, draw: Callable[[int, int], LoadedRow], drawn: int = 0, limit: int = LIMIT
) -> list[Departure]:
    """Compare the stream of every bucket with the reference over a pass and the next one.

    Args:
        loader: the reference.
        draw: the real loader, a function from bucket and index to a row.
        drawn: the number of episodes of each bucket that the run draws, if it is more than two passes.
        limit: the largest number of episodes to compare; of a longer stream they are spread evenly.
    """
    return compare_rows(loader, ((place, draw(*place)) for place in choose_places(loader, drawn, limit)))


def compare_rows(loader: ReferenceLoader, rows: Iterable[tuple[Place, LoadedRow]]) -> list[Departure]:
    """Compare rows that a loader drew at some places with the reference."""
    expected = ((loader.row(*place), found) for place, found in rows)
    return _summarise([(row.drawing, find_differences(row, found)) for row, found in expected], None, None)


def choose_places(loader: ReferenceLoader, drawn: int = 0, limit: int = LIMIT) -> list[Place]:
    """Return the places that :func:`compare_passes` compares, about ``limit`` of them at most.

    The last episodes of a pass and the first ones of the next are always among them.
    """
    share = max(1, limit // len(loader.buckets))
    places: list[Place] = []
    for bucket, queries in enumerate(loader.buckets):
        whole = len(queries)
        end = max(2 * whole, drawn)
        turns = {*range(EDGE), *range(whole - EDGE, whole + EDGE), *range(end - EDGE, end)}
        spread = np.linspace(0, end - 1, min(end, share)).astype(int).tolist()
        places += [(bucket, index) for index in sorted(turns | set(spread)) if 0 <= index < end]
    return places


def compare_task_sets(
    found: TaskSet, expected: TaskSet, stage: PipelineStage = PipelineStage.DATA, name: str = "tasks"
) -> list[Departure]:
    """Compare the tasks that a run trains on, or evaluates, with those that its config names, by id and grids.

    Args:
        found: the tasks of the run.
        expected: those of the config.
        stage: the stage of a departure.
        name: the name of the tasks in a departure.
    """
    real = {task.id: task.canonical for task in found}
    wanted = {task.id: task.canonical for task in expected}
    wrong = sorted(one for one in real.keys() | wanted.keys() if real.get(one) != wanted.get(one))
    if not wrong:
        return []
    kind = "missing" if wrong[0] not in real else "not of the config" if wrong[0] not in wanted else "altered"
    return [Departure(stage, name, len(wrong) / len(wanted), 0.0, f"task {wrong[0]} is {kind}")]


def find_differences(row: ReferenceRow, found: LoadedRow) -> set[str]:
    """Return the names of the tensors in which a loaded row differs; ``episode`` if all of its grids do."""
    pairs = {
        "inputs": (row.tokens, found.tokens),
        "labels": (row.labels, found.labels),
        "positions": (row.positions, found.positions),
    }
    names = {name for name, (wanted, real) in pairs.items() if not np.array_equal(wanted, real)}
    if len(row.demos) != len(found.demos):
        names |= {"demos.owner", "demos.tokens"}
    for wanted, real in zip(row.demos, found.demos, strict=False):
        names |= {
            f"demos.{kind}"
            for kind, a, b in zip(_KINDS, wanted, real, strict=True)
            if not np.array_equal(a, b)
        }
    if {"inputs", "labels"} <= names and ("demos.tokens" in names or not row.demos):
        names = {"episode"}
    names |= {"puzzle_ids"} if row.drawing.puzzle_id != found.puzzle_id else set()
    return names | ({"sample_ids"} if row.drawing.serial != found.serial else set())


_KINDS = ("tokens", "positions")


def _unpack(batch: Mapping[str, Any], rows: int) -> Iterator[LoadedRow]:
    """Return the rows of a batch, each as far as its mask reaches."""
    masks = {part: batch[f"{part}valid"] for part in ("", "demos.")}

    def cut(name: str, part: str, row: int) -> Integers:
        values, mask = batch[name][row], masks[part]
        return np.asarray(values if mask is None else values[mask[row]])

    for row in range(rows):
        pairs = np.flatnonzero(batch["demos.owner"] == row).tolist()
        yield LoadedRow(
            cut("inputs", "", row),
            cut("positions", "", row),
            cut("labels", "", row),
            [(cut("demos.tokens", "demos.", pair), cut("demos.positions", "demos.", pair)) for pair in pairs],
            int(batch["puzzle_ids"][row]),
            int(batch["sample_ids"][row]),
        )


def _find_bad_padding(batch: Mapping[str, Any], rows: Sequence[ReferenceRow]) -> Iterator[set[str]]:
    """Return for each row the tensors that are wrong beyond its tokens, which hold padding and are masked."""
    owner, first = batch["demos.owner"], 0
    for number, row in enumerate(rows):
        bad = _read_padding(batch, "", number, len(row.tokens), {"inputs": PAD, "labels": UNSCORED})
        for pair, (tokens, _) in enumerate(row.demos, start=first):
            if pair >= len(owner) or owner[pair] != number:
                bad.add("demos.owner")
                break
            bad |= _read_padding(batch, "demos.", pair, len(tokens), {"demos.tokens": PAD})
        first += len(row.demos)
        yield bad


def _read_padding(
    batch: Mapping[str, Any], part: str, row: int, length: int, fills: Mapping[str, int]
) -> set[str]:
    bad = {name for name, fill in fills.items() if (batch[name][row][length:] != fill).any()}
    mask = batch[f"{part}valid"]
    columns = len(batch[next(iter(fills))][row])
    wanted = np.arange(columns) < length
    real = np.ones(columns, dtype=bool) if mask is None else mask[row]
    return bad if np.array_equal(wanted, real) else bad | {f"{part}valid"}


def _summarise(
    rows: Sequence[tuple[Drawing, set[str]]], step: int | None, bucket: int | None
) -> list[Departure]:
    """Return a departure for each tensor that differs in any row, with the share of the rows and the first of them."""
    found: dict[str, list[Drawing]] = {}
    for drawing, names in rows:
        for name in sorted(names):
            found.setdefault(name, []).append(drawing)
    return [
        Departure(PipelineStage.DATA, name, len(drawings) / len(rows), 0.0, drawings[0].words, step, bucket)
        for name, drawings in sorted(found.items())
    ]
