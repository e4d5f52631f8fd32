"""The sections about looking: the monitor during training, the evaluation after it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from etrm.config.section import Section


class MonitorConfig(Section):
    """What the trainer records about itself; everything off gives bit-identical training."""

    enabled: bool = True
    every: int = Field(1, ge=1, description="steps between records of coverage and movement")
    probe_every: int = Field(25, ge=1, description="steps between looks at the fixed probe batch")
    probe_tasks: int = Field(16, ge=2, description="tasks of the probe batch")


class EvaluateConfig(Section):
    """Pass@k over tasks that were never trained on."""

    source: str = "arc-agi-1"
    subset: Literal["training", "evaluation"] = "evaluation"
    max_tasks: int | None = Field(None, ge=1)
    augmentations: int = Field(8, ge=1, description="votes per query, the identity first")
    allow_trained: tuple[str, ...] = Field(
        (), description="task ids that may be trained on too; 'all' for any"
    )
    batch_size: int = Field(64, ge=1)
    weights: Literal["ema", "raw"] = "ema"
    halting: Literal["all_steps", "early"] = Field(
        "all_steps",
        description="all rows take all ACT steps, as published; or a row whose halting logit is positive "
        "leaves the batch with what it said at that step",
    )
