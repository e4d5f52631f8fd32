"""Compare some steps of a run with the reference while it trains, and keep what departs from it.

``reference.jsonl`` in the run folder has one line per compared step: its number, its bucket, and its departures, or the
reason why it could not be compared.
"""

from __future__ import annotations

import json
import math
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

from etrm.config import Config, TrainConfig, with_interventions, with_settings
from etrm.errors import RunFolderError
from etrm.reference.data.loader import ReferenceLoader
from etrm.reference.data.stream_loader import open_reference
from etrm.reference.departure import Departure, PipelineStage
from etrm.reference.recorded import RecordedStep, Snapshot
from etrm.reference.training.kept_state import compare_states
from etrm.reference.training.step import compare_step
from etrm.training.monitoring.recorded_step import Stepping, record_step
from etrm.training.train_state import TrainState

REFERENCE = "reference.jsonl"
INFINITE = sys.float_info.max  # stands for an infinite size, which JSON does not have
FIRST_STEPS = 3  # of a run and of each of its phases: a fault may need a row that continues
CANDIDATES = 16  # random steps among which one of the right bucket is looked for
MOST_DEPARTURES = 20  # that are kept of one step: a wrong loss changes every gradient
MOST_ALIKE = 5  # the same of one stage in the encoder, and in the rest of the model


@dataclass(frozen=True)
class ComparedStep:
    """A step that was compared.

    Attributes:
        step: the 1-based step.
        bucket: the bucket of the step.
        departures: the departures from the reference, in the order of the stages.
        count: the number of all departures, of which the first are kept.
        absent: why it could not be compared; empty if it was.
        logged: the numbers that the step logs, by name; empty if it could not be compared.
    """

    step: int
    bucket: int
    departures: tuple[Departure, ...] = ()
    count: int = 0
    absent: str = ""
    logged: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """One line of ``reference.jsonl``."""
        departures = [asdict(found) | {"size": min(found.size, INFINITE)} for found in self.departures]
        return json.dumps(asdict(self) | {"departures": departures}, sort_keys=True, allow_nan=False)


def read_compared(folder: Path, until: int | None = None) -> list[ComparedStep]:
    """The steps of a run folder that were compared, up to a step; none where no file has any.

    Raises:
        RunFolderError: the file is damaged.
    """
    file = folder / REFERENCE
    if not file.exists():
        return []
    found = []
    *lines, _ = file.read_text("utf-8").split("\n")  # a killed process may leave a part of a line at the end
    for number, line in enumerate(lines, 1):
        try:
            held = json.loads(line)
            departures = tuple(map(_read_departure, held.pop("departures")))
            found.append(ComparedStep(**held, departures=departures))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise RunFolderError(
                "run.damaged-reference",
                f"{file} is damaged",
                got=f"line {number}: {error}",
                next_step="remove the file; only what was compared before is lost",
            ) from error
    return [step for step in found if until is None or step.step <= until]


def _read_departure(item: dict[str, Any]) -> Departure:
    size = math.inf if item["size"] == INFINITE else item["size"]
    return Departure(**item | {"stage": PipelineStage(item["stage"]), "size": size})


def requested(config: Config) -> Config:
    """The settings that a run would have without its faults."""
    return with_interventions(with_settings(config, faults=()))


