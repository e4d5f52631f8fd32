"""The planned runs, and the time left that is estimated from what they logged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from etrm.config import load, with_settings
from etrm.investigation.hypotheses import h2_encoder_gradients
from etrm.investigation.hypotheses.h2_encoder_gradients import STEPS
from etrm.investigation.hypotheses.hypothesis_registry import all_hypotheses
from etrm.investigation.planned_runs import (
    PlannedRun,
    PlannedWork,
    plan_course,
    plan_short_runs,
    plan_work,
)
from etrm.investigation.runs.loaded_run import SUMMARY
from etrm.investigation.session import Investigation


def write_steps(folder: Path, steps: int, seconds: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"step": step, "seconds": seconds}) + "\n" for step in range(1, steps + 1)]
    (folder / "timing.jsonl").write_text("".join(lines))


def end(folder: Path, wall_s: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SUMMARY).write_text(json.dumps({"state": "finished", "wall_s": wall_s}))


def test_nothing_is_estimated_before_the_first_step(tmp_path: Path) -> None:
    work = PlannedWork([PlannedRun("few", tmp_path / "a", 100)], jobs=1)
    state = work.look()
    assert (state.done, state.total, state.seconds_left) == (0, 100, None)


def test_each_study_has_its_own_pace_and_an_unknown_one_that_of_the_others(tmp_path: Path) -> None:
    runs = [
        PlannedRun("few", tmp_path / "few0", 100),
        PlannedRun("few", tmp_path / "few1", 100),
        PlannedRun("trm-decoder", tmp_path / "decoder", 50),
        PlannedRun("frozen", tmp_path / "frozen", 10),
    ]
    end(tmp_path / "few0", 20.0)  # 0.2 seconds a step
    write_steps(tmp_path / "decoder", 10, 1.0)
    for jobs, left in ((1, 100 * 0.2 + 40 * 1.0 + 10 * 0.6), (2, 40.0)):  # one run cannot be shared out
        state = PlannedWork(runs, jobs).look()
        assert (state.done, state.total) == (110, 260)
        assert state.seconds_left == pytest.approx(left)


def test_a_line_that_is_just_being_written_is_no_error(tmp_path: Path) -> None:
    write_steps(tmp_path, 3, 1.0)
    with (tmp_path / "timing.jsonl").open("a") as file:
        file.write('{"step": 4, "sec')
    assert PlannedWork([PlannedRun("few", tmp_path, 10)], 1).look().total == 10


def test_everything_done_leaves_no_time(tmp_path: Path) -> None:
    end(tmp_path, 3.0)
    assert PlannedWork([PlannedRun("few", tmp_path, 10)], 1).look().seconds_left == 0
    assert PlannedWork([], 1).look().seconds_left == 0


def test_the_plan_has_the_short_runs_the_decoder_and_the_experiment(
    investigation: Investigation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ETRM_CACHE", str(tmp_path / "cache"))
    subject = with_settings(load("smoke"), train={"threads": 1})
    brief = replace(investigation, subject=subject)
    whole = replace(brief, frozen_decoder=True)
    chosen = [id for id, one in all_hypotheses().items() if one.applies_to(subject)]
    jobs = [*plan_course(whole, chosen), *plan_short_runs(whole, chosen)]
    steps = sum(job.config.train.steps for job in jobs)
    assert plan_course(whole, ["H5"]) == []
    planned = plan_work(whole, chosen).look().total
    frozen = 2 * len(whole.seeds) * min(whole.tier.frozen_steps, subject.train.steps)
    first = min(STEPS, subject.train.steps) * len(whole.seeds)
    assert planned == steps + first + whole.tier.pretrain_steps + frozen
    assert plan_work(brief, ["H2"]).look().total == first
    assert plan_work(brief, ["H6"]).look().total == 0


def test_a_trm_has_no_runs_of_hypotheses_about_an_encoder(investigation: Investigation) -> None:
    """They were planned, were never made, and the time left counted them to the end."""
    trm = {"model": {"variant": "trm"}, "data": {"augmentations": 1}}
    investigation.subject = with_settings(investigation.subject, **trm)
    assert h2_encoder_gradients.plan_jobs(investigation) == []
    assert all_hypotheses()["H7"].screens(investigation) == []


def test_runs_that_cannot_be_planned_do_not_end_an_investigation(
    investigation: Investigation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("etrm.investigation.planned_runs.plan_short_runs", fail)
    assert plan_work(investigation, ["H4"]).look().total == 0
