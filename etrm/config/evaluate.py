"""The evaluate section: pass@k on unseen tasks, and what a model is fitted to before it answers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from etrm.config.code_names import Named
from etrm.config.section import Precision, Section

AdaptedPart = Literal["weights", "encoder", "context"]
"""What adaptation trains: all weights, those of the encoder, or an offset of the context."""


class ContextSearchConfig(Section):
    """Gradient search over the context of a task, with frozen weights (`etrm evaluate --search`)."""

    start: Literal["encoder", "mean", "noise"] = Field(
        "noise",
        description="first context: that of the encoder (trm: the row of the table), the mean over training tasks, "
        "or noise",
    )
    noise: float = Field(
        1.0,
        ge=0,
        le=1e3,
        description="size of the noise of a start, in standard deviations of contexts of training tasks; the first "
        "start from the encoder or the mean has none",
    )
    restarts: int = Field(
        12, ge=1, le=1000, description="number of searches per vote, each with a vote of its own"
    )
    steps: int = Field(50, ge=1, description="largest number of gradient steps of a search")
    rate: float = Field(0.1, gt=0, le=1e3, description="learning rate of Adam on the context")
    hold_out: bool = Field(
        False,
        description="whether each search leaves one demonstration out in turn, and keeps the context that answers it "
        "best",
    )
    stop_loss: float = Field(
        0.0,
        ge=0,
        description="loss per token of the demonstrations below which a search stops; 0 for all steps",
    )
    control: bool = Field(
        True,
        description="whether the same search is also fitted to the demonstrations of another task, as a control",
    )


class AdaptationConfig(Section):
    """Training on the augmented demonstrations of one task at test time (`etrm evaluate --adapt`)."""

    steps: int = Field(50, ge=1, description="number of optimizer steps per task")
    batch_size: int = Field(8, ge=1, description="number of samples per optimizer step")
    rate: float = Field(3e-4, gt=0, le=1e3, description="learning rate of AdamW, without weight decay")


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
