"""A trained model as a predictor: samples in, tokens and halting logits out."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path
from typing import Literal

import numpy as np

from etrm.batch import Batch
from etrm.checkpoints import format as checkpoints
from etrm.checkpoints.run_folder import check_trained_tasks, read_config
from etrm.checkpoints.saved_steps import list_saved, split_checkpoint
from etrm.config import Config, EvaluateConfig
from etrm.data import Sample, TaskSet, collate, open_episodes
from etrm.device import pick_device_of_trained, to_device, to_host
from etrm.errors import CheckpointError
from etrm.evaluation import Answer, EvaluationReport, Predictor
from etrm.model.solve import solve
from etrm.model.variant import StepOutput, Variant, with_noise
from etrm.training.execution.precision import autocast, check_precision
from etrm.training.faults import build_recipe
from etrm.training.loss import act_loss
from etrm.training.recipe import Recipe

BEST = "best"
"""The subfolder of a run folder with its best checkpoint."""


def make_predictor(model: Variant, settings: EvaluateConfig | None = None) -> Predictor:
    """Return a predictor, which computes the context once per sample.

    Args:
        model: the model.
        settings: the evaluate section, for the step at which an answer is read and the precision of products; None
            for its defaults.

    Raises:
        ConfigError: the device of the model lacks the precision.
    """
    settings = settings or EvaluateConfig()
    early, precision = settings.halting == "early", settings.precision
    check_precision(precision, model.device, "evaluate.precision")

    def answer(samples: Sequence[Sample]) -> list[Answer]:
        with autocast(precision, model.device):
            _, output = solve_samples(model, samples, early=early)
        tokens = to_host(output.logits.argmax(-1)).numpy().astype(np.int16)
        logits = output.q_halt.tolist()
        return [(row[: len(s.tokens)], q) for s, row, q in zip(samples, tokens, logits, strict=True)]

    return answer


def with_progress(predictor: Predictor, report: Callable[[int], None]) -> Predictor:
    """Return a predictor that also reports after every batch how many samples it has answered in all."""
    answered = 0

    def answer(samples: Sequence[Sample]) -> Sequence[Answer | None]:
        nonlocal answered
        found = predictor(samples)
        answered += len(samples)
        report(answered)
        return found

    return answer


def evaluate_tasks(
    recipe: Recipe, predictor: Predictor, tasks: TaskSet, config: Config, trained: TaskSet
) -> EvaluationReport:
    """Evaluate answers to tasks in the way that a config requests.

    Args:
        recipe: the recipe with the evaluator.
        predictor: the answers.
        tasks: the tasks to evaluate.
        config: the config of the run.
        trained: the tasks of the run, by which a puzzle table is numbered.
    """
    return recipe.evaluate(
        tasks,
        predictor,
        augmentations=config.evaluate.augmentations,
        data=config.data,
        seed=config.train.seed,
        variant=config.model.variant,
        trained=None if config.model.has_encoder else trained,
        batch_size=config.evaluate.batch_size,
    )


def make_noisy(model: Variant) -> Variant:
    """Return a model with the same weights that adds noise to its context in evaluation."""
    noisy = copy(model)
    noisy.context_policy = with_noise(model.context_policy)
    return noisy


def make_batch(model: Variant, samples: Sequence[Sample]) -> Batch:
    """Collate samples to one batch on the model's device."""
    return to_device(collate(samples), model.device)


def solve_samples(
    model: Variant, samples: Sequence[Sample], *, early: bool = False
) -> tuple[Batch, StepOutput]:
    """Call :func:`etrm.model.solve.solve` on samples in evaluation mode; the model's mode is restored."""
    batch = make_batch(model, samples)
    was_training = model.training
    model.eval()
    output = solve(model, batch, early=early)
    model.train(was_training)
    return batch, output


def load_model(
    folder: Path,
    weights: Literal["ema", "raw"],
    which: Literal["newest", "best"] = "newest",
) -> tuple[Variant, Config, TaskSet, int]:
    """Load a checkpoint of a run folder as a model in evaluation mode.

    Args:
        folder: the run folder, or a checkpoint in it, which then is the one that is loaded.
        weights: the kind of weights.
        which: the checkpoint: the newest one, or the best one of the run's own evaluations.

    Returns:
        model, config, the tasks it was trained on, and the step of the checkpoint.

    Raises:
        RunFolderError: there is no run, or its tasks are not those that it was trained on.
        CheckpointError: there is no whole checkpoint.
    """
    folder, named = split_checkpoint(folder)
    config = read_config(folder)
    found = [named] if named else list_saved(folder / (BEST if which == "best" else "checkpoints"))
    if not found and which == "best":
        raise CheckpointError(
            "checkpoint.no-best",
            f"{folder} has no best checkpoint, because the run was not evaluated while it trained",
            got=f"evaluate.every {config.evaluate.every}",
            next_step=f"etrm evaluate {shlex.quote(str(folder))} --set evaluate.checkpoint=newest",
        )
    if not found:
        raise CheckpointError(
            "checkpoint.absent",
            f"no checkpoint is in {folder}",
            next_step=f"finish the run: etrm train --resume --out {shlex.quote(str(folder))}",
        )
    checkpoint = checkpoints.read(found[-1])
    recipe = build_recipe(config)
    config = recipe.configure(config)
    tasks = recipe.tasks(config)
    check_trained_tasks(folder, tasks.hash)
    episodes = open_episodes(tasks, config.data, config.model.variant, config.train.seed)
    model = recipe.build_model(config, episodes)
    recipe.load_weights(model, checkpoint, weights)
    model.anneal(checkpoint.step / config.train.steps)
    to_device(model, pick_device_of_trained(config.train.device)).eval()
    return model, config, tasks, checkpoint.step


def compute_mean_loss(model: Variant, samples: Sequence[Sample], kind: str = "stablemax") -> float:
    """Compute the mean lm loss after all ACT steps, in nats per scored token; ``kind`` as ``train.loss``."""
    batch, output = solve_samples(model, samples)
    return float(act_loss(output, batch.labels, kind).lm.mean())
