"""Small trainings with and without a fault, from which the tests of the rules are made.

Each test file of a family has `CASES`: rule -> (a training in which it fires, one that lacks only the fault).
`test_registry` runs all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from diagnostics import (
    CheckFailed,
    EvaluatorOracle,
    Halting,
    Halts,
    Monitor,
    Probe,
    assert_loss_decreases,
    assert_sample_independence,
)

BATCH, WIDTH = 8, 16
Training = Callable[..., set[str]]
"""Trains with the given options of a monitor, and returns the rules that fired."""
Cases = dict[str, tuple[Training, Training]]


class Net(nn.Module):
    """An encoder, a core called twice, a head; `between` changes the encoder's output on its way to the core."""

    def __init__(self, between: Callable[[Tensor], Tensor] = lambda context: context) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Linear(4, WIDTH)
        self.core = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh())
        self.head = nn.Linear(WIDTH, 3)
        self.between = between
        self.first_cycle_has_gradient = True

    def forward(self, x: Tensor) -> Tensor:
        context = self.between(self.encoder(x))
        with torch.set_grad_enabled(self.first_cycle_has_gradient):
            state = self.core(context)
        return self.head(self.core(state + context))


def adam(model: nn.Module, **options: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), **{"lr": 1e-3, "weight_decay": 0.1, **options})


def update(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor, step: int) -> None:
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def train(
    model: nn.Module | None = None,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    update: Callable[..., None] = update,
    scale: Callable[[int], float] = lambda step: 1.0,
    steps: int = 12,
    probe: Callable[[int, Tensor], Tensor] | None = None,
    inputs: int = BATCH,
    **monitored: Any,
) -> set[str]:
    """The rules that fired, folded or not."""
    model = model or Net()
    optimizer = optimizer or adam(model)
    monitor = Monitor(model, monitored.pop("optimizers", optimizer), **monitored)
    generator = torch.Generator().manual_seed(1)
    fixed = torch.randn(BATCH, 4, generator=generator)
    for step in range(steps):
        x = torch.randn(inputs, 4, generator=generator)
        with monitor.step(samples=BATCH):
            update(model, optimizer, scale(step) * model(x).square().sum(1).mean(), step)
        if probe is not None:
            with torch.no_grad():
                monitor.probe("encoder", probe(step, model.encoder(fixed)))
    return {finding.rule for each in monitor.findings() for finding in (each, *each.consequences)}


def cut_rows(kept: int) -> Callable[..., set[str]]:
    """Training in which only the first rows of the context have gradient."""
    live = (torch.arange(BATCH) < kept)[:, None]
    return lambda **options: train(Net(lambda c: torch.where(live, c, c.detach())), **options)


def changed(change: Callable[[Net], object], **fixed: Any) -> Training:
    """Training of a net to which something was done."""

    def run(**options: Any) -> set[str]:
        model = Net()
        change(model)
        return train(model, **fixed, **options)

    return run


def updated(how: Callable[..., None], **fixed: Any) -> Training:
    return lambda **options: train(update=how, **fixed, **options)


def never_cleared(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor, step: int) -> None:
    loss.backward()
    optimizer.step()


def every_fourth(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor, step: int) -> None:
    (loss / 4).backward()
    if step % 4 == 3:
        optimizer.step()
        optimizer.zero_grad()


def never_stepped(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor, step: int) -> None:
    loss.backward()
    optimizer.zero_grad()


def head_zeroed(model: Net, optimizer: torch.optim.Optimizer, loss: Tensor, step: int) -> None:
    loss.backward()
    for parameter in model.head.parameters():
        parameter.grad.zero_()
    optimizer.step()
    optimizer.zero_grad()


def clipped_at(norm: float) -> Callable[..., None]:
    def clip(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor, step: int) -> None:
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), norm)
        optimizer.step()
        optimizer.zero_grad()

    return clip


def head_taken_out(model: Net, optimizer: torch.optim.Optimizer, loss: Tensor, step: int) -> None:
    loss.backward()
    for parameter in model.head.parameters():
        parameter.grad = None
    optimizer.step()
    optimizer.zero_grad()


def skipping_broken(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor, step: int) -> None:
    """As a GradScaler does: what is not finite is not applied."""
    loss.backward()
    if torch.isfinite(loss):
        optimizer.step()
    optimizer.zero_grad()


def rate_zero(**options: Any) -> set[str]:
    model = Net()
    rest = [*model.core.parameters(), *model.head.parameters()]
    groups = [{"params": list(model.encoder.parameters()), "lr": 0.0}, {"params": rest}]
    return train(model, optimizer=torch.optim.AdamW(groups, lr=1e-3), **options)


