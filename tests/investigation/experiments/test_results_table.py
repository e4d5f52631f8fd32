"""The tracking table, questions and phases follow from planted runs."""

from __future__ import annotations

import json
import re
from math import exp
from pathlib import Path
from typing import Any

import pytest

from etrm.config import load, with_settings
from etrm.investigation.experiments import registry as experiments
from etrm.investigation.experiments import results_table as tracking
from etrm.investigation.experiments.accuracy_collapse import describe_drifts, describe_spikes, find_falls
from etrm.investigation.experiments.registry import EXPERIMENTS, find
from etrm.investigation.experiments.results_table import (
    ExperimentRow,
    PhaseState,
    answer_questions,
    judge_phases,
    make_experiment_rows,
)
from etrm.investigation.runs.loaded_run import LoadedRun
from reports.pages.experiments_page import STATES, _format_decision, listing, page
from tests.investigation.planted import inline

SMOKE = with_settings(load("smoke"), train={"threads": 1})


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


def planted(root: Path, gains: dict[str, list[float]], **options: Any) -> list[ExperimentRow]:
    """Runs whose log loss is lower than the baseline's by some gains, one for each seed."""
    seeds = max(len(values) for values in gains.values())
    for seed in range(seeds):
        plant(root, "E0", seed, exp(0.5 + 0.1 * seed))
    for name, values in gains.items():
        for seed, gain in enumerate(values):
            plant(root, name, seed, exp(0.5 + 0.1 * seed - gain), **options)
    return make_experiment_rows(root, seeds)


def verdict(root: Path, rows: list[ExperimentRow], name: str) -> str:
    return next(answer.verdict for answer in answer_questions(rows) if answer.question.name == name)


def test_gains_are_paired_by_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "_measure_position", lambda runs: f"{len(runs)} runs were probed")
    rows = planted(tmp_path, {"E7": [0.30, 0.31, 0.29, 0.30, 0.30]})
    row = next(row for row in rows if row.experiment.name == "E7")
    assert row.interval is not None
    assert row.interval.mean == pytest.approx(0.3)
    assert row.interval.high - row.interval.low < 0.03  # seeds differ by .1, pairs by .01
    assert verdict(tmp_path, rows, "S5") == "VALIDATED"


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
    assert verdict(tmp_path, planted(tmp_path, {"E6": gains}), "S4") == expected


def test_the_best_of_two_has_to_be_better_than_one_alone(tmp_path: Path) -> None:
    """A p-value between .025 and .05 is enough for one experiment and not for the best of two."""
    gains = [0.06, 0.04, 0.10]
    assert verdict(tmp_path / "one", planted(tmp_path / "one", {"E6": gains}), "S4") == "CANDIDATE"
    both = planted(tmp_path / "two", {"E5": gains, "E8": [0.0, 0.01, 0.0]})
    assert verdict(tmp_path / "two", both, "S1") == "INCONCLUSIVE"


def test_what_was_not_run_says_so(tmp_path: Path) -> None:
    rows = make_experiment_rows(tmp_path, 3)
    assert all(answer.verdict == "NOT RUN" for answer in answer_questions(rows))
    assert [phase.state for phase in judge_phases(SMOKE, rows)] == [PhaseState.NOT_RUN] * 3
    assert page(tmp_path, SMOKE, 3).count(STATES[PhaseState.NOT_RUN]) == 3


def test_the_first_phase_is_the_gate(tmp_path: Path) -> None:
    plant(tmp_path, "E1", 0, 0.1, [0.5] * 30 + [0.97] * 30)
    assert judge_phases(SMOKE, make_experiment_rows(tmp_path, 1))[0].state is PhaseState.MET
    plant(tmp_path, "E1", 1, 0.1, [0.97] * 30 + [0.2] * 30)
    rows = make_experiment_rows(tmp_path, 2)
    assert judge_phases(SMOKE, rows)[0].state is PhaseState.NOT_MET
    assert {row.experiment.name: row.collapsed for row in rows}["E1"] == 1


