"""Five mistakes of the first frozen-decoder experiment (Low-performance investigation), repeated and caught.

Each mistake is one short run or comparison. What the original concluded from it is shown next to the check that the
experiment has today; a mistake is caught where its check fails.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

import torch
from torch import Tensor

from diagnostics import Representation, representation
from etrm.config import with_settings
from etrm.data import Sample
from etrm.errors import ConfigError
from etrm.evaluation import binomial_interval
from etrm.investigation.comparison.frozen_arms import frozen_config
from etrm.investigation.evidence.table import Direction, EvidenceRow, Metric
from etrm.investigation.experiments.frozen_decoder import FEWEST_TASKS
from etrm.investigation.hypotheses.h1_decoder_loading import LOGIT_TOLERANCE, compare_with_checkpoint
from etrm.investigation.measurements.encoder_gradients import gather
from etrm.investigation.records import Arm
from etrm.investigation.result import ExperimentResult, Scenario
from etrm.investigation.runs.arms import ArmId
from etrm.investigation.runs.jobs import Job
from etrm.investigation.runs.loaded_run import LoadedRun, records_of
from etrm.investigation.runs.measured_run import rebuild_trainer, training_queries
from etrm.investigation.session import Investigation, with_seed
from etrm.model.variant import Variant
from etrm.training.scoring.predictor import load_model, make_batch
from etrm.training.task_sets import load_held_out_tasks

STEPS = 20  # those of the preset `smoke`, which take seconds
CLIP_NORM = 0.1
"""Small enough that it acts on every step, as the original's limit of 1 did on a loss summed over the batch."""
FEW_TASKS = 4  # as the original evaluated
LIKE = 0.01
"""Relative difference below which a reader takes two statistics for equal."""
SHORT, SKIPPED = ArmId("original", "short"), ArmId("original", "optimizer")


NEXT_STEPS = {
    False: "The checks hold. `etrm frozen-decoder` runs the experiment itself.",
    True: "Do not trust the experiment before the missed check is fixed.",
}
"""What to do next, by whether a mistake was missed."""


class OriginalReason(StrEnum):
    """Whether the checks catch the mistakes."""

    ALL_CAUGHT = "original.all-caught"
    MISSED = "original.missed"


@dataclass(frozen=True)
class ReplayedMistake:
    """A replayed mistake and its check.

    Attributes:
        read: rows as the original experiment read them.
        checks: rows of the check, which fail where it catches the mistake.
        runs: the runs that were trained for it.
    """

    read: tuple[EvidenceRow, ...]
    checks: tuple[EvidenceRow, ...]
    runs: tuple[LoadedRun, ...] = ()

    @property
    def caught(self) -> bool:
        """Whether a check fails."""
        return any(row.passed is False for row in self.checks)


@dataclass(frozen=True)
class Mistake:
    """One of the five.

    Attributes:
        name: value of ``--as-original``.
        what: the mistake: what was done and concluded.
        replay: makes the mistake again.
    """

    name: str
    what: str
    replay: Callable[[Investigation], ReplayedMistake]


def chosen(names: Sequence[str]) -> tuple[Mistake, ...]:
    """The mistakes of those names; ``all`` for every one.

    Raises:
        ConfigError: one is not known.
    """
    for name in names:
        if name not in (*MISTAKES, "all"):
            raise ConfigError(
                "experiment.unknown-mistake",
                f"unknown mistake {name!r}",
                allowed=", ".join((*MISTAKES, "all")),
                next_step="name one of these",
            )
    return tuple(mistake for mistake in MISTAKES.values() if {"all", mistake.name} & set(names))


def run(investigation: Investigation, mistakes: Sequence[Mistake]) -> ExperimentResult:
    """Make mistakes again with the first seed, and report which of them the checks catch."""
    began = time.perf_counter()
    seen = {mistake.name: mistake.replay(investigation) for mistake in mistakes}
    caught = [name for name, found in seen.items() if found.caught]
    missed = [name for name in seen if name not in caught]
    runs = {run.path: run for found in seen.values() for run in found.runs}
    return ExperimentResult(
        id="original-mistakes",
        title="Mistakes of the original experiment",
        question="How did the original experiment misread its numbers, and would the checks have caught it?",
        scenario=Scenario.MISSED if missed else Scenario.CAUGHT,
        next_step=NEXT_STEPS[bool(missed)],
        codes=(OriginalReason.MISSED if missed else OriginalReason.ALL_CAUGHT,),
        sentence=f"{len(caught)} of {len(seen)} mistakes are caught"
        + (f", these are not: {', '.join(missed)}" if missed else "")
        + f". Made again: {'; '.join(f'({m.name}) {m.what}' for m in mistakes)}.",
        scenarios=(
            (Scenario.CAUGHT, "a check fails for every mistake"),
            (Scenario.MISSED, "a mistake passes all checks"),
        ),
        screening=False,
        arms=tuple(_describe_arm(run) for run in runs.values()),
        runs=records_of(list(runs.values())),
        evidence=tuple(row for found in seen.values() for row in (*found.read, *found.checks)),
        wall_s=round(time.perf_counter() - began, 1),
    )


