"""Gradient and response together name what was planted between a module and the loss, and nothing else changes."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy
import pytest
import torch
from torch import Tensor, nn

from diagnostics import Absent, probe_response
from diagnostics.auditing.responses import evaluate_again, trace_flow
from tests.diagnostics.refusals import refused

Path = Callable[[Tensor], Tensor]
X = torch.randn(8, 4, generator=torch.Generator().manual_seed(2))


class Chooser(nn.Module):
    """A selector weighs the answers of a bank; `path` is what happens to its scores on the way."""

    def __init__(self, path: Path = lambda scores: scores.softmax(-1)) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.BatchNorm1d(4)
        self.encoder = nn.Linear(4, 8)
        self.selector = nn.Linear(8, 3)
        self.bank = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.2))
        self.frozen = nn.Linear(4, 2).requires_grad_(False)
        self.path = path
        self.seen = 0

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.seen += 1
        scores = self.selector(self.encoder(self.norm(x)).relu())
        answers = self.bank(x).view(-1, 3, 2)
        mixed = (self.path(scores)[..., None] * answers).sum(1)
        return mixed + self.frozen(x), scores.softmax(-1)


def terms(model: nn.Module, x: Tensor) -> dict[str, Tensor | float]:
    answer, weights = model(x)
    entropy = -(weights * weights.log()).sum(-1).mean()
    return {"task": (answer - x[:, :2]).square().mean(), "entropy": entropy, "constant": 1.0}


def one_hot(scores: Tensor) -> Tensor:
    return nn.functional.one_hot(scores.argmax(-1), 3).float()


def straight_through(hard: Path) -> Path:
    return lambda scores: hard(scores).detach() + (scores - scores.detach())


PATHS: dict[str, tuple[Path, str, str]] = {
    "mixture": (lambda scores: scores.softmax(-1), "healthy", "some"),
    "straight-through": (straight_through(one_hot), "healthy", "some"),
    "argmax": (one_hot, "cut", "none"),
    "item": (lambda scores: torch.tensor([[one.item() for one in row] for row in scores]), "cut", "none"),
    "threshold": (lambda scores: (scores > 0.2).float(), "cut", "none"),
    "detach": (lambda scores: scores.detach(), "cut", "none"),
    "round": (lambda scores: (3 * scores).round(), "flat", "zero"),
    "not read": (torch.ones_like, "unused", "none"),
    "zero factor": (lambda scores: 1 + 0 * scores, "zero factor", "zero"),
    "saturated": (lambda scores: (scores + 15).sigmoid(), "saturated", "some"),
    "constant estimator": (straight_through(lambda scores: (scores + 100).sign()), "saturated", "some"),
}


@pytest.mark.parametrize("name", PATHS)
def test_the_verdict_is_what_was_planted(name: str) -> None:
    path, verdict, gradient = PATHS[name]
    found = probe_response(Chooser(path), terms, X)
    for module in ("encoder", "selector"):
        assert (found[module]["task"].verdict, found[module]["task"].gradient) == (verdict, gradient)
        assert found[module]["entropy"].verdict == "healthy"
        assert found[module]["constant"].verdict == "unused"
    assert {found[module]["task"].verdict for module in ("", "bank")} == {"healthy"}
    assert found["bank"]["entropy"].verdict == "unused"
    assert found["frozen"]["task"].verdict == "frozen"


def test_gradient_and_change_equal_those_of_torch() -> None:
    model = Chooser().eval()
    found = probe_response(model, terms, X, sizes=(0.5,), fresh=0, seed=3)["selector"]["task"]
    before = terms(model, X)["task"]
    gradients = torch.autograd.grad(before, list(model.selector.parameters()))
    assert found.norm == pytest.approx(
        float(torch.cat([each.flatten() for each in gradients]).norm()), rel=1e-5
    )
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in model.selector.parameters():
            weight.add_(0.5 * weight.square().mean().sqrt() * torch.randn_like(weight))
    change = abs(float(terms(model, X)["task"].detach()) - float(before.detach()))
    assert found.change == pytest.approx(change, rel=1e-4)
    assert found.size == 0.5


def test_everything_is_restored_bit_for_bit() -> None:
    model = Chooser(one_hot)
    model.encoder.weight.grad = torch.ones_like(model.encoder.weight)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    drawn = (torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist())  # noqa: NPY002
    probe_response(model, terms, X)
    assert all(map(torch.equal, before.values(), model.state_dict().values()))
    assert torch.equal(model.encoder.weight.grad, torch.ones_like(model.encoder.weight))
    assert model.bank[0].weight.grad is None
    assert (model.seen, model.training) == (0, True)
    assert torch.equal(drawn[0], torch.get_rng_state())
    assert drawn[1:] == (random.getstate(), numpy.random.get_state()[1].tolist())  # noqa: NPY002


def test_a_choice_that_noise_does_not_change_responds_to_fresh_weights() -> None:
    model = Chooser(one_hot)
    with torch.no_grad():
        model.selector.bias.copy_(torch.tensor([50.0, 0.0, 0.0]))
    found = probe_response(model, terms, X, sizes=(0.01,))["selector"]["task"]
    assert (found.verdict, found.size) == ("cut", float("inf"))
    silent = probe_response(model, terms, X, sizes=(0.01,), fresh=0)["selector"]["task"]
    assert (silent.verdict, isinstance(silent.size, Absent)) == ("unused", True)


class Gated(nn.Module):
    """A branch behind a gate that starts at zero, as in LoRA, and an expert that this batch does not select."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.down = nn.Linear(4, 2)
        self.up = nn.Linear(2, 4, bias=False)
        nn.init.zeros_(self.up.weight)
        self.router = nn.Linear(4, 2)
        with torch.no_grad():
            self.router.bias.copy_(torch.tensor([6.0, 0.0]))
        self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        probability, chosen = self.router(x).softmax(-1).max(-1)
        answers = torch.stack([expert(x) for expert in self.experts], 1)
        return probability[:, None] * answers[torch.arange(len(x)), chosen] + self.up(self.down(x))


