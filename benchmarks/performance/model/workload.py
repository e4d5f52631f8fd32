"""The training steps of the benchmark: real tasks, a layout of the batch, a model."""

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
"""Changes to preset ``small``: the whole training set, with the batch size that other packages report."""

PUBLISHED = {"canvas": "published"}
REGION = {"canvas": "region"}
OURS = {**REGION, "buckets": 8}
"""The default of 2 buckets suits small grids; sizes of the whole set spread more."""


def make_config(**changes: Unpack[Changes]) -> Config:
    """Build the config of the benchmark with more settings, as :func:`etrm.config.with_settings` takes them."""
    return with_settings(with_settings(load("small"), **SETTINGS), **changes)


@cache
def load_real_tasks() -> TaskSet:
    """Load the training tasks of ARC-AGI-1 without the one that is also an evaluation task."""
    return load_training_tasks(make_config())


def pad_demos(batch: Batch, count: int = PADDED_DEMOS) -> Batch:
    """Pad the batch to ``count`` demos per sample with demos of PAD, as published."""
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
    """Encode padded pairs too, as published; only the set encoder masks them."""
    assert isinstance(model.encoder, StandardEncoder)
    sets, _ = as_sets(model.encoder.grid_encoder.encode(batch.demos), batch.demos)
    real = (batch.demos.tokens != PAD).any(1).view(sets.shape[:2])
    return Given(model.encoder.set_encoder(sets, real))


def encode_ungrouped(model: Variant, carry: Carry, batch: Batch) -> Given:
    """Encode all pairs at once, padded to the longest of the batch."""
    assert isinstance(model.encoder, StandardEncoder)
    pairs = model.encoder.grid_encoder.encode(batch.demos)
    return Given(model.encoder.set_encoder(*as_sets(pairs, batch.demos)))


@dataclass(frozen=True)
class BatchLayout:
    """The layout of a batch, and how the encoder treats its padding.

    Attributes:
        data: settings of the data section.
        policy: the context policy.
        padded: whether demos are padded to :data:`PADDED_DEMOS`.
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
        """Return the next batch; all buckets have equally many queries."""
        turn, bucket = divmod(self._given, self.episodes.buckets)
        self._given += 1
        samples = [self.episodes.sample(bucket, turn * self._rows + row) for row in range(self._rows)]
        batch = to_device(collate(samples), self._device)
        return pad_demos(batch) if self._padded else batch


class TrainingStep:
    """One training step of rows that begin: forward, loss, backward and update.

    Args:
        config: the settings of model and training.
        model: the model, on its device.
        forward: a function from batch to output, by default that of the model.
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
        """Compute the loss summed over the rows."""
        train = self.config.train
        return act_loss(self.forward(batch), batch.labels, train.loss).total(train)

    def __call__(self, batch: Batch) -> None:
        """Do the step, which is timed."""
        torch.autograd.backward(self.loss(batch) / batch.size)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


class LayoutRun:
    """A run on one layout, with its own model, training step and position in the episodes."""

    def __init__(self, layout: BatchLayout, config: Config, tasks: TaskSet, device: torch.device) -> None:
        self.config = with_settings(config, data=layout.data)
        self.batches = Batches(self.config, tasks, device, padded=layout.padded)
        self.model = build_model(self.config, device)
        self.model.context_policy = layout.policy
        self.step = TrainingStep(self.config, self.model)


def build_model(config: Config, device: torch.device) -> RecursiveModel:
    """Build a model from the seed of the config, in training mode."""
    torch.manual_seed(config.train.seed)
    return RecursiveModel(config.model).to(device).train()
