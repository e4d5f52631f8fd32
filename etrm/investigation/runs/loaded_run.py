"""A run that has ended, with what it logged: its files are read once, however many functions look at them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from etrm.checkpoints.run_folder import read_findings, read_metrics, read_record
from etrm.investigation.records import EnvironmentChange, NotMeasured, Run, ShownAnswer, Value
from etrm.investigation.runs.arms import ArmId

SUMMARY = "summary.json"
"""What the investigation writes into the folder of a run that has ended."""
LAST = 25
"""Number of last steps whose mean represents the end of a run."""
Metrics = Sequence[dict[str, Any]]
"""What a run logged, a dictionary for each step."""


@dataclass(frozen=True)
class LoadedRun:
    """A run that has ended.

    Attributes:
        arm: the arm to which it belongs.
        record: the run as a result holds it.
        path: the folder of the run.
        metrics: the logged metrics, step by step.
    """

    arm: ArmId
    record: Run
    path: Path
    metrics: Metrics = ()

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return self.record.seed

    @property
    def steps(self) -> int:
        """The number of optimiser steps that it logged."""
        return self.record.steps

    @property
    def finished(self) -> bool:
        """Whether it reached its last step."""
        return self.record.state == "finished"

    @property
    def failed(self) -> bool:
        """Whether an error ended it."""
        return self.record.state == "failed"

    @property
    def diverged(self) -> bool:
        """Whether a number that is not finite ended it: the worst score."""
        return self.record.diverged

    @property
    def reason(self) -> str:
        """The error that ended it, or nothing."""
        return self.record.reason

    @property
    def final(self) -> Mapping[str, Value]:
        """What was measured at its end."""
        return self.record.final

    @cached_property
    def findings(self) -> list[dict[str, Any]]:
        """The toolkit's findings in it, as :func:`diagnostics.findings.to_json` writes them.

        Raises:
            RunFolderError: the file is damaged.
        """
        return read_findings(self.path)


def read_answers(run: LoadedRun) -> tuple[ShownAnswer, ...]:
    """The answers that a run kept; none of a run of an earlier version."""
    kept = json.loads((run.path / SUMMARY).read_text("utf-8")).get("answers", ())
    return tuple(ShownAnswer.model_validate(answer) for answer in kept)


def records_of(runs: Sequence[LoadedRun]) -> tuple[Run, ...]:
    """The runs as a result holds them."""
    return tuple(run.record for run in runs)


def load_run(root: Path, arm: ArmId, seed: int, folder: str = "") -> LoadedRun | None:
    """The run that a folder holds; None where it has not ended.

    Args:
        root: the folder of the investigation.
        arm: the arm to which the run belongs.
        seed: the seed of the run.
        folder: relative to ``root``, or absolute; the folder of the arm by default.

    Raises:
        RunFolderError: a file of the run is damaged.
    """
    folder = folder or arm.folder(seed)
    path = root / folder
    if not (path / SUMMARY).exists():
        return None
    summary = json.loads((path / SUMMARY).read_text("utf-8"))
    metrics, environment = read_metrics(path), read_record(path)
    record = Run(
        arm=arm.name,
        seed=seed,
        folder=folder,
        device=environment.get("device"),
        precision=environment.get("precision"),
        threads=environment.get("threads"),
        changes=tuple(EnvironmentChange(**change) for change in environment.get("changes", ())),
        steps=len(metrics),
        wall_s=round(summary["wall_s"], 1),
        state=summary["state"],
        diverged=summary.get("diverged", False),
        code=summary.get("code", ""),
        reason=summary.get("reason", ""),
        final=_final(metrics, summary.get("measured", {})),
    )
    return LoadedRun(arm, record, path, metrics)


def _final(metrics: Metrics, measured: Mapping[str, float | None]) -> dict[str, Value]:
    """Means over the last steps, and what was measured after the run."""
    final: dict[str, Value] = {}
    for key in ("loss", "accuracy_all", "exact_all"):
        values = [m[key] for m in metrics[-LAST:] if m.get(key) is not None]
        final[key] = sum(values) / len(values) if values else NotMeasured(absent="no step logged it")
    for key, value in measured.items():
        final[key] = NotMeasured(absent="not measured") if value is None else value
    return final
