"""Cases and outcomes from planted processes; one real change."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from etrm.checkpoints.folder_lock import lock_folder
from etrm.config import Config, load, with_settings
from etrm.errors import ConfigError, FolderInUseError, ProcessError, RunFolderError
from etrm.installation import ROOT
from etrm.investigation.fault_benchmark import FAILED, NOTHING
from etrm.investigation.unlisted import unlisted_benchmark as module
from etrm.investigation.unlisted.changed_copy import copy_packages
from etrm.investigation.unlisted.copy_process import CopyProcess
from etrm.investigation.unlisted.effects import ChangeEffect
from etrm.investigation.unlisted.places import CodePlace, list_places
from etrm.investigation.unlisted.preparation import Preparation
from etrm.investigation.unlisted.random_change import Edit, RandomChange
from etrm.investigation.unlisted.unlisted_benchmark import (
    BRIEF,
    STRUCTURAL,
    UnlistedBenchmark,
    UnlistedCase,
    UnlistedOutcome,
    choose_kinds,
    list_cases,
)
from tests.errors import raises_code

SMOKE = with_settings(load("smoke"), train={"threads": 1})


def quiet(phase: str, done: int, total: int) -> None:
    """Show no progress."""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("module") / "packages"
    copy_packages(folder)
    return folder


@pytest.fixture
def root(tmp_path: Path, packages: Path) -> Path:
    """The folder of a benchmark that has its unchanged copy already."""
    copy_packages(tmp_path / "bench" / "packages", packages)
    return tmp_path / "bench"


def bench(root: Path, base: Config = SMOKE) -> UnlistedBenchmark:
    return UnlistedBenchmark(base, root, BRIEF, STRUCTURAL, limit=600)


def result_of(root_cause: str | None, **verdicts: str) -> dict[str, Any]:
    return {
        "root_cause": root_cause,
        "root_cause_confidence": "proven" if root_cause else None,
        "sentence": "a sentence",
        "hypotheses": {id: {"verdict": verdict, "candidate": False} for id, verdict in verdicts.items()},
    }


@cache
def average_place() -> CodePlace:
    """A place of the average of weights, the same in every copy."""
    return next(place for place in list_places(ROOT) if place.function == "Ema.update")


class Planted:
    """Processes that write planted files, with the number of each."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, effect: ChangeEffect, result: Any, failure: str = ""
    ) -> None:
        self.calls: list[str] = []

        def train(process: CopyProcess, copy: Path, folder: Path, *arguments: Any) -> str:
            self.calls.append("train")
            folder.mkdir(parents=True, exist_ok=True)
            return failure if copy.parent.parent.name == "change" else ""

        def investigate(process: CopyProcess, copy: Path, folder: Path, config: Config) -> str:
            self.calls.append("investigate")
            if result is None:
                return "the.code"
            (folder / "investigation").mkdir()
            (folder / "investigation" / "result.json").write_text(json.dumps(result), "utf-8")
            return ""

        def draw(prepared: Preparation, seed: int) -> RandomChange:
            return RandomChange(
                seed, average_place(), ("average",), Edit("scale", (2.0,)), "step>=3", None, 0
            )

        monkeypatch.setattr(CopyProcess, "train", train)
        monkeypatch.setattr(CopyProcess, "investigate", investigate)
        monkeypatch.setattr(Preparation, "draw", draw)
        monkeypatch.setattr(Preparation, "profiles", [])
        monkeypatch.setattr(module, "compare_runs", lambda unchanged, changed: effect)


LARGE, NONE, LOGGED = (
    ChangeEffect(0.5, False, True),
    ChangeEffect(0.0, False, False),
    ChangeEffect(0.0, False, True),
)


def one(root: Path, kind: str = "change") -> UnlistedOutcome:
    (outcome,) = bench(root).run([UnlistedCase(kind, 3)], workers=1, progress=quiet)  # type: ignore[arg-type]
    return outcome


