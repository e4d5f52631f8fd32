"""The monitor and evaluate sections: measurements during training, and evaluation after it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from etrm.config.code_names import Named
from etrm.config.fitting import AdaptationConfig, ContextSearchConfig
from etrm.config.section import Precision, Section


class MonitorConfig(Section):
    """Measurements that the trainer records. Training is bit-identical with and without them."""

    enabled: bool = Field(True, description="whether measurements are recorded during training")
    every: int = Field(1, ge=1, description="number of steps between two records of coverage and movement")
    probe_every: int = Field(
        25, ge=1, description="number of steps between two measurements on the fixed probe batch"
    )
    probe_tasks: int = Field(16, ge=2, description="number of tasks in the probe batch")
    reference_every: int | None = Field(
        50,
        ge=1,
        description="number of steps of which one is compared with an independent implementation of the step, besides "
        "the first of each bucket and phase; none for no comparison",
    )
    layers: bool = Field(
        False, description="whether the gradient norm of each layer is recorded too, before clipping"
    )
    rules: tuple[Annotated[str, Named("rules")], ...] = Field(
        (), description="diagnostics rules of your own, as code such as my_code.py:MY_RULE"
    )


class EvaluateConfig(Section):
    """Evaluation by pass@k on tasks that the run was not trained on."""

    source: Annotated[str, Named("data_sources")] = Field(
        "arc-agi-1", description="source of the evaluation tasks (values as in data.source)"
    )
    subset: Literal["training", "evaluation"] = Field(
        "evaluation", description="subset of the source to evaluate on"
    )
    max_tasks: int | None = Field(
        None, ge=1, description="number of evaluation tasks to keep, the first by id; none keeps all"
    )
    demos: int | None = Field(
        None,
        ge=1,
        description="rules only: number of demonstrations of an evaluation task; none for the family's own 3",
    )
    augmentations: int = Field(
        8,
        ge=1,
        description="number of votes per query, each under another augmentation, the first one the identity",
    )
    allow_trained: tuple[str, ...] = Field(
        (), description="ids of evaluation tasks that may also be training tasks; 'all' for every task"
    )
    every: int | None = Field(
        None,
        ge=1,
        description="number of steps between two evaluations while the run trains, whose best checkpoint is kept; none "
        "for no such evaluation",
    )
    checkpoint: Literal["newest", "best"] = Field(
        "newest",
        description="checkpoint to evaluate: the newest one, or the best one by the evaluations of evaluate.every",
    )
    batch_size: int = Field(64, ge=1, description="number of samples evaluated at a time")
    weights: Literal["ema", "raw"] = Field(
        "ema", description="weights to evaluate: the averaged ones (ema) or the last ones (raw)"
    )
    halting: Literal["all_steps", "early"] = Field(
        "all_steps",
        description="step at which a sample's answer is read: after all ACT steps (all_steps, as published), or at the "
        "first step whose halting logit is positive (early)",
    )
    precision: Precision = Field(
        "float32",
        description="precision of matrix products in evaluation; bfloat16 is faster on a GPU that supports it",
    )
    search: ContextSearchConfig = ContextSearchConfig()
    adapt: AdaptationConfig = AdaptationConfig()
