"""Planted changes of a loader are found, at the tensor that differs, with the first row and its task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from etrm.batch import IGNORE, Batch
from etrm.data import DemoPair, Sample, collate
from etrm.data.tokens import EOS
from etrm.investigation.reference_comparison.plain_values import plain_row
from etrm.reference.data.loaded_rows import choose_places, compare_batch, compare_passes, compare_task_sets
from etrm.reference.departure import Departure, PipelineStage
from etrm.training.monitoring.recorded_step import record_batch
from tests.reference.invented import build_loaders, few_of, make_task, make_tasks

CONFIG = few_of("smoke", data={"queries": "all"})
EPISODES, LOADER = build_loaders(CONFIG)
PASS = len(LOADER.buckets[0])
Draw = Callable[[int, int], Sample]


def as_tensors(batch: Batch) -> dict[str, Tensor | None]:
    arrays = record_batch(batch).to_arrays()
    return {name: None if values is None else torch.from_numpy(values) for name, values in arrays.items()}


def find_in_passes(draw: Draw, drawn: int = 0) -> dict[str, Departure]:
    found = compare_passes(LOADER, lambda *place: plain_row(draw(*place)), drawn)
    return {departure.tensor: departure for departure in found}


def change_demos(sample: Sample, change: Callable[[DemoPair], DemoPair]) -> Sample:
    return replace(sample, demos=tuple(map(change, sample.demos)))


def recolour(demo: DemoPair) -> DemoPair:
    """Colours 1 and 2 exchanged."""
    table = np.arange(12, dtype=np.int16)
    table[[3, 4]] = 4, 3
    return replace(demo, tokens=table[demo.tokens])


def draw_unscored_ends(bucket: int, index: int) -> Sample:
    sample = EPISODES.sample(bucket, index)
    return replace(sample, labels=np.where(sample.labels == EOS, np.int16(IGNORE), sample.labels))


def draw_other_demos(bucket: int, index: int) -> Sample:
    sample = EPISODES.sample(bucket, index)
    other = EPISODES.sample(bucket, index + 1)
    return replace(sample, demos=other.demos) if index >= PASS + 5 else sample


def draw_recoloured_demos(bucket: int, index: int) -> Sample:
    return change_demos(EPISODES.sample(bucket, index), recolour)


def draw_reversed_demos(bucket: int, index: int) -> Sample:
    sample = EPISODES.sample(bucket, index)
    return replace(sample, demos=sample.demos[::-1])


def draw_three_again(bucket: int, index: int) -> Sample:
    return EPISODES.sample(bucket, index if index < PASS else index % 3)


PLANTED: dict[str, tuple[Draw, set[str]]] = {
    "end markers not scored": (draw_unscored_ends, {"labels"}),
    "demonstrations of another task in the second pass": (
        draw_other_demos,
        {"demos.owner", "demos.positions", "demos.tokens"},
    ),
    "augmentation on one side": (draw_recoloured_demos, {"demos.tokens"}),
    "demonstrations in another order": (draw_reversed_demos, {"demos.positions", "demos.tokens"}),
    "three episodes again after a pass": (draw_three_again, {"episode", "sample_ids"}),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_change_is_found(name: str) -> None:
    draw, tensors = PLANTED[name]
    found = find_in_passes(draw)
    assert tensors <= found.keys()
    assert {departure.stage for departure in found.values()} == {PipelineStage.DATA}


def test_the_first_row_that_differs_is_named() -> None:
    found = find_in_passes(draw_three_again)["episode"]
    first = LOADER.draw(0, PASS)
    assert found.where == f"task {first.asked.task.id}, query {first.asked.index}, episode {PASS}"


def test_a_change_that_begins_late_is_found_where_the_run_draws_so_many() -> None:
    def draw(bucket: int, index: int) -> Sample:
        sample = EPISODES.sample(bucket, index)
        return change_demos(sample, recolour) if index >= 400 else sample

    assert find_in_passes(draw) == {}
    assert set(find_in_passes(draw, drawn=1000)) == {"demos.tokens"}


def test_the_places_of_a_long_stream_are_few_and_hold_the_ends_of_passes() -> None:
    places = choose_places(LOADER, drawn=100_000, limit=64)
    assert len(places) < 64 + 5 * 8
    assert {(0, PASS - 1), (0, PASS), (0, 99_999)} <= set(places)


Tensors = dict[str, Tensor | None]


def unmask(tensors: Tensors) -> Tensors:
    return {**tensors, "valid": None}


def score_padding(tensors: Tensors) -> Tensors:
    labels, valid = tensors["labels"], tensors["valid"]
    assert labels is not None
    assert valid is not None
    return {**tensors, "labels": torch.where(valid, labels, 0)}


def turn_owners(tensors: Tensors) -> Tensors:
    owner = tensors["demos.owner"]
    assert owner is not None
    return {**tensors, "demos.owner": (owner + 1) % (owner.max() + 1)}


@pytest.mark.parametrize(
    ("change", "tensor"),
    [(unmask, "valid"), (score_padding, "labels"), (turn_owners, "demos.owner")],
)
def test_a_collation_that_differs_is_found(change: Callable[[Tensors], Tensors], tensor: str) -> None:
    indices = [3, 0, PASS + 1, 7]
    tensors = as_tensors(collate([EPISODES.sample(0, index) for index in indices], tokens=50))
    assert compare_batch(LOADER, 0, indices, tensors) == []
    found = compare_batch(LOADER, 0, indices, change(tensors), step=9)
    assert tensor in {departure.tensor for departure in found}
    assert {(departure.step, departure.bucket) for departure in found} == {(9, 0)}


@pytest.mark.parametrize("canvas", ["region", "published"])
def test_healthy_batches_depart_nowhere(canvas: str) -> None:
    data: dict[str, Any] = {"canvas": canvas, "translate": 2}
    episodes, loader = build_loaders(few_of("smoke", data=data))
    indices = [0, 9, 100]
    batch = collate([episodes.sample(0, index) for index in indices], tokens=50)
    assert compare_batch(loader, 0, indices, as_tensors(batch)) == []


def test_rows_of_other_episodes_are_found() -> None:
    batch = collate([EPISODES.sample(0, index) for index in (1, 2)])
    found = compare_batch(LOADER, 0, [1, 3], as_tensors(batch))
    assert {departure.tensor: departure.size for departure in found} == {"episode": 0.5, "sample_ids": 0.5}


def test_tasks_that_the_config_does_not_name_are_found() -> None:
    one, two, three = (make_task(name) for name in ("one", "two", "three"))
    altered = replace(two, demos=two.demos[::-1])
    wanted = make_tasks(one, two)
    assert compare_task_sets(make_tasks(one, two), wanted) == []
    assert [d.where for d in compare_task_sets(make_tasks(one), wanted)] == ["task two is missing"]
    assert [d.size for d in compare_task_sets(make_tasks(one, altered), wanted)] == [0.5]
    assert [d.tensor for d in compare_task_sets(make_tasks(one, two, three), wanted)] == ["tasks"]
