"""A run folder that is investigated: its files are read once, and its weights are loaded where they are judged."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from etrm.checkpoints import format as checkpoints
from etrm.checkpoints.format import Checkpoint, WeightsKind
from etrm.checkpoints.run_folder import FROM_STEP, read_config, read_findings, read_metrics, read_record
from etrm.checkpoints.saved_steps import PREFIX, list_saved, split_checkpoint
from etrm.checkpoints.weights import load_weights
from etrm.config import Config, with_settings
from etrm.data import Sample
from etrm.investigation.runs.loaded_run import Metrics
from etrm.investigation.runs.measured_run import training_queries
from etrm.model.variant import Variant
from etrm.training.faults import apply_faults
from etrm.training.trainer import Trainer

MOST = 5
"""Checkpoints that are judged: reading and repeating one takes seconds."""


@dataclass(frozen=True)
class RunUnderTest:
    """A recorded run.

    Attributes:
        path: the run folder.
        config: the config that the folder holds.
        record: the contents of ``run.json``.
        metrics: the logged steps.
        findings: the toolkit's findings, as ``findings.json`` holds them; None where the run has not ended.
        saved: the checkpoint folders that are judged, oldest first.
    """

    path: Path
    config: Config
    record: Mapping[str, Any]
    metrics: Metrics
    findings: Sequence[Mapping[str, Any]] | None
    saved: tuple[Path, ...]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a run folder, or a run folder up to one of its checkpoints.

        Args:
            path: a run folder, or a checkpoint in one: then what was recorded after it is left out.

        Raises:
            RunFolderError: a file is missing or damaged.
        """
        folder, named = split_checkpoint(path)
        saved, metrics = list_saved(folder / "checkpoints"), read_metrics(folder)
        findings = read_findings(folder) if (folder / "findings.json").exists() else None
        if named is not None:
            saved = [one for one in saved if one.name <= path.name]
            step = int(path.name.removeprefix(PREFIX))
            if any(m["step"] > step for m in metrics):
                metrics, findings = [m for m in metrics if m["step"] <= step], None
        return cls(folder, read_config(folder), read_record(folder), metrics, findings, tuple(saved))

    @cached_property
    def used(self) -> Config:
        """The settings that the run really used, on this machine's device and without helper processes."""
        return apply_faults(self._here)

    @property
    def _here(self) -> Config:
        return with_settings(self.config, data={"workers": 0}, train={"device": "auto", "compile": False})

    @property
    def processes(self) -> int:
        """The largest number of processes that trained the run at a time; 1 where it was not recorded."""
        return max(one.get("processes", 1) for one in (self.record, *self.record.get("earlier", ())))

    @property
    def recorded_steps(self) -> int:
        """Number of steps that the toolkit recorded in the newest process, which wrote the findings."""
        first, every = self.record.get(FROM_STEP, 0), self.config.monitor.every
        return sum(m["step"] > first and (m["step"] - 1) % every == 0 for m in self.metrics)

    @cached_property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """The kept checkpoints, oldest first; of many, some that are spread over the run, its first and last included.

        Raises:
            CheckpointError: one of them is not whole.
        """
        last = len(self.saved) - 1
        places = (
            sorted({round(last * part / (MOST - 1)) for part in range(MOST)}) if last > 0 else range(last + 1)
        )
        return tuple(checkpoints.read(self.saved[place]) for place in places)

    def build_trainer(self, *, monitored: bool = False) -> Trainer:
        """A trainer of the run at its random start, which writes nothing.

        Raises:
            EtrmError: the current code cannot build it.
        """
        config = self._here if monitored else with_settings(self._here, monitor={"enabled": False})
        return Trainer(config)

    @cached_property
    def start(self) -> Trainer:
        """A trainer at the random start of the run. Its weights must not be changed.

        Raises:
            EtrmError: the current code cannot build it.
        """
        return self.build_trainer()

    @cached_property
    def replayer(self) -> Trainer:
        """A trainer that records what the run recorded, and whose state may be restored and trained on.

        Raises:
            EtrmError: the current code cannot build it.
        """
        return self.build_trainer(monitored=True)

    @cached_property
    def queries(self) -> list[Sample]:
        """The training queries on which weights are judged."""
        return training_queries(self.start)

    def load_model(self, checkpoint: Checkpoint, kind: WeightsKind) -> Variant:
        """The model with the weights of a checkpoint, in evaluation mode.

        Raises:
            CheckpointError: the weights do not fit it.
        """
        model = copy.deepcopy(self.start.model)
        load_weights(model, checkpoint, kind)
        model.anneal(checkpoint.step / self.used.train.steps)
        return model.eval()
