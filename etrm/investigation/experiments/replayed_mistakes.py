"""Five ways in which the first frozen-decoder experiment misread itself (seed 004), made again and caught.

Each mistake is one short run or comparison. What the original read off it stands beside the check that the
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
from etrm.config import with_overrides
from etrm.data import Sample
from etrm.errors import ConfigError
from etrm.evaluation import binomial_interval
from etrm.investigation.evidence import Metric
from etrm.investigation.experiments import frozen_decoder
from etrm.investigation.hypotheses.h1_decoder_loading import LOGIT_TOLERANCE, compare
from etrm.investigation.measurements.encoder_gradients import gather
from etrm.investigation.protocol import Investigation, seeded
from etrm.investigation.result import Arm, Direction, Evidence, Experiment, Run, Scenario
from etrm.investigation.runs.jobs import Job
from etrm.investigation.runs.measured_run import training_queries
from etrm.model.variant import Variant
from etrm.training.scoring.predictor import load_model, make_batch
from etrm.training.task_sets import load_held_out_tasks
from etrm.training.trainer import Trainer

STEPS = 20
CLIP_NORM = 0.1
"""Small enough that it acts on every step, as the original's limit of 1 did on a loss summed over the batch."""
FEW_TASKS = 4
LIKE = 0.01
"""Relative difference below which two statistics are the same to a reader."""
SHORT, SKIPPED = "original-short", "original-optimizer"


class OriginalReason(StrEnum):
    """Whether the checks catch the mistakes."""

    ALL_CAUGHT = "original.all-caught"
    MISSED = "original.missed"


@dataclass(frozen=True)
class Seen:
    """What a mistake looked like, and what its check says.

    Attributes:
        read: rows as the original read them.
        checks: rows of the check, which fail where it catches the mistake.
        runs: that were trained for it.
    """

    read: tuple[Evidence, ...]
    checks: tuple[Evidence, ...]
    runs: tuple[Run, ...] = ()

    @property
    def caught(self) -> bool:
        """Whether a check fails."""
        return any(row.passed is False for row in self.checks)


@dataclass(frozen=True)
class Mistake:
    """One of the five.

    Attributes:
        name: as given to ``--as-original``.
        what: was done and concluded.
        look: makes it again.
    """

    name: str
    what: str
    look: Callable[[Investigation], Seen]


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
            )
    return tuple(mistake for mistake in MISTAKES.values() if {"all", mistake.name} & set(names))


def run(investigation: Investigation, mistakes: Sequence[Mistake]) -> Experiment:
    """Make mistakes again with the first seed, and say which of them the checks catch."""
    began = time.perf_counter()
    seen = {mistake.name: mistake.look(investigation) for mistake in mistakes}
    caught = [name for name, found in seen.items() if found.caught]
    missed = [name for name in seen if name not in caught]
    runs = {run.folder: run for found in seen.values() for run in found.runs}
    return Experiment(
        id="original-mistakes",
        title="The original's mistakes",
        question="What did the first frozen-decoder experiment read, and would the checks have said otherwise?",
        scenario=Scenario.MISSED if missed else Scenario.CAUGHT,
        codes=(OriginalReason.MISSED if missed else OriginalReason.ALL_CAUGHT,),
        sentence=f"{len(caught)} of {len(seen)} mistakes are caught"
        + (f", and not: {', '.join(missed)}" if missed else "")
        + f". Made again: {'; '.join(f'({m.name}) {m.what}' for m in mistakes)}.",
        scenarios=(
            (Scenario.CAUGHT, "beside every misreading stands a check that fails"),
            (Scenario.MISSED, "a mistake passes all checks"),
        ),
        screening=False,
        arms=tuple(_arm(run) for run in runs.values()),
        runs=tuple(runs.values()),
        evidence=tuple(row for found in seen.values() for row in (*found.read, *found.checks)),
        wall_s=round(time.perf_counter() - began, 1),
    )


