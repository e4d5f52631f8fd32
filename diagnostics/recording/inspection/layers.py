"""What the layers of a model show without a measurement: equal units, and batch norms whose statistics say little."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import nn

from diagnostics.recording.updates.watched_parameters import has_values
from diagnostics.records import OddStatistics

_BatchNorm = nn.modules.batchnorm._BatchNorm
_LAST_BATCH = 0.9
"""Momentum from which running statistics are those of the last batch; other libraries give the share that is kept."""


class EqualUnits:
    """Weights whose rows are all equal: its units compute the same, and receive the same gradient.

    Weights of zeros count too, as long as training leaves their rows equal. Embeddings do not: a row that is not met
    keeps its value.
    """

    def __init__(self, model: nn.Module) -> None:
        self._found = {
            f"{prefix}.{name}".removeprefix("."): weight
            for prefix, layer in model.named_modules()
            if not isinstance(layer, nn.Embedding)
            for name, weight in layer.named_parameters(recurse=False)
            if _has_equal_rows(weight)
        }

    def still(self) -> tuple[str, ...]:
        """The names of those that still are."""
        self._found = {name: weight for name, weight in self._found.items() if _has_equal_rows(weight)}
        return tuple(self._found)


@torch.no_grad()
def _has_equal_rows(weight: nn.Parameter) -> bool:
    if not has_values(weight) or weight.dim() < 2 or len(weight) < 2 or not weight.requires_grad:
        return False
    return weight[0].numel() > 1 and torch.equal(weight, weight[:1].expand_as(weight))


def find_odd_statistics(
    layers: Mapping[str, Mapping[str, nn.Module]], samples: int
) -> Iterator[OddStatistics]:
    """Batch norms of each watched module that see one sample, or whose running statistics never move.

    Args:
        layers: Watched module -> its layers that act otherwise in training, by their names in it.
        samples: Samples of the step, on all processes.
    """
    for module, own in layers.items():
        norms = {
            name: layer for name, layer in own.items() if isinstance(layer, _BatchNorm) and layer.training
        }
        still = tuple(name for name, layer in norms.items() if layer.momentum == 0)
        if still:
            yield OddStatistics(module, still, "momentum-zero")
        last = tuple(
            name
            for name, layer in norms.items()
            if isinstance(layer.momentum, float) and layer.momentum >= _LAST_BATCH
        )
        if last:
            yield OddStatistics(module, last, "momentum-of-average")
        if norms and samples == 1:
            yield OddStatistics(module, tuple(norms), "one-sample")
