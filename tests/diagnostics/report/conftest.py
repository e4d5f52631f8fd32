"""A monitor whose findings the tests of this folder filter, save and render."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from diagnostics import Monitor


class Cut(nn.Module):
    """Encoder and pooler are detached; the head trains."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.pooler, self.head = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pooler(x).detach() + self.encoder(x).detach())


@pytest.fixture
def monitor() -> Monitor:
    """Six steps of that model."""
    torch.manual_seed(0)
    model = Cut()
    watching = Monitor(model)
    for _ in range(6):
        with watching.step(samples=3):
            model(torch.randn(3, 4)).sum().backward()
    return watching
