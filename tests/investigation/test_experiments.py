"""The named experiments: each is one change, and the table, questions and phases follow from planted runs."""

from __future__ import annotations

import json
from math import exp
from pathlib import Path
from typing import Any

import pytest

from etrm.config import Config, load
from etrm.errors import ConfigError
from etrm.investigation import experiments
from etrm.investigation.experiments import (
    EXPERIMENTS,
    QUESTIONS,
    SUITES,
    answers,
    find,
    job,
    of_suite,
    phases,
    table,
)
from etrm.investigation.launch import launcher
from reports.experiments_page import listing, page

SMOKE = load("smoke", overrides=("train.threads=1",))


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
        ("staged", {"train.freeze_decoder_steps"}),
    ],
)
def test_an_experiment_is_its_one_change(name: str, changed: set[str]) -> None:
    base = load("smoke", overrides=("train.clip_norm=none", "train.threads=1"))
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
    with pytest.raises(ConfigError, match="unknown experiment 'E99'"):
        find("E99")
    with pytest.raises(ConfigError, match="unknown suite 'zzz'"):
        of_suite("zzz")
    lpn = load("smoke", overrides=("model.encoder.kind=lpn_standard",))
    with pytest.raises(ConfigError, match=r"E7 \(attention pooling\) is impossible"):
        job(find("E7"), lpn, 0)


# -- planted runs -----------------------------------------------------------------------------------------


def plant(
    root: Path, name: str, seed: int, loss: float, accuracies: list[float] | None = None, low: float = 0.0
) -> None:
    folder = root / "runs" / name / f"seed{seed}"
    folder.mkdir(parents=True)
    measured = {"loss_end": loss, "held_out_low": low, "held_out_solved": 0.0, "held_out_asked": 4.0}
    (folder / "summary.json").write_text(
        json.dumps({"state": "finished", "wall_s": 1.0, "measured": measured})
    )
    lines = [
        {"step": step, "loss": 1.0, "accuracy_all": accuracy, "exact_all": 0.0}
        for step, accuracy in enumerate(accuracies or [0.1 + 0.01 * i for i in range(40)], start=1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def planted(root: Path, gains: dict[str, list[float]], **options: Any) -> list[experiments.Row]:
    """Runs whose log loss is lower than the baseline's by some gains, one for each seed."""
    seeds = max(len(values) for values in gains.values())
    for seed in range(seeds):
        plant(root, "E0", seed, exp(0.5 + 0.1 * seed))
    for name, values in gains.items():
        for seed, gain in enumerate(values):
            plant(root, name, seed, exp(0.5 + 0.1 * seed - gain), **options)
    return table(root, SMOKE, seeds)


def verdict(rows: list[experiments.Row], name: str) -> str:
    return next(answer.verdict for answer in answers(rows) if answer.question.name == name)


def test_gains_are_paired_by_seed(tmp_path: Path) -> None:
    rows = planted(tmp_path, {"E7": [0.30, 0.31, 0.29, 0.30, 0.30]})
    row = next(row for row in rows if row.experiment.name == "E7")
    assert row.interval is not None
    assert row.interval.mean == pytest.approx(0.3)
    assert row.interval.high - row.interval.low < 0.03  # seeds differ by .1, pairs by .01
    assert verdict(rows, "S5") == "VALIDATED"


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ([0.3, 0.31, 0.29], "CANDIDATE"),
        ([0.0, 0.01, -0.01], "INVALIDATED"),
        ([0.5, -0.5, 0.2], "INCONCLUSIVE"),
        ([0.3], "INCONCLUSIVE"),
    ],
)
def test_a_question_is_decided_by_the_registered_rule(
    tmp_path: Path, gains: list[float], expected: str
) -> None:
    assert verdict(planted(tmp_path, {"E6": gains}), "S4") == expected


def test_the_best_of_two_has_to_be_better_than_one_alone(tmp_path: Path) -> None:
    """A p-value between .025 and .05 is enough for one experiment and not for the best of two."""
    gains = [0.06, 0.04, 0.10]
    assert verdict(planted(tmp_path / "one", {"E6": gains}), "S4") == "CANDIDATE"
    both = planted(tmp_path / "two", {"E5": gains, "E8": [0.0, 0.01, 0.0]})
    assert verdict(both, "S1") == "INCONCLUSIVE"


