"""Train a model on the augmented demonstrations of one task at test time, and restore it bit for bit afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from etrm.batch import Batch
from etrm.config import NO_CURRICULUM, AdaptedPart, Config, is_rules, with_settings
from etrm.config.data import DEMOS
from etrm.data import Episodes, Pair, Task, TaskSet
from etrm.errors import ConfigError
from etrm.model.act import Carry
from etrm.model.variant import ContextPolicy, Given, Variant
from etrm.training.context_fit import frozen_for_answers
from etrm.training.loss import act_loss
from etrm.training.scoring.predictor import make_batch

CLIP = 1.0
"""Largest norm of the gradient, as in the presets."""
BETAS = (0.9, 0.95)
"""Decays of AdamW, as in the defaults of training."""


@dataclass(frozen=True)
class Adapted:
    """A model that was adapted to a task.

    Attributes:
        model: the adapted model; it shares its weights with the original.
        losses: the loss of each step in nats per token, before its update; empty of a task with fewer than two
            different demonstrations, for none can be left out.
    """

    model: Variant
    losses: tuple[float, ...]


def check_adaptable(model: Variant, part: AdaptedPart) -> None:
    """Refuse models that no demonstration can adapt.

    Raises:
        ConfigError: the model has no encoder, or is the symbolic solver and its context would be adapted.
    """
    if model.encoder is None or not (model.config.recursive or part != "context"):
        raise ConfigError(
            "adapt.no-such-part",
            f"--adapt {part} needs a model that reads demonstrations through an encoder as a free context",
            got=f"model.variant {model.config.variant!r}",
            allowed="a variant with an encoder; of model.variant 'symbolic' only weights and encoder",
            next_step="evaluate without --adapt",
        )


def hide_answers(task: Task) -> Task:
    """Return the task without the outputs of its test pairs."""
    return replace(task, tests=tuple(Pair(pair.input, None) for pair in task.tests))


@contextmanager
def adapt(model: Variant, task: Task, config: Config, part: AdaptedPart) -> Iterator[Adapted]:
    """Adapt a model to a task inside the context; after it, weights, gradients and mode are those before.

    Every step has fresh augmentations of the demonstrations, each of them left out as a query. Tasks of the rule family
    are not augmented, because that would be another rule.

    Args:
        model: the model.
        task: the task, of which the outputs of test pairs are not read.
        config: the settings; ``evaluate.adapt`` is the budget.
        part: the part that is trained.
    """
    episodes = _list_episodes(hide_answers(task), config)
    with frozen_for_answers(model):
        before = {name: value.clone() for name, value in model.state_dict().items()}
        chosen, trained = _choose(model, part)
        gradients = [value.grad for value in trained]
        try:
            yield Adapted(chosen, () if episodes is None else _train(chosen, trained, episodes, config))
        finally:
            with torch.no_grad():
                for name, value in model.state_dict().items():
                    value.copy_(before[name])
            for value, gradient in zip(trained, gradients, strict=True):
                value.grad = gradient


def _list_episodes(task: Task, config: Config) -> Episodes | None:
    """The episodes of a task; None if none of its demonstrations can be left out."""
    if len(set(task.demos)) < 2:
        return None
    source, subset = config.evaluate.source, config.evaluate.subset
    data = with_settings(
        config,
        preset="",
        data={
            "source": source,
            "queries": "leave_one_out",
            "augmentations": 1 if is_rules(source) else "fresh",
            "buckets": 1,
            "store": None,
            "stream": None,
            "demos": DEMOS,
            **NO_CURRICULUM,
        },
    ).data
    return Episodes(TaskSet((task,), source, subset), data, config.model.variant, config.train.seed)


def _choose(model: Variant, part: AdaptedPart) -> tuple[Variant, list[nn.Parameter]]:
    """The model that answers, and what is trained of it."""
    if part == "context":
        offset = nn.Parameter(torch.zeros(model.context_shape, device=model.device))
        moved = copy(model)
        moved.context_policy = _with_offset(model.context_policy, offset)
        return moved, [offset]
    if part == "weights":
        return model, list(model.parameters())
    assert model.encoder is not None
    return model, list(model.encoder.parameters())


def _with_offset(policy: ContextPolicy, offset: Tensor) -> ContextPolicy:
    def moved(model: Variant, carry: Carry, batch: Batch) -> Given:
        given = policy(model, carry, batch)
        return replace(given, context=given.context + offset)

    return moved


def _train(
    model: Variant, trained: Sequence[nn.Parameter], episodes: Episodes, config: Config
) -> tuple[float, ...]:
    """Train the chosen parameters on batches of episodes, each for all its ACT steps."""
    budget, losses = config.evaluate.adapt, []
    for parameter in trained:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(trained, lr=budget.rate, betas=BETAS, weight_decay=0.0)
    for step in range(budget.steps):
        first = step * budget.batch_size
        samples = [episodes.sample(0, first + row) for row in range(budget.batch_size)]
        losses.append(_compute_gradient(model, trained, make_batch(model, samples), config))
        torch.nn.utils.clip_grad_norm_(trained, CLIP)
        optimizer.step()
    for parameter in trained:
        parameter.requires_grad_(False)
    return tuple(losses)


def _compute_gradient(model: Variant, trained: Sequence[nn.Parameter], batch: Batch, config: Config) -> float:
    """Set the gradients of the mean loss over samples and ACT steps; return its cross entropy."""
    act_steps = config.model.halt.max_steps
    carry, lm = model.initial_carry(batch.size), 0.0
    for parameter in trained:
        parameter.grad = None
    for _ in range(act_steps):
        carry, output = model(carry, batch)
        loss = act_loss(output, batch.labels, config.train.loss)
        total = loss.total(config.train)
        # With a cached context, only the first step reaches the encoder; the others may train nothing.
        if total.requires_grad:
            torch.autograd.backward(total / (batch.size * act_steps), inputs=list(trained))
        lm += float(loss.lm.detach().mean()) / act_steps
    return lm
