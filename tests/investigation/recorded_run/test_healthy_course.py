"""Registered courses: how they are made, their bands, and what they are compared with."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from statistics import variance
from typing import Any

import pytest

from etrm.config import list_presets, load, with_settings
from etrm.errors import ConfigError, RunFolderError
from etrm.investigation.recorded_run import healthy_course
from etrm.investigation.recorded_run.healthy_course import (
    METRICS,
    SHIFT,
    WIDTH,
    HealthyCourse,
    find_course,
    find_nearest_preset,
    identify,
    list_courses,
    make_course,
    take_means,
    write_course,
)
from tests.errors import raises_code
from tests.investigation.recorded_run.conftest import edit_json

ACCURACY = next(metric for metric in METRICS if metric.key == "accuracy_all")
SEEDS = ((0.50, 0.60, 0.72), (0.52, 0.63, 0.70), (0.48, 0.57, 0.74))


def course(**changes: Any) -> HealthyCourse:
    plain = HealthyCourse("smoke", {}, {"seeds": [0, 1, 2]}, 6, 2, {"accuracy_all": SEEDS})
    return replace(plain, **changes)


def run(*values: float) -> list[dict[str, Any]]:
    return [{"step": i + 1, "accuracy_all": value} for i, value in enumerate(values)]


def write_run(folder: Path, seed: int, steps: int = 40, **settings: Any) -> Path:
    folder.mkdir(parents=True)
    config = with_settings(load("smoke"), **({"train": {"seed": seed}} | settings))
    (folder / "config.json").write_text(config.to_json())
    record = {"commit": "c", "dirty": False, "versions": {}, "device": "cpu", "data_hash": "d"}
    (folder / "run.json").write_text(json.dumps(record))
    lines = [json.dumps({"step": i + 1, "loss": 1.0 + seed + i % 2}) + "\n" for i in range(steps)]
    (folder / "metrics.jsonl").write_text("".join(lines))
    return folder


def test_a_band_reaches_beyond_the_seeds_in_the_windows_around() -> None:
    seeds = (tuple(0.1 * i for i in range(8)), tuple(0.1 * i + 0.02 for i in range(8)))
    deviation = math.sqrt(variance([0.0, 0.02]))  # the same in every window
    bands = course(steps=16, means={"accuracy_all": seeds}).list_bands(ACCURACY)
    assert bands[0] == pytest.approx((0.0 - WIDTH * deviation, 0.1 * SHIFT + 0.02 + WIDTH * deviation))
    assert bands[4] == pytest.approx((0.1 * (4 - SHIFT) - WIDTH * deviation, 0.62 + WIDTH * deviation))
    absent = course(means={"accuracy_all": ((0.5, None, 0.7), (0.52, None, 0.72))})
    assert [band is None for band in absent.list_bands(ACCURACY)] == [False, True, False]


def test_the_first_of_two_windows_on_one_side_is_the_step_where_a_run_leaves() -> None:
    def left(*values: float) -> tuple[int | None, int]:
        (found,) = course().compare(run(*values))
        return found.step, found.windows

    assert left(0.5, 0.5, 0.6, 0.6, 0.7, 0.7) == (None, 0)
    assert left(0.5, 0.5, 0.0, 0.0, 0.0, 0.0) == (3, 2)
    assert left(0.5, 0.5, 0.0, 0.0, 0.7, 0.7) == (None, 1)  # one window may be chance
    assert left(0.5, 0.5, 0.0, 0.0, 1.5, 1.5) == (None, 2)  # not on one side
    assert left(0.5, 0.5, 0.6) == (None, 0)  # a window that has not ended is not compared
    assert course().compare(run(0.5)) == []


def test_means_are_over_the_steps_of_a_window_that_logged_the_quantity() -> None:
    metrics = [{"step": 1, "x": 1.0}, {"step": 2}, {"step": 3}, {"step": 4, "x": None}, {"step": 5, "x": 3.0}]
    assert take_means(metrics, "x", 2, 10) == [1.0, None]


def test_a_course_is_made_of_real_runs_and_read_back(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / str(seed), seed, steps=40 + seed) for seed in range(3)]
    made = make_course(folders)
    assert (made.preset, made.steps, made.window, made.made["seeds"]) == ("smoke", 40, 2, [0, 1, 2])
    assert made.means["loss"] == [[1.5 + seed] * 20 for seed in range(3)]
    write_course(made, tmp_path / "course.json")
    assert HealthyCourse(**json.loads((tmp_path / "course.json").read_text())).means == made.means


@pytest.mark.parametrize(
    "settings",
    [
        {"train": {"seed": 0}},
        {"train": {"seed": 1, "lr": 0.5}},
        {"train": {"seed": 1}, "faults": ("cached-context",)},
    ],
)
def test_runs_that_are_no_healthy_seeds_of_a_preset_are_refused(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    folders = [write_run(tmp_path / "0", 0), write_run(tmp_path / "1", 1, **settings)]
    with raises_code(ConfigError, "course.not-one-preset"):
        make_course(folders)


def test_runs_of_two_commits_and_runs_without_steps_are_refused(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / str(seed), seed) for seed in range(2)]
    (folders[0] / "metrics.jsonl").write_text("")
    with raises_code(RunFolderError, "course.too-short"):
        make_course(folders)
    (folders[0] / "metrics.jsonl").write_text((folders[1] / "metrics.jsonl").read_text())
    edit_json(folders[1] / "run.json", commit="another")
    with raises_code(RunFolderError, "course.mixed-origin", "commit"):
        make_course(folders)


def test_every_registered_course_is_that_of_a_preset_and_names_its_origin() -> None:
    courses = list(list_courses())
    assert "smoke" in {one.preset for one in courses}
    for one in courses:
        assert one.preset in list_presets()
        assert find_course(load(one.preset)) == one, f"{one.preset} has changed: register its course again"
        assert len(one.made["seeds"]) >= 3
        assert {"commit", "versions", "device", "data_hash"} <= one.made.keys()
        assert not one.made["dirty"]
        own = take_means([{"step": one.steps}], "loss", one.window, one.steps)
        assert all(len(values) == len(own) for of in one.means.values() for values in of)


def test_faults_seeds_and_what_is_kept_make_no_other_course() -> None:
    smoke = load("smoke")
    changed = with_settings(smoke, faults=("cached-context",), train={"seed": 7, "keep_checkpoints": 5})
    assert identify(changed) == identify(smoke)
    assert find_course(with_settings(smoke, train={"lr": 0.5})) is None


def test_a_course_may_be_older_than_a_setting_that_has_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    smoke = load("smoke")
    registered = find_course(smoke)
    assert registered is not None
    older = {name: value for name, value in registered.settings.items() if name != "train.accumulate"}
    old = replace(registered, settings=older)
    monkeypatch.setattr(healthy_course, "list_courses", lambda: iter([old]))
    assert find_course(smoke) == old
    assert find_course(with_settings(smoke, train={"accumulate": 2})) is None


def test_the_nearest_preset_is_named_with_what_differs() -> None:
    changed = with_settings(load("small"), preset="", train={"lr": 0.5, "steps": 30, "warmup_steps": 3})
    assert find_nearest_preset(changed) == ("small", ("train.steps", "train.lr", "train.warmup_steps"))
