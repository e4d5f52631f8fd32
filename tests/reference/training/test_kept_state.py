"""Two states of a run: equal to themselves, and any change is named at the stage that keeps it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from etrm.reference.departure import PipelineStage
from etrm.reference.recorded import Snapshot
from etrm.reference.training.kept_state import compare_states


def make_state() -> Snapshot:
    return Snapshot(
        step=3,
        weights={"core.a": torch.arange(4.0), "encoder.b": torch.ones(2)},
        moments={"core.a.exp_avg": torch.ones(4)},
        averages={"core.a": torch.ones(4)},
        average_updates=3,
        carries={
            0: {"z_H": torch.ones(2, 3, 1), "encoder_state.z": torch.ones(2, 1, 1)},
            1: {"z_H": torch.zeros(2, 0, 1)},
        },
        rows={0: ((4, 5), 6), 1: ((-1, -1), 0)},
        random_torch=torch.tensor([1, 2], dtype=torch.uint8),
        random_halting=torch.tensor([3, 4], dtype=torch.uint8),
    )


def moved(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {**tensors, name: tensors[name] + 1}


def test_a_state_is_equal_to_its_copy() -> None:
    assert compare_states(make_state(), make_state(), "again", noise=True) == []


CHANGES: list[tuple[Callable[[Snapshot], Snapshot], PipelineStage, str]] = [
    (lambda s: replace(s, weights=moved(dict(s.weights), "core.a")), PipelineStage.UPDATE, "core.a"),
    (lambda s: replace(s, moments={}), PipelineStage.UPDATE, "core.a.exp_avg"),
    (lambda s: replace(s, averages=moved(dict(s.averages), "core.a")), PipelineStage.AVERAGE, "core.a"),
    (lambda s: replace(s, average_updates=0), PipelineStage.AVERAGE, "updates of the average"),
    (
        lambda s: replace(s, carries={**s.carries, 0: moved(dict(s.carries[0]), "z_H")}),
        PipelineStage.CARRY,
        "z_H of bucket 0",
    ),
    (
        lambda s: replace(s, carries={**s.carries, 0: {"z_H": s.carries[0]["z_H"]}}),
        PipelineStage.CONTEXT,
        "encoder_state.z of bucket 0",
    ),
    (lambda s: replace(s, carries={0: s.carries[0]}), PipelineStage.CARRY, "buckets"),
    (lambda s: replace(s, rows={**s.rows, 0: ((4, 5), 7)}), PipelineStage.DATA, "rows"),
    (lambda s: replace(s, step=4), PipelineStage.SCHEDULE, "step"),
    (lambda s: replace(s, random_halting=s.random_halting + 1), PipelineStage.HALTING, "random numbers"),
    (lambda s: replace(s, random_torch=s.random_torch + 1), PipelineStage.CONTEXT, "random numbers"),
    (lambda s: replace(s, training=False), PipelineStage.HALTING, "training mode"),
]


@pytest.mark.parametrize(("change", "stage", "tensor"), CHANGES)
def test_a_change_is_named_at_its_stage(
    change: Callable[[Snapshot], Snapshot], stage: PipelineStage, tensor: str
) -> None:
    [found] = compare_states(make_state(), change(make_state()), "again", noise=True)
    assert (found.stage, found.tensor, found.where) == (stage, tensor, "again")


def test_the_size_is_relative_to_the_value_that_was_left() -> None:
    later = replace(make_state(), weights=moved(dict(make_state().weights), "core.a"))
    [found] = compare_states(make_state(), later, "again")
    assert found.size == pytest.approx(2 / 14**0.5)


def test_the_global_generator_counts_only_where_the_model_draws_from_it() -> None:
    later = replace(make_state(), random_torch=make_state().random_torch + 1)
    assert compare_states(make_state(), later, "again") == []
