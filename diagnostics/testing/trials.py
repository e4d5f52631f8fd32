"""Runs something on a model as often as needed and restores the model and the random numbers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from diagnostics.recording.random_numbers import same_random_numbers
from diagnostics.recording.updates.watched_parameters import has_values

NUDGE = 0.1
"""Standard deviation of the noise on a weight, relative to the root mean square of its tensor.

It moves every zero, and changes little of what the model computes.
"""


@contextmanager
def untouched(
    model: nn.Module, optimizers: Sequence[Optimizer] = (), keep_gradients: bool = False
) -> Iterator[None]:
    """Restores model, optimisers and random numbers at the exit, bit for bit.

    Of the model it restores parameters, buffers, gradients, training modes and plain attributes that were rebound,
    such as a cache; a change in place inside a plain attribute (a list that grows) stays. Of the optimisers it
    restores state and groups, of the random numbers those of torch, Python, and numpy where it is loaded. Optimisers
    work on a copy of their state.

    Args:
        keep_gradients: Whether gradients inside are copies of what they were; by default they are None.
    """
    updated = [
        member for optimizer in optimizers for group in optimizer.param_groups for member in group["params"]
    ]
    parameters = list(dict.fromkeys((*model.parameters(), *updated)))
    values = [
        (tensor, tensor.detach().clone()) for tensor in (*parameters, *model.buffers()) if has_values(tensor)
    ]
    gradients = [(parameter, parameter.grad, parameter.requires_grad) for parameter in parameters]
    attributes = [(held, dict(held)) for module in model.modules() for held in _held(module)]
    for parameter, _, _ in gradients:
        parameter.grad = None if parameter.grad is None or not keep_gradients else parameter.grad.clone()
    try:
        with (
            same_random_numbers(model),
            _optimizers_untouched(optimizers),
        ):
            yield
    finally:
        for held, was in attributes:
            held.clear()
            held.update(was)
        for parameter, gradient, requires_grad in gradients:
            if not is_lazy(parameter):
                parameter.grad = gradient
                parameter.requires_grad_(requires_grad)
        with torch.no_grad():
            for tensor, value in values:
                if not torch.equal(tensor, value):
                    tensor.copy_(value)


def _held(module: nn.Module) -> Iterator[dict[str, Any]]:
    """The dictionaries that hold what belongs to a module: its attributes first, because they name the others."""
    if isinstance(module, torch.jit.ScriptModule):
        return  # its attributes are held outside Python
    attributes = vars(module)
    yield attributes
    for kind in ("_parameters", "_buffers", "_modules"):
        yield attributes[kind]


@contextmanager
def arrivals(model: nn.Module) -> Iterator[list[None]]:
    """A list that is no longer empty once gradient arrived at a parameter."""
    arrived: list[None] = []
    handles = [
        parameter.register_post_accumulate_grad_hook(lambda _: arrived.append(None))
        for parameter in model.parameters()
        if parameter.requires_grad and not is_lazy(parameter)
    ]
    try:
        yield arrived
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _optimizers_untouched(optimizers: Sequence[Optimizer]) -> Iterator[None]:
    """Lets the optimisers step on copies: what they held is never written to."""
    was = []
    for optimizer in optimizers:
        was.append((optimizer, optimizer.state, list(optimizer.param_groups)))
        optimizer.state = defaultdict(
            dict, {parameter: deepcopy(state) for parameter, state in optimizer.state.items()}
        )
        optimizer.param_groups = [_copied_group(group) for group in optimizer.param_groups]
    try:
        yield
    finally:
        for optimizer, state, groups in was:
            optimizer.state = state
            optimizer.param_groups = groups


def _copied_group(group: dict[str, Any]) -> dict[str, Any]:
    """The same parameters under copied settings; a learning rate may be a tensor that is written to."""
    copied = {name: deepcopy(value) for name, value in group.items() if name != "params"}
    return {"params": list(group["params"]), **copied}


@torch.no_grad()
def nudge(model: nn.Module, seed: int) -> None:
    """Seeds the random numbers and moves every trainable weight a little, off zero too.

    A tensor of zeros is moved as if it were initialised at 1 / sqrt(inputs).
    """
    torch.manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.is_floating_point() and parameter.numel():
            size = parameter.square().mean().sqrt()
            if not float(size):
                size = (
                    torch.ones_like(size) / max(parameter[0].numel() if parameter.dim() > 1 else 1, 1) ** 0.5
                )
            parameter.add_(NUDGE * size * torch.randn_like(parameter))
