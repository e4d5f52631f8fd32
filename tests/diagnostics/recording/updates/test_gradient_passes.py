"""What becomes of each backward pass, in the usual orders of loops with one optimiser and with two."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diagnostics import Monitor

Step = Callable[["Gan"], None]


class Gan(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.g = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))
        self.d = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
        self.og = torch.optim.Adam(self.g.parameters(), 1e-3)
        self.od = torch.optim.Adam(self.d.parameters(), 1e-3)

    def fool(self, fake: Tensor) -> Tensor:
        return F.softplus(-self.d(fake)).mean()

    def judge(self, fake: Tensor) -> Tensor:
        return F.softplus(-self.d(torch.randn(8, 4))).mean() + F.softplus(self.d(fake.detach())).mean()


def generator_first(gan: Gan, clear: bool = True) -> None:
    fake = gan.g(torch.randn(8, 4))
    gan.og.zero_grad()
    gan.fool(fake).backward()
    gan.og.step()
    if clear:
        gan.od.zero_grad()
    gan.judge(fake).backward()
    gan.od.step()
    if not clear:
        gan.od.zero_grad()


def discriminator_first(gan: Gan, zeros: bool = False) -> None:
    fake = gan.g(torch.randn(8, 4))
    gan.od.zero_grad(set_to_none=not zeros)
    gan.judge(fake).backward()
    gan.od.step()
    gan.og.zero_grad(set_to_none=not zeros)
    gan.fool(fake).backward()
    gan.og.step()


def toggled(gan: Gan) -> None:
    fake = gan.g(torch.randn(8, 4))
    gan.d.requires_grad_(False)
    gan.og.zero_grad()
    gan.fool(fake).backward()
    gan.og.step()
    gan.d.requires_grad_(True)
    gan.od.zero_grad()
    gan.judge(fake).backward()
    gan.od.step()
    with torch.no_grad():  # a critic with clipped weights
        for weight in gan.d.parameters():
            weight.clamp_(-0.5, 0.5)


def never_cleared(gan: Gan) -> None:
    (gan.fool(gan.g(torch.randn(8, 4))) + gan.judge(torch.randn(8, 4))).backward()
    gan.og.step()
    gan.od.step()


def watch(step: Step, steps: int = 8) -> tuple[set[tuple[str, str, str]], Monitor]:
    gan = Gan()
    monitor = Monitor(gan, [gan.og, gan.od])
    for _ in range(steps):
        with monitor.step(samples=8):
            step(gan)
    found = {(each.rule, each.module, each.code) for each in monitor.findings(select=["GRAD004", "GRAD006"])}
    return found, monitor


@pytest.mark.parametrize(
    "step",
    [
        generator_first,
        discriminator_first,
        lambda gan: discriminator_first(gan, zeros=True),
        toggled,
    ],
    ids=["generator first", "discriminator first", "set to zero", "toggled and clipped"],
)
def test_every_usual_order_of_a_gan_is_healthy(step: Step) -> None:
    assert watch(step)[0] == set()


def test_a_gradient_that_another_optimiser_applied_is_mixed_in() -> None:
    found, monitor = watch(lambda gan: generator_first(gan, clear=False))
    assert found == {("GRAD004", "d", "other-loss")}
    carried = {name: each.carried for name, each in monitor.last.parameters.items()}
    assert carried == {name: "other" if name.startswith("d.") else "no" for name in carried}


def test_sums_that_are_never_cleared() -> None:
    assert watch(never_cleared)[0] == {("GRAD004", "", "zero-grad-missing")}


def parts(gan: Gan, how: str) -> None:
    """One update of the discriminator from three micro-batches."""
    gan.od.zero_grad()
    for _ in range(3):
        if how == "cleared":
            gan.od.zero_grad()
        (gan.judge(torch.randn(8, 4)) / 3).backward()
        if how.startswith("perturbed"):
            with torch.no_grad():  # as SAM moves to the worst neighbour, and clears on the way
                for weight in gan.d.parameters():
                    (weight.data if how == "perturbed data" else weight).add_(1e-3)
            if _ < 2:
                gan.od.zero_grad()
    gan.od.step()


@pytest.mark.parametrize(
    ("how", "discarded"), [("summed", 0), ("cleared", 2), ("perturbed", 0), ("perturbed data", 0)]
)
def test_passes_of_one_update(how: str, discarded: int) -> None:
    found, monitor = watch(lambda gan: parts(gan, how))
    assert (monitor.last.passes.total, len(monitor.last.passes.discarded)) == (3, discarded)
    assert found == ({("GRAD006", "", "pass-discarded")} if discarded else set())


def projected(gan: Gan) -> None:
    """Two losses, each with a pass of its own; the gradients are read, combined and assigned."""
    sums: list[list[Tensor]] = []
    for _ in range(2):
        gan.od.zero_grad()
        gan.judge(torch.randn(8, 4)).backward()
        sums.append([weight.grad.clone() for weight in gan.d.parameters() if weight.grad is not None])
    for weight, one, other in zip(gan.d.parameters(), *sums, strict=True):
        weight.grad = one * (one.dot(other) > 0 if one.dim() == 1 else 0.3) + other
    gan.od.step()


def test_gradients_that_are_read_and_combined_by_hand_are_healthy() -> None:
    assert watch(projected)[0] == set()


def twice(gan: Gan) -> None:
    loss = gan.judge(torch.randn(8, 4))
    gan.od.zero_grad()
    loss.backward(retain_graph=True)
    loss.backward()
    gan.od.step()


def test_the_same_loss_twice() -> None:
    assert watch(twice)[0] == {("GRAD006", "", "pass-twice")}


def assigned(gan: Gan) -> None:
    weights = {name: weight.detach() for name, weight in gan.d.named_parameters()}
    real = torch.randn(8, 4)

    def loss(weights: dict[str, Tensor]) -> Tensor:
        return F.softplus(-torch.func.functional_call(gan.d, weights, (real,))).mean()

    gradients = torch.func.grad(loss)(weights)
    for name, weight in gan.d.named_parameters():
        weight.grad = gradients[name]
    gan.od.step()
    gan.od.zero_grad()


def test_a_gradient_of_torch_func_is_assigned_and_not_stale() -> None:
    _, monitor = watch(assigned)
    own = [each for name, each in monitor.last.parameters.items() if name.startswith("d.")]
    assert all(each.assigned and not each.stale and each.changed for each in own)
    assert not [each for each in monitor.findings() if each.module == "d" and each.rule != "COV003"]


def test_a_gradient_by_hand_is_assigned_in_each_step_also_where_its_memory_is_that_of_the_last() -> None:
    """Evolution strategies: no backward pass, and new tensors that may get the ids of those that were released."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    monitor = Monitor(model, optimizer)
    for x in torch.randn(12, 8, 4):
        with monitor.step(samples=8), torch.no_grad():
            model(x)
            optimizer.zero_grad()
            for weight in model.parameters():
                weight.grad = torch.zeros_like(weight).add_(torch.randn_like(weight))
            optimizer.step()
        assert all(each.assigned for each in monitor.last.parameters.values())
    assert {each.rule for each in monitor.findings()} <= {"COV003", "RULE001"}
