"""The data section: which tasks, and how they become episodes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, model_validator

from etrm.config.code_names import Named
from etrm.config.section import Section, refused

SIDE = 30
"""Largest side of an ARC grid, and side of the published canvas."""
Asked: TypeAlias = Literal["test", "leave_one_out", "all"]
"""Which pairs of a task are queries."""


class DataConfig(Section):
    """Which tasks, how they are laid out as tokens, and how they are augmented."""

    source: Annotated[str, Named("data_sources")] = Field(
        "arc-agi-1",
        description="source of the tasks: arc-agi-1, arc-agi-2, rules, a folder, a Kaggle challenges file, or code "
        "such as my_code.py:my_tasks",
    )
    subset: Literal["training", "evaluation"] = Field(
        "training", description="subset of the source to train on; a source of one set ignores it"
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
        description="layout of the tokens: the region that a task needs, or the whole 30x30 canvas as published",
    )
    max_demos: int = Field(10, ge=1, description="largest number of demonstrations shown of one task")
    augmentations: Annotated[int, Field(ge=1)] | Literal["fresh"] = Field(
        1,
        description="number of fixed augmentations per task, the identity first; or a fresh one per episode",
    )
    translate: int = Field(
        0, ge=0, lt=SIDE, description="largest shift of a grid on the canvas, in cells; training only"
    )
    queries: Asked = Field(
        "test",
        description="queries of training: the test pairs (test); each demonstration, given the others (leave_one_out); "
        "or both (all)",
    )
    store: Path | None = Field(
        None, description="folder of `etrm data build`, from which the same fixed augmentations are read"
    )
    workers: int = Field(
        0, ge=0, le=64, description="number of processes that draw samples ahead; 0 draws in the trainer"
    )
    buckets: int = Field(
        4, ge=1, le=16, description="number of groups of similar region size, each with its own carry"
    )

    @model_validator(mode="after")
    def _check(self) -> DataConfig:
        if self.store is not None and self.augmentations == "fresh":
            raise refused(
                "store.fresh-augmentations",
                "data.store holds fixed augmentations, so data.augmentations must be a number, not 'fresh'",
            )
        return self
