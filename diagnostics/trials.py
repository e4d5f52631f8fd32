"""Runs something on a model as often as needed and leaves the model, and the random numbers, as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

NUDGE = 0.1
"""Standard deviation of the noise on a weight, relative to the root mean square of its tensor."""


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Puts parameters, buffers, gradients, training modes and random numbers back at the exit.

    Gradients are None inside. What a model keeps in plain attributes, such as a cache, is not put back.
    """
    values = [(tensor, tensor.detach().clone()) for tensor in (*model.parameters(), *model.buffers())]
    gradients = [(parameter, parameter.grad, parameter.requires_grad) for parameter in model.parameters()]
    buffers = [(module, dict(module._buffers)) for module in model.modules()]
    modes = [(module, module.training) for module in model.modules()]
    for parameter, _, _ in gradients:
        parameter.grad = None
    try:
        with torch.random.fork_rng(_cuda_devices(model), device_type="cuda"):
            yield
    finally:
        for module, held in buffers:
            module._buffers.update(held)
        for parameter, gradient, requires_grad in gradients:
            parameter.grad = gradient
            parameter.requires_grad_(requires_grad)
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for tensor, value in values:
                if not torch.equal(tensor, value):
                    tensor.copy_(value)


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


def _cuda_devices(model: nn.Module) -> list[torch.device]:
    tensors: list[Tensor] = [*model.parameters(), *model.buffers()]
    return sorted({tensor.device for tensor in tensors if tensor.is_cuda}, key=str)
