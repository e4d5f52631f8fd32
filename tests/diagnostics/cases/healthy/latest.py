"""Ten more healthy loops that look unusual: none may be accused or changed."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from tests.diagnostics.cases.healthy.training_loops import Use, adam, net


def sharpness_aware() -> Use:
    """SAM: the gradient at weights that were moved uphill is applied to the weights before."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)

    def step() -> None:
        x = torch.randn(16, 6)
        labels = x[:, :3].argmax(1)
        F.cross_entropy(model(x), labels).backward()
        moves = [0.05 * weight.grad for weight in model.parameters() if weight.grad is not None]
        with torch.no_grad():
            torch._foreach_add_(list(model.parameters()), moves)
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        with torch.no_grad():
            torch._foreach_sub_(list(model.parameters()), moves)
        optimizer.step()
        optimizer.zero_grad()

    return model, optimizer, 16, step


class Quantised(nn.Module):
    """VQ-VAE: the nearest code, gradient straight through, two further terms of the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = net(6, 4), net(4, 6)
        self.codes = nn.Parameter(torch.randn(8, 4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        state = self.encoder(x)
        code = self.codes[torch.cdist(state.detach(), self.codes.detach()).argmin(1)]
        terms = F.mse_loss(code, state.detach()) + 0.25 * F.mse_loss(state, code.detach())
        return self.decoder(state + (code - state).detach()), terms


def straight_through() -> Use:
    model = Quantised()
    optimizer = adam(model)

    def step() -> None:
        x = torch.randn(16, 6)
        output, terms = model(x)
        (F.mse_loss(output, x) + terms).backward()
        optimizer.step()
        optimizer.zero_grad()

    return model, optimizer, 16, step


def state_carried_over() -> Use:
    """Truncated backpropagation through time: the state of the last step, detached, begins the next one."""
    model = nn.ModuleDict({"cell": nn.GRUCell(6, 12), "head": nn.Linear(12, 3)})
    optimizer, held = adam(model), [torch.zeros(16, 12)]

    def step() -> None:
        x, state = torch.randn(16, 4, 6), held[0].detach()
        loss = x.new_zeros(())
        for place in range(4):
            state = model["cell"](x[:, place], state)
            loss = loss + F.cross_entropy(model["head"](state), x[:, place, :3].argmax(1))
        held[0] = state
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return model, optimizer, 16, step


def inner_updates() -> Use:
    """MAML: the loss after one step of gradient descent on copies of the weights."""
    model = net()
    optimizer = adam(model)

    def step() -> None:
        x = torch.randn(16, 6)
        labels = x[:, :3].argmax(1)
        names, weights = zip(*model.named_parameters(), strict=True)
        inner = F.cross_entropy(torch.func.functional_call(model, dict(model.named_parameters()), x), labels)
        gradients = torch.autograd.grad(inner, weights, create_graph=True)
        adapted = {n: w - 0.1 * g for n, w, g in zip(names, weights, gradients, strict=True)}
        after = torch.randn(16, 6)
        F.cross_entropy(torch.func.functional_call(model, adapted, after), after[:, :3].argmax(1)).backward()
        optimizer.step()
        optimizer.zero_grad()

    return model, optimizer, 16, step


def distilled() -> Use:
    """A frozen teacher in evaluation mode inside the model, with dropout and batch statistics."""
    teacher = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Dropout(), nn.Linear(16, 3))
    model = nn.ModuleDict({"student": net(), "teacher": teacher.requires_grad_(False).eval()})
    optimizer = adam(model["student"])

    def step() -> None:
        x = torch.randn(16, 6)
        with torch.no_grad():
            wanted = model["teacher"](x).softmax(1)
        F.kl_div(model["student"](x).log_softmax(1), wanted, reduction="batchmean").backward()
        optimizer.step()
        optimizer.zero_grad()

    return model, optimizer, 16, step


class StochasticDepth(nn.Module):
    """A block is left out for the whole batch with probability one half."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 16), nn.Linear(16, 3)
        self.blocks = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        state = self.enter(x)
        for block in self.blocks:
            if not self.training or torch.rand(()) < 0.5:
                state = state + block(state.relu())
        return self.leave(state)


