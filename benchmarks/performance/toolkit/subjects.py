"""The models that are trained while they are watched: a toy at several widths, and ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from benchmarks.performance.model.workload import OURS, BatchLayout, LayoutRun, load_real_tasks, make_config
from diagnostics import RowsFunction

BATCHES = 8


@dataclass(frozen=True)
class Training:
    """A model in training on a cycle of batches.

    Attributes:
        samples: the number of samples in the loss of a step.
        boundaries: the modules that a user would declare.
        loss: a function from a batch to the loss.
        rows: the functions of rows for the monitor.
    """

    model: nn.Module
    optimizer: Optimizer
    samples: int
    boundaries: Sequence[str]
    batches: Sequence[Any]
    loss: Callable[[Any], Tensor]
    rows: Mapping[str, RowsFunction] = field(default_factory=dict)

    @property
    def leaves(self) -> list[str]:
        """Modules that hold no others."""
        return [name for name, module in self.model.named_modules() if not [*module.children()]]

    def step(self, number: int, before_update: Callable[[Tensor], object] = lambda loss: None) -> Tensor:
        """Do forward, backward and update on one of the batches, and return the loss.

        Args:
            before_update: a function that is called with the loss between backward and update.
        """
        loss = self.loss(self.batches[number % len(self.batches)])
        torch.autograd.backward(loss)
        before_update(loss)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()


@dataclass(frozen=True)
class Subject:
    """A name for tables, and a function that builds the same training on a device."""

    name: str
    make: Callable[[torch.device], Training]


class Toy(nn.Module):
    """The toy of the release test at any width: an encoder, a core that is called four times, a decoder."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(8, width), nn.Tanh(), nn.Linear(width, width))
        self.core = nn.Sequential(nn.Linear(width, width), nn.Tanh())
        self.decoder = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 8) to (B, 3)."""
        context = self.encoder(x)
        state = torch.zeros_like(context)
        for _ in range(4):
            state = self.core(state + context)
        return self.decoder(state)


def toy(width: int, samples: int) -> Subject:
    """Build the toy with random samples and labels."""

    def make(device: torch.device) -> Training:
        torch.manual_seed(0)
        model = Toy(width).to(device)
        batches = [(torch.randn(samples, 8), torch.randint(3, (samples,))) for _ in range(BATCHES)]
        return Training(
            model=model,
            optimizer=torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1),
            samples=samples,
            boundaries=("encoder", "core", "decoder"),
            batches=[(x.to(device), y.to(device)) for x, y in batches],
            loss=lambda batch: nn.functional.cross_entropy(model(batch[0]), batch[1]),
        )

    return Subject(f"toy, width {width}, batch {samples}", make)


def ours(width: int) -> Subject:
    """Build our model on real tasks, as the other benchmarks train it."""

    def make(device: torch.device) -> Training:
        arm = LayoutRun(
            BatchLayout(OURS), make_config(model={"hidden_size": width}), load_real_tasks(), device
        )
        samples = arm.config.train.batch_size
        return Training(
            model=arm.model,
            optimizer=arm.step.optimizer,
            samples=samples,
            boundaries=("encoder", "core", "core.lm_head", "core.q_head"),
            batches=[arm.batches.next() for _ in range(BATCHES)],
            loss=lambda batch: arm.step.loss(batch) / samples,
            rows={"encoder": lambda args, kwargs, output: args[0].slots},
        )

    return Subject(f"etrm, D {width}, batch 8", make)


SUBJECTS = (toy(16, 50), toy(256, 256), toy(1024, 256), ours(64))
