"""Low-rank adapters whose product was added to the frozen weight next to them, and stays there while they are trained.

Only the first numbers of each weight are kept, so that a large model is not copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from diagnostics.recording.updates.watched_parameters import has_values
from diagnostics.records import MergedAdapter

_SOME = 64
"""Numbers of each tensor that are compared."""
_LEVELS = 3
"""Modules around a matrix: a layer, those that an adapter has of each name, and what holds both."""
_ALIGNED = 0.99
"""Cosine of a change and a product from which the change is the product: of 64 numbers at random it is about 0.1."""


@dataclass(frozen=True, eq=False)
class _Adapter:
    """A frozen weight (out, in), and the trainable factors (out, rank) and (rank, in)."""

    names: MergedAdapter
    weight: nn.Parameter
    up: nn.Parameter
    down: nn.Parameter

    def read(self) -> Tensor:
        """The first numbers of the weight."""
        return self.weight.detach().reshape(-1)[:_SOME].clone()

    def product(self) -> Tensor:
        """The first numbers of the product of the factors."""
        place = torch.arange(min(_SOME, self.weight.numel()), device=self.weight.device)
        rows, columns = place // self.weight.shape[1], place % self.weight.shape[1]
        return (self.up.detach()[rows] * self.down.detach().T[columns]).sum(1)


class MergedAdapters:
    """The adapters of a model whose products were added to its frozen weights, and not taken out again."""

    def __init__(self, model: nn.Module) -> None:
        self._adapters = list(_find_adapters(model))
        self._kept: dict[int, tuple[Tensor, int]] = {}  # numbers and version of each weight when a step began
        self._merged: set[int] = set()

    @property
    def found(self) -> tuple[MergedAdapter, ...]:
        """Those so far."""
        return tuple(self._adapters[number].names for number in sorted(self._merged))

    @torch.no_grad()
    def begin(self) -> None:
        """A step begins: what changed since the last one began may be what the factors give now.

        Factors that were set back, as where adapters are merged for good and begin anew, give something else.
        """
        for number, adapter in enumerate(self._adapters):
            kept, version = self._kept.get(number, (None, None))
            if not adapter.weight.is_cpu and adapter.weight._version == version:
                continue  # a comparison would wait for the accelerator
            now = adapter.read()
            self._kept[number] = (now, adapter.weight._version)
            if kept is not None and not torch.equal(now, kept):
                alike = cosine_similarity((now - kept).float(), adapter.product().float(), dim=0)
                self._merged |= {number} if float(alike) > _ALIGNED else set()


def _find_adapters(model: nn.Module) -> Iterator[_Adapter]:
    """The frozen matrices of the modules that have exactly one pair of trainable factors for them."""
    every = {name: each for name, each in model.named_parameters() if has_values(each) and each.dim() == 2}
    trained: dict[str, list[str]] = {}  # by the innermost modules around them
    frozen: dict[str, list[str]] = {}
    for name, each in every.items():
        around = name
        for _ in range(_LEVELS):
            around = around.rpartition(".")[0]
            names = (trained if each.requires_grad else frozen).setdefault(around, [])
            names += [] if name in names else [name]
    found = {}
    for around in sorted(frozen.keys() & trained.keys(), key=len):  # of several, the innermost is kept
        factors = {each: every[each] for each in trained[around]}
        pairs = {name: _pairs(every[name], factors) for name in frozen[around]}
        found.update({name: each[0] for name, each in pairs.items() if len(each) == 1})
    for name, (up, down) in found.items():
        yield _Adapter(MergedAdapter(name, up, down), every[name], every[up], every[down])


def _pairs(weight: Tensor, trained: dict[str, nn.Parameter]) -> list[tuple[str, str]]:
    """The names of two matrices whose product has the shape of a weight, and a lower rank."""
    rows, columns = weight.shape
    ups = {name: each.shape[1] for name, each in trained.items() if each.shape[0] == rows}
    downs = {name: each.shape[0] for name, each in trained.items() if each.shape[1] == columns}
    pairs = ((up, down) for up, rank in ups.items() for down, other in downs.items() if rank == other)
    return [(up, down) for up, down in pairs if up != down and ups[up] < min(rows, columns)]