def test_the_second_phase_needs_long_runs_that_rise(tmp_path: Path) -> None:
    rows = planted(tmp_path / "short", {"E2": [0.1]})
    assert judge_phases(SMOKE, rows)[1].state is PhaseState.TOO_SHORT
    falling = [0.9 - 0.02 * i for i in range(40)]
    rows = planted(tmp_path / "falling", {"E3": [0.1]}, accuracies=falling)
    assert judge_phases(SMOKE, rows)[1].state is PhaseState.NOT_MET


def test_a_run_that_diverged_leaves_no_phase_met(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "LONG", 60)
    rising = [min(0.99, 0.03 * i) for i in range(tracking.LONG)]
    for name in ("E1", "E2"):
        for seed in range(2):
            plant(tmp_path, name, seed, 0.1, rising, low=0.9)
    states = [phase.state for phase in judge_phases(SMOKE, make_experiment_rows(tmp_path, 2))]
    assert states == [PhaseState.MET] * 3
    for name in ("E1", "E2"):
        summary = {"state": "failed", "diverged": True, "wall_s": 1.0, "measured": {}}
        (tmp_path / f"runs/{name}/seed1/summary.json").write_text(json.dumps(summary))
    states = [phase.state for phase in judge_phases(SMOKE, make_experiment_rows(tmp_path, 2))]
    assert states == [PhaseState.NOT_MET] * 3


def test_the_third_phase_asks_for_more_than_a_trivial_baseline(tmp_path: Path) -> None:
    rows = planted(tmp_path / "none", {"E2": [0.1]})
    assert judge_phases(SMOKE, rows)[2].state is PhaseState.NOT_MET
    rows = planted(tmp_path / "some", {"E2": [0.1]}, low=0.9)
    assert judge_phases(SMOKE, rows)[2].state is PhaseState.MET


def test_a_run_that_diverged_counts_as_the_worst(tmp_path: Path) -> None:
    rows = planted(tmp_path, {"E2": [0.05, 0.05, float("nan")]})
    row = next(row for row in rows if row.experiment.name == "E2")
    assert row.interval is not None
    assert row.interval.mean < 0


def test_a_run_that_failed_otherwise_has_no_pair(tmp_path: Path) -> None:
    planted(tmp_path, {"E2": [0.3, 0.3, 0.3]})
    summary = {"state": "failed", "wall_s": 1.0, "reason": "the disk was full", "measured": {}}
    (tmp_path / "runs/E2/seed1/summary.json").write_text(json.dumps(summary))
    row = next(row for row in make_experiment_rows(tmp_path, 3) if row.experiment.name == "E2")
    assert row.effects == pytest.approx((0.3, 0.3))


def test_the_table_fills_itself_from_the_folders(tmp_path: Path) -> None:
    assert [row.experiment.name for row in make_experiment_rows(tmp_path, 1) if not row.runs] == list(
        EXPERIMENTS
    )
    empty = page(tmp_path, SMOKE, 1)
    planted(tmp_path, {"E6": [0.3]})
    ran = [row.experiment.name for row in make_experiment_rows(tmp_path, 1) if row.runs]
    assert ran == ["E0", "E6"]
    assert all(f"| {name} " in page(tmp_path, SMOKE, 1) and f"| {name} " not in empty for name in ran)
    assert all(f"| {name} " in listing() for name in EXPERIMENTS)


# -- falls ------------------------------------------------------------------------------------------------

FALLING = [0.9] * 40 + [0.1] * 40  # the mean of 25 steps is first below .45 at step 40 + 15


