"""The scores of ``etrm evaluate --misleading``: those of known answers, and the noise in the context."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace

import numpy as np
import torch

from etrm.batch import Batch
from etrm.data import Sample
from etrm.device import to_device
from etrm.evaluation import Answer, Predictor
from etrm.evaluation.misleading import score_misleading
from etrm.investigation.reference_comparison.recorded_evaluation import choose_held_out, request_evaluation
from etrm.model.act import Carry
from etrm.model.variant import Given, Variant
from etrm.reference.data.canvas import COLOUR, END, PAD, UNSCORED, Integers
from etrm.reference.data.loader import ReferenceRow
from etrm.reference.departure import Departure, PipelineStage
from etrm.reference.evaluation.evaluation_stages import EvaluationRequest, list_evaluated
from etrm.reference.evaluation.misleading_scores import (
    AnswerRow,
    ExpectedShare,
    compare_misleading,
    pose_pairs,
)
from etrm.reference.training.stages.checked_step import covers_model
from etrm.reference.training.stages.differences import norm, ratio
from etrm.training.scoring.predictor import make_batch, make_noisy
from etrm.training.trainer import Trainer

TASKS, VOTES = 6, 2
"""Tasks of the evaluation, so that each known answer is given to some, and votes for each query."""
ROWS = 2  # contexts to which noise is added
LIMIT = 1e-5  # relative; of a standard deviation in float32


def compare_misleading_scores(trainer: Trainer) -> list[Departure]:
    """Compare the misleading scores of known answers to some held-out tasks, and the noise of a context.

    Models without an encoder have no such scores.

    Raises:
        DataError: the held-out tasks cannot be read.
    """
    config = trainer.config
    tasks = choose_held_out(config, TASKS)
    if not config.model.has_encoder or not pose_pairs(tasks):
        return []
    request = replace(request_evaluation(config, tasks, VOTES), ks=(1,))
    found = score_misleading(
        tasks,
        _predict(request, answer_plainly),
        _predict(request, answer_noisily),
        augmentations=request.augmentations,
        data=request.data,
        seed=request.seed,
        variant=config.model.variant,
        batch_size=config.evaluate.batch_size,
    )
    reported = {
        str(name): ExpectedShare(share.value, share.low, share.high, share.of)
        for name, share in found.items()
    }
    compared = compare_misleading(request, answer_plainly, answer_noisily, reported)
    return [*compared, *(compare_noise(trainer) if covers_model(config) else ())]


def _predict(request: EvaluationRequest, answer: AnswerRow) -> Predictor:
    """Return a predictor with known answers to the queries of the tasks and to their demonstrations."""
    pairs = replace(request, tasks=replace(request.tasks, tasks=tuple(pose_pairs(request.tasks))))
    rows = {
        (row.drawing.asked.index, row.drawing.name): row
        for one in (request, pairs)
        for row in list_evaluated(one)
    }

    def predict(samples: Sequence[Sample]) -> list[Answer | None]:
        found = [rows.get((sample.query, sample.name)) for sample in samples]
        return [None if row is None else (answer(row), 0.0) for row in found]

    return predict


def answer_plainly(row: ReferenceRow) -> Integers:
    """Answer the tasks in turn: right, too large, with a row less, and in other colours."""
    tokens = np.where(row.labels == UNSCORED, PAD, row.labels)
    match row.drawing.asked.task_index % 4:
        case 0:
            return tokens
        case 1:
            return np.maximum(tokens, COLOUR)
        case 2:
            colours = row.positions[tokens >= COLOUR] // 30
            last = (row.positions // 30 == colours.max(initial=0)) & (tokens >= COLOUR)
            return np.where(last, END, tokens)
    return np.where(tokens >= COLOUR, COLOUR + 9 - (tokens - COLOUR), tokens)


def answer_noisily(row: ReferenceRow) -> Integers:
    """Answer every second task rightly, and the others as :func:`answer_plainly`."""
    right = np.where(row.labels == UNSCORED, PAD, row.labels)
    return right if row.drawing.asked.task_index % 2 else answer_plainly(row)


def compare_noise(trainer: Trainer) -> list[Departure]:
    """Compare a context with noise: the noise has the standard deviation of all contexts of a batch."""
    model, random = copy(trainer.model), torch.Generator().manual_seed(trainer.config.train.seed)
    plain = 1 + torch.randn(ROWS, *model.context_shape, generator=random)
    plain = to_device(plain, trainer.device)

    def given(_: Variant, carry: Carry, batch: Batch) -> Given:
        return Given(plain)

    model.context_policy, model.training = given, False
    batch = make_batch(model, [trainer.episodes.sample(0, 0)])  # which is not read
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(trainer.config.train.seed)
        noisy = make_noisy(model)
        real = noisy.context_policy(noisy, model.initial_carry(ROWS), batch).context
        torch.manual_seed(trainer.config.train.seed)
        noise = to_device(torch.randn(plain.shape), plain.device)
    spread = (plain - plain.mean()).square().sum().div(plain.numel() - 1).sqrt()
    size = ratio(norm([real - plain - spread * noise]), norm([spread * noise]))
    if size <= LIMIT:
        return []
    return [Departure(PipelineStage.SCORE, "noise of the context", size, LIMIT, "misleading score, noise")]
