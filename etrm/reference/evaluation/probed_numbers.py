"""The numbers that a run logs of a fixed batch of training tasks: losses with several contexts, and their measures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from etrm.config import Config
from etrm.data.sources import TaskSet
from etrm.reference.data.loaded_rows import LoadedRow
from etrm.reference.data.posed_queries import join_queries
from etrm.reference.departure import Departure, PipelineStage
from etrm.reference.evaluation.answers import encode_row
from etrm.reference.evaluation.evaluation_stages import EvaluationRequest, list_evaluated
from etrm.reference.model.context import start_state
from etrm.reference.model.network import part
from etrm.reference.training.context_steps import answer_demos
from etrm.reference.training.stages.differences import LIMITS, dither

SAMPLES, BEYOND = 4, 10.0
"""Sampled roundings, and how many times the largest of their differences a departure must be."""


def compare_probe(
    logged: Mapping[str, Any], weights: Mapping[str, Tensor], config: Config, tasks: TaskSet
) -> list[Departure]:
    """Compare what a step logged of the probe with the numbers of the weights after the step.

    Args:
        logged: a line of the log with a probe.
        weights: the tensors of the model, which the reference covers.
        config: the settings of the run.
        tasks: the training tasks.
    """
    single = {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}
    wanted, limit = compute_probe(single, config, tasks), LIMITS["float32"].forward
    sizes = {}
    for name, value in wanted.items():
        real = logged.get(f"probe.{name}")
        sizes[name] = math.inf if real is None else abs(real - value) / max(abs(value), 1e-12)
    wrong = {name: size for name, size in sizes.items() if not size <= limit}
    for seed in range(SAMPLES if wrong else 0):
        random = torch.Generator().manual_seed(seed)
        low = compute_probe(
            {
                name: dither(value, torch.float32, random) if value.is_floating_point() else value
                for name, value in single.items()
            },
            config,
            tasks,
        )
        rounding = {name: abs(low[name] - value) / max(abs(value), 1e-12) for name, value in wanted.items()}
        wrong = {name: size for name, size in wrong.items() if not size <= BEYOND * rounding[name]}
    return [
        Departure(PipelineStage.SCORE, f"logged probe.{name}", size, limit, "of the weights after the step")
        for name, size in wrong.items()
    ]


@torch.no_grad()
def compute_probe(weights: Mapping[str, Tensor], config: Config, tasks: TaskSet) -> dict[str, float]:
    """Compute the numbers of the first query of each of the first tasks, which is not augmented.

    Losses are those of one ACT step from the start: with the own context, with that of the task before, and with the
    mean of all contexts. The share is that of the mean square of contexts which differs between tasks; of a single task
    there is none.
    """
    few = replace(tasks, tasks=tasks.tasks[: config.monitor.probe_tasks])
    rows = list_evaluated(EvaluationRequest(few, config.data, 1, config.train.seed))
    rows = [row for row in rows if row.drawing.asked.index == 0]
    model, encoder = config.model, part(weights, "encoder")
    contexts = torch.cat(
        [
            encode_row(
                weights,
                model,
                LoadedRow(row.tokens, row.positions, row.labels, row.demos, 0, 0),
                start_state(encoder, model, 1),
            ).context
            for row in rows
        ]
    )
    count = len(rows)
    posed = join_queries(rows, range(count), config.data, contexts.device)
    mean = contexts.mean(0)
    read = {
        "true": contexts,
        "shuffled": torch.stack([contexts[place - 1] for place in range(count)]),
        "mean": torch.stack([mean] * count),
    }
    found = {
        f"loss_{name}": float(
            answer_demos(part(weights, "core"), model, config.train, one, posed, 1).losses.mean()
        )
        for name, one in read.items()
    }
    square = float(contexts.double().square().mean())
    if count > 1 and square:
        found["share"] = float((contexts - mean).double().square().mean()) / square
    return found | {"rms": math.sqrt(square)}