def log_of_fall(root: Path, name: str, spike: int | None, drift: int | None, every: int = 1) -> None:
    """Give a planted run norms with a spike, a drift that the toolkit found, and ranks of its tokens."""
    folder = root / "runs" / name / "seed0"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line["grad_norm_before_clip"] = 50.0 if line["step"] == spike else 1.0
        line["probe.token_rank"] = 3.0
        line |= {"encoder.calls": 1} if (line["step"] - 1) % every == 0 else {}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    findings = [] if drift is None else [drifted("encoder", drift), drifted("core", 1)]
    (folder / "findings.json").write_text(json.dumps(findings))


def drifted(module: str, step: int) -> dict[str, Any]:
    found = {"rule": "DRIFT001", "severity": "warning", "module": module, "message": "planted"}
    return found | {"evidence": {"first_step": step - 1}}  # the toolkit counts from 0


@pytest.mark.parametrize(
    ("spike", "drift", "spiked", "first"),
    [(50, 20, 1, 1), (None, None, 0, 0), (60, 70, 0, 0), (6, 55, 1, 0), (4, 54, 0, 1)],
)
def test_what_came_before_a_fall(
    tmp_path: Path, spike: int | None, drift: int | None, spiked: int, first: int
) -> None:
    """The fall is at step 55: the spike must lie in 5 to 55, the drift before it."""
    planted(tmp_path, {"E2": [0.1]}, accuracies=FALLING)
    log_of_fall(tmp_path, "E2", spike, drift)
    (fall,) = find_falls(runs_of(tmp_path))
    assert fall.step == 55
    assert (fall.spike is not None, fall.drift_first) == (bool(spiked), bool(first))
    assert numbers(describe_drifts([fall], 2)) == [1, 2, first]
    assert numbers(describe_spikes([fall], 3))[:3] == [1, 3, spiked]


def test_a_drift_is_at_its_step_where_not_every_step_is_recorded(tmp_path: Path) -> None:
    planted(tmp_path, {"E2": [0.1]}, accuracies=FALLING)
    log_of_fall(tmp_path, "E2", None, 28, every=2)
    (fall,) = find_falls([run for run in runs_of(tmp_path) if run.arm.name == "E2"])
    assert (fall.drift, fall.drift_first) == (55, False)


def runs_of(root: Path) -> list[LoadedRun]:
    return [run for row in make_experiment_rows(root, 1) for run in row.runs]


def numbers(words: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", words)]


def test_without_a_fall_nothing_is_said_to_come_first(tmp_path: Path) -> None:
    planted(tmp_path, {"E2": [0.1], "E6": [0.1]})
    log_of_fall(tmp_path, "E0", None, None)
    rows = make_experiment_rows(tmp_path, 1)
    assert find_falls(runs_of(tmp_path)) == []
    assert numbers(describe_drifts([], 3)) == [3]
    assert "3.0" in tracking._measure_token_rank(rows[0].runs)  # the planted rank
    found = {answer.question.name: answer for answer in answer_questions(rows)}
    assert describe_drifts([], 3) in found["S2"].found
    assert tracking._measure_token_rank(rows[0].runs) in found["S4"].found


def test_position_is_probed_in_the_baseline_and_at_its_random_start(tmp_path: Path) -> None:
    tiny = with_settings(load("smoke"), train={"steps": 3, "threads": 1})
    experiments.run([find("E0"), find("E7")], tiny, tmp_path, 1, inline(), lambda done, total: None)
    found = {
        answer.question.name: answer.found for answer in answer_questions(make_experiment_rows(tmp_path, 1))
    }
    numbers = [
        float(number)
        for number in re.findall(r"-?\d\.\d\d(?= from| after| and|\))", found["S5"].split("R2")[1])
    ]
    assert len(numbers) == 4
    assert all(number < 1 for number in numbers)


def test_a_change_that_never_acted_is_no_answer() -> None:
    assert _format_decision(ExperimentRow(find("O1"), (), (0.0, 0.0, 0.0), 0)) == "no effect on the runs"
    assert _format_decision(ExperimentRow(find("O1"), (), (0.0, 0.001, 0.0), 0)) == "no"
    assert _format_decision(ExperimentRow(find("O1"), (), (), 0)) == ""
