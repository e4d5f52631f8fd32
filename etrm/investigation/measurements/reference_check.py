"""Where the run under test departs from the reference: in its first steps, its loader, its tasks and its evaluator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from etrm.config import Config, with_settings
from etrm.data import Sample
from etrm.errors import EtrmError, NonFiniteError
from etrm.reference.departure import Departure, PipelineStage
from etrm.reference.leaked_tasks import compare_split
from etrm.reference.loaded_rows import LoadedRow, compare_passes, compare_task_sets
from etrm.training.step_check import ComparedStep, StepCheck, read_compared
from etrm.training.task_sets import load_held_out_tasks
from etrm.training.trainer import Trainer

FIRST_STEPS = (
    8  # enough for a row that halts and takes a new sample at max_steps 4, and for both of two buckets
)


@dataclass(frozen=True)
class ReferenceFacts:
    """What was compared with the reference.

    Attributes:
        steps: the compared steps.
        others: departures of what is no step: tasks, loader and evaluator.
        error: why nothing could be compared; empty if something was.
    """

    steps: tuple[ComparedStep, ...] = ()
    others: tuple[Departure, ...] = ()
    error: str = ""

    @property
    def departures(self) -> list[Departure]:
        """All of them, those of the first step that departs first, each in the order of the stages."""
        order = list(PipelineStage)
        found = [*self.others, *(departure for step in self.steps for departure in step.departures)]
        first = min((departure.step for departure in found if departure.step is not None), default=None)
        return sorted(
            found,
            key=lambda departure: (
                departure.step not in (first, None),
                order.index(departure.stage),
                departure.step or 0,
            ),
        )

    @property
    def first(self) -> Departure | None:
        """The departure that names the cause: the earliest stage of the first step that departs."""
        return next(iter(self.departures), None)

    @property
    def compared(self) -> int:
        """The number of steps that were compared."""
        return sum(not step.absent for step in self.steps)


def check_start(config: Config) -> ReferenceFacts:
    """Compare the first steps of a config, its tasks, two passes of its loader, and its evaluator."""
    try:
        trainer = Trainer(with_settings(config, monitor={"enabled": False}))
    except EtrmError as error:
        return ReferenceFacts(error=error.what)
    check = StepCheck(config)
    try:
        for _ in range(min(FIRST_STEPS, config.train.steps)):
            with check.step(trainer):
                trainer.advance()
    except NonFiniteError:
        pass  # the step that ended in it was compared as far as it came
    others = [*_check_tasks(trainer, check), *_check_loader(trainer, check)]
    return ReferenceFacts(tuple(check.compared), tuple(others))


def check_course(path: Path) -> ReferenceFacts:
    """What a run folder says about its compared steps.

    Raises:
        RunFolderError: the file is damaged.
    """
    return ReferenceFacts(tuple(read_compared(path)))


def _check_tasks(trainer: Trainer, check: StepCheck) -> Sequence[Departure]:
    used = trainer.config
    found = compare_task_sets(trainer.tasks, check.rows.tasks)
    return [*found, *compare_split(trainer.tasks, load_held_out_tasks(used), used.evaluate.allow_trained)]


def _check_loader(trainer: Trainer, check: StepCheck) -> Sequence[Departure]:
    episodes, draw = trainer.episodes, trainer.recipe.draw
    drawn = trainer.config.train.steps * trainer.config.train.batch_size // max(1, episodes.buckets)

    def load(bucket: int, index: int) -> LoadedRow:
        return unpack(draw(episodes, bucket, index))

    return compare_passes(check.rows, load, drawn)


def unpack(sample: Sample) -> LoadedRow:
    """A sample of the loader as the reference compares it."""
    return LoadedRow(
        sample.tokens,
        sample.positions,
        sample.labels,
        [(pair.tokens, pair.positions) for pair in sample.demos],
        sample.puzzle_id,
        sample.serial,
    )
