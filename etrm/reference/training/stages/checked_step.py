"""A recorded step and the settings that it should follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from etrm.config import Config, ModelConfig, TrainConfig
from etrm.reference.data.loader import ReferenceLoader
from etrm.reference.recorded import RecordedStep, Snapshot
from etrm.reference.training.optimisation import frozen_part
from etrm.reference.training.stages.differences import LIMITS, Limits


def covers_core(config: Config) -> bool:
    """Whether the reference has the core and halting: not those of the symbolic solver or of variants from outside."""
    return config.model.recursive and not config.model.own_variant


def covers_model(config: Config) -> bool:
    """Whether the reference has all networks of a config: those of the core, and no encoder from outside."""
    return covers_core(config) and not config.model.own_encoder


@dataclass(frozen=True)
class CheckedStep:
    """A recorded step and the settings that it should follow.

    Attributes:
        step: the recorded step.
        config: the settings as they were requested, without faults.
        rows: the reference of the loader; without it samples are not compared.
    """

    step: RecordedStep
    config: Config
    rows: ReferenceLoader | None

    @property
    def before(self) -> Snapshot:
        """The state before the step."""
        return self.step.before

    @property
    def ended(self) -> bool:
        """Whether the step ended without an error. One that did not is compared as far as it came."""
        return self.step.after is not None

    @property
    def after(self) -> Snapshot:
        """The state after the step, or before it where it ended in an error."""
        return self.step.after or self.step.before

    @property
    def carry(self) -> Mapping[str, Tensor]:
        """The state of the rows of its bucket before the step."""
        return self.before.carries[self.step.bucket]

    @property
    def model(self) -> ModelConfig:
        """The settings of the model."""
        return self.config.model

    @property
    def train(self) -> TrainConfig:
        """The settings of the training."""
        return self.config.train

    @property
    def fixed_time(self) -> bool:
        """Whether every row takes the same number of steps."""
        return self.model.variant == "etrm_fct"

    @cached_property
    def limits(self) -> Limits:
        """The differences that the precision of the run explains."""
        return LIMITS[self.train.precision]

    @cached_property
    def trained(self) -> tuple[str, ...]:
        """The names of the parameters that are not frozen in this step."""
        frozen = frozen_part(self.before.step, self.train)
        return tuple(name for name in self.step.parameters if frozen is None or not name.startswith(frozen))

    def must_keep(self, name: str) -> bool:
        """Whether a value without a gradient must not change: code from outside may count in its own buffers."""
        covered = covers_core(self.config) if name.startswith("core.") else covers_model(self.config)
        return covered or name in self.step.parameters
