"""Ten healthy programs of kinds that differ from plain training: optimisers, gradients and schedules of their own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.diagnostics.cases.faults.further import adam
from tests.diagnostics.cases.faults.losses import Made, classifier, labelled, made
from tests.diagnostics.cases.faults.training import loss_of


def lookahead() -> Made:
    """Slow weights follow half-way in every fifth step, and the fast ones start again from them."""
    torch.manual_seed(0)
    model = classifier()
    optimizer, count = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9), [0]
    slow = [p.detach().clone() for p in model.parameters()]

    def step(model: nn.Module, batch: Any) -> float:
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        optimizer.step()
        count[0] += 1
        if count[0] % 5 == 0:
            with torch.no_grad():
                for old, fast in zip(slow, model.parameters(), strict=True):
                    old += 0.5 * (fast - old)
                    fast.copy_(old)
        return loss.item()

    return made(model, step, labelled(), optimizer)


class Equilibrium(nn.Module):
    """A fixed point of one layer; a hook replaces its gradient by that of the implicit function theorem."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.inner, self.head = nn.Linear(10, 24), nn.Linear(24, 24), nn.Linear(24, 4)
        with torch.no_grad():
            self.inner.weight.mul_(0.5)

    def cell(self, state: Tensor, given: Tensor) -> Tensor:
        return torch.tanh(F.linear(state, self.inner.weight, self.inner.bias) + given)

    def forward(self, x: Tensor) -> Tensor:
        given = self.enter(x)
        with torch.no_grad():
            state = torch.zeros_like(given)
            for _ in range(12):
                state = self.cell(state, given)
        state = self.cell(state, given)
        if state.requires_grad:
            start = state.detach().requires_grad_()
            again = self.cell(start, given.detach())

            def solve(gradient: Tensor) -> Tensor:
                found = gradient
                for _ in range(12):
                    found = gradient + torch.autograd.grad(again, start, found, retain_graph=True)[0]
                return found

            state.register_hook(solve)
        return self.head(state)


def equilibrium() -> Made:
    torch.manual_seed(0)
    model = Equilibrium()
    return made(model, loss_of, labelled(), adam(model))


class _Reversed(torch.autograd.Function):
    """y1 = x1 + f(x2), y2 = x2 + g(y1), whose inputs are computed from the outputs when the gradient is."""

    @staticmethod
    def forward(ctx: Any, one: Tensor, two: Tensor, f: nn.Module, g: nn.Module, *_: Tensor) -> Any:
        with torch.no_grad():
            first = one + f(two)
            second = two + g(first)
        ctx.layers = f, g
        ctx.save_for_backward(first, second)
        return first, second

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Any:
        (f, g), (first, second) = ctx.layers, ctx.saved_tensors
        slope_one, slope_two = slopes
        weights_f, weights_g = list(f.parameters()), list(g.parameters())
        with torch.enable_grad():
            first = first.detach().requires_grad_()
            made = g(first)
            inner = torch.autograd.grad(made, [first, *weights_g], slope_two)
            slope_one = slope_one + inner[0]
            two = (second - made).detach().requires_grad_()
            outer = torch.autograd.grad(f(two), [two, *weights_f], slope_one)
        return slope_one, slope_two + outer[0], None, None, *outer[1:], *inner[1:]


