"""The files of a run are read once, however many functions look at them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from etrm.investigation.comparison import screening
from etrm.investigation.comparison.screening import few_tasks
from etrm.investigation.hypotheses import h2_encoder_gradients as h2
from etrm.investigation.hypotheses import h4_training_dynamics as h4
from etrm.investigation.measurements.additional_findings import gather_additional_findings
from etrm.investigation.runs import loaded_run
from etrm.investigation.runs.arms import ArmId
from etrm.investigation.runs.loaded_run import load_run
from etrm.investigation.session import Investigation
from tests.investigation.planted import inline


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[Path]:
    """How often the metrics and the findings of each run were read."""
    counts: Counter[Path] = Counter()
    for name in ("read_metrics", "read_findings"):
        read = getattr(loaded_run, name)

        def counted(path: Path, name: str = name, read: object = read) -> object:
            counts[path / name] += 1
            return read(path)  # type: ignore[operator]

        monkeypatch.setattr(loaded_run, name, counted)
    return counts


@pytest.mark.slow
def test_each_file_is_read_once_in_a_whole_investigation(
    investigation: Investigation, monkeypatch: pytest.MonkeyPatch, reads: Counter[Path]
) -> None:
    """H2, H4 (which runs the unchanged config twice as a job) and the additional findings use the same runs."""
    monkeypatch.setattr(h4, "CURES", {})
    monkeypatch.setattr(screening, "CONTROL_STEPS", 2)
    monkeypatch.setattr(screening, "CONTROL_SEEDS", (0,))
    monkeypatch.setattr(h4, "few_tasks", lambda subject, steps: few_tasks(subject, 5))
    investigation.launcher = inline()
    h2.HYPOTHESIS.decide(investigation)
    h4.HYPOTHESIS.decide(investigation)
    investigation.run("again", h4.HYPOTHESIS.screens(investigation)[0].jobs())
    gather_additional_findings(investigation.finished_under_test())
    assert sum(path.name == "read_metrics" for path in reads) > 6
    assert sum(path.name == "read_findings" for path in reads) == 2  # the runs under test
    assert set(reads.values()) == {1}


def test_a_folder_without_a_summary_holds_no_run(tmp_path: Path) -> None:
    assert load_run(tmp_path, ArmId("arm"), 0) is None


def test_a_run_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "few-as-given" / "seed1"
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(
        '{"state": "finished", "wall_s": 1.26, "measured": {"loss_end": null}}'
    )
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n')
    run = load_run(tmp_path, ArmId("few", "as-given", role="subject"), 1)
    assert run is not None
    assert (run.finished, run.steps, run.seed, run.record.wall_s) == (True, 2, 1, 1.3)
    assert run.final["loss"] == 1.5
    assert [value for value in run.final.values() if not isinstance(value, float)] == [
        run.final["accuracy_all"],
        run.final["exact_all"],
        run.final["loss_end"],
    ]
