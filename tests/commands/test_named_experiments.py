"""`etrm experiment` as a user meets it."""

from __future__ import annotations

from pathlib import Path

import pytest

from etrm.checkpoints.folder_lock import lock_folder
from etrm.investigation.experiments import registry
from tests.command_line import etrm
from tests.investigation.planted import DIVERGED, planted


def test_a_folder_in_which_another_command_works_is_left_alone(tmp_path: Path) -> None:
    with lock_folder(tmp_path):
        for words in (("experiment", "run", "E3", "--preset", "smoke"), ("symbolic", "story")):
            refused = etrm(*words, "--out", tmp_path)
            assert refused.code == 2
            assert "run.in-use" in refused.err
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


@pytest.mark.parametrize(
    ("losses", "code"),
    [((None, None), 3), ((None, 1.0), 0), ((DIVERGED, None), 0), ((DIVERGED, DIVERGED), 0)],
)
def test_an_experiment_of_which_every_run_failed_is_exit_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, losses: tuple[float | None, ...], code: int
) -> None:
    def run_jobs(root: Path, jobs: list[registry.Job], *arguments: object) -> dict[object, object]:
        ends = losses if jobs[0].arm.name == "E3" else (1.0, 1.0)
        return {(run.arm, run.seed): run for run in planted(jobs[0].arm, ends)}

    monkeypatch.setattr(registry, "run_jobs", run_jobs)
    done = etrm("experiment", "run", "E3", "--preset", "smoke", "--seeds", "2", "--out", tmp_path)
    assert done.code == code, done.err
    assert (tmp_path / "index.md").exists()
