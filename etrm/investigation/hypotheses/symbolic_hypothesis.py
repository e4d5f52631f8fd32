"""What N1 to N5 share: they are about the symbolic solver, and their controls are a small run of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from statistics import fmean

from etrm.config import Config, load, with_settings
from etrm.config.model import SYMBOLIC
from etrm.config.tree import Changes
from etrm.investigation.comparison.paired_contrast import Contrast
from etrm.investigation.comparison.screening import with_steps
from etrm.investigation.controls import HEALTHY, Control, subject_arm
from etrm.investigation.evidence.reasons import InspectionFacts
from etrm.investigation.hypotheses.hypothesis import Hypothesis
from etrm.investigation.hypotheses.inspection import describe_scope, judge
from etrm.investigation.judgement import Judgement
from etrm.investigation.records import Arm, ControlOutcome, NotMeasured, Verdict
from etrm.investigation.runs.loaded_run import LoadedRun

SYMBOLIC_PRESET = "symbolic-rules"
"""Preset of the controls, which are small and on tasks whose rules the solver can learn."""
STUDIED = 4000
"""Training tasks of the runs whose scores are compared, so many that hardly any is seen twice."""


class SymbolicHypothesis(Hypothesis):
    """A hypothesis about a mechanism inside of the symbolic solver; H1 to H7, which come first, name a root cause."""

    def applies_to(self, subject: Config) -> bool:
        """Whether the model is a symbolic solver."""
        return subject.model.variant == SYMBOLIC


class MechanismFacts(InspectionFacts):
    """Facts that may leave a mechanism open."""

    @property
    def undecided(self) -> bool:
        """Whether the facts neither show the mechanism nor rule it out."""
        return False


def judge_mechanism(
    worst: MechanismFacts | None, error: str = "", controls: Sequence[ControlOutcome] = (), seeds: int = 1
) -> Judgement:
    """The verdict of the worst seed; INCONCLUSIVE where its facts are undecided.

    Args:
        worst: the facts of the worst seed; None where the model could be built with no seed.
        error: the reason why a model could not be built, or nothing.
        controls: outcomes of the controls.
        seeds: number of seeds.
    """
    found = judge(worst, error, controls, describe_scope(seeds))
    if worst is not None and found.verdict is Verdict.INVALIDATED and worst.undecided:
        return replace(found, verdict=Verdict.INCONCLUSIVE)
    return found


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
        *(
            Arm(
                name=f"{study}-{control.name}",
                role="positive control" if control.positive else "negative control",
                difference=control.what,
                faults=control.config.faults,
            )
            for control in controls
        ),
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