class StepCheck:
    """Decides which steps are compared, and compares them.

    Args:
        config: the settings that were requested, faults included.

    Attributes:
        compared: the steps that were compared.
    """

    def __init__(self, config: Config) -> None:
        self.config = requested(config)
        self.compared: list[ComparedStep] = []
        self._left: Snapshot | None = None  # the state after the last step, if that was compared
        self._every = config.monitor.reference_every if config.monitor.enabled else None
        self._planned: frozenset[int] | None = None  # until the first step asks

    @cached_property
    def rows(self) -> ReferenceLoader:
        """The reference of the loader."""
        data, model = self.config.data, self.config.model
        return open_reference(data, model.has_encoder, self.config.train.seed)

    def due(self, state: TrainState) -> bool:
        """Whether the next step is compared: a planned one, or the first of its bucket, of a run of one process."""
        if not self._every or state.world.size > 1:
            return False
        if self._planned is None:
            turn = state.model.steps_per_turn
            self._planned = planned_steps(self.config, lambda step: state.episodes.bucket_at(step - 1, turn))
        due = state.step + 1 in self._planned or state.slots[state.bucket].next_index == 0
        if not due:
            self.forget()
        return due

    def forget(self) -> None:
        """Do not compare the state before the next step with that after the last one: it may have been changed."""
        self._left = None

    @contextmanager
    def step(self, trainer: Stepping) -> Iterator[None]:
        """Compare the one step that is taken inside; one that ends in an error is compared as far as it came."""
        place = trainer.state.step + 1, trainer.state.bucket
        recorded = None
        try:
            with record_step(trainer) as recorded:
                yield
        except Exception:
            if recorded is not None:
                self._compare(recorded, *place)
            raise
        self._compare(recorded, *place)

    def _compare(self, recorded: RecordedStep, step: int, bucket: int) -> None:
        left, self._left = self._left, recorded.after
        try:
            found = compare_step(recorded, self.config, self.rows)
            if left is not None and left.step == recorded.before.step:
                found = _in_order([*_compare_between(left, recorded), *found])
        except Exception as error:  # noqa: BLE001  (a comparison never ends a run)
            self.compared.append(ComparedStep(step, bucket, absent=f"{type(error).__name__}: {error}"))
            return
        logged = recorded.logged or {}
        self.compared.append(ComparedStep(step, bucket, _keep_some(found), len(found), logged=logged))


def _compare_between(left: Snapshot, recorded: RecordedStep) -> list[Departure]:
    """What changed since the last step; it belongs to the step that finds it."""
    noise = any(part.batch.demos.noise is not None for part in recorded.parts)
    found = compare_states(left, recorded.before, "between two steps", noise=noise)
    return [replace(one, step=recorded.before.step + 1, bucket=recorded.bucket) for one in found]


def _keep_some(found: list[Departure]) -> tuple[Departure, ...]:
    """The first departures of each stage, of the encoder and of the rest, in their order."""
    counts = Counter[tuple[PipelineStage, bool]]()
    kept = []
    for one in found:
        kind = one.stage, one.tensor.startswith("encoder.")
        counts[kind] += 1
        if counts[kind] <= MOST_ALIKE:
            kept.append(one)
    return tuple(kept[:MOST_DEPARTURES])


def _in_order(found: list[Departure]) -> list[Departure]:
    order = list(PipelineStage)
    return sorted(found, key=lambda departure: order.index(departure.stage))


def planned_steps(config: Config, bucket_of: Callable[[int], int]) -> frozenset[int]:
    """The 1-based steps to compare: the first ones of the run and of each phase, one of every n, and the last.

    A checkpoint, an evaluation and a probe must not change the run, so the steps before and after the first of each are
    compared too.

    Args:
        config: the settings of the run.
        bucket_of: the bucket of a 1-based step.
    """
    train = config.train
    starts = [0, *_phases(train), *accumulate(stage.steps for stage in config.data.curriculum)]
    found = {start + after for start in starts for after in range(1, FIRST_STEPS + 1)}
    found |= {first + after for first in _interruptions(config) for after in (0, 1)}
    found |= {*_sampled(config, bucket_of), train.steps}
    return frozenset(step for step in found if step <= train.steps)


def _sampled(config: Config, bucket_of: Callable[[int], int]) -> Iterator[int]:
    """One of every n steps: a random one, so that a fault of every second or tenth step does not escape.

    It is of the bucket that was sampled least: a fault of one bucket must not wait until chance draws that bucket.
    """
    train = config.train
    random_steps, samples = random.Random(train.seed), Counter[int]()
    every = config.monitor.reference_every or train.steps
    for first in range(0, train.steps, every):
        window = range(first + 1, min(first + every, train.steps) + 1)
        drawn = random_steps.sample(window, min(CANDIDATES, len(window)))
        step = min(drawn, key=lambda one: samples[bucket_of(one)])
        samples[bucket_of(step)] += 1
        yield step


def _phases(train: TrainConfig) -> list[int]:
    return [train.warmup_steps, train.freeze_decoder_steps, train.freeze_encoder_steps]


def _interruptions(config: Config) -> list[int]:
    """The steps after which a run first does something else than train."""
    every = (config.train.checkpoint_every, config.evaluate.every, config.monitor.probe_every)
    return [step for step in every if step]