def layers_dropped() -> Use:
    model = StochasticDepth()
    optimizer = adam(model)

    def step() -> None:
        x = torch.randn(16, 6)
        F.cross_entropy(model(x), x[:, :3].argmax(1)).backward()
        optimizer.step()
        optimizer.zero_grad()

    return model, optimizer, 16, step


def sparse_and_dense() -> Use:
    """A large embedding with sparse gradients and an optimiser of its own."""
    model = nn.ModuleDict({"ids": nn.Embedding(500, 8, sparse=True), "head": nn.Linear(8, 3)})
    optimizers = [torch.optim.SparseAdam(model["ids"].parameters(), 1e-2), adam(model["head"])]

    def step() -> None:
        ids = torch.randint(0, 500, (16, 4))
        F.cross_entropy(model["head"](model["ids"](ids).mean(1)), ids[:, 0] % 3).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

    return model, optimizers, 16, step


def parametrised() -> Use:
    """Weight normalisation and spectral normalisation, whose weights are computed in each call."""
    model = nn.Sequential(
        parametrizations.weight_norm(nn.Linear(6, 16)),
        nn.ReLU(),
        parametrizations.spectral_norm(nn.Linear(16, 3)),
    )
    optimizer = adam(model)

    def step() -> None:
        x = torch.randn(16, 6)
        F.cross_entropy(model(x), x[:, :3].argmax(1)).backward()
        optimizer.step()
        optimizer.zero_grad()

    return model, optimizer, 16, step


def proximal_policy() -> Use:
    """PPO: advantages of mean 0, a clipped ratio that stops most gradients, an entropy bonus, four passes a batch."""
    model = nn.ModuleDict({"policy": net(6, 4), "value": net(6, 1)})
    optimizer, old = adam(model), copy.deepcopy(model["policy"])

    def step() -> None:
        x = torch.randn(32, 6)
        with torch.no_grad():
            old.load_state_dict(model["policy"].state_dict())
            before = torch.distributions.Categorical(logits=old(x))
            action = before.sample()
            reward = (action == x[:, :4].argmax(1)).float()
        for _ in range(4):
            value = model["value"](x).squeeze(1)
            gain = (reward - value).detach()
            gain = (gain - gain.mean()) / (gain.std() + 1e-8)
            now = torch.distributions.Categorical(logits=model["policy"](x))
            ratio = (now.log_prob(action) - before.log_prob(action)).exp()
            kept = torch.minimum(ratio * gain, ratio.clamp(0.8, 1.2) * gain).mean()
            loss = -kept + 0.5 * F.mse_loss(value, reward) - 0.01 * now.entropy().mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()

    return model, optimizer, 32, step


def uneven_accumulation() -> Use:
    """Micro-batches of 7, 7 and 2 samples, each weighted by its share of the batch."""
    model = net()
    optimizer = adam(model)

    def step() -> None:
        for part in torch.randn(16, 6).split(7):
            (F.cross_entropy(model(part), part[:, :3].argmax(1)) * len(part) / 16).backward()
        optimizer.step()
        optimizer.zero_grad()

    return model, optimizer, 16, step


USES: dict[str, Callable[[], Use]] = {
    "sharpness-aware minimisation": sharpness_aware,
    "vector quantisation, straight through": straight_through,
    "state carried to the next step": state_carried_over,
    "inner updates of copies (MAML)": inner_updates,
    "frozen teacher in evaluation mode": distilled,
    "stochastic depth": layers_dropped,
    "sparse embedding with its own optimiser": sparse_and_dense,
    "weight and spectral normalisation": parametrised,
    "PPO, four passes of a batch": proximal_policy,
    "micro-batches of unequal size": uneven_accumulation,
}