class Reversible(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.head = nn.Linear(10, 32), nn.Linear(32, 4)
        self.f, self.g = (nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        one, two = self.enter(x).chunk(2, 1)
        weights = [*self.f.parameters(), *self.g.parameters()]
        return self.head(torch.cat(_Reversed.apply(one, two, self.f, self.g, *weights), 1))


def reversible() -> Made:
    torch.manual_seed(0)
    model = Reversible()
    return made(model, loss_of, labelled(), adam(model))


class Echo(nn.Module):
    """A random recurrence that is never trained; only the reading of its last state is."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("enter", torch.randn(3, 60))
        self.register_buffer("turn", 0.9 * torch.linalg.qr(torch.randn(60, 60)).Q)
        self.head = nn.Linear(60, 2)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), 60)
        for given in x.unbind(1):
            state = torch.tanh(given @ self.enter + state @ self.turn)
        return self.head(state)


def echo_state() -> Made:
    torch.manual_seed(0)
    model = Echo()
    data = [(x, (x[:, -2:].sum((1, 2)) > 0).long()) for x in torch.randn(20, 32, 6, 3)]
    return made(model, loss_of, data, adam(model, 1e-2))


class Growing(nn.Module):
    """A finer block is faded in while the coarse one still answers."""

    def __init__(self) -> None:
        super().__init__()
        self.coarse, self.fine = (
            nn.Linear(6, 16),
            nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 16)),
        )
        self.share, self.head = 0.0, nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        found = (1 - self.share) * self.coarse(x)
        if self.share > 0:
            found = found + self.share * self.fine(x)
        return self.head(found.relu())


def growing() -> Made:
    torch.manual_seed(0)
    model = Growing()
    optimizer, count = adam(model), [0]

    def step(model: Any, batch: Any) -> float:
        count[0] += 1
        model.share = min(1.0, max(0.0, (count[0] - 8) / 20))
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        optimizer.step()
        return loss.item()

    return made(model, step, [(x, x[:, :3].argmax(1)) for x in torch.randn(20, 32, 6)], optimizer)


def penalised_critic() -> Made:
    """A Wasserstein critic with a penalty of its slope, three updates for each one of the generator."""
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {
            "generator": nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2)),
            "critic": nn.Sequential(nn.Linear(2, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1)),
        }
    )
    making = torch.optim.Adam(model["generator"].parameters(), 1e-3, betas=(0.0, 0.9))
    judging = torch.optim.Adam(model["critic"].parameters(), 1e-3, betas=(0.0, 0.9))

    def step(model: Any, batch: Any) -> float:
        (real,) = batch
        for _ in range(3):
            fake = model["generator"](torch.randn(len(real), 4)).detach()
            between = torch.lerp(real, fake, torch.rand(len(real), 1)).requires_grad_()
            (slope,) = torch.autograd.grad(model["critic"](between).sum(), between, create_graph=True)
            penalty = (slope.norm(dim=1) - 1).square().mean()
            loss = model["critic"](fake).mean() - model["critic"](real).mean() + 10 * penalty
            judging.zero_grad()
            loss.backward()
            judging.step()
        making.zero_grad()
        (-model["critic"](model["generator"](torch.randn(len(real), 4))).mean()).backward()
        making.step()
        return loss.item()

    angles = 6.3 * torch.rand(20, 32)
    data = [(torch.stack([angle.cos(), angle.sin()], 1),) for angle in angles]
    return made(model, step, data, [making, judging])


def easy_first() -> Made:
    """Only the samples whose loss is below a threshold count; the threshold rises."""
    torch.manual_seed(0)
    model = classifier()
    optimizer, limit = adam(model), [1.3]

    def step(model: nn.Module, batch: Any) -> float:
        each = F.cross_entropy(model(batch[0]), batch[1], reduction="none")
        chosen = (each.detach() < limit[0]).float()
        loss = (each * chosen).sum() / chosen.sum().clamp(min=1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        limit[0] *= 1.05
        return loss.item()

    return made(model, step, labelled(), optimizer)


class SignUpdates(torch.optim.Optimizer):
    """Updates of one size: the sign of an average of gradients, with decoupled decay."""

    def __init__(self, weights: Iterable[Tensor], lr: float = 1e-3, decay: float = 0.1) -> None:
        super().__init__(weights, {"lr": lr, "decay": decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                mean = state.setdefault("mean", torch.zeros_like(weight))
                weight.mul_(1 - group["lr"] * group["decay"])
                weight.add_(torch.sign(0.9 * mean + 0.1 * weight.grad), alpha=-group["lr"])
                mean.lerp_(weight.grad, 0.01)


def sign_updates() -> Made:
    torch.manual_seed(0)
    model = classifier()
    return made(model, loss_of, labelled(), SignUpdates(model.parameters()))


class Binary(nn.Linear):
    """Signs of the weights compute, the weights themselves are trained."""

    def forward(self, x: Tensor) -> Tensor:
        size = self.weight.abs().mean()
        sharp = self.weight.sign() * size
        return F.linear(x, self.weight + (sharp - self.weight).detach(), self.bias)


def binary_weights() -> Made:
    """Weights of one bit, straight through, clamped to [-1, 1] after each update."""
    torch.manual_seed(0)
    model = nn.Sequential(Binary(10, 64), nn.BatchNorm1d(64), nn.Hardtanh(), Binary(64, 4))
    optimizer = adam(model, 1e-2)

    def step(model: Any, batch: Any) -> float:
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for layer in (model[0], model[3]):
                layer.weight.clamp_(-1, 1)
        return loss.item()

    return made(model, step, labelled(), optimizer)


def own_prototypes() -> Made:
    """A student learns a teacher's choice of prototypes; the teacher is its average, centred and sharpened."""
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(10, 64), nn.GELU(), nn.Linear(64, 32), nn.Linear(32, 16, bias=False))
    teacher = copy.deepcopy(student).requires_grad_(False)
    model = nn.ModuleDict({"student": student, "teacher": teacher})
    optimizer = torch.optim.AdamW(student.parameters(), 1e-3)
    centre = torch.zeros(16)

    def step(model: Any, batch: Any) -> float:
        (x,) = batch
        one, other = (x + 0.3 * torch.randn_like(x) for _ in range(2))
        with torch.no_grad():
            seen = teacher(torch.cat([one, other]))
            wanted = ((seen - centre) / 0.04).softmax(1).chunk(2)
            centre.lerp_(seen.mean(0), 0.1)
        found = (student(torch.cat([other, one])) / 0.1).log_softmax(1).chunk(2)
        loss = -sum((want * have).sum(1).mean() for want, have in zip(wanted, found, strict=True)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for old, new in zip(teacher.parameters(), student.parameters(), strict=True):
                old.lerp_(new, 0.01)
        return loss.item()

    return made(model, step, [(x,) for x in torch.randn(20, 32, 10)], optimizer)


PROGRAMS: dict[str, Callable[[], Made]] = {
    "slow weights and fast ones": lookahead,
    "implicit gradient of a fixed point": equilibrium,
    "inputs computed from outputs": reversible,
    "echo state, only the reading is trained": echo_state,
    "a block that is faded in": growing,
    "critic with a penalty of its slope": penalised_critic,
    "easy samples first": easy_first,
    "updates by sign": sign_updates,
    "weights of one bit": binary_weights,
    "prototypes of an own teacher": own_prototypes,
}
