"""What N1 to N5 share: they are about the symbolic solver, and their controls are a small run of it.

N1 to N4 are inspections (:class:`InspectedMechanism`).
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from types import MappingProxyType
from typing import Generic, TypeVar

from etrm.config import Config, load, with_settings
from etrm.config.model import SYMBOLIC
from etrm.config.tree import Changes
from etrm.investigation.comparison.paired_contrast import Contrast
from etrm.investigation.comparison.screening import select_finals, with_steps
from etrm.investigation.controls import HEALTHY, Control, subject_arm
from etrm.investigation.evidence.figures import Figure, Series
from etrm.investigation.evidence.reasons import InspectionFacts
from etrm.investigation.evidence.table import EvidenceRow
from etrm.investigation.hypotheses.hypothesis import Hypothesis
from etrm.investigation.hypotheses.inspection import describe_scope, judge, judge_by, judge_controls
from etrm.investigation.judgement import CommonReason
from etrm.investigation.records import Arm, NotMeasured
from etrm.investigation.result import HypothesisResult
from etrm.investigation.runs.jobs import Job
from etrm.investigation.runs.loaded_run import LoadedRun
from etrm.investigation.session import Investigation

Facts = TypeVar("Facts", bound=InspectionFacts)
SYMBOLIC_PRESET = "symbolic-rules"
"""Preset of the controls, which are small and on tasks whose rules the solver can learn."""
STUDIED = 4000
"""Training tasks of the runs whose scores are compared, so many that hardly any is seen twice."""


class SymbolicHypothesis(Hypothesis):
    """A hypothesis about a mechanism inside of the symbolic solver; H1 to H7, which come first, name a root cause."""

    def applies_to(self, subject: Config) -> bool:
        """Whether the model is a symbolic solver."""
        return subject.model.variant == SYMBOLIC


class InspectedMechanism(SymbolicHypothesis, Generic[Facts]):
    """A mechanism that is decided by an inspection of each seed and of controls.

    Derive from this class: ``inspect``, ``list_controls`` and ``make_rows`` are required. The other methods are for
    training runs that show what the mechanism costs; these runs decide nothing.

    Attributes:
        compared: the difference of each setting of these runs, in words.
        figures: the figures of their curves.
    """

    compared: Mapping[str, str] = MappingProxyType({})
    figures: tuple[Figure, ...] = ()

    @abstractmethod
    def inspect(self, config: Config) -> Facts:
        """Inspect a config as a run would use it.

        Raises:
            EtrmError: the model cannot be built.
        """

    @abstractmethod
    def list_controls(self) -> list[Control]:
        """The controls, healthy and with faults."""

    @abstractmethod
    def make_rows(self, worst: Facts, seeds: int) -> Sequence[EvidenceRow]:
        """The evidence of the worst of some seeds."""

    def rank(self, found: Facts) -> tuple[float, ...]:
        """Higher where more evidence supports the hypothesis; the seed with the highest rank decides."""
        return found.holds, found.undecided

    def explain_not_applicable(self, config: Config) -> str:
        """The reason why the mechanism cannot occur in a symbolic solver with this config, or nothing."""
        return ""

    def plan_jobs(self) -> list[Job]:
        """The runs that show the cost, the same in every investigation."""
        return []

    def make_cost_rows(self, runs: Sequence[LoadedRun]) -> Sequence[EvidenceRow]:
        """What they show."""
        return ()

    def make_curves(self, runs: Sequence[LoadedRun]) -> Sequence[Series]:
        """Their curves."""
        return ()

    def arms(self, investigation: Investigation) -> tuple[Arm, ...]:
        """The config under test and the controls, which are inspected, and the runs that show the cost."""
        jobs = {job.arm.setting: job for job in self.plan_jobs()}
        return (
            *describe_arms(self.study, investigation.subject, self.list_controls()),
            *(
                Arm(name=job.arm.name, role=job.arm.role, difference=what, faults=job.config.faults)
                for setting, what in self.compared.items()
                for job in (jobs[setting],)
            ),
        )

    def decide(self, investigation: Investigation) -> HypothesisResult:
        """Inspect the config under test with every seed, and the controls; make the runs that show the cost."""
        if reason := self.explain_not_applicable(investigation.effective):
            return self.not_run(CommonReason.NOT_APPLICABLE, reason)
        began = time.perf_counter()
        controls = judge_controls(self.study, self.list_controls(), judge_by(self.inspect))
        seen, error = investigation.inspect_seeds(self.id, investigation.subject, self.inspect)
        worst = max(seen, key=self.rank, default=None)
        spent = time.perf_counter() - began
        jobs = self.plan_jobs()
        runs = investigation.run(self.id, jobs) if jobs else []
        return self.statement.decided(
            judge(worst, error, controls, describe_scope(len(seen))),
            arms=self.arms(investigation),
            runs=select_finals(runs),
            evidence=(*(self.make_rows(worst, len(seen)) if worst else ()), *self.make_cost_rows(runs)),
            controls=controls,
            figures=self.figures,
            series=tuple(self.make_curves(runs)),
            wall_s=round(spent + sum(run.record.wall_s for run in runs), 1),
        )


def control_config(faults: Sequence[str] = (), **symbolic: object) -> Config:
    """The control preset on few tasks with some faults.

    Args:
        faults: names of the faults.
        symbolic: changes of the section ``model.symbolic``.
    """
    changes: Changes = {
        "data": {"max_tasks": 60},
        "evaluate": {"max_tasks": 60},
        "model": {"symbolic": dict(symbolic)},
        "train": {"batch_size": 8, "threads": 1},
        "faults": tuple(faults),
    }
    return with_settings(load(SYMBOLIC_PRESET), **changes)


def fault_controls(config: Config, fault: str) -> list[Control]:
    """A healthy control, and the same with a fault that must be found."""
    return [
        Control(HEALTHY, f"preset {SYMBOLIC_PRESET} without a fault", config, False),
        Control(
            fault, f"fault {fault} on preset {SYMBOLIC_PRESET}", with_settings(config, faults=(fault,)), True
        ),
    ]


def study_config(steps: int, side: int, faults: Sequence[str] = (), **symbolic: object) -> Config:
    """The control preset on many tasks and with some faults, for runs whose scores are compared.

    Args:
        steps: the number of steps.
        side: the side of the grids.
        faults: names of the faults.
        symbolic: changes of the section ``model.symbolic``.
    """
    config = with_settings(
        control_config(faults, **symbolic),
        data={"max_tasks": STUDIED, "max_side": side},
        train={"batch_size": 32},
        monitor={"enabled": False},
    )
    return with_steps(config, steps)


def describe_arms(study: str, subject: Config, controls: Iterable[Control]) -> tuple[Arm, ...]:
    """The config under test and the controls, which are inspected."""
    arm = subject_arm(study)
    return (
        Arm(name=arm.name, role=arm.role, difference="unchanged", faults=subject.faults),
        *(control.arm(study) for control in controls),
    )


def split_by_setting(runs: Sequence[LoadedRun], settings: Iterable[str]) -> list[list[LoadedRun]]:
    """The runs of each setting of their arms."""
    return [[run for run in runs if run.arm.setting == setting] for setting in settings]


def compare_scores(
    name: str,
    control: Sequence[LoadedRun],
    treatment: Sequence[LoadedRun],
    final: str,
    smallest_effect: float,
    diverged: float = 0.0,
) -> Contrast:
    """A score of two arms, seed by seed; an effect is the control less the treatment.

    Args:
        name: the stable name of the treatment.
        control: the runs of the reference.
        treatment: the runs that are compared with it; a run that failed otherwise has no pair.
        final: the key of the runs' final value.
        smallest_effect: the smallest effect that matters.
        diverged: the score of a run that diverged, the worst one.
    """
    by_seed = {run.seed: _read_score(run, final, diverged) for run in treatment}
    pairs = [(_read_score(run, final, diverged), by_seed.get(run.seed)) for run in control]
    both = [(before, after) for before, after in pairs if before is not None and after is not None]
    means = [fmean(side) for side in zip(*both, strict=True)] if both else [float("nan")] * 2
    effects = tuple(before - after for before, after in both)
    return Contrast(name, means[0], means[1], effects, smallest_effect, final=final)


def _read_score(run: LoadedRun, final: str, diverged: float) -> float | None:
    if run.diverged:
        return diverged
    value = run.final.get(final)
    return None if value is None or isinstance(value, NotMeasured) else value
