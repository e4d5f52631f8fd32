"""The least that measuring a training step costs: straight-line code that computes what a monitor records, and no more.

It holds for a model whose modules return one tensor of (samples, width), with one backward pass and one update in
each step. It makes no records, knows no other case, and judges nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.performance.toolkit.subjects import Training

LARGE = 8_192
"""Elements from which the sign and its square are faster than counting; as in the toolkit."""
ROWS, NUMBERS = 64, 64
"""Rows of an output and numbers of a parameter that the toolkit reads."""
WAITING = 256
"""Steps whose numbers are held, as by a monitor."""


class Floor:
    """The measurements of one training."""

    def __init__(self, training: Training, watch: Sequence[str]) -> None:
        self._training = training
        self._weights: list[Tensor] = list(training.model.parameters())
        self._entry = [weight.detach().clone() for weight in self._weights]
        self._some = [weight.detach().view(-1)[:NUMBERS] for weight in self._weights]
        self._seen: set[str] = set()
        self.numbers: list[list[float]] = []
        """Of the latest step: sums of outputs, norms and counts of gradients, norms at and of the update."""
        self.rows: list[Tensor] = []
        """Of the latest step: the largest gradient of each row, by call from the last one."""
        self._held: list[Any] = []
        modules = dict(training.model.named_modules())
        self.handles: list[Any] = [modules[name].register_forward_hook(self._called(name)) for name in watch]
        self.handles.append(training.optimizer.register_step_pre_hook(self._before_update))
        self.handles.append(training.optimizer.register_step_post_hook(self._after_update))

    def _called(self, name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            if name not in self._seen:
                self._seen.add(name)
                rows = output.detach()[:: -(-len(output) // ROWS)]
                total = rows.sum(0)
                apart = torch.sub(rows, total, alpha=1.0 / len(rows)).view(-1)
                sums = (torch.dot(apart, apart), torch.dot(total, total), total.sum())
                self.numbers.append([each.item() for each in sums])
            output.register_hook(lambda gradient: self.rows.append(gradient.abs().amax(1)))

        return hook

    def _gradients(self) -> list[Tensor]:
        return [weight.grad for weight in self._weights if weight.grad is not None]

    def _norms(self, tensors: Sequence[Tensor]) -> None:
        self.numbers.append([each.item() for each in torch._foreach_norm(list(tensors), 2)])

    def _after_backward(self, loss: Tensor) -> None:
        gradients = self._gradients()
        self._norms(gradients)
        self.numbers.append([_count(each) for each in gradients])

    def _before_update(self, *given: Any) -> None:
        self._norms(self._gradients())

    def _after_update(self, *given: Any) -> None:
        self._applied = torch.cat(self._some)

    def step(self, number: int) -> None:
        """Train and measure one step."""
        self._seen.clear()
        self.numbers, self.rows = [], []
        before = torch.cat(self._some)
        self._training.step(number, self._after_backward)
        with torch.no_grad():
            torch._foreach_sub_(self._entry, self._weights)
            self._norms(self._entry)
            torch._foreach_copy_(self._entry, self._weights)
            self._norms(self._entry)
            vectors = torch.cat([*self.rows, before, self._applied, torch.cat(self._some)])
        if len(self._held) == WAITING:
            self._held.clear()
        self._held.append((vectors, self.numbers))


def _count(tensor: Tensor) -> float:
    if tensor.numel() < LARGE:
        return torch.count_nonzero(tensor).item()
    sign = torch.sign(tensor).view(-1)
    return torch.dot(sign, sign).item()


@contextmanager
def floor(training: Training, watch: Sequence[str]) -> Iterator[Floor]:
    """Measure a training; the hooks are removed at the end."""
    found = Floor(training, watch)
    try:
        yield found
    finally:
        for handle in found.handles:
            handle.remove()
