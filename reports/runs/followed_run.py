"""A run folder under observation: its config, its curves, its state. No drawing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from etrm.checkpoints.run_folder import read_config, read_findings
from etrm.config import Config
from reports.runs.history import History
from reports.runs.run_state import Status, find_lock_holder, read_status


class Followed:
    """One run; nothing is written into its folder and its lock is never taken.

    Attributes:
        folder: of the run.
        config: that it began with.
        history: its curves as of the last :meth:`update`.
        status: its state then.
        findings: the toolkit's, of the process that ended last.

    Raises:
        EtrmError: the folder is no run, or its config cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config: Config = read_config(folder)
        self.history = History(folder)
        self.update()

    def update(self) -> None:
        """Look again."""
        # The lock first: whoever is seen to have let go of it has logged all its steps.
        holder = find_lock_holder(self.folder / "lock")
        self.history.update()
        self.status: Status = read_status(self.folder, self.config.train.steps, self.history.step, holder)
        self.findings: list[dict[str, Any]] = read_findings(self.folder)

    @property
    def eta_s(self) -> float | None:
        """Seconds until the last step at the present speed."""
        speed = self.history.steps_per_s
        return None if speed is None else max(0, self.config.train.steps - self.history.step) / speed

    @property
    def model(self) -> str:
        """The variant, with the encoder where it has one."""
        model = self.config.model
        return model.variant if model.variant == "trm" else f"{model.variant}, {model.encoder.kind}"

    @property
    def coverage(self) -> float | None:
        """The encoder's over the last steps, or the core's where there is no encoder."""
        encoder = self.history.last("encoder.coverage")
        return self.history.last("core.coverage") if encoder is None else encoder
