"""Short runs of a model under test on a few batches, and of the same model trained in another way.

Losses are compared as shares of the reduction that the best run of a seed reaches, so that losses of any scale and sign
can be compared. The unchanged run has three times the steps of the others: a rate that is a little too low is slow, and
no fault.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from etrm.atomic_files import write_atomically
from etrm.investigation.comparison.paired_contrast import Contrast
from etrm.investigation.evidence.figures import Figure, Series
from etrm.investigation.own_model.model_factory import ModelFactory
from etrm.investigation.own_model.training_trial import UNCHANGED, TrainingChange, TrainingTrial
from etrm.investigation.records import Run

BATCHES = 4
"""Training batches of a short run, few enough to be fitted in it."""
LONGER = 3
"""Length of the unchanged run, as a multiple of that of the others."""
MUCH_LONGER = 10
"""The same where a higher rate or a free context gains: a run that learns as much in so many more steps is slow, and
not prevented."""
PATIENT = f"unchanged-x{MUCH_LONGER}"
"""Name of the arm of these runs."""
SMALLEST_EFFECT = 0.5
"""m, as a share of the reduction of the loss: the change reaches twice the reduction of a run three times as long."""
FEWEST_SEEDS = 2
"""Seeds from which an interval, and so the outcome of a control, is known."""
LEAST_REDUCTION = 0.01
"""Smallest reduction of the loss, relative to its size, that counts as learning."""
HEADROOM = 1.0
"""Room above the first loss in the figure of the losses, as a multiple of the largest reduction. Half of the runs end
inside the figure in any case."""
LOSSES = Figure(
    key="own-losses",
    title="Training loss of the short runs",
    x_label="step",
    y_label="loss",
    caption=(
        f"Each run trains on {BATCHES} batches in turn; the unchanged run is {LONGER} times as long, and another one "
        f"{MUCH_LONGER} times where a higher rate or a free context gains."
    ),
)
Around = Callable[[TrainingTrial], AbstractContextManager[Callable[[int], None]]]
"""Surrounds a run: it changes the model, and yields a function that is called with the number of each batch."""


@dataclass(frozen=True)
class ShortRun:
    """A finished short run.

    Attributes:
        arm: stable name of the arm.
        seed: seed of the model and of every step.
        losses: training loss of each step.
        start: mean loss on the batches before the run.
        end: the same after it; infinite if the run diverged.
        wall_s: seconds.
    """

    arm: str
    seed: int
    losses: tuple[float, ...]
    start: float
    end: float
    wall_s: float

    def record(self) -> Run:
        """The run as a result holds it."""
        return Run(
            arm=self.arm,
            seed=self.seed,
            folder=f"runs/{self.arm}/seed{self.seed}",
            steps=len(self.losses),
            wall_s=round(self.wall_s, 1),
            state="finished",
            final={
                name: value
                for name, value in (("loss_start", self.start), ("loss_end", self.end))
                if math.isfinite(value)
            },
        )

    def curve(self) -> Series:
        """The training loss over the steps."""
        points = [(step + 1, loss) for step, loss in enumerate(self.losses) if math.isfinite(loss)]
        return Series(
            figure=LOSSES.key,
            arm=self.arm,
            seed=self.seed,
            label="training loss",
            x=tuple(float(step) for step, _ in points),
            y=tuple(round(loss, 6) for _, loss in points),
        )


def frame_losses(runs: Sequence[ShortRun]) -> Figure:
    """The frame of the training losses; runs that diverge leave it, so that the others can be read."""
    first = max((loss for run in runs for loss in run.losses[:1] if math.isfinite(loss)), default=0.0)
    found = [loss for run in runs for loss in run.losses if math.isfinite(loss)]
    low = min(found, default=0.0)
    ends = sorted(run.losses[-1] for run in runs if run.losses and math.isfinite(run.losses[-1]))
    reduction = max(first - low, abs(first) * LEAST_REDUCTION, 1e-9)
    high = max([first + HEADROOM * reduction, *ends[len(ends) // 2 :][:1]])
    if max(found, default=0.0) <= high:
        return LOSSES
    pad = 0.06 * (high - low)
    caption = f"{LOSSES.caption} Losses above {high:.3g} are cut off."
    return LOSSES.replace(y_range=(low - pad, high), caption=caption)


def describe_gain(contrast: Contrast) -> str:
    """How much further the loss falls, or how much less, with the interval over seeds."""
    mean = fmean(contrast.effects)
    sign, verb = (1, "falls further") if mean >= 0 else (-1, "falls less")
    ends = (
        sorted(sign * end for end in (contrast.interval.low, contrast.interval.high))
        if contrast.interval
        else []
    )
    shown = f" [{ends[0]:.2f}, {ends[1]:.2f}]" if ends else ""
    return f"the loss {verb}, by {abs(mean):.2f}{shown} of the largest reduction of any run"


@dataclass
class ShortRuns:
    """Makes short runs of one model, each once, and keeps their losses in files.

    Attributes:
        factory: the factory of the model.
        root: the folder of the investigation; None for runs of which no file is kept.
        study: first part of the names of the arms.
        seeds: seeds of every arm.
    """

    factory: ModelFactory
    root: Path | None
    study: str
    seeds: tuple[int, ...]
    made: dict[str, list[ShortRun]] = field(default_factory=dict)

    def run(
        self,
        change: TrainingChange = UNCHANGED,
        *,
        length: int = 1,
        around: Around | None = None,
        name: str = "",
    ) -> list[ShortRun]:
        """The runs of an arm, one for each seed.

        Args:
            change: the change of the training.
            length: length of the runs, as a multiple of the model's ``steps``.
            around: a context manager that surrounds each run.
            name: name of the arm; that of the change by default.
        """
        arm = f"{self.study}-{name or change.name}"
        if arm not in self.made:
            self.made[arm] = [self._train(arm, seed, change, length, around) for seed in self.seeds]
        return self.made[arm]

    def _train(
        self, arm: str, seed: int, change: TrainingChange, length: int, around: Around | None
    ) -> ShortRun:
        began = time.perf_counter()
        trial = TrainingTrial(self.factory, seed, change)
        steps = trial.subject.steps * length
        batches = [trial.batch(number) for number in range(max(1, BATCHES // change.joined))]
        losses = []
        with around(trial) if around else nullcontext(_ignore) as choose:
            start = _measure(trial, choose)
            for number in range(steps):
                choose(number % len(batches))
                losses.append(trial.step(number, batches[number % len(batches)]))
                if not math.isfinite(losses[-1]):
                    break
            end = _measure(trial, choose)
        run = ShortRun(arm, seed, tuple(losses), start, end, time.perf_counter() - began)
        if self.root is not None:
            _write(self.root / run.record().folder, run)
        return run

    def contrast(
        self, name: str, title: str, control: Sequence[ShortRun], treatment: Sequence[ShortRun]
    ) -> Contrast:
        """The gain of one arm over another, as a share of the best reduction of each seed."""
        effects = []
        for one, other in zip(control, treatment, strict=True):
            ends = [run.end for runs in self.made.values() for run in runs if run.seed == one.seed]
            best = min((end for end in ends if math.isfinite(end)), default=one.start)
            reduction = max(one.start - best, LEAST_REDUCTION * abs(one.start)) or 1.0
            worst = [min(run.end, run.start) if math.isfinite(run.end) else run.start for run in (one, other)]
            effects.append((worst[0] - worst[1]) / reduction)
        before, after = (fmean(min(run.end, run.start) for run in runs) for runs in (control, treatment))
        return Contrast(name, before, after, tuple(effects), SMALLEST_EFFECT, title, "loss_end")


def _ignore(number: int) -> None:
    """Called where nothing depends on the number of the batch."""


def _measure(trial: TrainingTrial, choose: Callable[[int], None]) -> float:
    """The mean loss on the batches of the unchanged run, infinite if it is not finite."""
    joined = trial.change.joined
    numbers = range(max(1, BATCHES // joined))
    losses = []
    for number in numbers:
        choose(number)
        losses.append(trial.measure([number]))
    mean = fmean(losses)
    return mean if math.isfinite(mean) else math.inf


def _write(folder: Path, run: ShortRun) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines: Iterator[str] = (
        json.dumps({"step": step + 1, "loss": loss if math.isfinite(loss) else None})
        for step, loss in enumerate(run.losses)
    )
    write_atomically(folder / "metrics.jsonl", "\n".join(lines) + "\n")
