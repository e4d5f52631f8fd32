"""Optimisers and the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from etrm.config import TrainConfig
from etrm.model.variant import Variant

FUSED = frozenset({"cuda"})
"""Types of devices on which AdamW updates all weights in one kernel, where the host would otherwise start dozens."""


class AdamATan2(Optimizer):
    """Adam with atan2 instead of the division, so that no epsilon is needed.

    p -= lr wd p;  p -= lr / (1 - b1^t) atan2(m, sqrt(v) / sqrt(1 - b2^t)), without any other
    factor (Everett et al., 2024, as the published TRM code has it). Scaling all gradients by a
    constant changes no step: gradient norms are not step sizes. Parameters without a gradient
    are left alone, decay included.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.1,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._update([p for p in group["params"] if p.grad is not None], group)
        return loss

    def _update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        if not params:
            return
        lr, (beta1, beta2) = group["lr"], group["betas"]
        for p in params:
            if not self.state[p]:
                self.state[p] = {
                    "step": torch.zeros(()),
                    "exp_avg": torch.zeros_like(p),
                    "exp_avg_sq": torch.zeros_like(p),
                }
        grads = [cast(Tensor, p.grad) for p in params]
        means = [self.state[p]["exp_avg"] for p in params]
        squares = [self.state[p]["exp_avg_sq"] for p in params]
        torch._foreach_lerp_(means, grads, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, grads, grads, 1 - beta2)
        torch._foreach_mul_(params, 1 - lr * group["weight_decay"])
        steps = [self.state[p]["step"] for p in params]
        torch._foreach_add_(steps, 1)
        counts = [step.item() for step in steps]  # they lie on the host
        spreads = torch._foreach_sqrt(squares)
        torch._foreach_div_(spreads, [math.sqrt(1 - beta2**t) for t in counts])
        angles = _atan2(means, spreads)
        torch._foreach_mul_(angles, [-lr / (1 - beta1**t) for t in counts])
        torch._foreach_add_(params, angles)


def _atan2(y: Sequence[Tensor], x: Sequence[Tensor]) -> list[Tensor]:
    """Compute atan2 of each pair of tensors, on an accelerator in one kernel: torch has no call for lists."""
    if y[0].device.type == "cpu":  # no kernels to start, and the copies would cost a third of the update
        return [torch.atan2(one, other) for one, other in zip(y, x, strict=True)]
    flat = torch.atan2(torch.cat([one.flatten() for one in y]), torch.cat([one.flatten() for one in x]))
    return [part.view_as(one) for part, one in zip(flat.split([one.numel() for one in y]), y, strict=True)]


class SignSGD(Optimizer):
    """p = p (1 - lr wd) - lr sign(g) on the rows of a sparse gradient, repeated rows summed first.

    The published optimiser of TRM's puzzle table; rows that are not in the batch do not move.
    """

    def __init__(self, params: Iterable[Any], lr: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update the rows in the batch."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                rows, values = p.grad._indices()[0], p.grad._values()
                # Not coalesce: how many rows are left depends on values, so the host would wait for them.
                # Here a row that occurs twice is written twice, with the same number.
                first = (rows[:, None] == rows).int().argmax(1)
                sign = torch.zeros_like(values).index_add_(0, first, values)[first].sign()
                p[rows] = p[rows] * (1 - group["lr"] * group["weight_decay"]) - group["lr"] * sign
        return loss


def build_optimizers(model: Variant, config: TrainConfig) -> list[Optimizer]:
    """Build the optimisers of a model: one for core and encoder (a group each), one for a puzzle table.

    Every group keeps its own peak rate in ``initial_lr``; :func:`set_rates` scales it.
    """
    groups = [{"params": list(model.core.parameters()), "lr": config.lr, "name": "decoder"}]
    if model.encoder is not None:
        rate = config.lr * config.encoder_lr_scale
        groups.append({"params": list(model.encoder.parameters()), "lr": rate, "name": "encoder"})
    betas, decay = (config.beta1, config.beta2), config.weight_decay
    optimizers: list[Optimizer]
    if config.optimizer == "adam_atan2":
        optimizers = [AdamATan2(groups, betas=betas, weight_decay=decay)]
    else:
        fused = model.device.type in FUSED or None  # None is torch's own choice
        optimizers = [torch.optim.AdamW(groups, betas=betas, weight_decay=decay, fused=fused)]
    if model.puzzle_table is not None:
        table = [{"params": [model.puzzle_table.weights], "lr": config.puzzle_lr, "name": "puzzle_table"}]
        optimizers.append(SignSGD(table, lr=config.puzzle_lr, weight_decay=config.puzzle_weight_decay))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return optimizers


def schedule(step: int, config: TrainConfig) -> float:
    """Compute the factor on every peak rate for the 0-based ``step``: linear warm-up, then a cosine."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.lr_min_ratio + (1 - config.lr_min_ratio) * cosine


def set_rates(optimizers: list[Optimizer], factor: float) -> None:
    """Set every group's rate to its peak times ``factor``."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
