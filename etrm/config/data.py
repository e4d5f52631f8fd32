"""The data section: the choice of tasks, and how they become episodes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, model_validator

from etrm.config.code_names import Named
from etrm.config.section import Section, refused

SIDE = 30
"""The largest side of an ARC grid, which is also the side of the published canvas."""
Asked: TypeAlias = Literal["test", "leave_one_out", "all"]
"""The pairs of a task that are queries."""


class DataConfig(Section):
    """The choice of tasks, their layout as tokens, and their augmentation."""

    source: Annotated[str, Named("data_sources")] = Field(
        "arc-agi-1",
        description="source of the tasks: arc-agi-1, arc-agi-2, rules, a folder, a Kaggle challenges file, or code "
        "such as my_code.py:my_tasks",
    )
    subset: Literal["training", "evaluation"] = Field(
        "training", description="subset to train on; ignored by sources with only one"
    )
    max_side: int = Field(
        SIDE, ge=1, le=SIDE, description="largest side of a grid; a task with a larger grid is left out"
    )
    max_tasks: int | None = Field(
        None, ge=1, description="number of tasks to keep, the first by id; none keeps all"
    )
    exclude: tuple[str, ...] = Field((), description="ids of tasks to leave out")
    canvas: Literal["region", "published"] = Field(
        "region",
        description="tokens of the region that a task needs, or of the whole 30x30 canvas (published)",
    )
    max_demos: int = Field(10, ge=1, description="largest number of demonstrations per task")
    augmentations: Annotated[int, Field(ge=1)] | Literal["fresh"] = Field(
        1,
        description="number of fixed augmentations per task, the identity included; or fresh: a new one per episode",
    )
    translate: int = Field(
        0, ge=0, lt=SIDE, description="largest random shift of a grid on the canvas in training, in cells"
    )
    queries: Asked = Field(
        "test",
        description="training queries: the test pairs (test); each demonstration, with the others as context "
        "(leave_one_out); or both (all)",
    )
    store: Path | None = Field(
        None, description="folder written by `etrm data build`, from which the fixed augmentations are read"
    )
    workers: int = Field(
        0,
        ge=0,
        le=64,
        description="number of processes that prepare samples; 0 prepares them in the training process",
    )
    buckets: int = Field(
        4,
        ge=1,
        le=16,
        description="number of groups of tasks of similar region size; each group has its own carry",
    )

    @model_validator(mode="after")
    def _check(self) -> DataConfig:
        if self.store is not None and self.augmentations == "fresh":
            raise refused(
                "store.fresh-augmentations",
                "data.store holds fixed augmentations, so data.augmentations must be a number, not 'fresh'",
            )
        return self
