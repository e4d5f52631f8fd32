"""Streams of rule tasks: the same samples as the general layout makes of the same tasks, in an order that is fixed."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from etrm.config import Config, DataConfig, load, with_settings
from etrm.data import Episodes, Sample, choose_training_tasks, load_tasks, open_episodes
from etrm.data.augment import identity
from etrm.data.rules import find_held_out, parse_rule_id
from etrm.data.sample import GridLayout, build, list_queries
from etrm.errors import ConfigError
from tests.errors import raises_code

ENDLESS: dict[str, Any] = {"source": "rules:colours", "stream": "endless", "max_side": 3}
MIXED: dict[str, Any] = {
    "source": "rules:dihedral,shift+colours",
    "stream": 300,
    "buckets": 2,
    "demos": (2, 4),
}
STAGES: dict[str, Any] = {"source": "rules:recolour", "stream": "endless", "curriculum": ((3, 5), (5, 10))}


def opened(settings: dict[str, Any], seed: int = 0) -> Episodes:
    data = DataConfig(**settings)
    return open_episodes(choose_training_tasks(data), data, "etrm", seed)


def as_plain(sample: Sample) -> list[Any]:
    tokens = [sample.tokens, sample.positions, sample.labels, sample.target]
    demos = [part for demo in sample.demos for part in (demo.tokens, demo.positions)]
    rest = [
        sample.task_id,
        sample.name,
        sample.query,
        sample.puzzle_id,
        sample.serial,
        sample.region,
        sample.side,
    ]
    rest += [sample.in_region, sample.translated]
    return [*rest, *((array.dtype, array.tolist()) for array in (*tokens, *demos) if array is not None)]


@pytest.mark.parametrize("settings", [ENDLESS, MIXED, STAGES])
def test_samples_are_those_of_the_general_layout(settings: dict[str, Any]) -> None:
    episodes = opened(settings, seed=3)
    for bucket in range(episodes.buckets):
        for index in range(6):
            sample = episodes.sample(bucket, index)
            task = episodes.tasks_of([sample]).get(sample.task_id)
            (query,) = list_queries(task, 0)
            built = build(query, identity(), GridLayout("region", 10), serial=sample.serial)
            assert as_plain(sample) == as_plain(built)
            assert as_plain(episodes.rebuild(sample.serial)) == as_plain(sample)


def test_no_rule_of_an_endless_stream_is_held_out_and_no_task_comes_twice() -> None:
    episodes = opened(ENDLESS)
    samples = [episodes.sample(0, index) for index in range(1500)]
    assert not any(find_held_out(parse_rule_id(sample.task_id)) for sample in samples)
    assert len({sample.task_id for sample in samples}) == 1500
    held_out = {parse_rule_id(task.id) for task in load_tasks("rules:colours", "evaluation", 3, 100)}
    assert not held_out & {parse_rule_id(sample.task_id) for sample in samples}


def test_two_seeds_of_an_endless_stream_share_no_task() -> None:
    streams = [opened(ENDLESS, seed) for seed in (0, 1)]
    first, second = ({stream.sample(0, index).task_id for index in range(600)} for stream in streams)
    assert not first & second


def test_a_pass_over_a_fixed_number_draws_every_task_once() -> None:
    episodes = opened(MIXED)
    assert episodes.buckets == 2
    for bucket in range(2):
        keys = episodes.pass_keys(bucket)
        assert len(keys) == 150  # 75 of each of two sides
        for turn in range(2):
            places = range(150 * turn, 150 * (turn + 1))
            drawn = [episodes.sample(bucket, index) for index in places]
            assert Counter((sample.task_id, sample.query) for sample in drawn) == Counter(keys)
        assert [sample.task_id for sample in drawn] != [
            episodes.sample(bucket, i).task_id for i in range(150)
        ]


def test_the_keys_of_an_endless_stream_are_its_first_episodes() -> None:
    episodes = opened(ENDLESS, seed=2)
    keys = episodes.pass_keys(0)
    assert {episodes.sample(0, index).task_id for index in range(len(keys))} == {key for key, _ in keys}


def test_the_numbers_of_demonstrations_are_those_of_the_settings() -> None:
    episodes = opened(ENDLESS | {"demos": (2, 3, 6)})
    found = Counter(len(episodes.sample(0, index).demos) for index in range(300))
    assert found == {2: 100, 3: 100, 6: 100}
    assert {len(task.demos) for task in episodes.tasks} == {2, 3, 6}


def test_the_order_of_draws_does_not_matter() -> None:
    """Processes that prepare samples draw them in another order."""
    places = [(0, 0), (1, 700), (0, 1), (1, 3), (0, 999)]
    forward = [as_plain(opened(MIXED).sample(*place)) for place in places]
    backward = [as_plain(opened(MIXED).sample(*place)) for place in places[::-1]]
    assert forward == backward[::-1]


def test_evaluation_tasks_have_another_number_of_demonstrations() -> None:
    usual = load_tasks("rules:colours", "evaluation", 3, 10)
    more = load_tasks("rules:colours", "evaluation", 3, 10, demos=5)
    assert {len(task.demos) for task in usual} == {3}
    assert {len(task.demos) for task in more} == {5}
    assert all(find_held_out(parse_rule_id(task.id)) for task in more)
    assert usual.hash == load_tasks("rules:colours", "evaluation", 3, 10, demos=3).hash


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("config.stream-of-listed-tasks", {"data": {"stream": 10, "source": "arc-agi-1"}}),
    ("config.not-with-stream", {"data": {"stream": 10, "max_tasks": 5}}),
    ("config.not-with-stream", {"data": {"stream": 10, "queries": "all"}}),
    ("config.hidden-demonstrations", {"data": {"stream": 10, "demos": (2, 11)}}),
    ("config.demos-without-stream", {"data": {"demos": (2, 3)}}),
    ("config.stream-of-trm", {"data": {"stream": 10}, "model": {"variant": "trm"}}),
    ("config.demos-of-listed-tasks", {"evaluate": {"source": "arc-agi-1", "demos": 4}}),
]


@pytest.mark.parametrize(("code", "changes"), REFUSED)
def test_settings_that_do_not_fit_are_refused(code: str, changes: dict[str, Any]) -> None:
    with raises_code(ConfigError, code):
        with_settings(listed(), **changes)


def listed() -> Config:
    return with_settings(load("rules"), data={"max_tasks": None, "stream": None})


def test_positions_are_shared_and_arrays_are_views() -> None:
    first, second = (opened(ENDLESS).sample(0, index) for index in range(2))
    assert first.positions is second.positions
    assert np.shares_memory(first.tokens, opened(ENDLESS).sample(0, 0).tokens)
