"""The sections about looking: the monitor during training, the evaluation after it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from etrm.config.code_names import Named
from etrm.config.section import Section


class MonitorConfig(Section):
    """Measurements that the trainer records; training is bit-identical with and without them."""

    enabled: bool = Field(True, description="recording of measurements during training")
    every: int = Field(1, ge=1, description="number of steps between two records of coverage and movement")
    probe_every: int = Field(
        25, ge=1, description="number of steps between two measurements on the fixed probe batch"
    )
    probe_tasks: int = Field(16, ge=2, description="number of tasks in the probe batch")


class EvaluateConfig(Section):
    """Pass@k over tasks that were never trained on."""

    source: Annotated[str, Named("data_sources")] = Field(
        "arc-agi-1", description="source of the evaluation tasks, as data.source"
    )
    subset: Literal["training", "evaluation"] = Field(
        "evaluation", description="subset of the source to evaluate on"
    )
    max_tasks: int | None = Field(
        None, ge=1, description="number of evaluation tasks to keep, the first by id; none keeps all"
    )
    augmentations: int = Field(
        8, ge=1, description="number of votes per query, each under its own augmentation, the identity first"
    )
    allow_trained: tuple[str, ...] = Field(
        (), description="ids of evaluation tasks that may be trained on too; 'all' for any"
    )
    batch_size: int = Field(64, ge=1, description="number of rows evaluated at a time")
    weights: Literal["ema", "raw"] = Field(
        "ema", description="weights to evaluate: the averaged ones or the last ones"
    )
    halting: Literal["all_steps", "early"] = Field(
        "all_steps",
        description="end of a row: after all ACT steps (all_steps, as published), or at the first step where "
        "its halting logit is positive (early)",
    )
