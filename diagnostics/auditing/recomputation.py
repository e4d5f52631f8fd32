"""Modules that a checkpoint runs again in the backward pass, with another result than before."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.checkpoint import set_checkpoint_early_stop

from diagnostics.recording.tensors import tensors_in
from diagnostics.recording.weak_hooks import LocalHook
from diagnostics.testing.trials import arrivals, untouched

_CLOSE = 1e-3
"""Difference of sums relative to the size of the values: other kernels for the same values differ less."""
Sums = tuple[tuple[float, float, int], ...]
"""Sum, sum of squares and number of elements of each tensor."""


def find_recomputed(
    model: nn.Module, step: Callable[[nn.Module, Any], Any], batch: Any, optimizers: Sequence[Optimizer]
) -> list[str]:
    """Names of modules whose second run differs from their first; none where the step cannot be repeated."""
    with untouched(model, optimizers, keep_gradients=True), _comparing(model) as differing:
        try:
            with set_checkpoint_early_stop(False), arrivals(model) as arrived:
                loss = step(model, batch)
                if isinstance(loss, Tensor) and loss.requires_grad and loss.numel() == 1 and not arrived:
                    loss.backward()
        except RuntimeError:  # torch found the difference itself, or the step cannot be repeated
            return []
    return differing


@contextmanager
def _comparing(model: nn.Module) -> Iterator[list[str]]:
    differing: list[str] = []
    known: dict[str, list[tuple[Sums, Sums]]] = {}

    def compare(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            given, result = _sum_up(args), _sum_up(output)
            if torch._C._current_graph_task_id() == -1:
                known.setdefault(name, []).append((given, result))
                return
            alike = [before for same, before in known.get(name, ()) if _agree(same, given)]
            if alike and not any(_agree(before, result) for before in alike):
                differing.append(name)

        return hook

    handles = [
        module.register_forward_hook(LocalHook(compare(name)))
        for name, module in model.named_modules()
        if name and not isinstance(module, torch.jit.ScriptModule)
    ]
    try:
        yield differing
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _sum_up(value: Any) -> Sums:
    tensors = [each.detach() for each in tensors_in(value) if each.is_floating_point() and not each.is_nested]
    return tuple(
        (float(each.double().sum()), float(each.double().square().sum()), each.numel()) for each in tensors
    )


def _agree(one: Sums, other: Sums) -> bool:
    if [each[2] for each in one] != [each[2] for each in other]:
        return False
    return all(
        abs(first[1] - second[1]) <= _CLOSE * first[1]
        and abs(first[0] - second[0]) <= _CLOSE * (first[1] * first[2]) ** 0.5
        for first, second in zip(one, other, strict=True)
    )
