"""A run folder that is being followed: its config, its curves and its state, without any drawing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from etrm.checkpoints.run_folder import read_config, read_findings
from etrm.config import Config
from reports.runs.history import History
from reports.runs.run_state import Status, find_lock_holder, read_status

CRITICAL, NOTE = "critical", "note"
"""The highest and the lowest severity, as ``findings.json`` has them."""


class Followed:
    """One run. Nothing is written into its folder, and its lock is never taken.

    Attributes:
        folder: the run folder.
        config: the config of the run.
        history: the curves at the last :meth:`update`.
        status: the state at the last :meth:`update`.
        findings: the toolkit's findings of the last process that ended.

    Raises:
        EtrmError: the folder is not a run, or its config cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config: Config = read_config(folder)
        self.history = History(folder)
        self.update()

    def update(self) -> None:
        """Read the current state of the folder."""
        # The lock is read first: a process that has released it has logged all its steps.
        holder = find_lock_holder(self.folder / "lock")
        self.history.update()
        self.status: Status = read_status(self.folder, self.config.train.steps, self.history.step, holder)
        self.findings: list[dict[str, Any]] = read_findings(self.folder)

    @property
    def eta_s(self) -> float | None:
        """The estimated seconds until the last step, at the current speed; None if it is unknown."""
        speed = self.history.steps_per_s
        return None if speed is None else max(0, self.config.train.steps - self.history.step) / speed

    @property
    def model(self) -> str:
        """The variant of the model, with its kind of encoder or selector if it has one."""
        return self.config.model.label

    @property
    def serious(self) -> list[str]:
        """The rules of the findings above a note, each once, critical ones first."""
        by_severity = sorted(self.findings, key=lambda item: item["severity"] != CRITICAL)
        above = [item["rule"] for item in by_severity if item["severity"] != NOTE]
        return list(dict.fromkeys(above))

    @property
    def critical(self) -> bool:
        """Whether a finding is critical."""
        return any(item["severity"] == CRITICAL for item in self.findings)

    @property
    def coverage(self) -> float | None:
        """The coverage of the encoder over the last steps, or of the core if there is no encoder."""
        encoder = self.history.last("encoder.coverage")
        return self.history.last("core.coverage") if encoder is None else encoder
