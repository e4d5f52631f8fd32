"""What the named experiments have shown so far: the tracking table, S1-S6 and the three phases, from their folders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import Literal

from etrm.config import Config
from etrm.evaluation import Decision, PairedInterval, decide, evaluate_baselines, paired_t_interval
from etrm.investigation.comparison import dynamics
from etrm.investigation.comparison.paired_contrast import LARGEST_P, compare_runs
from etrm.investigation.evidence.words import format_seeds
from etrm.investigation.experiments.accuracy_collapse import describe_drifts, describe_spikes, find_falls
from etrm.investigation.experiments.position_probe import PositionSkill, position_skill
from etrm.investigation.experiments.registry import (
    BASELINE,
    EXPERIMENTS,
    GATE,
    QUESTIONS,
    Experiment,
    Question,
)
from etrm.investigation.runs.arms import ArmId
from etrm.investigation.runs.loaded_run import LoadedRun, load_run
from etrm.investigation.runs.measured_run import rebuild_trainer
from etrm.model.encoders.standard import GridEncoder
from etrm.training.scoring.overfit_gate import Gate, judge
from etrm.training.scoring.predictor import load_model
from etrm.training.task_sets import load_held_out_tasks

SMALLEST_EFFECT = 0.05
"""Smallest difference of the log of the loss that matters, about 5 %; fixed before any run."""
LONG = 5000
"""Steps for which training has to be stable by the second phase."""


@dataclass(frozen=True)
class ExperimentRow:
    """One experiment as far as it was run.

    Attributes:
        experiment: the experiment.
        runs: the runs by seed; those that are not finished are missing.
        effects: the log of the baseline's loss minus that of its own, for every seed of both.
        collapsed: seeds whose token accuracy fell to less than half of a peak.
    """

    experiment: Experiment
    runs: tuple[LoadedRun, ...]
    effects: tuple[float, ...]
    collapsed: int

    @property
    def interval(self) -> PairedInterval | None:
        """The interval of the mean effect; None without a pair."""
        return paired_t_interval(self.effects) if self.effects else None

    @property
    def decision(self) -> Decision | None:
        """The decision of the registered rule; None without a pair."""
        return decide(self.interval, SMALLEST_EFFECT) if self.interval else None

    def mean(self, key: str) -> float | None:
        """The mean final value over the seeds, or None where no run measured it."""
        values = [run.final.get(key) for run in self.runs if run.finished]
        numbers = [value for value in values if isinstance(value, float) and isfinite(value)]
        return sum(numbers) / len(numbers) if numbers else None


class PhaseState(StrEnum):
    """Whether a phase is reached."""

    MET = "met"
    NOT_MET = "not-met"
    TOO_SHORT = "too-short"  # nothing contradicts it, but the runs are too short to decide
    NOT_RUN = "not-run"


@dataclass(frozen=True)
class Phase:
    """One of the three phases of success.

    Attributes:
        name: the name of the phase.
        wanted: the requirement, in words.
        state: whether it is reached.
        found: the result, in words with numbers.
    """

    name: str
    wanted: str
    state: PhaseState
    found: str


def _to_state(met: bool) -> PhaseState:
    return PhaseState.MET if met else PhaseState.NOT_MET


@dataclass(frozen=True)
class Answer:
    """How the experiments answer a question.

    Attributes:
        question: the question.
        verdict: the verdict of the registered rule over its experiments, with Holm's correction; NOT RUN without any.
        found: the result in words, with numbers.
    """

    question: Question
    verdict: Literal["VALIDATED", "INVALIDATED", "INCONCLUSIVE", "CANDIDATE", "NOT RUN"]
    found: str


def make_experiment_rows(root: Path, seeds: int, outside: Sequence[Experiment] = ()) -> list[ExperimentRow]:
    """A row for every experiment, those from outside last, with the runs that the folder holds."""
    every = EXPERIMENTS | {experiment.name: experiment for experiment in outside}
    by_name = {name: _select_finished(root, name, seeds) for name in every}
    return [_make_row(experiment, by_name[name], by_name[BASELINE]) for name, experiment in every.items()]


def _select_finished(root: Path, name: str, seeds: int) -> list[LoadedRun]:
    found = [load_run(root, ArmId(name), seed) for seed in range(seeds)]
    return [run for run in found if run is not None]


def _make_row(
    experiment: Experiment, runs: Sequence[LoadedRun], baseline: Sequence[LoadedRun]
) -> ExperimentRow:
    compared = experiment.name not in (BASELINE, GATE)
    found = compare_runs(experiment.name, baseline if compared else (), runs, "loss_end", SMALLEST_EFFECT)
    collapsed = sum(_judge_gate(run).collapsed for run in runs if _is_long_enough(run))
    return ExperimentRow(experiment, tuple(runs), found.effects, collapsed)


def _is_long_enough(run: LoadedRun) -> bool:
    return run.finished and run.steps >= 25


def _judge_gate(run: LoadedRun) -> Gate:
    return judge([m["accuracy_all"] or 0.0 for m in run.metrics])


def judge_phases(base: Config, rows: Sequence[ExperimentRow]) -> tuple[Phase, ...]:
    """Whether each of the three phases of success is met."""
    by_name = {row.experiment.name: row for row in rows}
    return (
        _can_overfit(by_name[GATE]),
        _is_stable([by_name[name] for name in ("E2", "E3", "E4")]),
        _generalises(base, rows),
    )


def _can_overfit(row: ExperimentRow) -> Phase:
    wanted = "E1: over 95 % token accuracy on ten training tasks, without a collapse"
    gates = [_judge_gate(run) for run in row.runs if _is_long_enough(run)]
    diverged = _count_diverged([row])
    if not gates and not diverged:
        return Phase("1, can overfit", wanted, PhaseState.NOT_RUN, "E1 was not run")
    accuracies = [f"{found.accuracy:.3f}{' (collapsed)' if found.collapsed else ''}" for found in gates]
    found = ", ".join([*accuracies, *["diverged"] * diverged])
    state = _to_state(all(found.passed for found in gates) and not diverged)
    return Phase("1, can overfit", wanted, state, f"{found}, one result per seed")


def _is_stable(rows: Sequence[ExperimentRow]) -> Phase:
    wanted = f"E2 to E4: no collapse in {LONG:,} steps, and an accuracy that rises"
    runs = [run for row in rows for run in row.runs if _is_long_enough(run)]
    diverged = _count_diverged(rows)
    if not runs and not diverged:
        return Phase("2, stable training", wanted, PhaseState.NOT_RUN, "none of E2 to E4 was run")
    collapsed = sum(row.collapsed for row in rows)
    rising = sum(_rises(run) for run in runs)
    shortest = min((run.steps for run in runs), default=0)
    every = len(runs) + diverged
    found = f"{collapsed} of {every} runs collapsed, {diverged} diverged, {rising} rise, {shortest} steps"
    state = _to_state(not collapsed and rising == every)
    if state is PhaseState.MET and shortest < LONG:
        state, found = PhaseState.TOO_SHORT, f"{found}: too short to decide"
    return Phase("2, stable training", wanted, state, found)


def _count_diverged(rows: Sequence[ExperimentRow]) -> int:
    """The runs that a number which is not finite ended: the worst result, which is never left out."""
    return sum(run.diverged for row in rows for run in row.runs)


def _rises(run: LoadedRun) -> bool:
    """Whether the last quarter of the steps is more accurate than the first."""
    seen = [m["accuracy_all"] or 0.0 for m in run.metrics]
    quarter = max(1, len(seen) // 4)
    return sum(seen[-quarter:]) > sum(seen[:quarter])


def _generalises(base: Config, rows: Sequence[ExperimentRow]) -> Phase:
    wanted = "held-out tasks solved by more than the best trivial baseline, by the lower end of the interval"
    best: tuple[float, str] | None = None
    for row in rows:
        lows = [0.0 if run.diverged else run.final.get("held_out_low") for run in row.runs]
        numbers = [low for low in lows if isinstance(low, float)]
        if numbers and (best is None or min(numbers) > best[0]):
            best = (min(numbers), row.experiment.name)
    if best is None:
        return Phase("3, generalisation", wanted, PhaseState.NOT_RUN, "nothing was run")
    reports = evaluate_baselines(load_held_out_tasks(base), base.data)
    trivial = max(report.pass_at[1].score for report in reports.values())
    found = f"best lower end {best[0]:.3f} ({best[1]}), best trivial baseline {trivial:.3f}"
    return Phase("3, generalisation", wanted, _to_state(best[0] > trivial), found)


def answer_questions(rows: Sequence[ExperimentRow]) -> tuple[Answer, ...]:
    """S1 to S6 from their experiments, with what the logged steps of all runs show."""
    by_name = {row.experiment.name: row for row in rows}
    found = [_answer_question(question, [by_name[name] for name in question.by]) for question in QUESTIONS]
    runs = [run for row in rows for run in row.runs if _is_long_enough(run)]
    fallen = find_falls(runs)
    baseline = [run for run in by_name[BASELINE].runs if run.finished]
    additions: dict[str, Callable[[], str]] = {
        "S2": lambda: describe_drifts(fallen, len(runs)),
        "S3": lambda: describe_spikes(fallen, len(runs)),
        "S4": lambda: _measure_token_rank(baseline),
        "S5": lambda: _measure_position(baseline),
    }
    return tuple(
        replace(answer, found=f"{answer.found}. Also: {additions[answer.question.name]()}")
        if answer.verdict != "NOT RUN" and answer.question.name in additions
        else answer
        for answer in found
    )


def _measure_token_rank(runs: Sequence[LoadedRun]) -> str:
    probes = [dynamics.read_probe(run.metrics, "token_rank") for run in runs]
    ranks = [found[-1][1] for found in probes if found]
    known = f"{fmean(ranks):.1f}" if ranks else "not measured"
    return (
        f"effective rank of a context's tokens {known} ({BASELINE}, at the end, {format_seeds(len(ranks))})"
    )


def _measure_position(runs: Sequence[LoadedRun]) -> str:
    skills = []
    for run in runs:
        model, *_ = load_model(run.path, "raw")
        for encoder in (model.encoder, rebuild_trainer(run.path).model.encoder):
            reader = getattr(encoder, "grid_encoder", None)
            if not isinstance(reader, GridEncoder) or reader.pooling == "none":
                return "position before and after pooling not measured (another kind of encoder)"
            skills.append(position_skill(reader))
    trained, start = skills[::2], skills[1::2]
    return (
        f"where a single cell lies is read with R2 {_mean(trained, 'before')} from its token and "
        f"{_mean(trained, 'after')} after pooling ({BASELINE}, {format_seeds(len(runs))}; at the random start "
        f"{_mean(start, 'before')} and {_mean(start, 'after')})"
    )


def _mean(skills: Sequence[PositionSkill], name: str) -> str:
    return f"{fmean(getattr(skill, name) for skill in skills):.2f}"


def _answer_question(question: Question, rows: Sequence[ExperimentRow]) -> Answer:
    decided = [(row, row.decision, row.interval) for row in rows if row.decision is not None and row.interval]
    if not decided:
        return Answer(question, "NOT RUN", f"none of {', '.join(question.by)} was run with {BASELINE}")
    found = "; ".join(
        f"{row.experiment.name} lowers the log of the loss by {i.mean:.3f} [{i.low:.3f}, {i.high:.3f}], {i.seeds} seeds"
        for row, _, i in decided
    )
    verdicts = [decision.verdict for _, decision, _ in decided]
    # The best of several looks better than it is: Bonferroni, the first step of Holm's, on one-sided p-values.
    helped = any(
        i.p_value <= LARGEST_P / len(decided)
        for _, d, i in decided
        if d.verdict == "VALIDATED" or d.candidate
    )
    if helped and "VALIDATED" in verdicts:
        return Answer(question, "VALIDATED", found)
    if helped:
        return Answer(question, "CANDIDATE", f"{found}; five seeds can validate")
    if all(verdict == "INVALIDATED" for verdict in verdicts):
        return Answer(question, "INVALIDATED", found)
    return Answer(question, "INCONCLUSIVE", found)
