"""States of a run that should be the same: nothing between two steps, and no checkpoint, may change what a run is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from etrm.reference.departure import Departure, PipelineStage, find_carry_stage
from etrm.reference.recorded import Snapshot


def compare_states(left: Snapshot, found: Snapshot, when: str, *, noise: bool = False) -> list[Departure]:
    """Return where two states of a run differ that should be the same.

    Args:
        left: the state as it was left.
        found: the state as it was found again.
        when: the occasion, for readers, such as "between two steps".
        noise: whether the model draws from the global generator, whose state counts only then.
    """
    return [
        *_tensors(PipelineStage.UPDATE, left.weights, found.weights, when),
        *_tensors(PipelineStage.UPDATE, left.moments, found.moments, when),
        *_tensors(PipelineStage.AVERAGE, left.averages, found.averages, when),
        *_values(
            PipelineStage.AVERAGE, "updates of the average", left.average_updates, found.average_updates, when
        ),
        *_carries(left, found, when),
        *_values(PipelineStage.DATA, "rows", _places(left), _places(found), when),
        *_values(PipelineStage.SCHEDULE, "step", left.step, found.step, when),
        *_generators(left, found, when, noise),
        *_values(PipelineStage.HALTING, "training mode", left.training, found.training, when),
    ]


def _carries(left: Snapshot, found: Snapshot, when: str) -> Iterator[Departure]:
    yield from _values(PipelineStage.CARRY, "buckets", sorted(left.carries), sorted(found.carries), when)
    for bucket in left.carries.keys() & found.carries.keys():
        old, new = left.carries[bucket], found.carries[bucket]
        for departure in _tensors(PipelineStage.CARRY, old, new, when):
            stage, name = find_carry_stage(departure.tensor), f"{departure.tensor} of bucket {bucket}"
            yield replace(departure, stage=stage, tensor=name)


def _generators(left: Snapshot, found: Snapshot, when: str, noise: bool) -> Iterator[Departure]:
    named = [(PipelineStage.HALTING, left.random_halting, found.random_halting)]
    if noise:
        named.append((PipelineStage.CONTEXT, left.random_torch, found.random_torch))
    for stage, old, new in named:
        yield from _values(stage, "random numbers", old.tolist(), new.tolist(), when)


def _places(state: Snapshot) -> dict[int, tuple[list[int], int]]:
    return {bucket: (list(indices), following) for bucket, (indices, following) in state.rows.items()}


def _values(stage: PipelineStage, name: str, wanted: object, real: object, when: str) -> Iterator[Departure]:
    if wanted != real:
        yield Departure(stage, name, 1.0, 0.0, when)


def _tensors(
    stage: PipelineStage, wanted: Mapping[str, Tensor], real: Mapping[str, Tensor], when: str
) -> Iterator[Departure]:
    for name in sorted(wanted.keys() | real.keys()):
        old, new = wanted.get(name), real.get(name)
        if old is None or new is None or old.shape != new.shape:
            yield Departure(stage, name, math.inf, 0.0, when)
        elif not torch.equal(old, new):
            gap = torch.linalg.vector_norm(new.double() - old.double())
            norm = float(torch.linalg.vector_norm(old.double()))
            size = float(gap) / norm if norm else math.inf
            yield Departure(stage, name, math.inf if math.isnan(size) else size, 0.0, when)
