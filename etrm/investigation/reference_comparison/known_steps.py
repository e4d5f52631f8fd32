"""The scores of ``etrm analyse`` of answers that are known after each step, against those that the reference counts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, replace

import numpy as np

from etrm.batch import IGNORE
from etrm.config import Config
from etrm.data import Sample, build_evaluation_samples
from etrm.investigation.reference_comparison.recorded_evaluation import choose_held_out
from etrm.model.core import VOCABULARY
from etrm.reference.departure import Departure, PipelineStage
from etrm.reference.evaluation.step_scores import AnsweredSteps, score_readouts, score_steps
from etrm.training.scoring.run_analysis import NamedScore, StepScore, compare_readouts, list_steps
from etrm.training.scoring.step_trace import StepTrace

RIGHT = np.array(
    [[1, 0, 0, 0, 0, 0, 0, 1], [1, 0, 1, 0, 1, 0, 0, 0], [0, 1, 0, 1, 0, 1, 0, 1], [0, 0, 1, 0, 1, 0, 1, 1]]
)
"""Whether all tokens are right after a step (T, B). Each half of the answers has its own best step, and one a tie."""
OUTSIDE = 5
"""The answer whose true output does not fit into its region."""
HALTING = np.array(
    [
        [2.0, -1, -1, -3, -2, -1, -1, 1],
        [3.0, -1, 1, -1, 1, -1, -2, -1],
        [3.0, 1, 2, 0, 1, 2, -1, -1],
        [3.0, 1, 1, -1, 1, 2, 1, -2],
    ]
)
"""The halting logits (T, B). One answer never halts, and one would halt at the first step alone."""
ROUNDING = 1e-6  # of a quantile of Student's t, which both sides find by bisection


def compare_known_steps(config: Config) -> list[Departure]:
    """Compare the scores of each step, and those by which step is read, of known answers to some held-out tasks.

    Raises:
        DataError: the held-out tasks cannot be read.
    """
    steps, count = RIGHT.shape
    asked = build_evaluation_samples(choose_held_out(config, count), config.data, 1, config.train.seed)
    known = [sample for sample in asked if (sample.labels != IGNORE).any()]
    if not known:  # all outputs are unknown
        return []
    samples = [
        replace(known[place % len(known)], in_region=known[place % len(known)].in_region and place != OUTSIDE)
        for place in range(count)
    ]
    tokens = tuple(
        tuple(_answer(sample, step, bool(right)) for sample, right in zip(samples, row, strict=True))
        for step, row in enumerate(RIGHT)
    )
    moved = np.arange(1.0, steps * count + 1).reshape(steps, count) ** 2
    trace = StepTrace(tuple(samples), tokens, HALTING, moved)
    answered = AnsweredSteps(
        [sample.tokens for sample in samples],
        [sample.labels for sample in samples],
        [sample.in_region for sample in samples],
        tokens,
        HALTING.tolist(),
        moved.tolist(),
    )
    return [
        *_compare_steps(list_steps(trace), answered),
        *_compare_readouts(compare_readouts(trace), answered),
    ]


def _answer(sample: Sample, step: int, right: bool) -> np.ndarray:
    """Answer rightly, or with every second scored token wrong, in turn."""
    tokens = np.where(sample.labels == IGNORE, 0, sample.labels)
    scored = np.flatnonzero(sample.labels != IGNORE)
    if not right:
        wrong = scored[step % min(2, len(scored)) :: 2]
        tokens[wrong] = (tokens[wrong] + 1) % VOCABULARY
    return tokens


def _compare_steps(found: Iterator[StepScore], answered: AnsweredSteps) -> Iterator[Departure]:
    reported = {one.step: asdict(one) | {"right": one.right.solved} for one in found}
    for step, wanted in enumerate(score_steps(answered), start=1):
        yield from _compare(f"step {step}", reported.get(step, {}), wanted)


def _compare_readouts(found: Iterator[NamedScore], answered: AnsweredSteps) -> Iterator[Departure]:
    reported = {one.code: asdict(one) | {"right": one.right.solved} for one in found}
    for code, wanted in score_readouts(answered).items():
        yield from _compare(f"read at {code}", reported.get(code, {}), wanted)


def _compare(where: str, reported: dict[str, float], wanted: dict[str, float]) -> Iterator[Departure]:
    for name, value in wanted.items():
        real = reported.get(name)
        size = math.inf if real is None else abs(real - value)
        if not size <= ROUNDING * max(1.0, abs(value)):
            yield Departure(
                PipelineStage.SCORE, f"analysis: {name}", size, ROUNDING, f"{where}, known answers"
            )
            return
