"""What the evaluation of a model of the paper's size on all held-out tasks takes; the answers do not matter."""

from __future__ import annotations

import time
from typing import Any

import torch

from benchmarks.performance.timing import synchronize
from etrm.config import Config
from etrm.evaluation import EvaluationReport
from etrm.training.scoring.predictor import evaluate_tasks, make_predictor
from etrm.training.task_sets import load_held_out_tasks
from etrm.training.trainer import Trainer


def measure_evaluation(config: Config) -> dict[str, Any]:
    """Evaluate an untrained model as ``etrm evaluate`` does, once.

    Returns:
        ``seconds`` from tasks to scores; the numbers of ``tasks``, of ``samples`` (test inputs times votes) and of
        ``act_steps`` of each; on a GPU the peak of memory in ``gib``.
    """
    trainer = Trainer(config)
    tasks = load_held_out_tasks(config)
    synchronize(trainer.device)
    began = time.perf_counter()
    predictor = make_predictor(trainer.model, config.evaluate)
    report: EvaluationReport = evaluate_tasks(trainer.recipe, predictor, tasks, config, trainer.tasks)
    found: dict[str, Any] = {
        "seconds": time.perf_counter() - began,
        "tasks": len(tasks),
        "samples": report.samples,
        "act_steps": config.model.halt.max_steps,
        "votes": config.evaluate.augmentations,
        "precision": config.evaluate.precision,
    }
    if trainer.device.type == "cuda":
        found["gib"] = torch.cuda.max_memory_allocated(trainer.device) / 2**30
    return found
