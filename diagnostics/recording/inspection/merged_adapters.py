"""Low-rank adapters whose product was added to the frozen weight next to them, and stays there while they are trained.

Only the first numbers of each weight are kept, so that a large model is not copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from diagnostics.records import MergedAdapter

_SOME = 64
"""Numbers of each tensor that are compared."""
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
        self._kept: list[
            tuple[Tensor, int]
        ] = []  # numbers and version of each weight when the last step began
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
        for number, (kept, version) in enumerate(self._kept):
            adapter = self._adapters[number]
            if not adapter.weight.is_cpu and adapter.weight._version == version:
                continue  # a comparison would wait for the accelerator
            change = adapter.read() - kept
            if bool(change.any()):
                alike = cosine_similarity(change.float(), adapter.product().float(), dim=0)
                self._merged |= {number} if float(alike) > _ALIGNED else set()
        self._kept = [(adapter.read(), adapter.weight._version) for adapter in self._adapters]


def _find_adapters(model: nn.Module) -> Iterator[_Adapter]:
    """The frozen matrices with exactly one pair of trainable factors, in the smallest module around that has one."""
    every = {name: each for name, each in model.named_parameters() if each.dim() == 2 and each.numel() > 1}
    trained = {name: each for name, each in every.items() if each.requires_grad}
    for name, weight in every.items():
        if weight.requires_grad or weight.is_meta:
            continue
        around = name
        while around and not (pairs := _pairs(around, weight, trained)):
            around = around.rpartition(".")[0]
        if around and len(pairs) == 1:
            ((up, down),) = pairs
            yield _Adapter(MergedAdapter(name, up, down), weight, trained[up], trained[down])


def _pairs(around: str, weight: Tensor, trained: dict[str, nn.Parameter]) -> list[tuple[str, str]]:
    """The names of two trainable matrices in a module whose product has the shape of a weight, of lower rank."""
    near = {name: each.shape for name, each in trained.items() if name.startswith(f"{around}.")}
    rows, columns = weight.shape
    return [
        (up, down)
        for up, first in near.items()
        for down, second in near.items()
        if first[0] == rows
        and second[1] == columns
        and first[1] == second[0] < min(rows, columns)
        and up != down
    ]
