"""Rows read back from a batch: sound ones are passed, and each kind of damage is named for what it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etrm.config import SIDE, DataConfig, load
from etrm.data import DemoPair, Episodes, Sample, collate, load_tasks
from etrm.data.augment import Augmentation, draw_augmentation
from etrm.data.sample import CELLS
from etrm.data.task import Pair
from etrm.investigation.measurements import row_provenance as provenance
from etrm.investigation.measurements.row_provenance import RowProblem, canonical, read_rows
from etrm.training.faults.data_faults import _as_demo

TASKS = load_tasks("arc-agi-1", "training", 8, 40)
BY_ID = {task.id: task for task in TASKS}
augmentations = st.integers(0, 2**32 - 1).map(lambda seed: draw_augmentation(np.random.default_rng(seed)))
pairs = st.sampled_from([pair for task in TASKS for pair in task.pairs])


def episodes(**data: object) -> Episodes:
    config = DataConfig(source="arc-agi-1", max_side=8, max_tasks=40, buckets=1, **data)  # type: ignore[arg-type]
    return Episodes(TASKS, config, "etrm", 0)


def kinds(samples: list[Sample]) -> set[RowProblem]:
    return set(read_rows([(collate(samples), samples)], TASKS, 10).wrong)


@pytest.mark.parametrize(
    "data",
    [
        {"augmentations": "fresh"},
        {"augmentations": "fresh", "translate": 9},
        {"augmentations": 7, "queries": "all"},
        {"augmentations": "fresh", "canvas": "published"},
        {"augmentations": "fresh", "canvas": "published", "translate": 20},
    ],
    ids=str,
)
def test_every_sound_row_is_passed(data: dict[str, object]) -> None:
    drawn = episodes(**data)
    samples = [drawn.sample(0, index) for index in range(60)]
    found = read_rows([(collate(samples), samples)], TASKS, 10)
    assert not found.wrong
    assert (found.rows, found.demos) == (60, sum(len(sample.demos) for sample in samples))


@given(pairs, augmentations, augmentations)
def test_the_canonical_form_is_that_of_every_augmentation(
    pair: Pair, one: Augmentation, two: Augmentation
) -> None:
    assert canonical(one.pair(pair)) == canonical(two.pair(pair)) == canonical(pair)


def test_the_canonical_form_tells_pairs_apart() -> None:
    found = {canonical(pair) for task in TASKS for pair in task.pairs}
    every = [pair for task in TASKS for pair in task.pairs]
    assert len(found) > 0.9 * len({pair.hash for pair in every})


@settings(max_examples=25)
@given(st.integers(0, 500), st.data())
def test_each_damage_is_named(index: int, data: st.DataObject) -> None:
    drawn = episodes(augmentations="fresh")
    sound, other = drawn.sample(0, index), drawn.sample(0, index + 1)
    assert kinds([sound]) == set()
    table = np.arange(12, dtype=np.int16)
    table[2:] = 2 + (np.arange(10) + data.draw(st.integers(1, 9))) % 10
    apart = tuple(replace(demo, tokens=table[demo.tokens]) for demo in sound.demos)
    first = sound.demos[0]
    moved = np.where(first.positions >= CELLS, first.positions + SIDE + 1, first.positions)
    damaged = {
        RowProblem.PLACE: replace(sound, demos=(replace(first, positions=moved), *sound.demos[1:])),
        RowProblem.ANSWER: replace(sound, demos=(_as_demo(sound), *sound.demos[1:])),
        RowProblem.APART: replace(sound, demos=apart),
        RowProblem.QUERY: replace(sound, tokens=table[sound.tokens]),
        RowProblem.LABELS: replace(
            sound, labels=np.where(sound.labels >= 2, table[np.maximum(sound.labels, 0)], sound.labels)
        ),
    }
    if len(sound.demos) > 1:
        damaged[RowProblem.COUNT] = replace(
            sound,
            demos=data.draw(
                st.sampled_from([sound.demos[1:], sound.demos * 2, sound.demos[:1] * len(sound.demos)])
            ),
        )
    if not {canonical(pair) for pair in BY_ID[sound.task_id].pairs} & {
        canonical(pair) for pair in BY_ID[other.task_id].pairs
    }:  # two tasks can share a pair but for its colours
        damaged[RowProblem.FOREIGN] = replace(sound, demos=(*sound.demos[1:], other.demos[0]))
    for kind, sample in damaged.items():
        assert kinds([sample]) == {kind}


def test_labels_that_are_not_scored_are_missed() -> None:
    sound = episodes(augmentations="fresh").sample(0, 3)
    for unscored in (sound.labels >= 0, sound.positions >= sound.positions[sound.labels >= 2].max()):
        assert kinds([replace(sound, labels=np.where(unscored, -100, sound.labels).astype(np.int16))]) == {
            RowProblem.LABELS
        }


def test_no_more_demos_are_asked_for_than_may_be_shown() -> None:
    drawn = episodes(max_demos=2)
    samples = [drawn.sample(0, index) for index in range(30)]
    assert not read_rows([(collate(samples), samples)], TASKS, 2).wrong
    assert set(read_rows([(collate(samples), samples)], TASKS, 10).wrong) == {RowProblem.COUNT}


def test_the_first_row_of_each_kind_is_named_and_all_are_counted() -> None:
    drawn = episodes(augmentations="fresh")
    samples = [drawn.sample(0, index) for index in range(6)]
    empty = DemoPair(np.zeros(0, np.int16), np.zeros(0, np.int16))
    samples[2] = replace(samples[2], demos=(empty,))
    samples[4] = replace(samples[4], demos=(empty,))
    found = read_rows([(collate(samples), samples)], TASKS, 10)
    assert found.wrong[RowProblem.FOREIGN] == 2
    assert samples[2].task_id in found.first[RowProblem.FOREIGN]


def test_the_grid_is_the_rectangle_of_the_colours() -> None:
    tokens = np.array([0, 2, 5, 1, 3, 4, 1, 0])
    places = np.array([0, 61, 62, 63, 91, 92, 93, 121])
    assert provenance.read_grid(tokens, places).tolist() == [[0, 3], [1, 2]]
    assert provenance.read_grid(tokens[:1], places[:1]).shape == (0, 0)


def test_the_preset_of_the_controls_has_rows_to_read() -> None:
    assert load("smoke").data.augmentations == "fresh"
