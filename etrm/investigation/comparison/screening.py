"""Short runs of one config on few tasks, and of others that differ from it in one thing, with the same seeds.

Ten small tasks as they are, not augmented: a hundred steps go far enough there for a fault to show. With all tasks of
the preset `smoke` and forty steps a loss that spikes cost 4 % (three seeds), with ten tasks and a hundred steps 26 %.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from etrm.config import Config, with_overrides
from etrm.data import choose_tasks
from etrm.investigation.comparison.paired_contrast import Outcome, any_gains, of_runs
from etrm.investigation.evidence import Instrument, Metric
from etrm.investigation.protocol import Investigation, control_preset, seeded, seeds_in_words
from etrm.investigation.result import Absent, Arm, Evidence, InstrumentCheck, Run
from etrm.investigation.runs.jobs import Job
from etrm.training.task_sets import load_held_out_tasks

REFERENCE = "as-given"
"""The arm that the others differ from."""
METRIC = "loss_end"
"""What is compared: mean loss on the training queries after the run and all ACT steps, in nats per token."""
TASKS = 10
BATCH = 16
"""Rows of a step that steps are counted in; smaller ones take more of them. In 100 steps of 8 rows (`smoke`) an encoder
that goes through four numbers costs .24 [.04, .43] in ln of the loss, in 200 .31 [.27, .35] (three seeds)."""
SMALLEST_EFFECT = 0.25
"""m, in ln of the loss: 22 % less. The best change of a healthy subject (encoder rate x0.1) gains .116 on `small` (six
seeds, deviation .084), so that a mean of three reaches .2 in 1 of 24 and .25 in 1 of 350 (normal); faults of H4 and H7
cost .31 to .8 there (means of three). Set when all six seeds had been seen."""
CONTROL_SEEDS = (0, 1, 2)
CONTROL_STEPS = 50
"""Twice that on the preset of the controls, whose runs are kept: a minute or two the first time, then nothing."""
Role = Literal["treatment", "positive control", "negative control"]


@dataclass(frozen=True)
class Treatment:
    """One thing that is changed.

    Attributes:
        name: of the arm.
        what: the change in words.
        settings: applied after everything else, as section.key=value.
        steps: of its runs, as a share of the reference's.
        seeds: of its runs, where they are others than the screen's; the reference has them too.
    """

    name: str
    what: str
    settings: tuple[str, ...]
    steps: float = 1.0
    seeds: tuple[int, ...] = ()


@dataclass(frozen=True)
class Screen:
    """A reference and its treatments, as runs.

    Attributes:
        name: prefix of the arms; screens of one name share their reference.
        reference: the config that the treatments change.
        treatments: what is changed.
        seeds: of every arm that has none of its own.
        shared: the same in every investigation.
    """

    name: str
    reference: Config
    treatments: tuple[Treatment, ...]
    seeds: tuple[int, ...]
    shared: bool = False

    def arm(self, name: str = REFERENCE) -> str:
        """Full name of an arm."""
        return f"{self.name}-{name}"

    def jobs(self) -> list[Job]:
        """A job for every arm and seed; only the reference's runs are watched step by step."""
        every = sorted({*self.seeds, *(seed for t in self.treatments for seed in t.seeds)})
        arms = [(REFERENCE, self.reference, tuple(every))]
        arms += [(t.name, self._treated(t), t.seeds or self.seeds) for t in self.treatments]
        return [
            Job(self.arm(name), seed, seeded(config, seed), measure=True, held_out=False, shared=self.shared)
            for name, config, seeds in arms
            for seed in seeds
        ]

    @property
    def role(self) -> Role:
        """Of the arms of a control."""
        return "positive control" if self.reference.faults else "negative control"

    def of_arm(self, runs: Sequence[Run], name: str = REFERENCE) -> list[Run]:
        """The runs of an arm, by seed."""
        return [run for run in runs if run.arm == self.arm(name)]

    def arms(self, difference: str, role: Role = "treatment") -> tuple[Arm, ...]:
        """Arms with the one difference of each; ``difference`` is the reference's."""
        faults = self.reference.faults
        given = Arm(
            name=self.arm(),
            role="control" if role == "treatment" else role,
            difference=f"{difference}, {self.reference.train.steps} steps",
            faults=faults,
        )
        return given, *(
            Arm(name=self.arm(t.name), role=role, difference=t.what, settings=t.settings, faults=faults)
            for t in self.treatments
        )

    def outcome(
        self,
        runs: Sequence[Run],
        names: Sequence[str],
        smallest_effect: float = SMALLEST_EFFECT,
        planned: int = 0,
    ) -> Outcome:
        """The reference against some of the treatments, of so many as were planned."""
        given = self.of_arm(runs)
        chosen = [t for t in self.treatments if t.name in names]
        return any_gains(
            [
                of_runs(t.name, given, self.of_arm(runs, t.name), METRIC, smallest_effect, t.what)
                for t in chosen
            ],
            planned,
        )

    def _treated(self, treatment: Treatment) -> Config:
        config = self.reference
        if treatment.steps != 1:
            config = lasting(config, max(1, round(config.train.steps * treatment.steps)))
        return with_overrides(config, (interventions(config, treatment.settings), "monitor.enabled=false"))


