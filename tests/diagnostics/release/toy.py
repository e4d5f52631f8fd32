"""The toy of the release test: encoder, a core that is called four times, a decoder; batch 50."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from diagnostics import Finding, RowsFunction, SampleIndependence
from tests.diagnostics.release.subject import Encoding

BATCH, INPUTS, WIDTH, CLASSES, CYCLES = 50, 8, 16, 3, 4


class Toy(nn.Module):
    """`grad_cycles` of the cycles have gradient."""

    def __init__(self, grad_cycles: int = CYCLES) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(INPUTS, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH))
        self.core = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh())
        self.decoder = nn.Linear(WIDTH, CLASSES)
        self.grad_cycles = grad_cycles

    def encode(self, x: Tensor) -> Tensor:
        return self.encoder(x)

    def forward(self, x: Tensor) -> Tensor:
        context = self.encode(x)
        state = torch.zeros_like(context)
        for cycle in range(CYCLES):
            with torch.set_grad_enabled(cycle >= CYCLES - self.grad_cycles):
                state = self.core(state + context)
        return self.decoder(state)


class ToySubject:
    """Labels that a linear rule gives, so that the toy learns."""

    encoder, core, decoder = "encoder", "core", "decoder"
    samples = BATCH
    watch: list[str] | None = None
    expect_partial: tuple[str, ...] = ()

    def __init__(self, seed: int, cut_calls: bool = False) -> None:
        torch.manual_seed(seed)
        self.model = Toy(1 if cut_calls else CYCLES)
        self.optimizers: list[Optimizer] = [
            torch.optim.AdamW(self.model.parameters(), lr=1e-3, weight_decay=0.1)
        ]
        self.rows: dict[str, RowsFunction] = {}
        self.truth = torch.randn(INPUTS, CLASSES)
        self.fixed = torch.randn(BATCH, INPUTS)

    def loss(self) -> Tensor:
        x = torch.randn(BATCH, INPUTS)
        return nn.functional.cross_entropy(self.model(x), (x @ self.truth).argmax(1))

    def probe(self) -> Tensor:
        return self.model.encoder(self.fixed)

    def independence(self) -> list[Finding]:
        return SampleIndependence(lambda batch: batch).run(self.model, self.fixed)

    def wrap_encoding(self, wrap: Callable[[Encoding], Encoding]) -> None:
        self.model.encode = wrap(self.model.encode)  # type: ignore[method-assign]

    def map_context(self, output: Any, change: Callable[[Tensor], Tensor]) -> Any:
        return change(output)
