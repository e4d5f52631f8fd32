"""The named experiments: each is one change, and the table, questions and phases follow from planted runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from etrm.config import Config, load, with_settings
from etrm.errors import ConfigError, DataError
from etrm.investigation.experiments import registry as experiments
from etrm.investigation.experiments.registry import (
    EXPERIMENTS,
    QUESTIONS,
    SUITES,
    find,
    job,
    of_suite,
)
from etrm.investigation.experiments.results_table import make_experiment_rows
from tests.errors import raises_code
from tests.investigation.planted import inline

SMOKE = with_settings(load("smoke"), train={"threads": 1})


def test_held_out_tasks_with_unknown_outputs_are_refused_before_any_run(tmp_path: Path) -> None:
    pair = {"input": [[1]], "output": [[2]]}
    file = tmp_path / "test_challenges.json"
    file.write_text(json.dumps({"one": {"train": [pair, pair], "test": [{"input": [[3]]}]}}))
    base = with_settings(SMOKE, evaluate={"source": str(file)})
    with raises_code(DataError, "evaluate.unknown-outputs", "evaluate.source", got="one"):
        experiments.run([find("E0")], base, tmp_path / "out", 1, inline(), lambda done, total: None)
    assert not (tmp_path / "out").exists()


def differing(one: Any, other: Any, path: str = "") -> set[str]:
    if isinstance(one, dict):
        return {
            key for name in one for key in differing(one[name], other[name], f"{path}.{name}".lstrip("."))
        }
    return set() if one == other else {path}


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("E0", set()),
        ("E1", {"data.max_tasks", "train.steps", "train.warmup_steps"}),
        ("E2", {"train.lr"}),
        ("E4", {"train.lr", "train.clip_norm"}),
        ("E5", {"model.encoder.layers"}),
        ("E6", {"model.context_tokens"}),
        ("E7", {"model.encoder.pooling"}),
        ("E8", {"model.encoder.set_layers"}),
        ("E9", {"model.encoder.layer_scale"}),
        ("E10", {"model.encoder.norm"}),
        ("E11", {"train.encoder_lr_scale"}),
        ("A16", {"model.halt.max_steps"}),
        ("O3", {"model.halt.exploration"}),
        ("X2", {"model.encoder.kind"}),
        ("cached", {"model.variant"}),
        ("staged", {"train.freeze_decoder_steps"}),
    ],
)
def test_an_experiment_is_its_one_change(name: str, changed: set[str]) -> None:
    base = with_settings(load("smoke"), train={"clip_norm": None, "threads": 1})
    config = job(find(name), base, 0).config
    assert differing(base.model_dump(), config.model_dump()) == changed


def test_the_warm_up_of_the_gate_is_scaled_to_its_run() -> None:
    assert job(find("E1"), SMOKE, 0).config.train.warmup_steps == 50  # 2 of 20 steps


def test_all_that_were_registered_are_there() -> None:
    wanted = {f"E{i}" for i in range(12)} | {"A1", "A4", "A8", "A16", "O1", "O2", "O3", "X1", "X2", "X3"}
    assert wanted < set(EXPERIMENTS)
    assert [question.name for question in QUESTIONS] == ["S1", "S2", "S3", "S4", "S5", "S6"]
    assert {name for question in QUESTIONS for name in question.by} <= set(EXPERIMENTS)


@pytest.mark.parametrize("suite", [*SUITES, "all"])
def test_a_suite_begins_with_the_gate_and_the_baseline(suite: str) -> None:
    assert [experiment.name for experiment in of_suite(suite)][:2] == ["E1", "E0"]


def test_unknown_names_and_impossible_changes_are_refused() -> None:
    with raises_code(ConfigError, "experiment.unknown", repr("E99")):
        find("E99")
    with raises_code(ConfigError, "experiment.unknown-suite", repr("zzz")):
        of_suite("zzz")
    lpn = with_settings(load("smoke"), model={"encoder": {"kind": "lpn_standard"}})
    with raises_code(ConfigError, "experiment.impossible", "E7", "model.encoder.pooling") as caught:
        job(find("E7"), lpn, 0)
    assert caught.value.codes[1:] == ("config.encoder-setting-without-effect",)


def test_an_experiment_is_run_next_to_its_baseline_and_not_twice(tmp_path: Path) -> None:
    tiny = Config.model_validate(
        SMOKE.model_copy(update={"train": SMOKE.train.model_copy(update={"steps": 3})})
    )
    done: list[int] = []
    chosen = [find("E0"), find("E3")]
    experiments.run(chosen, tiny, tmp_path, 1, inline(), lambda steps, total: done.append(steps))
    row = next(row for row in make_experiment_rows(tmp_path, 1) if row.experiment.name == "E3")
    assert row.interval is not None  # the clipped baseline is the same run
    assert row.interval.mean == 0
    written = (tmp_path / "runs/E3/seed0/summary.json").stat().st_mtime_ns
    experiments.run(chosen, tiny, tmp_path, 1, inline(), lambda steps, total: None)
    assert (tmp_path / "runs/E3/seed0/summary.json").stat().st_mtime_ns == written
