"""The data section: the choice of tasks, and how they become episodes."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypedDict

from pydantic import Field, field_validator, model_validator

from etrm.config.code_names import Named, is_rules
from etrm.config.curriculum import Curriculum, is_curriculum
from etrm.config.section import Section, refused

SIDE = 30
"""The largest side of an ARC grid, which is also the side of the published canvas."""
QueryChoice: TypeAlias = Literal["test", "leave_one_out", "all"]
"""The pairs of a task that are queries."""


DEMOS = (3,)
"""The default of ``data.demos``."""


class StreamSettings(TypedDict):
    """The settings of the data section that belong to a stream of rule tasks."""

    stream: int | Literal["endless"] | None
    demos: tuple[int, ...]


NO_STREAM = StreamSettings(stream=None, demos=DEMOS)
"""The settings of a run on the tasks that ``data.max_tasks`` lists."""


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
    stream: Annotated[int, Field(ge=1)] | Literal["endless"] | None = Field(
        None,
        description="rules only: number of training tasks, drawn in batches while the run trains, or endless; none "
        "trains on the max_tasks first tasks",
    )
    demos: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        DEMOS,
        min_length=1,
        description="with data.stream: numbers of demonstrations of a task, each equally often",
    )
    max_demos: int = Field(10, ge=1, description="largest number of demonstrations per task")
    augmentations: Annotated[int, Field(ge=1)] | Literal["fresh"] = Field(
        1,
        description="number of fixed augmentations per task, the identity included; or fresh: a new one per episode",
    )
    translate: int = Field(
        0, ge=0, lt=SIDE, description="largest random shift of a grid on the canvas in training, in cells"
    )
    queries: QueryChoice = Field(
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
    curriculum: Curriculum = Field(
        (),
        description="stages such as [[5, 60], [10, 140]]: 60 steps on tasks whose demonstrations have inputs of sides "
        "up to 5, then 140 on sides 6 to 10; larger tasks are left out",
    )
    replay: float = Field(
        0.0, ge=0, lt=1, description="share of a stage's batches that are drawn from earlier stages"
    )

    @field_validator("curriculum", mode="before")
    @classmethod
    def _are_stages(cls, value: Any) -> Any:
        if not is_curriculum(value):
            raise refused(
                "config.unreadable-curriculum",
                "data.curriculum must be a list of stages [max_side, steps] of positive integers, such as "
                f"[[5, 60], [10, 140]] (got {value!r})",
            )
        return value

    @model_validator(mode="after")
    def _check(self) -> DataConfig:
        if self.store is not None and self.augmentations == "fresh":
            raise refused(
                "store.fresh-augmentations",
                "data.store holds fixed augmentations, so data.augmentations must be a number, not 'fresh'",
            )
        if self.stream is not None:
            _check_stream(self)
        elif self.demos != DEMOS:
            raise refused(
                "config.demos-without-stream",
                f"data.demos {list(self.demos)} has no effect without data.stream: listed tasks have their own "
                "demonstrations",
            )
        if any(later.max_side <= earlier.max_side for earlier, later in pairwise(self.curriculum)):
            sides = ", ".join(str(stage.max_side) for stage in self.curriculum)
            raise refused(
                "config.unordered-curriculum",
                f"the sides of data.curriculum must rise from stage to stage (got {sides})",
            )
        if self.replay and len(self.curriculum) < 2:
            raise refused(
                "config.replay-without-earlier-stage",
                f"data.replay {self.replay} has no effect: data.curriculum has {len(self.curriculum)} stages, so no "
                "stage has an earlier one",
            )
        return self


def _check_stream(data: DataConfig) -> None:
    """Refuse settings that a stream of rule tasks cannot have."""
    if not is_rules(data.source):
        raise refused(
            "config.stream-of-listed-tasks",
            f"data.stream draws tasks of the rule family, so data.source must be rules (got {data.source!r})",
        )
    fixed: dict[str, Any] = {
        "canvas": "region",
        "queries": "test",
        "translate": 0,
        "augmentations": 1,
        "exclude": (),
    }
    fixed |= {"max_tasks": None, "store": None}
    for name, value in fixed.items():
        if (found := getattr(data, name)) != value:
            raise refused(
                "config.not-with-stream",
                f"data.{name} {found!r} does not apply to data.stream: it must be "
                f"{'none' if value is None else repr(value)}",
            )
    if max(data.demos) > data.max_demos:
        raise refused(
            "config.hidden-demonstrations",
            f"data.max_demos {data.max_demos} would hide demonstrations that determine the rule: data.demos has "
            f"{max(data.demos)}",
        )
