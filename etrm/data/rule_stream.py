"""Training episodes of the rule family that are drawn and laid out in blocks: endless, or a fixed number of tasks.

An episode is still a pure function of the config, the seed and two integers, so every contract of
:class:`etrm.data.episodes.Episodes` holds. A bucket holds some sides of grids, which come in turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from etrm.batch import IGNORE
from etrm.config import SIDE, DataConfig
from etrm.data.augment import identity, name_augmented
from etrm.data.episodes import Episodes, order_of_pass
from etrm.data.rule_batches import (
    BLOCK,
    VERSION,
    Colours,
    Numbers,
    RuleBlock,
    RuleFamily,
    draw_block,
    name_task,
)
from etrm.data.rules import SIDES, list_sides, parse_combinations
from etrm.data.sample import CELLS, DemoPair, Query, Sample
from etrm.data.sources import TaskSet, choose_tasks
from etrm.data.task import Task
from etrm.data.tokens import EOS, FIRST_COLOUR, PAD, Tokens

ENDLESS = "endless"
LISTED = 64
"""Tasks of each side that stand for all others where a run needs a set of tasks: probes, hashes, leakage."""
_APART = 2**24  # blocks, some billion tasks, between the endless streams of two seeds
_SEEDS = 2**20  # streams; with more, the number of a task would not fit 64 bits


def choose_training_tasks(data: DataConfig) -> TaskSet:
    """Return the training tasks of a data section; of a stream, the first of every side.

    Raises:
        DataError: see :func:`etrm.data.sources.load_tasks`.
    """
    if data.stream is None:
        return choose_tasks(data)
    family = find_family(data)
    tasks = [
        draw_block(family, side, 0).task(number, _name_number(number, side))
        for side in list_stream_sides(data)
        for number in range(min(LISTED, count_tasks(data)))
    ]
    return TaskSet(tuple(tasks), data.source, data.subset, VERSION)


def open_episodes(tasks: TaskSet, data: DataConfig, variant: str, seed: int) -> Episodes:
    """Return the training episodes of a data section, see :class:`etrm.data.episodes.Episodes`."""
    return (Episodes if data.stream is None else RuleStream)(tasks, data, variant, seed)


def find_family(data: DataConfig) -> RuleFamily:
    """Return the family of rules that a data section draws from."""
    return RuleFamily(parse_combinations(data.source), data.subset == "evaluation", data.demos)


def list_stream_sides(data: DataConfig) -> range:
    """Return the sides of the grids."""
    largest = data.curriculum[-1].max_side if data.curriculum else SIDE
    return list_sides(data.source, min(data.max_side, largest))


def count_tasks(data: DataConfig) -> int:
    """Return the number of different tasks of each side; those of an endless stream are counted as one block."""
    if not isinstance(data.stream, int):
        return BLOCK
    return -(-data.stream // len(list_stream_sides(data)))


def _name_number(number: int, side: int) -> int:
    """Return the number in the name of a task, which no task of another side has."""
    return number * (SIDES[1] - SIDES[0] + 1) + side - SIDES[0]


class RuleStream(Episodes):
    """The episodes of a stream; :attr:`queries` are those of the listed tasks."""

    drawn_together = BLOCK

    def __init__(self, tasks: TaskSet, data: DataConfig, variant: str, seed: int) -> None:
        super().__init__(tasks, data, variant, seed)
        self._family = find_family(data)
        self._sides = tuple(
            tuple(sorted({query.task.max_side for query in bucket})) for bucket in self._buckets
        )

    def _make_buckets(self, queries: Sequence[Query]) -> tuple[tuple[Query, ...], ...]:
        sides = sorted({query.task.max_side for query in queries})
        groups = np.array_split(np.array(sides), min(self.data.buckets, len(sides)))
        return tuple(
            tuple(query for query in queries if query.task.max_side in group.tolist()) for group in groups
        )

    def sample(self, bucket: int, index: int) -> Sample:
        """Return the ``index``-th episode of a bucket. Fixed tasks are shuffled again for every pass over them."""
        turn, place = divmod(index, len(self._sides[bucket]))
        side = self._sides[bucket][place]
        block, row = divmod(turn, BLOCK)
        laid = self._lay_out(side, block)
        return laid.sample(row, serial=index * self.buckets + bucket)

    def _lay_out(self, side: int, block: int) -> _LaidBlock:
        """Return the tokens of the episodes of a side at the places of a block of its stream."""
        if isinstance(self.data.stream, int):
            return _lay_out_fixed(self._family, side, count_tasks(self.data), self.seed, block)
        return _lay_out_endless(self._family, side, self.seed, block)

    def pass_keys(self, bucket: int) -> list[tuple[str, int]]:
        """Return the task and the query of each episode of a pass; of an endless stream, of its first ones."""
        keys = []
        for side in self._sides[bucket]:
            if isinstance(self.data.stream, int):
                block = _draw_fixed(self._family, side, count_tasks(self.data))
                numbers = range(count_tasks(self.data))
            else:
                block = draw_block(self._family, side, _first_block(self.seed))
                numbers = range(_first_block(self.seed) * BLOCK, (_first_block(self.seed) + 1) * BLOCK)
            keys += [
                (name_task(_name_number(number, side), rule), 0)
                for number, rule in zip(numbers, block.rules, strict=True)
            ]
        return keys

    def tasks_of(self, samples: Sequence[Sample]) -> TaskSet:
        """Return the tasks that some samples were made of, drawn again."""
        names = sorted({sample.task_id for sample in samples})
        return TaskSet(tuple(map(self._task, names)), self.tasks.source, self.tasks.subset, VERSION)

    def _task(self, name: str) -> Task:
        number, place = divmod(int(name.partition("-")[0]), SIDES[1] - SIDES[0] + 1)
        block, row = divmod(number, BLOCK)
        return draw_block(self._family, SIDES[0] + place, block).task(row, int(name.partition("-")[0]))


@dataclass(frozen=True, eq=False)
class _LaidBlock:
    """The tokens of some tasks with grids of side s; S = (s + 1)^2 tokens a canvas, of which the corner is PAD.

    Attributes:
        tasks: the tasks.
        names: the ids of the tasks.
        canvases: (n, K, S) int16 tokens of the inputs, the demonstrations first.
        labels: (n, S) int16 labels of the query.
        pairs: (n, M, 2 (S - 1)) int16 tokens of the demonstrations.
    """

    tasks: RuleBlock
    names: tuple[str, ...]
    canvases: Tokens
    labels: Tokens
    pairs: Tokens

    def sample(self, row: int, serial: int) -> Sample:
        """Return one episode, whose arrays are views."""
        side = self.tasks.inputs.shape[-1]
        here, both = _list_positions(side)
        name = self.names[row]
        return Sample(
            task_id=name,
            name=name_augmented(name, _UNCHANGED),
            query=0,
            puzzle_id=0,
            serial=serial,
            tokens=self.canvases[row, -1],
            positions=here,
            labels=self.labels[row],
            demos=tuple(DemoPair(tokens, both) for tokens in self.pairs[row, : self.tasks.demos[row]]),
            region=(side + 1, side + 1),
            side=SIDE,
            in_region=True,
            target=self.tasks.outputs[row, -1],
        )


_UNCHANGED = identity()


def _first_block(seed: int) -> int:
    """Return the block at which the endless stream of a seed begins."""
    return seed % _SEEDS * _APART


@lru_cache(maxsize=32)
def _lay_out_endless(family: RuleFamily, side: int, seed: int, block: int) -> _LaidBlock:
    number = _first_block(seed) + block
    return _lay_out(draw_block(family, side, number), number * BLOCK + np.arange(BLOCK))


@lru_cache(maxsize=32)
def _lay_out_fixed(family: RuleFamily, side: int, count: int, seed: int, block: int) -> _LaidBlock:
    turns = block * BLOCK + np.arange(BLOCK)
    passes = turns // count
    orders = {int(p): order_of_pass(seed, side, int(p), count) for p in np.unique(passes)}
    numbers = np.array(
        [orders[p][turn % count] for p, turn in zip(passes.tolist(), turns.tolist(), strict=True)]
    )
    return _lay_out(_draw_fixed(family, side, count).rows(numbers), numbers)


@lru_cache(maxsize=8)
def _draw_fixed(family: RuleFamily, side: int, count: int) -> RuleBlock:
    blocks = [draw_block(family, side, block) for block in range(-(-count // BLOCK))]
    return RuleBlock(
        np.concatenate([block.inputs for block in blocks])[:count],
        np.concatenate([block.outputs for block in blocks])[:count],
        np.concatenate([block.demos for block in blocks])[:count],
        tuple(rule for block in blocks for rule in block.rules)[:count],
    )


def _lay_out(tasks: RuleBlock, numbers: Numbers) -> _LaidBlock:
    side = tasks.inputs.shape[-1]
    given, wanted = _to_canvases(tasks.inputs), _to_canvases(tasks.outputs)
    names = tuple(
        name_task(_name_number(number, side), rule)
        for number, rule in zip(numbers.tolist(), tasks.rules, strict=True)
    )
    labels = np.where(wanted[:, -1] == PAD, np.int16(IGNORE), wanted[:, -1])
    pairs = np.concatenate((given[:, :-1, :-1], wanted[:, :-1, :-1]), 2)
    return _LaidBlock(tasks, names, given, labels, pairs)


def _to_canvases(grids: Colours) -> Tokens:
    """Return (..., s, s) grids as (..., (s + 1)^2) tokens: EOS below and to the right, PAD in the corner."""
    side = grids.shape[-1]
    canvas = np.full((*grids.shape[:-2], side + 1, side + 1), EOS, np.int16)
    canvas[..., :side, :side] = grids.astype(np.int16) + FIRST_COLOUR
    canvas[..., side, side] = PAD
    return canvas.reshape(*grids.shape[:-2], -1)


@lru_cache
def _list_positions(side: int) -> tuple[Tokens, Tokens]:
    """Return the positions of a query (S,) and of a demonstration (2 (S - 1),)."""
    rows, columns = np.divmod(np.arange((side + 1) ** 2), side + 1)
    here = (SIDE * rows + columns).astype(np.int16)
    return here, np.concatenate((here[:-1], here[:-1] + CELLS)).astype(np.int16)
