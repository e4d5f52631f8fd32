"""Faults of H5: the encoder or the loss sees the wrong data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from etrm.batch import IGNORE
from etrm.config import Changes, Config, with_settings
from etrm.data import DemoPair, Episodes, Sample, TaskSet, load_tasks
from etrm.data.sample import CELLS
from etrm.data.tokens import PAD
from etrm.device import to_device
from etrm.errors import ConfigError
from etrm.training.faults.seam import Fault, change_settings
from etrm.training.micro_batches import MicroBatch
from etrm.training.recipe import Recipe
from etrm.training.slots import Slots
from etrm.training.task_sets import load_held_out_tasks

SUBSETS = ("training", "evaluation")
FIRST_CHANGED = 3
"""Token of colour 1, the first that an augmentation may change; PAD, EOS and colour 0 have the tokens 0 to 2."""


def _demos_from_other_task(recipe: Recipe) -> Recipe:
    def draw(episodes: Episodes, bucket: int, index: int) -> Sample:
        sample = recipe.draw(episodes, bucket, index)
        for offset in range(1, 1000):
            other = recipe.draw(episodes, bucket, index + offset)
            if other.task_id != sample.task_id:
                return replace(sample, demos=other.demos)
        raise ConfigError(
            "fault.needs-two-tasks",
            "demos-from-other-task needs at least two tasks in every bucket",
            next_step="--set data.max_tasks=... leaves more tasks in each bucket",
        )

    return replace(recipe, draw=draw)


def _as_demo(sample: Sample) -> DemoPair:
    """The query with its answer, laid out as a demonstration."""
    answer = np.where(sample.labels == IGNORE, PAD, sample.labels).astype(sample.tokens.dtype)
    tokens = np.concatenate([sample.tokens, answer])
    positions = np.concatenate([sample.positions, sample.positions + CELLS]).astype(np.int16)
    if len(sample.tokens) == CELLS:
        return DemoPair(tokens, positions)
    real = tokens != PAD
    return DemoPair(tokens[real], positions[real])


def _query_in_demos(recipe: Recipe) -> Recipe:
    def draw(episodes: Episodes, bucket: int, index: int) -> Sample:
        sample = recipe.draw(episodes, bucket, index)
        return replace(sample, demos=(_as_demo(sample), *sample.demos[1:]))

    return replace(recipe, draw=draw)


def _augment_mismatch(recipe: Recipe) -> Recipe:
    def draw(episodes: Episodes, bucket: int, index: int) -> Sample:
        sample = recipe.draw(episodes, bucket, index)
        table = np.arange(12, dtype=np.int16)
        table[FIRST_CHANGED:] = np.roll(table[FIRST_CHANGED:], 1 + index % 8)
        return replace(sample, demos=tuple(replace(demo, tokens=table[demo.tokens]) for demo in sample.demos))

    return replace(recipe, draw=draw)


def _labels_from_new_batch(recipe: Recipe) -> Recipe:
    def labels(slots: Slots, part: MicroBatch) -> Tensor:
        """Score the rows that continue against the samples that a loader would have drawn for them."""
        found, first = recipe.labels(slots, part).clone(), part.rows.start or 0
        for row, begins in enumerate(part.carry.halted.tolist()):
            if not begins:
                fresh = torch.as_tensor(slots.peek(first + row).labels, dtype=found.dtype)[: found.shape[1]]
                found[row] = IGNORE
                found[row, : len(fresh)] = to_device(fresh, found.device)
        return found

    return replace(recipe, labels=labels)


def _eval_leak(recipe: Recipe) -> Recipe:
    def tasks(config: Config) -> TaskSet:
        training = recipe.tasks(config)
        mine = {task.id for task in training}
        leaked = [task for task in load_held_out_tasks(config) if task.id not in mine]
        return replace(training, tasks=(*training.tasks, *leaked[::2]))

    return replace(recipe, tasks=tasks)


def _arc1_in_arc2(recipe: Recipe) -> Recipe:
    """Hold out training tasks of ARC-AGI-2, of which 767 of 1000 have the grids of a task of ARC-AGI-1."""

    def tasks(config: Config) -> TaskSet:
        unchecked = with_settings(config, evaluate={"allow_trained": ("all",)})
        training, side = recipe.tasks(unchecked), config.data.max_side
        whole = [task for name in SUBSETS for task in load_tasks("arc-agi-1", name, side)]
        by_grids = {task.hash: task for task in (*training.tasks, *whole)}
        renamed = [replace(task, id=f"arc1-{task.id}") for task in by_grids.values()]
        return replace(training, tasks=tuple({task.id: task for task in renamed}.values()))

    held_out: Changes = {"evaluate": {"source": "arc-agi-2", "subset": "training"}}
    return replace(change_settings(recipe, lambda config: held_out), tasks=tasks)


FAULTS = (
    Fault(
        "demos-from-other-task",
        "a sample's demos are drawn from another task",
        "H5",
        "control arm of the frozen-decoder experiment",
        _demos_from_other_task,
    ),
    Fault(
        "query-in-demos",
        "the query with its answer is the first of its demos",
        "H5",
        "Low-performance investigation, hypothesis 5",
        _query_in_demos,
    ),
    Fault(
        "augment-mismatch",
        "the demos have other colours than their query",
        "H5",
        "Low-performance investigation, hypothesis 5: query and demos are augmented separately",
        _augment_mismatch,
    ),
    Fault(
        "labels-from-new-batch",
        "rows that continue are scored against the labels of newer samples",
        "H5",
        "the first ETRM: the loss took the new batch's labels",
        _labels_from_new_batch,
        models="recursive",
    ),
    Fault(
        "eval-leak",
        "every second evaluation task is trained on",
        "H5",
        "Low-performance investigation, hypothesis 5",
        _eval_leak,
    ),
    Fault(
        "arc1-in-arc2",
        "tasks of ARC-AGI-2 are held out, and all of ARC-AGI-1 is trained on too, under other ids",
        "H5",
        "Training loss analysis: three data sets, split by position",
        _arc1_in_arc2,
    ),
)
