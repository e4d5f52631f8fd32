"""Every rule speaks on one small training and is silent on another that differs in the fault alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diagnostics import (
    RULES,
    CheckFailed,
    ContextUse,
    Cost,
    EvaluatorOracle,
    Halting,
    Halts,
    Monitor,
    Probe,
    Provenance,
    assert_loss_decreases,
    assert_sample_independence,
)

BATCH, WIDTH = 8, 16
Training = Callable[..., set[str]]


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
    """The rules that spoke, folded or not."""
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


def asked(probe: Probe) -> Training:
    """What a probe says of an untrained net and one batch."""
    batch = torch.randn(BATCH, 4, generator=torch.Generator().manual_seed(1))
    return lambda **options: {finding.rule for finding in probe.run(Net(), batch)}


def squares(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch).square().mean()


def scored(score: Callable[[Tensor, Tensor], float]) -> Training:
    return asked(EvaluatorOracle(score, torch.zeros_like, torch.ones_like))


def halting(logits: list[float], correct: list[bool]) -> Training:
    """Two hundred rows of a model that takes up to four steps, a quarter of them with each logit."""
    steps = torch.where(torch.tensor(logits * 50) > 0, 2, 4)
    halts = Halts(steps, 4, torch.tensor(logits * 50), torch.tensor(correct * 50))
    return asked(Halting(lambda model, batch: halts))


HEALTHY: Training = train
CASES: dict[str, tuple[Training, Training]] = {
    "COV001": (cut_rows(2), cut_rows(6)),
    "COV002": (cut_rows(6), HEALTHY),
    "COV003": (twice_as_many_rows, declared_rows),
    "WASTE001": (cut_rows(3), cut_rows(6)),
    "GRAD001": (lambda **o: train(Net(lambda c: c.detach()), **o), cut_rows(1)),
    "GRAD002": (lambda **o: train(Net(lambda c: 0.0 * c), **o), HEALTHY),
    "GRAD003": (
        changed(lambda model: model.head.requires_grad_(False)),
        changed(lambda model: model.head.requires_grad_(False), expect_frozen=["head"]),
    ),
    "GRAD004": (updated(never_cleared), updated(every_fourth, steps=40)),
    "GRAD005": (through(1e-6), through(1e-3)),
    "CALL001": (changed(lambda model: setattr(model, "first_cycle_has_gradient", False)), HEALTHY),
    "CALL002": (changed(lambda model: setattr(model, "spare", nn.Linear(2, 2))), HEALTHY),
    "REACH001": (
        changed(lambda model: setattr(model.encoder, "spare", nn.Parameter(torch.ones(2)))),
        changed(
            lambda model: setattr(model.encoder, "spare", nn.Parameter(torch.ones(2), requires_grad=False))
        ),
    ),
    "REACH002": (changed(dead_units(-100.0)), changed(dead_units(0.0))),
    "REACH003": (
        lambda **o: train(scale=in_loss, **o),
        updated(skipping_broken, scale=in_loss),
    ),
    "REACH004": (changed(normalised(bias=True)), changed(normalised(bias=False))),
    "REACH005": (
        changed(lambda model: setattr(model, "encoder", Listed(registered=False))),
        changed(lambda model: setattr(model, "encoder", Listed(registered=True))),
    ),
    "MOVE001": (rate_zero, HEALTHY),
    "MOVE002": (updated(head_zeroed), updated(head_taken_out)),
    "MOVE003": (updated(never_stepped, steps=24), updated(every_fourth, steps=24)),
    "MOVE004": (updated(clipped_at(1e-9), steps=24), updated(clipped_at(1e-3), steps=24)),
    "MOVE005": (updated(mostly_undone(0.95)), updated(mostly_undone(0.5))),
    "FROZEN001": (
        updated(head_zeroed, expect_frozen=["head"]),
        updated(head_taken_out, expect_frozen=["head"]),
    ),
    "MODE001": (changed(left_in_evaluation), changed(with_dropout)),
    "SHARE001": (changed(tied_head), HEALTHY),
    "COLLAPSE001": (changed(inner("encoder", nearly_equal)), HEALTHY),
    "SPIKE001": (changed(spiking, steps=60), lambda **o: train(steps=60, **o)),
    "DRIFT001": (lambda **o: train(steps=60, probe=ramp, **o), complete),
    "RULE001": (HEALTHY, complete),
    "LEAK001": (leak(True), leak(False)),
    "LOSS001": (falls(0.0), falls(1e-2)),
    "CONTEXT001": (
        asked(ContextUse(squares, lambda batch, index: batch, samples=len)),
        asked(ContextUse(lambda m, b: squares(m, b * torch.arange(8)[:, None]), lambda b, i: b[i], len)),
    ),
    "ORIGIN001": (
        asked(Provenance(lambda batch: range(8), lambda model, batch: range(1, 9))),
        asked(Provenance(lambda batch: range(8), lambda model, batch: range(8))),
    ),
    "ORACLE001": (
        scored(lambda predictions, batch: 0.5),
        scored(lambda predictions, batch: float((predictions == 0).float().mean())),
    ),
    "HALT001": (
        halting([-1.0, -2.0, -3.0, -4.0], [True, True, False, False]),
        halting([2.0, 1.0, -1.0, -2.0], [True, True, False, False]),
    ),
    "HALT002": (halting([1.0, 1.0, -1.0, -1.0], [True, True, False, False]), HEALTHY),
    "COST001": (asked(Cost(lambda model, batch: model(batch))), HEALTHY),
}


def test_every_rule_has_both_cases() -> None:
    assert list(CASES) == [rule.id for rule in RULES]


@pytest.mark.parametrize("rule", CASES)
def test_it_fires(rule: str) -> None:
    assert rule in CASES[rule][0]()


@pytest.mark.parametrize("rule", CASES)
def test_it_stays_silent(rule: str) -> None:
    assert rule not in CASES[rule][1]()


@pytest.mark.parametrize("rule", [rule.id for rule in RULES if "min_steps" in rule.options])
def test_it_waits_as_long_as_its_option_says(rule: str) -> None:
    assert rule not in CASES[rule][0](options={rule: {"min_steps": 1000}})


def test_the_healthy_case_is_quiet() -> None:
    assert complete() == set()


def test_a_bias_that_cannot_change_the_loss_is_no_parameter_that_does_not_move() -> None:
    model = Net()
    normalised(bias=True)(model)
    nn.init.constant_(model.encoder[0].bias, 1.0)  # a gradient of rounding size does not change a bit of it
    assert train(model, optimizer=torch.optim.SGD(model.parameters(), lr=0.01)) & {"MOVE001", "REACH004"} == {
        "REACH004"
    }


@pytest.mark.parametrize("norm", [1e-9, 1e-6])
def test_a_gradient_clipped_to_nothing_is_lost_with_any_optimiser(norm: float) -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    found = train(model, optimizer=optimizer, update=clipped_at(norm), steps=24)
    assert found & {"MOVE001", "MOVE004"} == {"MOVE004"}


def test_what_is_undone_in_whole_did_not_move() -> None:
    assert updated(mostly_undone(1.0))() & {"MOVE001", "MOVE005"} == {"MOVE001"}


def test_a_small_loss_is_no_gradient_that_was_lost() -> None:
    assert "MOVE004" not in train(scale=lambda step: 1e-12, steps=24)


def test_a_faint_gradient_is_measured_against_the_other_modules() -> None:
    factor, model = 1e-6, Net()
    model.between = lambda c: factor * c + (1 - factor) * c.detach()
    monitor = Monitor(model)
    x = torch.randn(BATCH, 4)
    for _ in range(20):
        with monitor.step(samples=BATCH):
            model(x).square().sum().backward()
        pulls = {
            name: torch.stack([p.grad.norm() * p.detach().norm() for p in child.parameters()]).norm()
            for name, child in model.named_children()
        }
        model.zero_grad()
    (found,) = [finding for finding in monitor.findings() if finding.rule == "GRAD005"]
    assert found.module == "encoder"
    expected = pulls["encoder"] / max(pulls.values())
    assert found.evidence.value == pytest.approx(float(expected), rel=1e-4)