def test_what_was_not_run_says_so(tmp_path: Path) -> None:
    rows = table(tmp_path, SMOKE, 3)
    assert all(answer.verdict == "NOT RUN" for answer in answers(rows))
    assert [phase.met for phase in phases(tmp_path, SMOKE, rows)] == [None, None, None]
    assert "not measured" in page(tmp_path, SMOKE, 3)


def test_the_first_phase_is_the_gate(tmp_path: Path) -> None:
    plant(tmp_path, "E1", 0, 0.1, [0.5] * 30 + [0.97] * 30)
    assert phases(tmp_path, SMOKE, table(tmp_path, SMOKE, 1))[0].met is True
    plant(tmp_path, "E1", 1, 0.1, [0.97] * 30 + [0.2] * 30)
    found = phases(tmp_path, SMOKE, table(tmp_path, SMOKE, 2))[0]
    assert found.met is False
    assert "collapsed" in found.found


def test_the_second_phase_needs_long_runs_that_rise(tmp_path: Path) -> None:
    rows = planted(tmp_path / "short", {"E2": [0.1]})
    short = phases(tmp_path / "short", SMOKE, rows)[1]
    assert short.met is None
    assert "too short to say" in short.found
    falling = [0.9 - 0.02 * i for i in range(40)]
    rows = planted(tmp_path / "falling", {"E3": [0.1]}, accuracies=falling)
    assert phases(tmp_path / "falling", SMOKE, rows)[1].met is False


def test_the_third_phase_asks_for_more_than_a_trivial_baseline(tmp_path: Path) -> None:
    rows = planted(tmp_path / "none", {"E2": [0.1]})
    assert phases(tmp_path / "none", SMOKE, rows)[2].met is False
    rows = planted(tmp_path / "some", {"E2": [0.1]}, low=0.9)
    assert phases(tmp_path / "some", SMOKE, rows)[2].met is True


def test_a_run_that_diverged_counts_as_the_worst(tmp_path: Path) -> None:
    rows = planted(tmp_path, {"E2": [0.05, 0.05, float("nan")]})
    row = next(row for row in rows if row.experiment.name == "E2")
    assert row.interval is not None
    assert row.interval.mean < 0


def test_a_run_that_failed_otherwise_has_no_pair(tmp_path: Path) -> None:
    planted(tmp_path, {"E2": [0.3, 0.3, 0.3]})
    summary = {"state": "failed", "wall_s": 1.0, "reason": "the disk was full", "measured": {}}
    (tmp_path / "runs/E2/seed1/summary.json").write_text(json.dumps(summary))
    row = next(row for row in table(tmp_path, SMOKE, 3) if row.experiment.name == "E2")
    assert row.effects == pytest.approx((0.3, 0.3))


def test_the_table_fills_itself_from_the_folders(tmp_path: Path) -> None:
    text = page(tmp_path, SMOKE, 1)
    assert text.count("not run") >= len(EXPERIMENTS)
    planted(tmp_path, {"E7": [0.3]})
    assert "1 of 1 done" in page(tmp_path, SMOKE, 1)
    assert all(f"| {name} " in listing() for name in EXPERIMENTS)


def test_an_experiment_is_run_beside_its_baseline_and_not_twice(tmp_path: Path) -> None:
    tiny = Config.model_validate(
        SMOKE.model_copy(update={"train": SMOKE.train.model_copy(update={"steps": 3})})
    )
    done: list[int] = []
    chosen = [find("E0"), find("E3")]
    experiments.run(
        chosen, tiny, tmp_path, 1, launcher("processes", 1), lambda steps, total: done.append(steps)
    )
    row = next(row for row in table(tmp_path, tiny, 1) if row.experiment.name == "E3")
    assert row.interval is not None  # the clipped baseline is the same run
    assert row.interval.mean == 0
    written = (tmp_path / "runs/E3/seed0/summary.json").stat().st_mtime_ns
    experiments.run(chosen, tiny, tmp_path, 1, launcher("processes", 1), lambda steps, total: None)
    assert (tmp_path / "runs/E3/seed0/summary.json").stat().st_mtime_ns == written
