"""The reference of the loader: the healthy one departs nowhere, whatever its settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etrm.config import DataConfig, list_presets
from etrm.data import Episodes
from etrm.data.build import build_store
from etrm.investigation.reference_comparison.plain_values import plain_row
from etrm.reference.data.loaded_rows import compare_passes, compare_task_sets
from etrm.reference.data.loader import ReferenceLoader, choose_tasks_of, choose_training_tasks
from etrm.training.task_sets import load_held_out_tasks, load_training_tasks
from tests.reference.invented import build_loaders, few_of, make_task, make_tasks

SETTINGS: tuple[dict[str, Any], ...] = (
    {"data": {"translate": 5, "augmentations": 7, "queries": "all"}},
    {"data": {"canvas": "published", "augmentations": "fresh", "translate": 3, "queries": "leave_one_out"}},
    {"data": {"max_side": 30, "translate": 25, "augmentations": "fresh"}},
    {"data": {"curriculum": ((5, 10), (8, 20), (10, 9)), "replay": 0.3, "queries": "all"}},
    {"data": {"augmentations": 3, "queries": "all", "max_demos": 2}, "model": {"variant": "trm"}},
    {"data": {"exclude": ("0d3d703e",), "buckets": 16}, "train": {"seed": 2**40}},
)


@pytest.mark.parametrize("preset", list_presets())
def test_the_loader_of_every_preset_departs_nowhere(preset: str) -> None:
    assert find_departures(*build_loaders(few_of(preset))) == []


@pytest.mark.parametrize("changes", SETTINGS)
def test_the_loader_of_every_setting_departs_nowhere(changes: dict[str, Any]) -> None:
    assert find_departures(*build_loaders(few_of("small", **changes))) == []


DATA = st.fixed_dictionaries(
    {
        "canvas": st.sampled_from(["region", "published"]),
        "max_demos": st.integers(1, 4),
        "augmentations": st.sampled_from([1, 2, 40, "fresh"]),
        "translate": st.integers(0, 29),
        "queries": st.sampled_from(["test", "leave_one_out", "all"]),
        "buckets": st.integers(1, 5),
        "curriculum": st.sampled_from([(), ((5, 3), (9, 4))]),
    }
)


@settings(max_examples=25, deadline=None)
@given(DATA, st.booleans(), st.integers(0, 2**63 - 1))
def test_any_settings_of_invented_tasks_depart_nowhere(
    changes: dict[str, Any], demonstrations: bool, seed: int
) -> None:
    tasks = make_tasks(*(make_task(f"task{side}", side=side, demos=1 + side % 3) for side in range(3, 10)))
    data = DataConfig(**changes, replay=0.4 if changes["curriculum"] else 0.0)
    episodes = Episodes(tasks, data, "etrm" if demonstrations else "trm", seed)
    assert find_departures(episodes, ReferenceLoader(tasks, data, demonstrations, seed), limit=40) == []


def find_departures(episodes: Episodes, loader: ReferenceLoader, limit: int = 100) -> list[object]:
    """Departures of a pass and the next one, and steps with another bucket."""
    turns = [(step, turn) for step in range(100) for turn in (1, 4)]
    steps = [at for at in turns if episodes.bucket_at(*at) != loader.bucket_at(*at)]
    steps += [at for at in turns if episodes.stage_at(*at) != loader.stage_at(*at)]
    assert [episodes.stage_of(bucket) for bucket in range(episodes.buckets)] == [
        loader.stage_of(bucket) for bucket in range(len(loader.buckets))
    ]
    return [*steps, *compare_passes(loader, lambda *place: plain_row(episodes.sample(*place)), limit=limit)]


def test_a_store_departs_nowhere(tmp_path: Path) -> None:
    config = few_of("smoke", data={"augmentations": 4})
    tasks = load_training_tasks(config)
    build_store(tmp_path, tasks, 4, config.train.seed)
    stored = few_of("smoke", data={"augmentations": 4, "store": tmp_path})
    assert find_departures(*build_loaders(stored)) == []


@pytest.mark.parametrize("changes", [{}, *SETTINGS])
def test_tasks_are_chosen_as_a_run_chooses_them(changes: dict[str, Any]) -> None:
    config = few_of("small", **changes)
    assert compare_task_sets(load_training_tasks(config), choose_training_tasks(config.data)) == []
    evaluated = config.evaluate
    chosen = choose_tasks_of(evaluated.source, evaluated.subset, config.data.max_side, evaluated.max_tasks)
    assert compare_task_sets(load_held_out_tasks(config), chosen) == []


def test_a_query_without_other_demonstrations_is_drawn_only_for_puzzle_ids() -> None:
    config = few_of("smoke", data={"queries": "leave_one_out", "buckets": 1})
    tasks = make_tasks(make_task("alone", demos=1), make_task("three"))
    with_ids = ReferenceLoader(tasks, config.data, demonstrations=False, seed=0)
    with_demos = ReferenceLoader(tasks, config.data, demonstrations=True, seed=0)
    assert [len(with_ids.buckets[0]), len(with_demos.buckets[0])] == [4, 3]
