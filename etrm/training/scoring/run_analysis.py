"""What a trained model gets out of its ACT steps, its votes, its context and noise in its recursion."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from etrm.batch import Batch
from etrm.config import Changes, Config
from etrm.data import DemoPair, Sample, TaskSet, build_evaluation_samples
from etrm.data.sample import CELLS
from etrm.evaluation import check_outputs, paired_t_interval
from etrm.evaluation.learning_stage import SolvedCount
from etrm.evaluation.passk import predict, score
from etrm.model.act import Carry
from etrm.model.variant import ContextPolicy, Given, Variant
from etrm.training.scoring.amortisation import keep_first
from etrm.training.scoring.context_search import compute_typical_contexts, mismatch
from etrm.training.scoring.opened_run import open_run
from etrm.training.scoring.predictor import make_predictor
from etrm.training.scoring.step_trace import StepTrace, trace_steps

NOISES = (0.1, 0.3, 1.0)
"""Sizes of the noise in the recursion, as shares of the state's own deviation: from hardly any to as much again."""
NOISY_RUNS = 5
"""Answers that are selected from for each size of the noise."""
TRAINED_TASKS = 100
"""Tasks of a model that looks tasks up, for which only trained tasks can be analysed."""
KS = (1, 2, 5, 10)
"""Attempts of pass@k; ARC allows two."""


@dataclass(frozen=True)
class StepScore:
    """One ACT step.

    Attributes:
        step: the 1-based step.
        right: the answers that are right after it.
        changed: the mean share of tokens that differ from the step before.
        moved: the mean relative change of the latent state; NaN of a model without one.
        halted: the share of answers with a positive halting logit at this step or before.
    """

    step: int
    right: SolvedCount
    changed: float
    moved: float
    halted: float


@dataclass(frozen=True)
class NamedScore:
    """The answers under one condition, on the same samples as those of the unchanged model.

    Attributes:
        code: the stable name of the condition.
        right: the answers that are right.
        gained: the answers that are right only under the condition.
        lost: the answers that are right only without it.
        accuracy: the mean share of right tokens.
        change: the mean change of that share.
        low, high: the ends of the 95 % t interval of the change, paired by answer; None where it is unbounded.
    """

    code: str
    right: SolvedCount
    gained: int
    lost: int
    accuracy: float
    change: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class MeasuredAnswers:
    """How right B answers are: (B,) bool, all tokens, and (B,) shares of tokens."""

    exact: npt.NDArray[np.bool_]
    accuracy: npt.NDArray[np.floating]

    @classmethod
    def read(cls, trace: StepTrace, steps: npt.NDArray[np.integer] | int = -1) -> MeasuredAnswers:
        """Read the answers after a step, one for all or one for each answer (B,); 0 is the first."""
        place = np.broadcast_to(steps, len(trace.samples)), np.arange(len(trace.samples))
        return cls(trace.exact()[place], trace.accuracy()[place])

    @classmethod
    def choose(cls, outcomes: Sequence[MeasuredAnswers], chosen: npt.NDArray[np.integer]) -> MeasuredAnswers:
        """Take each answer (B,) from one of several outcomes."""
        rows = np.arange(len(chosen))
        return cls(
            np.stack([one.exact for one in outcomes])[chosen, rows],
            np.stack([one.accuracy for one in outcomes])[chosen, rows],
        )

    @classmethod
    def best(cls, outcomes: Sequence[MeasuredAnswers]) -> MeasuredAnswers:
        """Take the best of several outcomes for each answer: a bound, for it reads the true outputs."""
        return cls(
            np.logical_or.reduce([one.exact for one in outcomes]),
            np.stack([one.accuracy for one in outcomes]).max(0),
        )


@dataclass(frozen=True)
class VoteScore:
    """Pass@1 and pass@2 of the first votes of each query: solved tasks."""

    votes: int
    first: SolvedCount
    second: SolvedCount


@dataclass(frozen=True)
class AttemptScore:
    """Pass@k with all votes: solved test outputs, and tasks whose test outputs are all solved."""

    k: int
    outputs: SolvedCount
    tasks: SolvedCount


