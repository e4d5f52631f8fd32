"""Controls that are made from the user's own model: each changes the adapter so that one hypothesis must hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any
from zlib import crc32

import torch
from torch import Tensor, nn

from etrm.investigation.own_model.adapter_functions import compute_loss
from etrm.investigation.own_model.batch_rows import exchange_rows, list_ids, list_readable, take
from etrm.investigation.own_model.context_edits import add_context_edit
from etrm.investigation.own_model.model_factory import Change, ModelFactory
from etrm.investigation.own_model.model_under_test import ModelUnderTest, RowBatch


@dataclass(frozen=True)
class InjectedFault:
    """A change of the model under test that a check must find.

    Attributes:
        name: stable name.
        what: the change in words.
        change: function from the adapter to the changed one.
    """

    name: str
    what: str
    change: Change

    def apply(self, factory: ModelFactory) -> ModelFactory:
        """The factory of the changed model."""
        return factory.changed(self.change)


def edit_context(edit: Callable[[Tensor], Tensor]) -> Change:
    """A change that replaces the context after its module."""

    def change(subject: ModelUnderTest) -> ModelUnderTest:
        add_context_edit(subject.model, subject.context_module, edit)
        return subject

    return change


def edit_context_in_step(edit: Callable[[Tensor], Tensor]) -> Change:
    """The same in the step alone, after every hook that was there before, such as those of a monitor."""

    def change(subject: ModelUnderTest) -> ModelUnderTest:
        def step(model: nn.Module, batch: RowBatch) -> Any:
            handle = add_context_edit(model, subject.context_module, edit)
            try:
                return subject.step(model, batch)
            finally:
                handle.remove()

        return replace(subject, step=step)

    return change


def edit_labels(subject: ModelUnderTest) -> ModelUnderTest:
    """The step gets the labels of other rows."""

    def step(model: nn.Module, batch: RowBatch) -> Any:
        return subject.step(model, _move(batch, subject.labels))

    return replace(subject, step=step)


def edit_loader(subject: ModelUnderTest) -> ModelUnderTest:
    """The loader returns the labels of other rows."""
    return replace(subject, batch=lambda index: _move(subject.batch(index), subject.labels))


def leak_held_out(subject: ModelUnderTest) -> ModelUnderTest:
    """The training batches are those that are held out."""
    assert subject.held_out is not None
    return replace(subject, batch=subject.held_out)


def read_ids(subject: ModelUnderTest) -> ModelUnderTest:
    """The loss depends on the ids."""

    def step(model: nn.Module, batch: RowBatch) -> Any:
        loss = compute_loss(subject, batch)
        return loss + (1 + loss.detach().abs()) * _weigh_ids(list_ids(batch, subject.ids))

    return replace(subject, step=step)


def mix_rows(subject: ModelUnderTest) -> ModelUnderTest:
    """The loss of a row contains that of the next row."""
    assert subject.sample_losses is not None
    own = subject.sample_losses
    return replace(subject, sample_losses=lambda model, batch: _mix(own(model, batch)))


def hide_demonstrations(subject: ModelUnderTest) -> ModelUnderTest:
    """The step gets one value everywhere for the last key of the demonstrations that can be tested."""
    first = subject.batch(0)
    key = list_readable(subject, first)[-1]
    entry = first[key][:1] if first[key].dim() < 2 else first[key][:1, :1]

    def step(model: nn.Module, batch: RowBatch) -> Any:
        return subject.step(model, {**batch, key: entry.expand_as(batch[key])})

    return replace(subject, step=step)


def freeze_part(subject: ModelUnderTest) -> ModelUnderTest:
    """A part that should train takes no gradient."""
    part = name_trained_part(subject)
    trained = [p for p in subject.model.parameters() if p.requires_grad]
    chosen = [p for p in subject.model.get_submodule(part).parameters() if p.requires_grad]
    for parameter in chosen[: len(trained) - 1]:  # an optimiser needs a tensor to train
        parameter.requires_grad_(False)
    return subject


def name_trained_part(subject: ModelUnderTest) -> str:
    """The context module if it has parameters, else the first submodule that has, and is not frozen on purpose."""
    names = [subject.context_module] if subject.context_module else []
    names += [name for name, _ in subject.model.named_children()]
    for name in names:
        frozen = any(name == part or name.startswith(f"{part}.") for part in subject.frozen)
        if not frozen and any(p.requires_grad for p in subject.model.get_submodule(name).parameters()):
            return name
    return ""


def keep_first_row(context: Tensor) -> Tensor:
    """The context, of which only the first row keeps its graph."""
    return torch.cat([context[:1], context[1:].detach()])


def average_rows(context: Tensor) -> Tensor:
    """The mean context of the batch in every row."""
    return context.mean(0, keepdim=True).expand_as(context).clone()


def spoil_row(context: Tensor) -> Tensor:
    """The context with a NaN in its last row."""
    spoilt = context.clone()
    spoilt[-1] = float("nan")
    return spoilt


DETACHED_CONTEXT = InjectedFault("detached-context", "the context is detached", edit_context(Tensor.detach))
PARTLY_DETACHED = InjectedFault(
    "partly-detached-context",
    "the context of all rows but the first is detached",
    edit_context_in_step(keep_first_row),
)
FROZEN_PART = InjectedFault("frozen-part", "a part that should train takes no gradient", freeze_part)
SAME_CONTEXT = InjectedFault(
    "same-context", "every row has the mean context of its batch", edit_context(average_rows)
)
OTHER_CONTEXT = InjectedFault(
    "context-of-another-row",
    "every row has the context of another row",
    edit_context(lambda context: take(context, move_rows(len(context)))),
)
NOT_FINITE_CONTEXT = InjectedFault(
    "context-not-finite", "the context of a row is NaN", edit_context(spoil_row)
)
SHIFTED_LABELS = InjectedFault("shifted-labels", "the step gets the labels of other rows", edit_labels)
LOADER_LABELS = InjectedFault(
    "labels-of-another-row", "the loader returns the labels of other rows", edit_loader
)
LEAKED_ROWS = InjectedFault("leaked-rows", "the held-out rows are trained on", leak_held_out)
LOSS_BY_ID = InjectedFault("loss-by-id", "the loss depends on the ids", read_ids)
UNREAD_DEMONSTRATIONS = InjectedFault(
    "unread-demonstrations", "the step does not read one key of the demonstrations", hide_demonstrations
)
MIXED_ROWS = InjectedFault("mixed-rows", "the loss of a row contains that of the next row", mix_rows)


def move_rows(rows: int) -> Tensor:
    """An order of rows in which none keeps its place.

    It is an odd one: moved by one, or reversed, it could undo a fault that the user's own code has.
    """
    order = torch.tensor(Random(rows).sample(range(rows), rows))  # torch's draws are those of the step
    moved = torch.empty_like(order)
    moved[order] = order.roll(1)
    return moved


def _move(batch: RowBatch, key: str) -> RowBatch:
    return exchange_rows(batch, (key,), move_rows(len(batch[key])))


def _mix(losses: Tensor) -> Tensor:
    return losses + 0.5 * losses.roll(1, 0)


def _weigh_ids(ids: Sequence[Any]) -> float:
    """A number that depends on the ids and on their order."""
    numbers = [crc32(repr(id).encode()) % 1000 for id in ids]
    return sum(place * number for place, number in enumerate(numbers, 1)) / len(numbers) % 7.0