def with_dropout(model: Net) -> None:
    model.core.append(nn.Dropout(0.5))


def left_in_evaluation(model: Net) -> None:
    with_dropout(model)
    model.eval()


class Listed(nn.Module):
    """Layers in a list."""

    def __init__(self, registered: bool) -> None:
        super().__init__()
        layers = [nn.Linear(4, WIDTH), nn.Linear(WIDTH, WIDTH)]
        self.layers = nn.ModuleList(layers) if registered else layers

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def mostly_undone(share: float) -> Callable[..., None]:
    """After each update the weights go back so far towards what they were."""

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor, step: int) -> None:
        before = [parameter.detach().clone() for parameter in model.parameters()]
        update(model, optimizer, loss, step)
        for parameter, old in zip(model.parameters(), before, strict=True):
            parameter.data.lerp_(old, share)

    return step


def tied_head(model: Net) -> None:
    model.other = nn.Linear(WIDTH, 3)
    model.other.weight = model.head.weight


def normalised(bias: bool) -> Callable[[Net], object]:
    """The encoder's mean over the batch is taken away behind its bias."""
    return lambda model: setattr(
        model, "encoder", nn.Sequential(nn.Linear(4, WIDTH, bias=bias), nn.BatchNorm1d(WIDTH))
    )


def through(factor: float) -> Training:
    """Training in which the gradient of the encoder is so many times what it should be."""
    net = lambda: Net(lambda c: factor * c + (1 - factor) * c.detach())  # noqa: E731
    return lambda **options: train(net(), steps=24, **options)


def dead_units(bias: float) -> Callable[[Net], object]:
    def change(model: Net) -> None:
        model.core[1] = nn.ReLU()
        nn.init.constant_(model.core[0].bias, bias)

    return change


def leak(mode: bool) -> Training:
    def run(**options: Any) -> set[str]:
        model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).train(mode)
        return raised(lambda: assert_sample_independence(model, torch.randn(6, 4)))

    return run


def falls(rate: float) -> Training:
    def run(**options: Any) -> set[str]:
        model = Net()
        optimizer = adam(model, lr=rate)
        x = torch.ones(BATCH, 4)

        def step() -> Tensor:
            loss = model(x).square().mean()
            update(model, optimizer, loss, 0)
            return loss

        return raised(lambda: assert_loss_decreases(model, step, steps=20))

    return run


def raised(check: Callable[[], object]) -> set[str]:
    try:
        check()
    except CheckFailed as error:
        return {finding.rule for finding in error.findings}
    return set()


def twice_as_many_rows(**options: Any) -> set[str]:
    return train(inputs=2 * BATCH, **options)


def declared_rows(**options: Any) -> set[str]:
    index = torch.arange(BATCH).repeat_interleave(2)
    return train(inputs=2 * BATCH, rows={"*": lambda args, kwargs, output: index}, **options)


def ramp(step: int, output: Tensor) -> Tensor:
    return output + 0.1 * max(step - 15, 0)


def complete(**options: Any) -> set[str]:
    return train(steps=40, probe=lambda step, output: output, **options)


def inner(name: str, wrap: Callable[[Tensor], Tensor]) -> Callable[[Net], object]:
    """The output of a module as `wrap` leaves it."""
    return lambda model: model.get_submodule(name).register_forward_hook(lambda m, args, output: wrap(output))


def in_loss(step: int) -> float:
    return float("inf") if step == 6 else 1.0


def nearly_equal(output: Tensor) -> Tensor:
    return output.mean(0) + 1e-3 * output


def spiking(model: Net) -> None:
    calls = iter(range(1000))
    model.encoder.register_forward_hook(
        lambda m, args, output: output * (40 if next(calls) in (25, 30) else 1)
    )


def run_probe(probe: Probe) -> Training:
    """The rules of a probe's findings on an untrained net and one batch."""
    batch = torch.randn(BATCH, 4, generator=torch.Generator().manual_seed(1))
    return lambda **options: {finding.rule for finding in probe.run(Net(), batch)}


def squares(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch).square().mean()


def scored(score: Callable[[Tensor, Tensor], float]) -> Training:
    return run_probe(EvaluatorOracle(score, torch.zeros_like, torch.ones_like))


def halting(logits: list[float], correct: list[bool]) -> Training:
    """Two hundred rows of a model that takes up to four steps, a quarter of them with each logit."""
    steps = torch.where(torch.tensor(logits * 50) > 0, 2, 4)
    halts = Halts(steps, 4, torch.tensor(logits * 50), torch.tensor(correct * 50))
    return run_probe(Halting(lambda model, batch: halts))


HEALTHY: Training = train
