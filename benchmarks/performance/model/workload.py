"""What is trained in the bench: real tasks, a layout of the batch, a model, one step at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from etrm.batch import Batch, Demos
from etrm.config import Changes, Config, load, with_settings
from etrm.data import Episodes, TaskSet, collate
from etrm.device import to_device
from etrm.model.act import Carry
from etrm.model.encoders import PAD, StandardEncoder, as_sets
from etrm.model.recursive import RecursiveModel, encode_every_step
from etrm.model.variant import ContextPolicy, Given, StepOutput, Variant
from etrm.training.loss import act_loss
from etrm.training.task_sets import load_training_tasks

PADDED_DEMOS = 10
"""Demos that the published loader pads every sample to."""

SETTINGS: Changes = {
    "data": {
        "max_side": 30,
        "exclude": ("40853293",),  # the grids of evaluation task 070dd51e
        "augmentations": 1,
    },
    "model": {"context_tokens": 16},
    "train": {"batch_size": 8, "seed": 0},
}
"""What is changed in preset ``small``: the whole training set, at the batch size of peers' numbers."""

PUBLISHED = {"canvas": "published"}
REGION = {"canvas": "region"}
OURS = {**REGION, "buckets": 8}
"""The default of 2 buckets suits small grids; sizes of the whole set spread more."""


def make_config(**changes: Unpack[Changes]) -> Config:
    """The bench's config with more settings, as :func:`etrm.config.with_settings` takes them."""
    return with_settings(with_settings(load("small"), **SETTINGS), **changes)


@cache
def load_real_tasks() -> TaskSet:
    """The training tasks of ARC-AGI-1, less one that is an evaluation task too."""
    return load_training_tasks(make_config())


def pad_demos(batch: Batch, count: int = PADDED_DEMOS) -> Batch:
    """The batch with ``count`` demos per sample, all PAD where there is none, as published."""
    demos = batch.demos
    assert demos.valid is None, "padded pairs belong to the whole canvas"
    sets, _ = as_sets(torch.arange(1, len(demos.owner) + 1, device=demos.owner.device)[:, None], demos)
    places = nn.functional.pad(sets.squeeze(-1), (0, count - sets.shape[1])).flatten()
    tokens = torch.cat((torch.full_like(demos.tokens[:1], PAD), demos.tokens))[places]
    padded = Demos(
        tokens=tokens,
        positions=demos.positions[:1].expand(len(tokens), -1),
        valid=None,
        owner=torch.arange(demos.rows, device=demos.owner.device).repeat_interleave(count),
        slots=demos.slots,
    )
    return replace(batch, demos=padded)


def encode_padded(model: Variant, carry: Carry, batch: Batch) -> Given:
    """The published way: padded pairs are encoded too, and only the set encoder passes over them."""
    assert isinstance(model.encoder, StandardEncoder)
    sets, _ = as_sets(model.encoder.grid_encoder.encode(batch.demos), batch.demos)
    real = (batch.demos.tokens != PAD).any(1).view(sets.shape[:2])
    return Given(model.encoder.set_encoder(sets, real))


def encode_ungrouped(model: Variant, carry: Carry, batch: Batch) -> Given:
    """All pairs at once, each as long as the longest of the batch."""
    assert isinstance(model.encoder, StandardEncoder)
    pairs = model.encoder.grid_encoder.encode(batch.demos)
    return Given(model.encoder.set_encoder(*as_sets(pairs, batch.demos)))


@dataclass(frozen=True)
class BatchLayout:
    """How a batch is laid out, and what the encoder does with its padding.

    Attributes:
        data: settings of the data section.
        policy: how the context is computed.
        padded: demos are padded to :data:`PADDED_DEMOS`.
    """

    data: Mapping[str, Any]
    policy: ContextPolicy = encode_every_step
    padded: bool = False


class Batches:
    """Batches of new samples in the trainer's order within each bucket; buckets take turns."""

    def __init__(self, config: Config, tasks: TaskSet, device: torch.device, *, padded: bool = False) -> None:
        self.episodes = Episodes(tasks, config.data, config.model.variant, config.train.seed)
        self._rows, self._device, self._padded, self._given = config.train.batch_size, device, padded, 0

    def next(self) -> Batch:
        """A batch; buckets hold equally many queries."""
        turn, bucket = divmod(self._given, self.episodes.buckets)
        self._given += 1
        samples = [self.episodes.sample(bucket, turn * self._rows + row) for row in range(self._rows)]
        batch = to_device(collate(samples), self._device)
        return pad_demos(batch) if self._padded else batch


class TrainingStep:
    """One training step of rows that begin: forward, loss, backward and update.

    Args:
        config: of model and training.
        model: on its device.
        forward: batch to output, the model's own by default.
    """

    def __init__(
        self, config: Config, model: nn.Module, forward: Callable[[Batch], StepOutput] | None = None
    ) -> None:
        self.config, self.model = config, model
        self.forward = forward or self._first_step
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=config.train.lr)

    def _first_step(self, batch: Batch) -> StepOutput:
        assert isinstance(self.model, RecursiveModel)
        return self.model(self.model.initial_carry(batch.size), batch)[1]

    def loss(self, batch: Batch) -> Tensor:
        """The loss summed over the rows."""
        train = self.config.train
        found = act_loss(self.forward(batch), batch.labels, train.loss)
        return found.total(train.q_halt_weight, train.kl_weight)

    def __call__(self, batch: Batch) -> None:
        """Do it: what is timed."""
        torch.autograd.backward(self.loss(batch) / batch.size)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


class LayoutRun:
    """A layout at work: its own model, step and place in the episodes."""

    def __init__(self, layout: BatchLayout, config: Config, tasks: TaskSet, device: torch.device) -> None:
        self.config = with_settings(config, data=layout.data)
        self.batches = Batches(self.config, tasks, device, padded=layout.padded)
        self.model = build_model(self.config, device)
        self.model.context_policy = layout.policy
        self.step = TrainingStep(self.config, self.model)


def build_model(config: Config, device: torch.device) -> RecursiveModel:
    """A model of the config's seed, in training mode."""
    torch.manual_seed(config.train.seed)
    return RecursiveModel(config.model).to(device).train()