@pytest.mark.parametrize(
    ("result", "named", "right"),
    [
        (result_of("H6", H6="VALIDATED"), "H6", True),
        (result_of("H5", H5="VALIDATED"), "H5", False),
        (result_of(None) | {"reference": {"stage": "average"}}, NOTHING, True),
        (result_of(None) | {"reference": {"stage": "loss"}}, NOTHING, False),
        (result_of("H5") | {"reference": {"stage": "average"}}, "H5", False),
        (result_of(None, H5="INVALIDATED"), NOTHING, False),
        (result_of(None, H5="ERROR"), FAILED, False),
        (None, FAILED, False),
    ],
)
def test_a_change_that_alters_training_is_investigated(
    root: Path, monkeypatch: pytest.MonkeyPatch, result: Any, named: str, right: bool
) -> None:
    planted = Planted(monkeypatch, LARGE, result)
    outcome = one(root)
    assert (outcome.named, outcome.right, outcome.status) == (named, right, "investigated")
    assert outcome.expected == ("H6",)
    assert outcome.weights == 0.5
    assert planted.calls[-1] == "investigate"
    folder = root / "change" / "3"
    assert "+            changed_code" not in (folder / "change.diff").read_text("utf-8")
    assert '"scale", 2.0, when="step>=3")' in (folder / "change.diff").read_text("utf-8").replace("'", '"')
    assert not (folder / "packages").exists()


@pytest.mark.parametrize(
    ("effect", "failure", "status"),
    [
        (NONE, "", "without effect"),
        (LOGGED, "", "only logged"),
        (LARGE, "some.code", "crashed"),
    ],
)
def test_a_change_without_effect_or_that_crashes_is_not_investigated(
    root: Path, monkeypatch: pytest.MonkeyPatch, effect: ChangeEffect, failure: str, status: str
) -> None:
    planted = Planted(monkeypatch, effect, None, failure)
    assert one(root).status == status
    assert "investigate" not in planted.calls


def test_a_healthy_config_is_right_if_nothing_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = Planted(monkeypatch, NONE, result_of(None))
    assert one(root, "healthy").right
    assert planted.calls == ["investigate"]
    Planted(monkeypatch, NONE, result_of("H3"))
    (root / "cases.json").unlink()
    assert not one(root, "healthy").right


def test_kinds_of_cases_are_chosen_by_name() -> None:
    assert choose_kinds(["preset", "change"]) == ["change", "preset"]
    assert choose_kinds([]) == ["change", "healthy", "preset"]
    with raises_code(ConfigError, "bench.unknown-kind", "healty"):
        choose_kinds(["healty"])


def test_a_config_of_a_preset_does_not_start_from_the_base(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Planted(monkeypatch, NONE, result_of(None))
    monkeypatch.setattr(module, "draw_from_presets", lambda seed: (load("overfit"), {"preset": "overfit"}))
    found = one(root, "preset")
    assert found.right
    assert found.description == "preset=overfit"


def test_finished_cases_are_kept_and_those_of_another_subject_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = Planted(monkeypatch, LARGE, result_of("H6"))
    cases = list_cases(range(2), choose_kinds([]))
    assert [case.folder for case in cases[:4]] == ["change/0", "healthy/0", "preset/0", "change/1"]
    found = bench(root).run(cases, workers=2, progress=quiet)
    planted.calls.clear()
    assert bench(root).run(cases, workers=1, progress=quiet) == found
    assert planted.calls == []
    other = with_settings(SMOKE, train={"steps": 19})
    with raises_code(RunFolderError, "bench.other-subject", root):
        bench(root, other).run(cases, workers=1, progress=quiet)


def test_a_folder_in_which_another_benchmark_works_is_left_alone(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Planted(monkeypatch, NONE, result_of(None))
    (root / "healthy/3").mkdir(parents=True)  # the other one's case
    with lock_folder(root), raises_code(FolderInUseError, "run.in-use", root):
        one(root, "healthy")
    assert (root / "healthy/3").exists()


def test_a_case_that_an_error_of_the_machine_ended_has_no_outcome(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: object) -> str:
        raise ProcessError("bench.case-stopped", "planted")

    Planted(monkeypatch, NONE, result_of(None))
    monkeypatch.setattr(CopyProcess, "investigate", stop)
    with raises_code(ProcessError, "bench.case-stopped"):
        one(root, "healthy")
    Planted(monkeypatch, NONE, result_of(None))
    assert one(root, "healthy").right


@pytest.mark.slow
def test_a_real_change_of_the_code_is_drawn_measured_and_investigated(root: Path) -> None:
    own = bench(root)
    prepared: Preparation = own._prepared
    assert all(len(profile) > 1000 for profile in prepared.profiles)
    change = prepared.draw(0)
    assert change == prepared.draw(0)
    outcomes: Sequence[UnlistedOutcome] = own.run(
        list_cases([0], ["change", "healthy"]), workers=1, progress=quiet
    )
    assert outcomes[0].description == change.description
    assert replace(outcomes[1], seconds=0.0).right