def _read(mistake: str, what: str, words: str) -> Metric:
    """The metric that the original experiment read."""
    return Metric(f"original.{mistake}-{what}", f"({mistake}) {words}")


def _check(mistake: str, what: str, words: str, direction: Direction = Direction.HOLDS) -> Metric:
    """The metric that the check reads."""
    return Metric(f"original.{mistake}-check-{what}", f"({mistake}) check: {words}", direction)


NORM_AFTER = _read("norms", "after-clipping", "median encoder gradient norm as logged after clipping")
NORM_BEFORE = _read("norms", "before-clipping", "median encoder gradient norm before clipping")
NORM_AT_LIMIT = _check("norms", "at-limit", "steps whose logged norm equals the clipping limit")
WITH_GRADIENT = _read("optimizer", "with-gradient", "steps with an encoder gradient")
WITHOUT_MOVEMENT = _check("optimizer", "no-movement", "steps after which no encoder weight has moved")
TENSORS_EQUAL = _read("cycles", "tensors-equal", "core tensors equal to those of the checkpoint")
SETTINGS_DIFFER = _check("cycles", "settings", "settings without weights that differ")
LOGITS_DIFFER = _check("cycles", "logits", "largest difference of logits, same context")
NONE_SOLVED = _read("tasks", "none-solved", "pass@1 of an evaluation that solves 0 of {item} tasks")
TASKS_EVALUATED = _check("tasks", "evaluated", "held-out tasks that were evaluated")
SCORE_LEFT_OPEN = _check(
    "tasks",
    "score-left-open",
    "upper end of the exact 95 % interval of the score when 0 are solved",
    Direction.CONTEXT,
)
NORM = _read("statistics", "norm", "mean norm of a context token")
DEVIATION = _read("statistics", "deviation", "standard deviation of its channels")
NORM_TRAINED = _check("statistics", "norm", "mean norm of a context token, trained")
SHARE_TRAINED = _check(
    "statistics",
    "share",
    "share of the contexts' power that differs between tasks, trained",
    Direction.CONTEXT,
)


def _as_read(metric: Metric, value: float, taken_for: str, item: str = "") -> EvidenceRow:
    return metric.row(value, item=item, threshold=f"read as: {taken_for}", n="as the original read it")


def _replay_norms(investigation: Investigation) -> ReplayedMistake:
    short = _trained(investigation)
    metrics = short.metrics
    before, after = (
        [m[f"encoder.grad_norm_{when}_clip"] for m in metrics if m.get(f"encoder.grad_norm_{when}_clip")]
        for when in ("pre", "post")
    )

    def at_limit(norms: Sequence[float]) -> float:
        return float(sum(abs(norm - CLIP_NORM) <= 1e-3 * CLIP_NORM for norm in norms))

    return ReplayedMistake(
        read=(
            _as_read(NORM_AFTER, median(after), "stable"),
            _as_read(NORM_BEFORE, median(before), "not looked at"),
        ),
        checks=(
            NORM_AT_LIMIT.row(
                at_limit(after),
                control=at_limit(before),
                threshold="none: a norm before clipping equals it only by chance",
                passed=at_limit(after) == 0,
                n=f"{len(metrics)} steps; control: the norm before clipping",
            ),
        ),
        runs=(short,),
    )


def _replay_optimizer(investigation: Investigation) -> ReplayedMistake:
    faults = ("freeze-skips-optimizer",)
    trained = _run(investigation, SKIPPED, faults)
    facts = gather(trained.metrics)
    alive = facts.steps - facts.without_gradient
    return ReplayedMistake(
        read=(_as_read(WITH_GRADIENT, alive, "the encoder learns"),),
        checks=(
            WITHOUT_MOVEMENT.row(
                facts.without_movement,
                control=0.0,
                threshold="none",
                passed=facts.without_movement == 0,
                n=f"{facts.steps} steps",
            ),
        ),
        runs=(trained,),
    )


def _replay_cycles(investigation: Investigation) -> ReplayedMistake:
    decoder = investigation.brief_decoder
    subject = with_settings(investigation.starting_from(decoder), faults=("decoder-cycles-mismatch",))
    facts = compare_with_checkpoint(with_seed(subject, investigation.seeds[0]), decoder)
    words = "; ".join(
        f"{name}: trained with {theirs}, runs with {ours}" for name, theirs, ours in facts.settings
    )
    return ReplayedMistake(
        read=(_as_read(TENSORS_EQUAL, facts.matched, "the decoder is loaded"),),
        checks=(
            SETTINGS_DIFFER.row(
                len(facts.settings), control=0.0, threshold="0", passed=not facts.settings, n=words
            ),
            LOGITS_DIFFER.row(
                facts.logits,
                control=0.0,
                threshold=f"<= {LOGIT_TOLERANCE:g}",
                passed=facts.logits <= LOGIT_TOLERANCE,
                n=f"{facts.contexts} contexts",
            ),
        ),
    )