def squared(model: nn.Module, x: Tensor) -> Tensor:
    return (model(x) - x).square().mean()


def test_a_gate_at_zero_and_an_expert_in_waiting_are_idle() -> None:
    found = probe_response(Gated(), squared, X)
    assert {name: terms["loss"].verdict for name, terms in found.items() if name} == {
        "down": "idle",
        "up": "healthy",
        "router": "healthy",
        "experts.0": "healthy",
        "experts.1": "idle",
    }


def test_a_loss_that_cannot_be_repeated_is_no_response() -> None:
    generator = numpy.random.default_rng(0)  # of its own: it is not put back

    def noisy(model: nn.Module, x: Tensor) -> Tensor:
        return model(x)[0].square().mean() + float(generator.normal())

    found = probe_response(Chooser(torch.ones_like), noisy, X, fresh=0, sizes=(1e-9,))
    assert found["selector"]["loss"].change > 0


@pytest.mark.parametrize(("tasks", "same"), [(1, True), (2, False), (3, False)])
def test_a_loss_of_a_task_in_turn_is_not_the_same_again(tasks: int, same: bool) -> None:
    count = [0]

    def in_turn(model: nn.Module, x: Tensor) -> Tensor:
        count[0] += 1
        return (count[0] % tasks + 1) * model(x)[0].square().mean()

    values = evaluate_again(Chooser(torch.ones_like), in_turn, X)
    assert (values is not None) is same
    assert values is None or len(set(values)) == 1


def test_code_that_refuses_perturbed_weights_depends_on_them() -> None:
    def checked(model: nn.Module, x: Tensor) -> Tensor:
        scores = model.selector(model.encoder(x))
        if float(scores.detach().abs().max()) > limit:
            raise ValueError
        return model(x)[0].square().mean()

    model = Chooser(torch.ones_like)
    limit = 1.001 * float(model.selector(model.encoder(X)).detach().abs().max())
    found = probe_response(model, checked, X)["selector"]["loss"]
    assert (found.verdict, found.change) == ("cut", float("inf"))


def whole_step(model: nn.Module, x: Tensor) -> Tensor:
    loss = model(x)[0].square().mean()
    loss.backward()
    model.zero_grad()
    return loss.detach()


@pytest.mark.parametrize(
    ("loss", "code"),
    [
        (lambda model, x: model(x)[0].mean() * float("nan"), "probes.loss-not-finite"),
        (lambda model, x: model(x)[0], "monitor.term-not-scalar"),
        (whole_step, "probes.whole-step"),
    ],
)
def test_a_loss_that_is_no_finite_scalar_is_refused(loss: Callable[..., Tensor], code: str) -> None:
    with refused(ValueError, code):
        probe_response(Chooser(), loss, X)


def test_the_flow_names_what_feeds_what() -> None:
    flow = trace_flow(Chooser(one_hot), terms, X)
    assert flow.feeds("encoder", "selector")
    assert not flow.feeds("bank", "selector")
