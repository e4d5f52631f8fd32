"""H7 of an own model: the module that makes the context is too weak. Free contexts for each row are the ceiling."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from enum import StrEnum

import torch
from torch import Tensor, nn

from diagnostics.testing.trials import untouched
from etrm.evaluation.statistics import FULL_SEEDS
from etrm.investigation.comparison.paired_contrast import Contrast, TreatmentComparison, compare_treatments
from etrm.investigation.controls import HEALTHY, broken_controls, control_outcome
from etrm.investigation.evidence.table import Direction, Metric
from etrm.investigation.evidence.words import format_seeds
from etrm.investigation.hypotheses.hypothesis import Statement
from etrm.investigation.judgement import CommonReason, Judgement
from etrm.investigation.own_model.adapter_functions import compute_loss
from etrm.investigation.own_model.batch_rows import count_rows
from etrm.investigation.own_model.context_edits import Edit, captured_contexts, edited_context
from etrm.investigation.own_model.hypotheses.inspected_hypothesis import OwnHypothesis, OwnModelSession
from etrm.investigation.own_model.hypotheses.own_context import OwnContext
from etrm.investigation.own_model.hypotheses.own_data import names_pairs
from etrm.investigation.own_model.injected_faults import average_rows
from etrm.investigation.own_model.model_factory import seed_everything
from etrm.investigation.own_model.model_under_test import ModelUnderTest, RowBatch
from etrm.investigation.own_model.short_runs import (
    BATCHES,
    FEWEST_SEEDS,
    LONGER,
    MUCH_LONGER,
    PATIENT,
    SMALLEST_EFFECT,
    ShortRun,
    ShortRuns,
    describe_gain,
    frame_losses,
)
from etrm.investigation.own_model.training_trial import UNCHANGED, TrainingTrial
from etrm.investigation.records import Arm, ControlOutcome, Verdict
from etrm.investigation.result import HypothesisResult

FREE, SAME = "free-context", "same-context"
RATE = 0.1
"""Rate of a free context (Adam), relative to the root mean square of the context it starts from."""
SEARCH_STEPS = 30
"""Steps of the search for a better context of a trained model."""

CEILING = Metric("own.free-context-loss", "training loss: {item}", Direction.LOWER)
FIT = Metric("own.fitted-share", "share of the first loss that the unchanged run removes")
SEARCH = Metric("own.search-gap", "share of the loss that a search for a better context removes")


class FreeContextReason(StrEnum):
    """What the free contexts show."""

    FREE_GAINS = "own.free-context-gains"
    CONTEXT_SUFFICES = "own.context-suffices"
    NOT_NEEDED = "own.context-not-needed"
    PAIRS_NOT_CHECKED = "own.pairs-not-checked"


class OwnCapacity(OwnHypothesis):
    """H7 of an own model."""

    next_step = "Give the context module more capacity or other inputs, then run the same command again."
    statement = Statement(
        id="H7",
        title="Context capacity",
        statement="The module that makes the context is too weak.",
        refuted_by=(
            "The model fits a few batches about as well with its own contexts as with a free context for each row, in "
            f"{LONGER} times the steps, or in {MUCH_LONGER} times."
        ),
        mechanism="A module that cannot represent the task gives every row the same context, or one too poor to use.",
        kind="statistical",
        would_change=(
            "A gap to the free contexts that appears only on more rows or in longer runs; labels of other rows, which "
            "free contexts can memorise and the module cannot."
        ),
    )

    def find_missing(self, subject: ModelUnderTest) -> str:
        """A context of each row."""
        return OwnContext().find_missing(subject)

    def decide(self, session: OwnModelSession) -> HypothesisResult:
        """Train with free contexts, and with one context for all rows, and compare."""
        began = time.perf_counter()
        session.progress("H7", 0, 3)
        arms, ceiling = find_ceiling(session.runs)
        own, free = arms[:2]
        same = session.runs.run(around=same_contexts, name=SAME, length=LONGER)
        session.progress("H7", 1, 3)
        needed = compare_treatments([session.runs.contrast(FREE, "", same, free)])
        _, healthy = find_ceiling(session.healthy_runs)
        controls = (
            control_outcome(HEALTHY, False, _judge(healthy), "a small healthy model of this project"),
        )
        session.progress("H7", 2, 3)
        what = "the model under test, with the mean context of the batch for every row"
        positive = control_outcome(SAME, True, _judge(needed), what)
        enough = len(session.short_seeds) >= FEWEST_SEEDS
        judgement = _decide(ceiling, controls, positive) if enough else _judge(ceiling)
        judgement = leave_open_without_pairs(judgement, session.subject)
        gap = measure_search_gap(session)
        session.progress("H7", 3, 3)
        runs = [run for arm in (*arms, same) for run in arm]
        removed = sum((run.start - run.end) / (abs(run.start) or 1.0) for run in own) / len(own)
        evidence = [
            ceiling.best.row(
                CEILING,
                f"gains less than {SMALLEST_EFFECT:g} of the reduction",
                ceiling.decisions[0].ruled_out,
            ),
            FIT.row(removed, threshold="(decides nothing)", n=f"{format_seeds(len(own))}, {BATCHES} batches"),
            SEARCH.row(gap, threshold="(decides nothing)", n=f"1 seed, 1 batch, {SEARCH_STEPS} steps"),
        ]
        return self.statement.decided(
            judgement,
            screening=len(session.short_seeds) < FULL_SEEDS,
            p_value=ceiling.p_value,
            arms=tuple(_describe_arms(patient=len(arms) > 2)),
            runs=tuple(run.record() for run in runs),
            evidence=tuple(evidence),
            controls=(*controls, positive) if enough else (),
            figures=(frame_losses(runs),),
            series=tuple(run.curve() for run in runs),
            wall_s=round(time.perf_counter() - began, 1),
        )


def find_ceiling(runs: ShortRuns) -> tuple[list[list[ShortRun]], TreatmentComparison]:
    """The unchanged runs and those with free contexts, and what free contexts gain.

    A gain is measured again, next to unchanged runs that are much longer: a module that only learns more slowly than a
    free context is not too weak.
    """
    own, free = runs.run(length=LONGER), runs.run(around=free_contexts, name=FREE)
    comparison = _compare(runs, own, free)
    if not comparison.gained:
        return [own, free], comparison
    patient = runs.run(UNCHANGED, length=MUCH_LONGER, name=PATIENT)
    return [own, free, patient], _compare(runs, patient, free)


def _compare(runs: ShortRuns, own: Sequence[ShortRun], free: Sequence[ShortRun]) -> TreatmentComparison:
    contrast: Contrast = runs.contrast(FREE, "a free context for each row", own, free)
    return compare_treatments([contrast])


def _judge(comparison: TreatmentComparison) -> Judgement:
    best = comparison.best
    code = FreeContextReason.FREE_GAINS if comparison.gained else FreeContextReason.CONTEXT_SUFFICES
    fall = describe_gain(best)
    words = f"With a free context for each row, {fall}"
    return Judgement(
        comparison.verdict, (code,), f"{words} ({format_seeds(len(best.effects))}).", comparison.candidate
    )


def _decide(
    ceiling: TreatmentComparison, controls: tuple[ControlOutcome, ...], positive: ControlOutcome
) -> Judgement:
    """The verdict; none where the rows are learnt without a context, which leaves nothing to compare."""
    if broken := broken_controls(controls):
        return Judgement(Verdict.ERROR, (CommonReason.CONTROLS_MISBEHAVED,), broken)
    if not positive.behaved:
        words = "The rows of a few batches are learnt about as well with one context for all, so that they say nothing"
        return Judgement(
            Verdict.INCONCLUSIVE, (FreeContextReason.NOT_NEEDED,), f"{words} about the context module."
        )
    return _judge(ceiling)


def leave_open_without_pairs(judgement: Judgement, subject: ModelUnderTest) -> Judgement:
    """A gain proves a weak module only if H5 checked the pairs: free contexts memorise labels of other rows too."""
    if judgement.verdict is not Verdict.VALIDATED or names_pairs(subject, subject.batch(0)):
        return judgement
    words = (
        "Labels or demonstrations of other rows would look the same, and no sample of an id shows the pairs."
    )
    return Judgement(
        Verdict.INCONCLUSIVE,
        (*judgement.codes, FreeContextReason.PAIRS_NOT_CHECKED),
        f"{judgement.sentence} {words}",
        candidate=True,
    )


@contextmanager
def free_contexts(trial: TrainingTrial) -> Iterator[Callable[[int], None]]:
    """Replace the context by a free one for each row of each batch, trained with the rest of the model."""
    tables = [nn.Parameter(_read_context(trial, trial.batch(number))) for number in range(BATCHES)]
    rate = RATE * (
        float(torch.cat([table.detach().flatten() for table in tables]).square().mean().sqrt()) or 1.0
    )
    trial.optimizers = [*trial.optimizers, torch.optim.Adam(tables, rate)]
    with _edited_by_batch(trial, [(len(table), table.expand_as) for table in tables]) as choose:
        yield choose


@contextmanager
def same_contexts(trial: TrainingTrial) -> Iterator[Callable[[int], None]]:
    """Give every row the mean context of its batch."""
    rows = [count_rows(trial.batch(number)) for number in range(BATCHES)]
    with _edited_by_batch(trial, [(count, average_rows) for count in rows]) as choose:
        yield choose


@contextmanager
def _edited_by_batch(
    trial: TrainingTrial, edits: Sequence[tuple[int, Edit]]
) -> Iterator[Callable[[int], None]]:
    """Edit the context of each batch by its own number of rows and edit, from when the batch is chosen."""
    chosen = ExitStack()

    def choose(number: int) -> None:
        chosen.close()
        rows, edit = edits[number]
        chosen.enter_context(edited_context(trial.model, trial.subject.context_module, rows, edit))

    with chosen:
        yield choose


@torch.no_grad()
def _read_context(trial: TrainingTrial, batch: RowBatch) -> Tensor:
    with (
        untouched(trial.model),
        captured_contexts(trial.model, trial.subject.context_module, count_rows(batch)) as found,
    ):
        trial.loss(0, batch)
    return found[0]


def measure_search_gap(session: OwnModelSession) -> float:
    """Train the model, then search for better contexts of one batch with its weights fixed.

    Returns:
        The share of the loss that the search removes.
    """
    trial = TrainingTrial(session.factory, session.short_seeds[0], UNCHANGED)
    for number in range(trial.subject.steps * LONGER):
        trial.step(number, trial.batch(number % BATCHES))
    batch = trial.batch(0)
    context = nn.Parameter(_read_context(trial, batch))
    rate = RATE * (float(context.detach().square().mean().sqrt()) or 1.0)
    optimizer = torch.optim.Adam([context], rate)
    losses = []
    for _ in range(SEARCH_STEPS):
        with untouched(trial.model):
            seed_everything(trial.seed, 0, 2)
            with edited_context(trial.model, trial.subject.context_module, len(context), context.expand_as):
                loss = compute_loss(trial.subject, batch)
            losses.append(float(loss.detach()))
            [slope] = torch.autograd.grad(loss, [context], allow_unused=True)
        context.grad = slope
        optimizer.step()
    return (losses[0] - min(losses)) / abs(losses[0]) if losses[0] else 0.0


def _describe_arms(*, patient: bool) -> Iterator[Arm]:
    yield Arm(name="short-unchanged", role="control", difference=f"unchanged, {LONGER} times as many steps")
    if patient:
        difference = f"unchanged, {MUCH_LONGER} times as many steps"
        yield Arm(name=f"short-{PATIENT}", role="control", difference=difference)
    yield Arm(name=f"short-{FREE}", role="treatment", difference="a free context for each row")
    yield Arm(
        name=f"short-{SAME}",
        role="positive control",
        difference="one context for all rows of a batch",
        faults=(SAME,),
    )
