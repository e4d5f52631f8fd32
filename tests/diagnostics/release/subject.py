"""What a fault can be planted in: a model with an encoder, a recurrent core and a decoder, and its training loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from diagnostics import Finding, Monitor, RowsFunction

STEPS = 100
PROBE_EVERY = 2

Encoding = Callable[..., Any]
Update = Callable[["Subject", Tensor], None]


class Subject(Protocol):
    """One training run of a model family.

    Attributes:
        encoder, core, decoder: Names of its modules: the first makes a context of each sample, the second is called
            several times in a step, the third is what is frozen where something is.
        samples: Number of samples in the loss of a step.
        watch: Modules that the monitor watches; None for the direct children.
        rows: Functions that return the sample of each row, for modules whose leading dimension is not the samples.
        expect_partial: Modules that run some of their calls without gradient on purpose.
    """

    model: nn.Module
    optimizers: list[Optimizer]
    encoder: str
    core: str
    decoder: str
    samples: int
    watch: list[str] | None
    rows: dict[str, RowsFunction]
    expect_partial: tuple[str, ...]

    def loss(self) -> Tensor:
        """Forward pass of the next batch."""

    def probe(self) -> Tensor:
        """The encoder's output on a fixed batch."""

    def independence(self) -> list[Finding]:
        """What the probe says of whether samples influence each other."""

    def wrap_encoding(self, wrap: Callable[[Encoding], Encoding]) -> None:
        """Put something around the call of the encoder, outside the module."""

    def map_context(self, output: Any, change: Callable[[Tensor], Tensor]) -> Any:
        """The output of the encoder, or of what `wrap_encoding` wraps, with its context changed."""


def add_module(subject: Subject, name: str, module: nn.Module) -> None:
    """Give the model one more module, trained and watched as the others are."""
    subject.model.add_module(name, module)
    optimizer = subject.optimizers[0]
    like = {key: value for key, value in optimizer.param_groups[0].items() if key != "params"}
    optimizer.add_param_group({**like, "params": list(module.parameters())})
    if subject.watch is not None:
        subject.watch.append(name)


def update(subject: Subject, loss: Tensor) -> None:
    """The healthy end of a step."""
    loss.backward()
    nn.utils.clip_grad_norm_(subject.model.parameters(), 1.0)
    for optimizer in subject.optimizers:
        optimizer.step()
        optimizer.zero_grad()


def train(
    subject: Subject,
    update: Update = update,
    expect_frozen: Sequence[str] = (),
    steps: int = STEPS,
) -> list[Finding]:
    """The findings of a run, watched alike whatever was planted."""
    monitor = Monitor(
        subject.model,
        subject.optimizers,
        watch=subject.watch,
        rows=subject.rows,
        expect_frozen=expect_frozen,
        expect_partial=subject.expect_partial,
    )
    for step in range(steps):
        with monitor.step(samples=subject.samples):
            update(subject, subject.loss())
        if step % PROBE_EVERY == 0:
            with torch.no_grad():
                monitor.probe(subject.encoder, subject.probe())
    return monitor.findings()