@dataclass(frozen=True)
class RunAnalysis:
    """The analysis of one checkpoint.

    Attributes:
        step: the step of the checkpoint.
        seen: whether the analysed tasks were trained on.
        steps: the ACT steps in their order.
        readouts: the ways to choose the step whose answer is read: ``last``, ``best-fixed``, ``halting``, ``any``.
        votes: the vote curve.
        attempts: pass@k.
        ablations: conditions of the context and of the identity.
        noise: noise in the recursion, as ``SIZE:SELECTION``.
    """

    step: int
    seen: bool
    steps: tuple[StepScore, ...]
    readouts: tuple[NamedScore, ...]
    votes: tuple[VoteScore, ...]
    attempts: tuple[AttemptScore, ...]
    ablations: tuple[NamedScore, ...]
    noise: tuple[NamedScore, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the analysis as JSON can hold it."""
        return asdict(self)


def analyse_run(
    folder: Path, settings: Changes, progress: Callable[[str], None] = lambda part: None
) -> RunAnalysis:
    """Analyse a run on its held-out tasks; a TRM on tasks that it was trained on. ``evaluate`` chooses the checkpoint.

    Args:
        folder: the run folder, or a checkpoint in it.
        settings: settings of the evaluate section to change.
        progress: a function that is called with the name of each part before it is computed.

    Raises:
        EtrmError: there is no run, no whole checkpoint, or no such tasks.
    """
    run = open_run(folder, settings)
    model, config, trained = run.model, run.config, run.trained
    seen = model.encoder is None
    held_out = keep_first(trained, config.evaluate.max_tasks or TRAINED_TASKS) if seen else run.held_out
    check_outputs(held_out)
    votes = config.evaluate.augmentations
    if seen and isinstance(config.data.augmentations, int):
        votes = min(votes, config.data.augmentations)
    samples = build_evaluation_samples(
        held_out,
        config.data,
        votes,
        config.train.seed,
        variant=config.model.variant,
        trained=trained if seen else None,
    )
    plain = samples[::votes]
    size = config.evaluate.batch_size
    progress("steps")
    trace = trace_steps(model, plain, size)
    progress("votes")
    predictions = predict(samples, make_predictor(model, config.evaluate), size)
    progress("ablations")
    ablations = list(score_ablations(model, config, trained, plain, trace))
    progress("noise")
    noise = list(score_noise(model, plain, trace, size, config.train.seed))
    last = score(tuple(held_out), samples, predictions, KS)
    return RunAnalysis(
        step=run.step,
        seen=seen,
        steps=tuple(list_steps(trace)),
        readouts=tuple(compare_readouts(trace)),
        votes=tuple(draw_vote_curve(held_out, samples, predictions, votes)),
        attempts=tuple(
            AttemptScore(
                k,
                SolvedCount(sum(query.solved(k) for query in last.queries), len(last.queries)),
                SolvedCount(last.pass_at[k].solved, last.pass_at[k].asked),
            )
            for k in KS
        ),
        ablations=tuple(ablations),
        noise=tuple(noise),
    )


def list_steps(trace: StepTrace) -> Iterator[StepScore]:
    """Return the score of each ACT step."""
    exact, changed = trace.exact(), trace.changed()
    for step in range(trace.steps):
        yield StepScore(
            step + 1,
            SolvedCount(int(exact[step].sum()), exact.shape[1]),
            float(changed[step].mean()),
            float(trace.moved[step].mean()),
            float((trace.q_halt[: step + 1] > 0).any(0).mean()),
        )


def compare_readouts(trace: StepTrace) -> Iterator[NamedScore]:
    """Return the score of each way to choose the step that is read, against the last step.

    The best fixed step of one half of the answers is scored on the other half, so that choosing it is not rewarded.
    ``any`` takes the best step of each answer: a bound, and no way to answer.
    """
    last = MeasuredAnswers.read(trace)
    found = {
        "last": last,
        "best-fixed": MeasuredAnswers.read(trace, _choose_fixed_steps(trace.exact())),
        "halting": MeasuredAnswers.read(trace, trace.halting_step()),
        "any": MeasuredAnswers.best([MeasuredAnswers.read(trace, step) for step in range(trace.steps)]),
    }
    for code, outcome in found.items():
        yield compare(code, outcome, last)


def _choose_fixed_steps(exact: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Return for each answer (B,) the step at which most answers of the other half are right; the first of several."""
    steps, count = exact.shape
    chosen = np.full(count, steps - 1)
    if count > 1:
        for half in (0, 1):
            chosen[half::2] = exact[:, 1 - half :: 2].sum(1).argmax()
    return chosen


def compare(code: str, found: MeasuredAnswers, before: MeasuredAnswers) -> NamedScore:
    """Return the score of a condition against that of the unchanged model, for the same B answers."""
    change = paired_t_interval((found.accuracy - before.accuracy).tolist(), 0.95)
    return NamedScore(
        code=code,
        right=SolvedCount(int(found.exact.sum()), len(found.exact)),
        gained=int((found.exact & ~before.exact).sum()),
        lost=int((before.exact & ~found.exact).sum()),
        accuracy=float(found.accuracy.mean()),
        change=change.mean,
        low=change.low if math.isfinite(change.low) else None,
        high=change.high if math.isfinite(change.high) else None,
    )


def draw_vote_curve(
    held_out: TaskSet, samples: Sequence[Sample], predictions: Sequence[Any], votes: int
) -> Iterator[VoteScore]:
    """Return the scores of the first 1, 2, 4, ... votes of each query, and of all.

    Args:
        held_out: the tasks.
        samples: ``votes`` samples of each query, in a row.
        predictions: their predictions.
        votes: the number of votes per query.
    """
    counts = sorted({*(2**power for power in range(votes.bit_length()) if 2**power <= votes), votes})
    for count in counts:
        kept = [index for index in range(len(samples)) if index % votes < count]
        found = score(tuple(held_out), [samples[i] for i in kept], [predictions[i] for i in kept], (1, 2))
        yield VoteScore(
            count, *(SolvedCount(found.pass_at[k].solved, found.pass_at[k].asked) for k in (1, 2))
        )


# -- ablations ------------------------------------------------------------------------------------


def score_ablations(
    model: Variant, config: Config, trained: TaskSet, samples: Sequence[Sample], trace: StepTrace
) -> Iterator[NamedScore]:
    """Return the score of each condition of the context, read at the last step.

    ``blank``: a context of zeros; ``mean``: the mean context of training tasks; ``swapped``: the demonstrations, or the
    row of the table, of the next task; ``reordered``: the demonstrations in reverse; ``re-paired``: each input with the
    output of the next demonstration; ``demos-N``: only the first N demonstrations.
    """
    before = MeasuredAnswers.read(trace)
    size = config.evaluate.batch_size
    mean = compute_typical_contexts(model, config, trained).mean(0)
    policies = {"blank": fix_context(torch.zeros_like(mean)), "mean": fix_context(mean)}
    for code, policy in policies.items():
        found = trace_steps(model, samples, size, policy=policy)
        yield compare(code, MeasuredAnswers.read(found), before)
    for code, changed in _change_identity(model, samples):
        yield compare(code, MeasuredAnswers.read(trace_steps(model, changed, size)), before)


def fix_context(context: Tensor) -> ContextPolicy:
    """Return a policy that gives every row the same context (P, D)."""

    def fixed(model: Variant, carry: Carry, batch: Batch) -> Given:
        return Given(context.expand(batch.size, -1, -1))

    return fixed


def _change_identity(model: Variant, samples: Sequence[Sample]) -> Iterator[tuple[str, list[Sample]]]:
    others = mismatch(samples)
    pairs = list(zip(samples, others, strict=True))
    if model.encoder is None:
        yield "swapped", [replace(own, puzzle_id=other.puzzle_id) for own, other in pairs]
        return
    yield "swapped", [replace(own, demos=other.demos) for own, other in pairs]
    yield "reordered", [replace(sample, demos=sample.demos[::-1]) for sample in samples]
    yield "re-paired", [replace(sample, demos=re_pair(sample.demos)) for sample in samples]
    for count in range(1, max(len(sample.demos) for sample in samples)):
        yield f"demos-{count}", [replace(sample, demos=sample.demos[:count]) for sample in samples]


def re_pair(demos: Sequence[DemoPair]) -> tuple[DemoPair, ...]:
    """Return demonstrations whose inputs have the output of the next one; a single one stays."""
    found = []
    for own, other in zip(demos, (*demos[1:], *demos[:1]), strict=True):
        given, wanted = own.positions < CELLS, other.positions >= CELLS
        found.append(
            DemoPair(
                np.concatenate((own.tokens[given], other.tokens[wanted])),
                np.concatenate((own.positions[given], other.positions[wanted])),
            )
        )
    return tuple(found)


# -- noise ----------------------------------------------------------------------------------------


def score_noise(
    model: Variant, samples: Sequence[Sample], trace: StepTrace, size: int, seed: int
) -> Iterator[NamedScore]:
    """Return the score of noise in the recursion: one noisy answer, and several of which one is selected.

    ``halting`` takes the answer with the highest halting logit; ``agreement`` the commonest answer, the first of
    several; ``any`` is right where any noisy answer is, a bound.
    """
    before = MeasuredAnswers.read(trace)
    if trace.steps == 1:
        return
    for noise in NOISES:
        runs = [
            trace_steps(model, samples, size, noise=noise, seed=seed + run + 1) for run in range(NOISY_RUNS)
        ]
        outcomes = [MeasuredAnswers.read(run) for run in runs]
        found = {
            "single": outcomes[0],
            "agreement": MeasuredAnswers.choose(outcomes, choose_commonest([run.tokens[-1] for run in runs])),
            "halting": MeasuredAnswers.choose(outcomes, np.stack([run.q_halt[-1] for run in runs]).argmax(0)),
            "any": MeasuredAnswers.best(outcomes),
        }
        for code, outcome in found.items():
            yield compare(f"{noise:g}:{code}", outcome, before)


def choose_commonest(answers: Sequence[Sequence[npt.NDArray[np.integer]]]) -> npt.NDArray[np.int64]:
    """Return for each sample the index of the run whose answer most runs give; the first of several such."""
    found = []
    for own in zip(*answers, strict=True):
        keys = [answer.tobytes() for answer in own]
        counts = Counter(keys)
        found.append(max(range(len(keys)), key=lambda run: (counts[keys[run]], -run)))
    return np.array(found)