def _read(mistake: str, what: str, words: str) -> Metric:
    """What the original read."""
    return Metric(f"original.{mistake}-{what}", f"({mistake}) {words}")


def _check(mistake: str, what: str, words: str, direction: Direction = Direction.HOLDS) -> Metric:
    """What the check reads."""
    return Metric(f"original.{mistake}-check-{what}", f"({mistake}) check: {words}", direction)


NORM_AFTER = _read("norms", "after-clipping", "encoder gradient norm as logged after clipping, median")
NORM_BEFORE = _read("norms", "before-clipping", "the same before clipping, median")
NORM_AT_LIMIT = _check("norms", "at-limit", "steps whose logged norm is the clipping limit itself")
WITH_GRADIENT = _read("optimizer", "with-gradient", "steps with an encoder gradient")
WITHOUT_MOVEMENT = _check("optimizer", "no-movement", "steps after which no encoder weight has moved")
TENSORS_EQUAL = _read("cycles", "tensors-equal", "core tensors equal to the checkpoint's")
SETTINGS_DIFFER = _check("cycles", "settings", "settings without weights that differ")
LOGITS_DIFFER = _check("cycles", "logits", "largest difference of logits, same context")
NONE_SOLVED = _read("tasks", "none-solved", "pass@1 of an evaluation that solves 0 of {item} tasks")
TASKS_EVALUATED = _check("tasks", "evaluated", "held-out tasks that were asked")
SCORE_LEFT_OPEN = _check(
    "tasks",
    "score-left-open",
    "score that 0 solved leaves open, upper end of the exact 95 % interval",
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


def _as_read(metric: Metric, value: float, taken_for: str, item: str = "") -> Evidence:
    return metric.row(value, item=item, threshold=f"read as: {taken_for}", n="as the original read it")


def _norms(investigation: Investigation) -> Seen:
    short = _trained(investigation)
    metrics = investigation.metrics(short)
    before, after = (
        [m[f"encoder.grad_norm_{when}_clip"] for m in metrics if m.get(f"encoder.grad_norm_{when}_clip")]
        for when in ("pre", "post")
    )

    def at_limit(norms: Sequence[float]) -> float:
        return float(sum(abs(norm - CLIP_NORM) <= 1e-3 * CLIP_NORM for norm in norms))

    return Seen(
        read=(
            _as_read(NORM_AFTER, median(after), "stable"),
            _as_read(NORM_BEFORE, median(before), "not looked at"),
        ),
        checks=(
            NORM_AT_LIMIT.row(
                at_limit(after),
                control=at_limit(before),
                threshold="none: a norm before clipping meets it by chance alone",
                passed=at_limit(after) == 0,
                n=f"{len(metrics)} steps; control: the norm before clipping",
            ),
        ),
        runs=(short,),
    )


def _optimizer(investigation: Investigation) -> Seen:
    faults = ("freeze-skips-optimizer",)
    trained = _run(investigation, SKIPPED, faults)
    facts = gather(investigation.metrics(trained))
    alive = facts.steps - facts.without_gradient
    return Seen(
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


def _cycles(investigation: Investigation) -> Seen:
    decoder = investigation.brief_decoder
    subject = with_overrides(investigation.starting_from(decoder), ('faults=["decoder-cycles-mismatch"]',))
    facts = compare(seeded(subject, investigation.seeds[0]), decoder)
    words = "; ".join(
        f"{name}: trained with {theirs}, runs with {ours}" for name, theirs, ours in facts.settings
    )
    return Seen(
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


def _tasks(investigation: Investigation) -> Seen:
    asked = len(load_held_out_tasks(investigation.subject))
    _, high = binomial_interval(0, FEW_TASKS)
    _, all_high = binomial_interval(0, asked)
    return Seen(
        read=(_as_read(NONE_SOLVED, 0.0, "it fails", f"{FEW_TASKS}"),),
        checks=(
            TASKS_EVALUATED.row(
                FEW_TASKS,
                control=asked,
                threshold=f">= {frozen_decoder.FEWEST_TASKS}, or no verdict about generalisation",
                passed=FEW_TASKS >= frozen_decoder.FEWEST_TASKS,
                n="control: this subject's",
            ),
            SCORE_LEFT_OPEN.row(
                high,
                control=all_high,
                threshold="scores up to this are not ruled out",
                n=f"0 of {FEW_TASKS}; control: 0 of {asked}",
            ),
        ),
    )


def _statistics(investigation: Investigation) -> Seen:
    short = _trained(investigation)
    model, config, _, _ = load_model(investigation.root / short.folder, "raw")
    trainer = Trainer(config)
    samples = training_queries(trainer)
    contexts = [_contexts(kind, samples) for kind in (model, trainer.model)]
    trained, start = map(representation, contexts)
    same = representation(contexts[0][:1].expand_as(contexts[0]))
    return Seen(
        read=(
            _as_read(NORM, _known(trained.norm), "a healthy encoder"),
            _as_read(DEVIATION, _known(trained.std), "a healthy encoder"),
        ),
        checks=(
            NORM_TRAINED.row(
                _known(trained.norm),
                control=_known(same.norm),
                threshold=f"evidence only where it differs by {LIKE:.0%} from a context that says nothing",
                passed=_differ(trained, same),
                n=f"{len(samples)} tasks; control: one task's context given for every task",
            ),
            SHARE_TRAINED.row(
                _known(trained.share),
                control=_known(start.share),
                threshold="beside its random start, never alone",
                n=f"{len(samples)} tasks; control: the random start",
            ),
        ),
        runs=(short,),
    )


MISTAKES = {
    mistake.name: mistake
    for mistake in (
        Mistake("norms", "gradient norms were logged after clipping, and taken for stable gradients", _norms),
        Mistake(
            "optimizer",
            "one optimiser held both parts, and freezing the decoder skipped it, so that nothing was trained",
            _optimizer,
        ),
        Mistake("cycles", "the decoder was trained with other cycles than it was run with", _cycles),
        Mistake(
            "tasks", f"{FEW_TASKS} held-out tasks were asked, and none solved was taken for failure", _tasks
        ),
        Mistake(
            "statistics",
            "a norm of sqrt(hidden size) and a deviation of 1 were taken for a healthy context; RMSNorm gives them "
            "to any",
            _statistics,
        ),
    )
}


def _trained(investigation: Investigation) -> Run:
    return _run(investigation, SHORT, ())


def _run(investigation: Investigation, arm: str, faults: Sequence[str]) -> Run:
    """A short run with the decoder frozen and a low clipping limit."""
    config = frozen_decoder.frozen_config(
        investigation, investigation.brief_decoder, investigation.seeds[0], faults, STEPS
    )
    config = with_overrides(config, (f"train.clip_norm={CLIP_NORM}",))
    (run,) = investigation.run("the original's mistakes", [Job(arm, config.train.seed, config)])
    if run.state == "failed":
        raise ConfigError(
            "experiment.failed-run",
            f"the run {arm} failed, so that nothing can be shown on it",
            got=run.reason,
            next_step="fix the subject first: etrm investigate",
        )
    return run


def _arm(run: Run) -> Arm:
    return Arm(
        name=run.arm,
        role="treatment",
        difference=f"decoder frozen for {run.steps} steps",
        settings=(f"train.clip_norm={CLIP_NORM}",),
        faults=("freeze-skips-optimizer",) if run.arm == SKIPPED else (),
    )


@torch.no_grad()
def _contexts(model: Variant, samples: Sequence[Sample]) -> Tensor:
    assert model.encoder is not None
    model.encoder.eval()
    return model.encoder(make_batch(model, samples).demos).context


def _differ(one: Representation, other: Representation) -> bool:
    a, b = _known(one.norm), _known(other.norm)
    return abs(a - b) > LIKE * abs(b)


def _known(value: float | None) -> float:
    assert value is not None  # finite contexts of several tasks have every figure
    return value
