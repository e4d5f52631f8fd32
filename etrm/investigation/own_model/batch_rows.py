"""Rows of a batch, which is a dictionary with the rows as first dimension of its tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from etrm.device import to_device, to_host
from etrm.investigation.own_model.model_under_test import ModelUnderTest, RowBatch


def count_rows(batch: RowBatch) -> int:
    """The first dimension that the tensors of a batch share; 0 if they share none."""
    sizes = {value.shape[0] if value.dim() else 0 for value in batch.values() if isinstance(value, Tensor)}
    return sizes.pop() if len(sizes) == 1 else 0


def select_rows(batch: RowBatch, index: Sequence[int] | Tensor) -> RowBatch:
    """The batch of some rows, in their order."""
    rows = count_rows(batch)
    return {key: take(value, index) if has_rows(value, rows) else value for key, value in batch.items()}


def has_rows(value: Any, rows: int) -> bool:
    """Whether a value of a batch has an entry per row: a tensor, or a list of that length."""
    return isinstance(value, Tensor) or (isinstance(value, list) and len(value) == rows)


def take(value: Any, index: Sequence[int] | Tensor) -> Any:
    """Some entries of a tensor or list, in their order."""
    chosen = torch.as_tensor(index)
    if isinstance(value, Tensor):
        return value[to_device(chosen, value.device)]
    return [value[place] for place in chosen.tolist()]


def join_batches(batches: Sequence[RowBatch]) -> RowBatch:
    """The rows of several batches in one.

    Raises:
        RuntimeError: the shapes of two batches do not fit.
    """
    first = batches[0]
    return {
        key: torch.cat([batch[key] for batch in batches])
        if isinstance(value, Tensor)
        else [entry for batch in batches for entry in batch[key]]
        if has_rows(value, count_rows(first))
        else value
        for key, value in first.items()
    }


def can_join(batches: Sequence[RowBatch]) -> bool:
    """Whether the shapes of batches differ in the number of rows alone, so that they can be joined."""
    shapes = (
        {key: value.shape[1:] for key, value in batch.items() if isinstance(value, Tensor)}
        for batch in batches
    )
    first, *others = shapes
    return all(other == first for other in others)


def exchange_rows(batch: RowBatch, keys: Sequence[str], index: Sequence[int] | Tensor) -> RowBatch:
    """The batch with the values of some keys taken from other rows."""
    return {**batch, **{key: take(batch[key], index) for key in keys}}


def make_wrong(labels: Tensor) -> Tensor:
    """Labels that differ from the given ones in every element; negative integers, which mean padding, stay.

    Integers become the next class that occurs, or another one that exists. Of two numbers that repeat, each becomes the
    other. Other numbers move by ten times their standard deviation and one.
    """
    if labels.dtype == torch.bool:
        return ~labels
    if labels.is_floating_point():
        return _make_wrong_numbers(labels)
    real = labels[labels >= 0]
    classes = torch.unique(real)
    if classes.numel() < 2:
        return torch.where(labels > 0, labels - 1, torch.where(labels == 0, 1, labels))
    place = torch.searchsorted(classes, labels.clamp(min=int(classes[0])))
    following = classes[(place + 1) % classes.numel()]
    return torch.where(labels >= 0, following, labels)


def _make_wrong_numbers(labels: Tensor) -> Tensor:
    known = labels[labels.isfinite()]  # the others can be masked ones
    values = torch.unique(known)
    if values.numel() == 2 < known.numel():
        return values.sum() - labels
    return labels + (10 * float(known.std(correction=0)) if known.numel() else 0.0) + 1


def hash_rows(batch: RowBatch, keys: Sequence[str]) -> list[str]:
    """A hash of the content of each row, of some keys."""
    tensors = [to_host(batch[key]).contiguous() for key in keys]
    return [
        hashlib.sha256(b"".join(read_bytes(tensor[row]) for tensor in tensors)).hexdigest()
        for row in range(count_rows(batch))
    ]


def read_bytes(tensor: Tensor) -> bytes:
    """The memory of a tensor on the host."""
    return tensor.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()


def list_ids(batch: RowBatch, key: str) -> list[Any]:
    """The ids of the rows, which can be compared; None for each row without a key."""
    if not key:
        return [None] * count_rows(batch)
    ids = batch[key].tolist() if isinstance(batch[key], Tensor) else batch[key]
    return [tuple(id) if isinstance(id, list) else id for id in ids]


def list_tensor_keys(batch: RowBatch) -> list[str]:
    """The keys whose values are tensors."""
    return [key for key, value in batch.items() if isinstance(value, Tensor)]


def are_equal(one: RowBatch, other: RowBatch) -> bool:
    """Whether two batches have the same keys and the same values of their tensors, bit for bit."""
    return one.keys() == other.keys() and all(
        _have_same_bits(value, other[key])
        if isinstance(value, Tensor) and isinstance(other[key], Tensor)
        else type(value) is type(other[key])
        for key, value in one.items()
    )


def _have_same_bits(one: Tensor, other: Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return read_bytes(to_host(one)) == read_bytes(to_host(other))


def reorder_entries(values: Tensor) -> Tensor:
    """The entries of each row in another order: those of the second dimension, moved by one."""
    return values.roll(1, 1) if values.dim() > 1 else values


def list_readable(subject: ModelUnderTest, batch: RowBatch) -> list[str]:
    """The keys of the demonstrations whose values differ between rows or within a row, so that reading them shows."""
    return [
        key
        for key in subject.demonstrations
        if not torch.equal(batch[key], batch[key].roll(1, 0))
        or not torch.equal(batch[key], reorder_entries(batch[key]))
    ]