def _replay_tasks(investigation: Investigation) -> ReplayedMistake:
    evaluated = len(load_held_out_tasks(investigation.subject))
    _, high = binomial_interval(0, FEW_TASKS)
    _, all_high = binomial_interval(0, evaluated)
    return ReplayedMistake(
        read=(_as_read(NONE_SOLVED, 0.0, "it fails", f"{FEW_TASKS}"),),
        checks=(
            TASKS_EVALUATED.row(
                FEW_TASKS,
                control=evaluated,
                threshold=f">= {FEWEST_TASKS}, or no verdict about generalisation",
                passed=FEW_TASKS >= FEWEST_TASKS,
                n="control: this subject's",
            ),
            SCORE_LEFT_OPEN.row(
                high,
                control=all_high,
                threshold="scores up to this are not ruled out",
                n=f"0 of {FEW_TASKS}; control: 0 of {evaluated}",
            ),
        ),
    )


def _replay_statistics(investigation: Investigation) -> ReplayedMistake:
    short = _trained(investigation)
    model, *_ = load_model(short.path, "raw")
    trainer = rebuild_trainer(short.path)
    samples = training_queries(trainer)
    contexts = [_encode(kind, samples) for kind in (model, trainer.model)]
    trained, start = map(representation, contexts)
    same = representation(contexts[0][:1].expand_as(contexts[0]))
    return ReplayedMistake(
        read=(
            _as_read(NORM, _require(trained.norm), "a healthy encoder"),
            _as_read(DEVIATION, _require(trained.std), "a healthy encoder"),
        ),
        checks=(
            NORM_TRAINED.row(
                _require(trained.norm),
                control=_require(same.norm),
                threshold=f"evidence only if it differs by {LIKE:.0%} from a context without information",
                passed=_differ(trained, same),
                n=f"{len(samples)} tasks; control: the context of one task for every task",
            ),
            SHARE_TRAINED.row(
                _require(trained.share),
                control=_require(start.share),
                threshold="compare with the random start",
                n=f"{len(samples)} tasks; control: the random start",
            ),
        ),
        runs=(short,),
    )


MISTAKES = {
    mistake.name: mistake
    for mistake in (
        Mistake(
            "norms",
            "gradient norms were logged after clipping, and taken for stable gradients",
            _replay_norms,
        ),
        Mistake(
            "optimizer",
            "one optimiser held both parts, and freezing the decoder skipped it, so nothing was trained",
            _replay_optimizer,
        ),
        Mistake("cycles", "the decoder was trained with other cycles than it was run with", _replay_cycles),
        Mistake(
            "tasks",
            f"{FEW_TASKS} held-out tasks were evaluated, and 0 solved was taken for failure",
            _replay_tasks,
        ),
        Mistake(
            "statistics",
            "a norm of sqrt(hidden size) and a deviation of 1 were taken for a healthy context; RMSNorm gives them "
            "to any context",
            _replay_statistics,
        ),
    )
}


def _trained(investigation: Investigation) -> LoadedRun:
    return _run(investigation, SHORT, ())


def _run(investigation: Investigation, arm: ArmId, faults: Sequence[str]) -> LoadedRun:
    """A short run with the decoder frozen and a low clipping limit."""
    config = frozen_config(investigation, investigation.brief_decoder, investigation.seeds[0], faults, STEPS)
    config = with_settings(config, train={"clip_norm": CLIP_NORM})
    (run,) = investigation.run("mistakes of the original experiment", [Job(arm, config.train.seed, config)])
    if run.failed:
        raise ConfigError(
            "experiment.failed-run",
            f"the run {arm.name} failed, so the mistake cannot be shown",
            got=run.reason,
            next_step="fix what makes it fail first: etrm investigate",
        )
    return run


def _describe_arm(run: LoadedRun) -> Arm:
    return Arm(
        name=run.arm.name,
        role="treatment",
        difference=f"decoder frozen for {run.steps} steps",
        settings=(f"train.clip_norm={CLIP_NORM}",),
        faults=("freeze-skips-optimizer",) if run.arm == SKIPPED else (),
    )


@torch.no_grad()
def _encode(model: Variant, samples: Sequence[Sample]) -> Tensor:
    assert model.encoder is not None
    model.encoder.eval()
    return model.encoder(make_batch(model, samples).demos).context


def _differ(one: Representation, other: Representation) -> bool:
    a, b = _require(one.norm), _require(other.norm)
    return abs(a - b) > LIKE * abs(b)


def _require(value: float | None) -> float:
    assert value is not None  # finite contexts of several tasks have every figure
    return value
