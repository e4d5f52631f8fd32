"""Whether the rows of a batch are related to each other, as the nodes of a graph are.

A layer of a graph reads the rows of their neighbours. Which rows have gradient is then no matter of the samples in the
loss: a node without label trains through its neighbours, and a node without labelled neighbours does not.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def has_matrix_of_rows(model: nn.Module, samples: int) -> bool:
    """Whether a buffer of the model has an entry for each pair of samples."""
    return samples > 1 and any(_is_square(buffer, samples) for buffer in model.buffers())


def relates_rows(given: Iterable[Tensor], samples: int) -> bool:
    """Whether a module is given features of the rows, and next to them pairs of rows or a matrix over all pairs.

    Args:
        given: Its tensors; features are (samples, D), pairs (2, E) integers, a matrix is (samples, samples).
    """
    tensors = list(given)
    if not has_features(tensors, samples):
        return False
    features = next(each for each in tensors if _is_features(each, samples))
    others = [each for each in tensors if each is not features]
    return any(_is_square(each, samples) or _are_pairs(each, samples) for each in others)


def has_features(given: Iterable[Tensor], samples: int) -> bool:
    """Whether among the tensors are features of the rows, and nothing with more dimensions, as sequences have."""
    tensors = list(given)
    return any(_is_features(each, samples) for each in tensors) and all(each.dim() <= 2 for each in tensors)


def _is_features(tensor: Tensor, samples: int) -> bool:
    return tensor.is_floating_point() and tensor.dim() == 2 and tensor.shape[0] == samples > 2


def _is_square(tensor: Tensor, samples: int) -> bool:
    return tuple(tensor.shape) == (samples, samples)


def _are_pairs(tensor: Tensor, samples: int) -> bool:
    """Whether it is (2, E) numbers of rows."""
    whole = (
        tensor.dtype in (torch.int64, torch.int32) and tensor.dim() == 2 and tensor.layout == torch.strided
    )
    if not whole or tensor.shape[0] != 2 or not tensor.shape[1] or tensor.is_meta:
        return False
    return bool(int(tensor.min()) >= 0 and int(tensor.max()) < samples)