def run_screens(investigation: Investigation, phase: str, screens: Sequence[Screen]) -> list[Run]:
    """The runs of several screens, side by side on the machine."""
    return investigation.run(phase, jobs_of(screens))


def jobs_of(screens: Sequence[Screen]) -> list[Job]:
    """The jobs of several screens, what they share once."""
    return list({(job.arm, job.seed): job for screen in screens for job in screen.jobs()}.values())


def few_tasks(subject: Config, steps: int) -> Config:
    """The subject on ten of its smallest tasks as they are, in so many steps of at least BATCH rows, or more of fewer.

    However short its own run: in the 20 steps of the preset `smoke` no fault of H4 or H7 shows.
    """
    tasks = min(TASKS, subject.data.max_tasks or TASKS)
    settings = (
        f"data.max_side={_side(subject, tasks)}",
        f"data.max_tasks={tasks}",
        "data.augmentations=1",
        "data.translate=0",
    )
    return lasting(
        with_overrides(subject, settings), math.ceil(steps * max(1, BATCH / subject.train.batch_size))
    )


def _side(subject: Config, tasks: int) -> int:
    """The least side that so many training tasks fit, and one held-out task."""
    sides = sorted(task.max_side for task in choose_tasks(subject.data))
    return max(sides[min(tasks, len(sides)) - 1], min(task.max_side for task in load_held_out_tasks(subject)))


def subject_screen(
    investigation: Investigation, reference: Config, treatments: Sequence[Treatment]
) -> Screen:
    """The subject on few tasks, and treatments of it."""
    return Screen("few", reference, tuple(treatments), investigation.short_seeds)


def control_config(faults: Sequence[str]) -> Config:
    """The control preset on few tasks, in the steps of a control, from a random start."""
    return few_tasks(control_preset(faults), CONTROL_STEPS)


def control_screen(name: str, config: Config, treatments: Sequence[Treatment]) -> Screen:
    """A control of that name: the same in every investigation, so that it is kept."""
    return Screen(f"few-{name}", config, tuple(treatments), CONTROL_SEEDS, shared=True)


def lasting(config: Config, steps: int) -> Config:
    """The same run in other steps: warm-up and frozen stages keep their shares of it."""
    train = config.train

    def share(of: int) -> int:
        return round(of * steps / train.steps)

    return with_overrides(
        config,
        (
            f"train.steps={steps}",
            f"train.warmup_steps={share(train.warmup_steps)}",
            f"train.freeze_decoder_steps={share(train.freeze_decoder_steps)}",
            f"train.freeze_encoder_steps={share(train.freeze_encoder_steps)}",
            f"train.checkpoint_every={steps}",
            f"monitor.probe_every={max(1, steps // 8)}",
        ),
    )


def interventions(config: Config, settings: Sequence[str]) -> str:
    """The override that adds settings to those which apply after everything else."""
    quoted = ", ".join(f'"{setting}"' for setting in (*config.interventions, *settings))
    return f"interventions=[{quoted}]"


FINALS = (
    METRIC,
    "loss_end_foreign_demos",
    "retrieval_end",
    "accuracy_all",
    "held_out_pass_at_1",
    "held_out_token_accuracy",
)
"""Keys of the final values that a report shows."""


def readable(runs: Sequence[Run]) -> tuple[Run, ...]:
    """The runs with the final values that a report shows."""
    return tuple(
        run.replace(final={key: run.final[key] for key in FINALS if key in run.final}) for run in runs
    )


def unusable(given: Sequence[Run]) -> str:
    """Why nothing can be said of a reference, or nothing; a run that diverged is a score, and the worst."""
    failed = [run for run in given if run.state == "failed" and not run.diverged]
    return f"{len(failed)} of {len(given)} runs of the subject failed: {failed[0].reason}" if failed else ""


def left_out(metric: Metric, treatments: Iterable[tuple[Treatment, str]]) -> list[Evidence]:
    """A row for each treatment that was not run, with the reason."""
    return [
        metric.row(Absent(absent=reason), item=t.name, item_words=t.what, threshold="left out", n="0 runs")
        for t, reason in treatments
    ]


def scope(given: Sequence[Run], steps: int) -> str:
    """What a verdict rests on."""
    return f"({seeds_in_words(len(given))} x {steps} steps)"


DIVERGED_COUNT = Instrument(
    "any.diverged-runs-count-as-worst", "runs that diverged count as the worst score, none is dropped"
)


def diverged(runs: Sequence[Run]) -> InstrumentCheck:
    """Which runs have the worst score because they diverged."""
    names = [f"{run.arm}, seed {run.seed}" for run in runs if run.diverged]
    return DIVERGED_COUNT.check(True, "; ".join(names) or "none diverged")
