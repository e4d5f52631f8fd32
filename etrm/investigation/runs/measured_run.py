"""One run of an arm, with the measurements before and after it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from diagnostics import task_retrieval
from etrm.atomic_files import write_atomically
from etrm.checkpoints.run_folder import RunFolder, read_config
from etrm.config import Config
from etrm.data import Grid, Sample, TaskSet, build_evaluation_samples
from etrm.evaluation import EvaluationReport, QueryResult
from etrm.investigation.records import Cells, ShownAnswer
from etrm.training.scoring.amortisation import keep_first, measure_gap
from etrm.training.scoring.predictor import compute_mean_loss, make_batch, make_predictor
from etrm.training.task_sets import load_held_out_tasks
from etrm.training.trainer import Trainer

BEFORE = "before.json"
MOST_QUERIES = 64
"""Training queries on which the contexts of a run are measured."""
SHOWN = 4
"""Queries whose answers are kept for the report, as many as can be looked at."""
GAP_TASKS = 60
"""Held-out tasks of the amortisation gap: three searches of each take about half a second on a core."""


def measured_run(
    config: Config,
    path: Path,
    *,
    measure: bool,
    held_out: bool,
    gap: bool = False,
    until_departure: bool = False,
) -> dict[str, Any] | None:
    """Train a config in a folder, from the last checkpoint there, if there is one.

    Args:
        config: the config to train.
        path: folder of the run.
        measure: whether to measure the loss on the training queries before and after, with their own and with
            mismatched demonstrations, and task retrieval where there is an encoder.
        held_out: whether to measure pass@1 on the held-out tasks too. All is deterministic given the weights.
        gap: whether to measure the amortisation gap on the first held-out tasks too, see :data:`GAP_TASKS`.
        until_departure: whether to stop at the first step that departs from the reference.

    Returns:
        What to record of the finished run, or None where a signal or a departure stopped it early.
    """
    folder = RunFolder(path, config, resume=True)
    try:
        trainer = Trainer(config, folder)
        trainer.resume()
        before = _measure_before(trainer, path) if measure else {}
        if until_departure and _departs(trainer):  # stopped there before
            return None
        if not trainer.run(_stop_at_departure if until_departure else None):
            return None
        after = _measure(trainer, "end") if measure else {}
        answers: list[ShownAnswer] = []
        if measure and held_out:
            scores, answers = _evaluate_held_out(trainer)
            after |= scores
        if gap:
            after |= _measure_gap(trainer)
        frozen = trainer.stage.span
        measured = before | after
        if frozen is not None:
            measured |= {"frozen_matched": frozen.matched, "frozen_total": frozen.total}
        return {"measured": measured, "answers": [answer.model_dump(mode="json") for answer in answers]}
    finally:
        folder.close()


def _departs(trainer: Trainer) -> bool:
    return any(step.departures for step in trainer.check.compared)


def _stop_at_departure(trainer: Trainer, metrics: dict[str, Any]) -> None:
    if _departs(trainer):
        trainer.stop()


def _measure_before(trainer: Trainer, path: Path) -> dict[str, float]:
    """The measurements at the first step, made once and kept for a run that is resumed."""
    file = path / BEFORE
    if not file.exists():
        write_atomically(file, json.dumps(_measure(trainer, "start")) + "\n")
    found: dict[str, float] = json.loads(file.read_text("utf-8"))
    return found


def _measure(trainer: Trainer, when: str) -> dict[str, float]:
    samples, kind = training_queries(trainer), trainer.config.train.loss
    found = {
        f"loss_{when}": compute_mean_loss(trainer.model, samples, kind),
        f"loss_{when}_foreign_demos": compute_mean_loss(trainer.model, with_mismatched_demos(samples), kind),
    }
    return found | {
        f"retrieval_{name}": value for name, value in _measure_retrieval(trainer, samples, when).items()
    }


@torch.no_grad()
def _measure_retrieval(trainer: Trainer, samples: Sequence[Sample], when: str) -> dict[str, float]:
    """The share of tasks whose odd demonstrations retrieve their even ones; empty where it cannot be measured."""
    encoder = trainer.model.encoder
    several = [sample for sample in samples if len(sample.demos) > 1]
    if encoder is None or len(several) < 2:
        return {}
    encoder.eval()
    odd, even = (
        encoder(make_batch(trainer.model, [replace(s, demos=s.demos[half::2]) for s in several]).demos)
        for half in (0, 1)
    )
    encoder.train()
    if not (odd.context.isfinite().all() and even.context.isfinite().all()):
        return {}
    found = task_retrieval(odd.context, even.context)
    return {when: found.accuracy, "chance": found.chance}


def rebuild_trainer(folder: Path) -> Trainer:
    """Build the trainer of a run folder anew, at its first step.

    The config of a loaded model does not serve for it: the run's faults are in its settings, and would apply twice.
    """
    return Trainer(read_config(folder))


def training_queries(trainer: Trainer) -> list[Sample]:
    """The first query of up to MOST_QUERIES training tasks, without augmentation: the same for every arm and seed."""
    table = trainer.tasks if trainer.model.encoder is None else None
    samples = build_evaluation_samples(trainer.tasks, trainer.config.data, 1, 0, trained=table)
    first = {sample.task_id: sample for sample in reversed(samples)}
    names = sorted(first)
    wanted = min(len(names), MOST_QUERIES)
    return [first[names[i * len(names) // wanted]] for i in range(wanted)]


def with_mismatched_demos(samples: Sequence[Sample]) -> list[Sample]:
    """The same queries, each with the demonstrations of the task of the next one."""
    return [replace(s, demos=samples[(i + 1) % len(samples)].demos) for i, s in enumerate(samples)]


def _evaluate_held_out(trainer: Trainer) -> tuple[dict[str, float], list[ShownAnswer]]:
    """The scores, and the answers to the first queries."""
    config = trainer.config
    tasks = load_held_out_tasks(config)
    report = trainer.recipe.evaluate(
        tasks,
        make_predictor(trainer.model, config.evaluate),
        augmentations=config.evaluate.augmentations,
        data=config.data,
        batch_size=config.evaluate.batch_size,
    )
    first = report.pass_at[1]
    scores = {
        "held_out_pass_at_1": first.score,
        "held_out_solved": first.solved,
        "held_out_asked": first.asked,
        "held_out_low": first.low,
        "held_out_high": first.high,
        "held_out_token_accuracy": report.token_accuracy,
    }
    return scores, [_show_answer(tasks, report, result) for result in report.queries[:SHOWN]]


def _show_answer(tasks: TaskSet, report: EvaluationReport, result: QueryResult) -> ShownAnswer:
    pair = tasks.get(result.task_id).tests[result.query]
    candidates = report.candidates[result.task_id][result.query]
    return ShownAnswer(
        task=result.task_id,
        query=result.query,
        input=_list_cells(pair.input),
        target=() if pair.output is None else _list_cells(pair.output),
        answer=_list_cells(candidates[0].grid) if candidates else (),
        solved=result.solved(1),
    )


def _list_cells(grid: Grid) -> Cells:
    return tuple(tuple(int(cell) for cell in row) for row in grid)


def _measure_gap(trainer: Trainer) -> dict[str, float]:
    asked = keep_first(load_held_out_tasks(trainer.config), GAP_TASKS)
    return measure_gap(trainer.model, trainer.config, asked, trainer.tasks).to_counts()
