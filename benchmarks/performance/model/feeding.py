"""The speed-up by processes that draw samples ahead (``data.workers``): trainers with none, one and two."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from benchmarks.performance.section import BenchmarkSection, Conditions, Table
from benchmarks.performance.timing import Contender, Work, compute_ratios, format_spread, take_turns
from etrm.config import Changes, Config, load, with_settings
from etrm.data import Episodes, Sample
from etrm.training.slots import Draw
from etrm.training.trainer import Trainer

WORKERS = (0, 1, 2)
WARM_STEPS, STEPS = 3, 12
LOADS: dict[str, Changes] = {
    "preset small": {},
    "a small model, many new samples": {
        "data": {
            "max_side": 30,
            "exclude": ("40853293",),  # the grids of evaluation task 070dd51e
            "buckets": 8,
        },
        "model": {
            "hidden_size": 16,
            "layers": 1,
            "encoder": {"layers": 1},
            "H_cycles": 1,
            "L_cycles": 1,
            "halt": {"max_steps": 1},
        },
        "train": {"batch_size": 32},
    },
    "rule tasks without end": {
        "data": {
            "source": "rules:colours",
            "stream": "endless",
            "max_side": 3,
            "buckets": 1,
            "augmentations": 1,
        },
        "evaluate": {"source": "rules:colours", "augmentations": 1},
        "model": {"H_cycles": 1, "L_cycles": 1, "halt": {"max_steps": 1}},
        "train": {"batch_size": 64},
    },
}
"""Changes to preset ``small`` by name. With one ACT step every row takes a new sample in every step."""


@dataclass
class Waiting:
    """A loader that measures how long the trainer waits for samples.

    Attributes:
        draw: the loader.
        seconds: the time waited so far.
        samples: the number of samples so far.
    """

    draw: Draw
    seconds: float = 0.0
    samples: int = 0

    def __call__(self, episodes: Episodes, bucket: int, index: int) -> Sample:
        began = time.perf_counter()
        sample = self.draw(episodes, bucket, index)
        self.seconds += time.perf_counter() - began
        self.samples += 1
        return sample


@dataclass
class Fed:
    """Trainers of one config, one after the other; a turn is :data:`STEPS` steps of a new trainer.

    Attributes:
        config: the config of the trainers.
        waited: the seconds of waiting in each turn.
        samples: the number of new samples in each turn.
    """

    config: Config
    waited: list[float] = field(default_factory=list)
    samples: list[int] = field(default_factory=list)
    _trainer: Trainer | None = None

    def turn(self) -> Work:
        """Prepare a trainer that has done :data:`WARM_STEPS` steps, so that its workers are running."""
        self.close()
        trainer = self._trainer = Trainer(self.config)
        for _ in range(WARM_STEPS):
            trainer.train_step()
        waiting = Waiting(trainer.prefetch or trainer.recipe.draw)
        for slots in trainer.slots.values():
            slots.draw = waiting

        def work() -> None:
            for _ in range(STEPS):
                trainer.train_step()
            self.waited.append(waiting.seconds)
            self.samples.append(waiting.samples)

        return work

    def close(self) -> None:
        """End the workers of the last turn."""
        if self._trainer is not None and self._trainer.prefetch is not None:
            self._trainer.prefetch.close()


def make_config(changes: Changes, workers: int, device: str) -> Config:
    """Build a config: preset ``small`` without a monitor, with a new augmentation per sample, and the changes."""
    fresh = with_settings(load("small"), data={"augmentations": "fresh"}, monitor={"enabled": False})
    changed = with_settings(fresh, **changes)
    return with_settings(changed, data={"workers": workers}, train={"device": device})


def measure_feeding(conditions: Conditions) -> BenchmarkSection:
    """Measure rows per second, and the share of time that the trainer waits for samples."""
    rows: list[tuple[str, ...]] = []
    for name, settings in LOADS.items():
        arms = [Fed(make_config(settings, n, conditions.device.type)) for n in WORKERS]
        contenders = [Contender(str(n), arm.turn, STEPS) for n, arm in zip(WORKERS, arms, strict=True)]
        timings = take_turns(contenders, conditions.repetitions, conditions.device)
        for workers, arm, timing in zip(WORKERS, arms, timings, strict=True):
            arm.close()
            turns = len(timing.seconds)  # behind the untimed first one
            shares = [w / (s * STEPS) for w, s in zip(arm.waited[-turns:], timing.seconds, strict=True)]
            batch = arm.config.train.batch_size
            rows.append(
                (
                    name,
                    str(workers),
                    format_spread(batch / seconds for seconds in timing.seconds),
                    format_spread(compute_ratios(timings[0].seconds, timing.seconds)),
                    format_spread(100 * share for share in shares),
                    f"{sum(arm.samples[-turns:]) / sum(arm.waited[-turns:]):,.0f}",
                    f"{sum(arm.samples[-turns:]) / (turns * STEPS):.1f} of {batch}",
                    f"{turns} x {STEPS}",
                )
            )
    header = (
        "run",
        "workers",
        "rows per s",
        "x no workers",
        "waiting, %",
        "samples per s of waiting",
        "new samples per step",
        "turns",
    )
    setting = (
        "Steps of a whole trainer with fresh augmentations, without the monitor, ARC-AGI-1 training tasks or invented "
        "rules; workers are started and have drawn ahead before the clock runs. Waiting is the share of the time "
        "between asking for samples and having them: drawing them where there are no workers."
    )
    return BenchmarkSection((Table(header, tuple(rows)),), (setting,))
