"""The data section: which tasks, and how they become episodes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

from pydantic import Field, model_validator

from etrm.config.section import Section, refused

SIDE = 30
"""Largest side of an ARC grid, and side of the published canvas."""
RULES = "rules"
"""Source of the rule family (``etrm.data.rules``); ``rules:`` and parts for some of it."""


def is_rules(source: str) -> bool:
    """Whether a source is the rule family."""
    return source.partition(":")[0] == RULES


Asked: TypeAlias = Literal["test", "leave_one_out", "all"]
"""Which pairs of a task are queries."""


class DataConfig(Section):
    """Which tasks, how they are laid out as tokens, and how they are augmented."""

    source: str = Field(
        "arc-agi-1", description="arc-agi-1, arc-agi-2, rules, a folder, or a Kaggle challenges file"
    )
    subset: Literal["training", "evaluation"] = "training"
    max_side: int = Field(SIDE, ge=1, le=SIDE, description="keep tasks whose grids all fit this side")
    max_tasks: int | None = Field(None, ge=1, description="keep the first n tasks, by id")
    exclude: tuple[str, ...] = Field((), description="ids of tasks to leave out")
    canvas: Literal["region", "published"] = "region"
    max_demos: int = Field(10, ge=1, description="demos shown of one task at the most")
    augmentations: int | Literal["fresh"] = Field(
        1, description="fixed augmentations per task, the identity first; or a fresh one per episode"
    )
    translate: int = Field(0, ge=0, lt=SIDE, description="largest shift on the canvas, training only")
    queries: Asked = Field(
        "test",
        description="what training asks: test pairs; each demonstration, given the others (leave_one_out); or both",
    )
    store: Path | None = Field(
        None, description="folder of `etrm data build`: the same fixed augmentations, read, not made"
    )
    workers: int = Field(
        0, ge=0, le=64, description="processes that draw ahead; 0 draws in the trainer's own"
    )
    buckets: int = Field(4, ge=1, le=16, description="groups of similar region size, each with its own carry")

    @model_validator(mode="after")
    def _check(self) -> DataConfig:
        if self.augmentations != "fresh" and self.augmentations < 1:
            raise refused(
                "config.no-augmentations", "data.augmentations must be at least 1 (the identity) or 'fresh'"
            )
        if self.store is not None and self.augmentations == "fresh":
            raise refused(
                "store.fresh-augmentations",
                "data.store holds fixed augmentations, so data.augmentations must be a number, not 'fresh'",
            )
        return self
