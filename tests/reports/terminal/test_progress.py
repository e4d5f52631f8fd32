"""Progress in a terminal of 80 columns and in a pipe."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console

from etrm.investigation.planned_runs import WorkState
from etrm.investigation.records import Verdict
from etrm.investigation.result import HypothesisResult, ReferenceResult, Result
from etrm.reference.departure import PipelineStage
from reports.terminal import progress
from reports.terminal.progress import (
    InvestigationProgress,
    Phases,
    TrainProgress,
    describe_plan,
    describe_time_left,
)

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Planned:
    """Planned runs whose state is given."""

    def __init__(self, *states: WorkState) -> None:
        self.states = list(states)

    def look(self) -> WorkState:
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]


def screen(terminal: bool) -> Console:
    return Console(
        file=io.StringIO(), width=80, force_terminal=terminal, color_system="standard" if terminal else None
    )


def text_of(console: Console) -> str:
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


@pytest.fixture(params=[True, False], ids=["terminal", "pipe"])
def console(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Console:
    made = screen(request.param)
    monkeypatch.setattr(progress, "open_console", lambda stderr: made)
    return made


def ticks() -> Iterator[float]:
    now = 0.0
    while True:
        now += 2.0
        yield now


def view(**options: Any) -> InvestigationProgress:
    clock = ticks()
    names = {"H1": "H1", "H2": "H2", "H4": "H4 Training dynamics"}
    return InvestigationProgress(names, clock=lambda: next(clock), **options)


def test_a_phase_disappears_when_it_is_over_and_a_pipe_gets_nothing(console: Console) -> None:
    with Phases() as phases:
        phases.update("first", 1, 3)
        phases.update("second", 2, 5)
        assert [task.description for task in phases._bars.tasks] == ["second"]
        assert [task.fields["words"] for task in phases._bars.tasks] == ["2 of 5 steps"]
        phases.update("second", 5, 5)
        assert phases._bars.tasks == []
    assert console.is_terminal or text_of(console) == ""


def test_the_time_left_is_that_of_all_phases(console: Console) -> None:
    with view() as shown:
        assert isinstance(shown, InvestigationProgress)
        start = WorkState(0, 400, None)
        shown.plan(Planned(start, start, WorkState(100, 400, 200.0)))  # type: ignore[arg-type]
        words = [task.fields["words"] for task in shown._bars.tasks]
        assert words[0] == (describe_time_left(None) if console.is_terminal else "")
        shown.update("H4", 1, 3)
        whole, phase = shown._bars.tasks
        assert phase.description == "H4 Training dynamics"
        if console.is_terminal:
            assert (whole.completed, whole.total) == (100, 400)
            assert whole.fields["words"] == describe_time_left(200.0) == "about 3 min left"
        else:
            assert text_of(console) == f"{describe_plan(400)}\n"
    assert all(len(line) <= 80 for line in ESCAPES.sub("", text_of(console)).replace("\r", "\n").split("\n"))


def test_without_planned_runs_no_time_is_shown(console: Console) -> None:
    with view() as shown:
        assert isinstance(shown, InvestigationProgress)
        shown.plan(Planned(WorkState(0, 0, 0.0)))  # type: ignore[arg-type]
        assert shown._bars.tasks == []


@pytest.fixture
def decided(example: Result) -> dict[str, HypothesisResult]:
    long = "It is long. " * 20
    return {
        "H1": example.hypotheses["H2"].replace(id="H1", verdict=Verdict.INVALIDATED, sentence=long),
        "H2": example.hypotheses["H2"].replace(id="H2", verdict=Verdict.VALIDATED, sentence="It is cut"),
        "H4": example.hypotheses["H2"].replace(id="H4", verdict=Verdict.VALIDATED, sentence="It gains"),
    }


def test_a_verdict_is_coloured_or_one_plain_line(
    console: Console, decided: dict[str, HypothesisResult], example: Result
) -> None:
    result = example.replace(hypotheses=decided, order=tuple(decided))
    with view(expected=decided) as shown:
        assert isinstance(shown, InvestigationProgress)
        shown.decide(decided["H1"])
        shown.decide(decided["H2"])
        assert shown.cause == "H2"
        shown.finish(result)
    text = text_of(console)
    if console.is_terminal:
        assert "\x1b[1;31mat fault (VALIDATED)" in text
        assert "H4" not in text  # the summary follows
    else:
        assert "\x1b" not in text
        lines = text.splitlines()
        assert [line.split()[0] for line in lines if "ALIDATED" in line] == ["H1", "H2", "H4"]
        assert len(lines) == 4  # and how to stop, once
    assert text.count("--until-root-cause") == 1
    assert "--until-root-cause" in shown.resume


@pytest.mark.parametrize("options", [{"stops": True, "expected": ("H2", "H3")}, {"expected": ("H2",)}])
def test_nothing_is_suggested_where_the_investigation_ends_by_itself(
    console: Console, decided: dict[str, HypothesisResult], options: dict[str, Any]
) -> None:
    with view(**options) as shown:
        assert isinstance(shown, InvestigationProgress)
        shown.decide(decided["H2"])
    assert "--until-root-cause" not in text_of(console)


@pytest.mark.parametrize("stops", [False, True])
def test_a_departure_that_decides_no_hypothesis_is_told(console: Console, stops: bool) -> None:
    departs = ReferenceResult(
        codes=("reference.departs-in-the-run",),
        sentence="It departs.",
        stage=PipelineStage.DATA,
        hypothesis="H5",
    )
    with view(stops=stops) as shown:
        assert isinstance(shown, InvestigationProgress)
        shown.depart(departs)
        shown.depart(departs.replace(hypothesis=None))
    text = ESCAPES.sub("", text_of(console))
    assert (text.count("It departs."), text.count("H5")) == (2, 1)


def test_a_proven_cause_is_told_when_no_earlier_hypothesis_is_open(
    console: Console, decided: dict[str, HypothesisResult]
) -> None:
    with view(expected=("H1", "H2", "H4")) as shown:
        assert isinstance(shown, InvestigationProgress)
        shown.decide(decided["H4"])
        assert shown.cause is None
        shown.decide(decided["H1"])
        assert shown.cause is None
        shown.decide(decided["H2"])
        assert shown.cause == "H2"
    assert text_of(console).count("--until-root-cause") == 0  # nothing is left that could be stopped


def test_without_a_cause_the_same_command_resumes(console: Console) -> None:
    assert "--until-root-cause" not in view().resume


def train(console: Console, steps: int, seconds_a_step: float) -> list[str]:
    now = 0.0
    with TrainProgress(steps, console, clock=lambda: now) as bar:
        for step in range(1, steps + 1):
            now += seconds_a_step
            bar.update(None, {"step": step, "loss": 1.23456, "accuracy_all": 0.5, "encoder.coverage": 1.0})
    return text_of(console).splitlines()


def test_training_prints_a_line_every_ten_seconds_in_a_pipe() -> None:
    lines = train(screen(False), steps=100, seconds_a_step=1.0)
    assert [int(re.findall(r"step (\d+)/100", line)[0]) for line in lines] == [*range(1, 100, 10), 100]
    assert describe_time_left(None) in lines[0]
    assert describe_time_left(49.0) in lines[5]
    assert all("1.23" in line and "\x1b" not in line for line in lines)


def test_training_fits_a_terminal_of_80_columns() -> None:
    text = "\n".join(train(screen(True), steps=100_000, seconds_a_step=1.0)[-1:])
    assert all(len(line) <= 80 for line in ESCAPES.sub("\n", text).replace("\r", "\n").split("\n"))


@pytest.mark.parametrize(
    ("seconds", "words"), [(3, "10 s"), (44, "40 s"), (89, "1 min"), (600, "10 min"), (9000, "2.5 h")]
)
def test_the_time_left_is_rounded(seconds: float, words: str) -> None:
    assert describe_time_left(seconds) == f"about {words} left"
    assert describe_time_left(seconds, at_most=True) == f"at most about {words} left"
