"""Short runs of a config on few tasks, and of configs that differ from it in one thing, with the same seeds.

The tasks are ten small ones without augmentation, on which a fault shows within a hundred steps. With all tasks of
the preset `smoke` and forty steps a loss that spikes cost 4 % (three seeds), with ten tasks and a hundred steps 26 %.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from etrm.config import NO_CURRICULUM, Config, scale_curriculum, shorten_curriculum, with_settings
from etrm.config.tree import Changes
from etrm.data import choose_training_tasks
from etrm.investigation.comparison.interventions import as_texts, with_interventions
from etrm.investigation.comparison.paired_contrast import (
    TreatmentComparison,
    compare_runs,
    compare_treatments,
)
from etrm.investigation.controls import CONTROL_PRESET, control_preset
from etrm.investigation.evidence.figures import Series, logged_curve, smooth
from etrm.investigation.evidence.table import EvidenceRow, Instrument, Metric
from etrm.investigation.evidence.words import format_seeds
from etrm.investigation.records import Arm, InstrumentCheck, NotMeasured, Role, Run
from etrm.investigation.runs.arms import ArmId
from etrm.investigation.runs.jobs import Job
from etrm.investigation.runs.loaded_run import LoadedRun
from etrm.investigation.session import Investigation, with_seed
from etrm.training.task_sets import list_stream_tasks, load_held_out_tasks

STUDY = "few"
UNCHANGED = "as-given"
"""Setting of the arm with which the others are compared. Folders of earlier versions are named by it."""
METRIC = "loss_end"
"""What is compared: the mean loss on the training queries after the run and all ACT steps, in nats per token."""
MISMATCHED = "loss_end_foreign_demos"
"""The same with the demonstrations of the next task."""
TASKS = 10
"""Number of tasks, few enough that a hundred steps show a fault; the top of this file has the numbers."""
BATCH = 16
"""Batch size for which the number of steps is given; smaller batches take more steps. In 100 steps of 8 rows
(`smoke`) an encoder that goes through four numbers costs .24 [.04, .43] in ln of the loss,
in 200 .31 [.27, .35] (three seeds)."""
SMALLEST_EFFECT = 0.25
"""m, in ln of the loss: 22 % less. The best change of a healthy config (encoder rate x0.1) gains .116 on `small` (six
seeds, deviation .084), so a mean of three reaches .2 in 1 of 24 and .25 in 1 of 350 (normal); faults of training
dynamics and of encoder capacity cost .31 to .8 there (means of three). Set after all six seeds had been seen."""
CONTROL_SEEDS = (0, 1, 2)  # as many as the tier `screening` has
CONTROL_STEPS = 50
"""Steps at batch size BATCH, twice as many on the control preset. Its runs take a minute or two once, then are kept."""


@dataclass(frozen=True)
class Treatment:
    """One change of a config.

    Attributes:
        name: stable name of the change.
        what: the change in words.
        settings: the values that are changed, by section; they apply after everything else, faults included.
        steps: the number of steps of its runs, as a share of those of the reference.
        seeds: the seeds of its runs, if they differ from those of the screen; the reference has them too.
    """

    name: str
    what: str
    settings: Changes
    steps: float = 1.0
    seeds: tuple[int, ...] = ()

    @property
    def setting_texts(self) -> tuple[str, ...]:
        """The settings as text, ``section.key=value``."""
        return as_texts(self.settings)


@dataclass(frozen=True)
class Screen:
    """A reference config and its treatments, which are run and compared.

    Attributes:
        reference: the config that the treatments change.
        treatments: the changes.
        seeds: the seeds of every arm that has none of its own.
        control: the name of the control that it is, which is the same in every investigation; empty for the run under
            test. Screens of one control share their reference.
    """

    reference: Config
    treatments: tuple[Treatment, ...]
    seeds: tuple[int, ...]
    control: str = ""

    def arm(self, treatment: str = UNCHANGED) -> ArmId:
        """The identity of an arm."""
        role = self._role("subject" if treatment == UNCHANGED else "treatment")
        return ArmId(STUDY, treatment, self.control, role)

    def _role(self, role: Role) -> Role:
        """The role of an arm; in the screen of a control, the role of the control."""
        if not self.control:
            return role
        return "positive control" if self.reference.faults else "negative control"

    def jobs(self) -> list[Job]:
        """The job of every arm and seed; only the runs of the reference are monitored step by step."""
        every = sorted({*self.seeds, *(seed for t in self.treatments for seed in t.seeds)})
        arms = [(UNCHANGED, self.reference, tuple(every))]
        arms += [(t.name, self._treated(t), t.seeds or self.seeds) for t in self.treatments]
        return [
            Job(
                self.arm(name),
                seed,
                with_seed(config, seed),
                measure=True,
                held_out=False,
                shared=bool(self.control),
            )
            for name, config, seeds in arms
            for seed in seeds
        ]

    def runs_of(self, runs: Sequence[LoadedRun], treatment: str = UNCHANGED) -> list[LoadedRun]:
        """The runs of an arm, by seed."""
        return [run for run in runs if run.arm == self.arm(treatment)]

    def arms(self) -> tuple[Arm, ...]:
        """The arms, each with the one difference that it has."""
        faults, what = self.reference.faults, f"preset {CONTROL_PRESET}" if self.control else "unchanged"
        unchanged = Arm(
            name=self.arm().name,
            role=self._role("control"),
            difference=f"{what}, {self.reference.train.steps} steps",
            faults=faults,
        )
        return unchanged, *(
            Arm(
                name=self.arm(t.name).name,
                role=self._role("treatment"),
                difference=t.what,
                settings=t.setting_texts,
                faults=faults,
            )
            for t in self.treatments
        )

    def compare(
        self,
        runs: Sequence[LoadedRun],
        names: Sequence[str],
        smallest_effect: float = SMALLEST_EFFECT,
        planned: int = 0,
    ) -> TreatmentComparison:
        """Compare the reference with some of the planned treatments."""
        unchanged = self.runs_of(runs)
        chosen = [t for t in self.treatments if t.name in names]
        contrasts = [
            compare_runs(t.name, unchanged, self.runs_of(runs, t.name), METRIC, smallest_effect, t.what)
            for t in chosen
        ]
        return compare_treatments(contrasts, planned)

    def _treated(self, treatment: Treatment) -> Config:
        config = self.reference
        if treatment.steps != 1:
            config = with_steps(config, max(1, round(config.train.steps * treatment.steps)))
        return with_settings(with_interventions(config, treatment.settings), monitor={"enabled": False})


def run_screens(investigation: Investigation, phase: str, screens: Sequence[Screen]) -> list[LoadedRun]:
    """The runs of several screens, in parallel."""
    return investigation.run(phase, jobs_of(screens))


def jobs_of(screens: Sequence[Screen]) -> list[Job]:
    """The jobs of several screens; a job that several share is listed once."""
    return list({job.key: job for screen in screens for job in screen.jobs()}.values())


def few_tasks(subject: Config, steps: int) -> Config:
    """The config on ten of its smallest tasks without augmentation, in ``steps`` steps of at least BATCH rows, or more.

    However short its own run is: no fault of training dynamics shows in the 20 steps of the preset `smoke`.
    """
    tasks = min(TASKS, subject.data.max_tasks or TASKS)
    data = {
        "max_side": _find_smallest_side(subject, tasks),
        "augmentations": 1,
        "translate": 0,
        **NO_CURRICULUM,
    }
    small = with_settings(subject, data=data)
    streams = subject.data.stream is not None
    small = with_settings(small, data=list_stream_tasks(small, tasks) if streams else {"max_tasks": tasks})
    batches = math.ceil(steps * max(1, BATCH / subject.train.batch_size))
    return with_steps(small, batches)


def _find_smallest_side(subject: Config, tasks: int) -> int:
    """The smallest grid side that admits so many training tasks and one held-out task."""
    sides = sorted(task.max_side for task in choose_training_tasks(subject.data))
    return max(sides[min(tasks, len(sides)) - 1], min(task.max_side for task in load_held_out_tasks(subject)))


def subject_screen(
    investigation: Investigation, reference: Config, treatments: Sequence[Treatment]
) -> Screen:
    """The screen of the config under test on few tasks, with its treatments."""
    return Screen(reference, tuple(treatments), investigation.short_seeds)


def control_config(faults: Sequence[str]) -> Config:
    """The control preset on few tasks, in the steps of a control, from a random start."""
    return few_tasks(control_preset(faults), CONTROL_STEPS)


def control_screen(name: str, config: Config, treatments: Sequence[Treatment]) -> Screen:
    """The screen of a control: the same in every investigation, so that its runs are kept."""
    return Screen(config, tuple(treatments), CONTROL_SEEDS, control=name)


def with_steps(config: Config, steps: int) -> Config:
    """The same run in another number of steps: warm-up, frozen stages and curriculum keep their shares of it."""
    data, train = config.data, config.train

    def scale(of: int) -> int:
        return round(of * steps / train.steps)

    return with_settings(
        config,
        data=scale_curriculum(data.curriculum, data.replay, steps),
        train={
            "steps": steps,
            "warmup_steps": scale(train.warmup_steps),
            "freeze_decoder_steps": scale(train.freeze_decoder_steps),
            "freeze_encoder_steps": scale(train.freeze_encoder_steps),
            "checkpoint_every": steps,
        },
        monitor={"probe_every": max(1, steps // 8)},
        evaluate={"every": None, "checkpoint": "newest"},  # a puzzle table has no rows for held-out tasks
    )


def shorten_run(config: Config, steps: int) -> Config:
    """The first steps of a run, as a run of its own whose warm-up and curriculum are no longer than it is.

    A part that is frozen for some of the steps, but not for all, trains in the last step of the shorter run.
    """
    data, train = config.data, config.train
    steps = min(steps, train.steps)

    def shorten(frozen: int) -> int:
        return steps if frozen >= train.steps else min(frozen, steps - 1)

    return with_settings(
        config,
        data=shorten_curriculum(data.curriculum, data.replay, steps),
        train={
            "steps": steps,
            "warmup_steps": min(train.warmup_steps, steps),
            "freeze_decoder_steps": shorten(train.freeze_decoder_steps),
            "freeze_encoder_steps": shorten(train.freeze_encoder_steps),
        },
    )


FINALS = (
    METRIC,
    MISMATCHED,
    "retrieval_end",
    "accuracy_all",
    "held_out_pass_at_1",
    "held_out_token_accuracy",
)
"""Keys of the final values that a report shows."""


def select_finals(runs: Sequence[LoadedRun]) -> tuple[Run, ...]:
    """The runs as a result holds them, with the final values that a report shows."""
    return tuple(
        run.record.replace(final={key: run.final[key] for key in FINALS if key in run.final}) for run in runs
    )


def explain_unusable(unchanged: Sequence[LoadedRun]) -> str:
    """The reason why nothing follows from a reference, or nothing; a run that diverged is a score, and the worst."""
    failed = [run for run in unchanged if run.failed and not run.diverged]
    return f"{len(failed)} of {len(unchanged)} unchanged runs failed: {failed[0].reason}" if failed else ""


def list_left_out(metric: Metric, treatments: Iterable[tuple[Treatment, str]]) -> list[EvidenceRow]:
    """A row for each treatment that was not run, with the reason."""
    return [
        metric.row(
            NotMeasured(absent=reason), item=t.name, item_words=t.what, threshold="left out", n="0 runs"
        )
        for t, reason in treatments
    ]


def describe_runs(unchanged: Sequence[LoadedRun], steps: int) -> str:
    """The seeds and steps that a verdict rests on."""
    return f"({format_seeds(len(unchanged))} x {steps} steps)"


def compare_loss_curves(figure: str, screen: Screen, runs: Sequence[LoadedRun]) -> list[Series]:
    """The training loss of every arm of a screen."""
    labels = {UNCHANGED: "unchanged"} | {t.name: t.what for t in screen.treatments}
    return [
        smooth(logged_curve(figure, run, "lm_loss", label), 10)
        for name, label in labels.items()
        for run in screen.runs_of(runs, name)
    ]


DIVERGED_COUNT = Instrument(
    "any.diverged-runs-count-as-worst", "runs that diverged count as the worst score, none is dropped"
)


def check_diverged(runs: Sequence[LoadedRun]) -> InstrumentCheck:
    """The runs that have the worst score because they diverged."""
    names = [f"{run.arm.name}, seed {run.seed}" for run in runs if run.diverged]
    return DIVERGED_COUNT.check(True, "; ".join(names) or "none diverged")
