"""A run that is looked at while it trains: its first departure is announced once, before the run ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from etrm.config import load, with_settings
from etrm.investigation.course_watch import CourseWatch
from etrm.investigation.reference_verdict import STUDY, compare_course, course_job
from etrm.investigation.result import ReferenceResult
from etrm.investigation.session import Investigation
from etrm.reference.departure import PipelineStage
from etrm.training.trainer import Trainer, train
from tests.investigation.planted import inline

EQUAL = ReferenceResult(codes=("reference.equal",), sentence="start")


def investigate(root: Path, *faults: str) -> Investigation:
    subject = with_settings(
        load("smoke"),
        data={"max_tasks": 6, "max_side": 3},
        train={"steps": 4, "batch_size": 4, "threads": 1},
        faults=faults,
    )
    return Investigation(root, subject, (0,), inline(), lambda phase, done, total: None)


def test_the_first_departure_is_told_while_the_run_goes_on(tmp_path: Path) -> None:
    one = investigate(tmp_path, "context-detached")
    job, announced = course_job(one), list[tuple[int, ReferenceResult]]()
    watch = CourseWatch(one, EQUAL, lambda found: announced.append((seen[-1], found)))
    seen: list[int] = []

    def look(trainer: Trainer, metrics: dict[str, object]) -> None:
        seen.append(trainer.step)
        one.progress(STUDY, trainer.step, job.config.train.steps)

    before = one.progress
    with watch.follow():
        assert train(job.config, tmp_path / job.folder, on_step=look)
    assert one.progress is before
    [(step, found)] = announced
    assert (step, found.stage, found.hypothesis) == (1, PipelineStage.GRADIENT, "H2")
    later = compare_course(one, EQUAL, known=watch.steps)  # of the same folder, finished
    assert (later.stage, later.hypothesis, later.sentence) == (found.stage, found.hypothesis, found.sentence)
    assert later.departures[0] == found.departures[0]


@pytest.mark.parametrize("trained", [False, True])
def test_nothing_is_told_of_a_run_that_departs_nowhere(tmp_path: Path, trained: bool) -> None:
    one, announced = investigate(tmp_path), list[ReferenceResult]()
    if trained:
        job = course_job(one)
        train(job.config, tmp_path / job.folder)
    CourseWatch(one, EQUAL, announced.append).look()
    assert announced == []
