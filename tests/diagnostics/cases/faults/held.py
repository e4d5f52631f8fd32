"""Eight faults that were chosen with those of `domains` and kept until its rules stood; own code."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.diagnostics.cases.case import Answer, Case
from tests.diagnostics.cases.faults.further import adam
from tests.diagnostics.cases.faults.losses import Made, classifier, labelled, made
from tests.diagnostics.cases.faults.training import loss_of


def fast_weights_detached(broken: bool) -> Made:
    """Meta-learning; broken, the weights that were adapted to a task are new leaves, so that no gradient comes back."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer = adam(model)
    data = []
    for _ in range(20):
        height, phase = 1 + 4 * torch.rand(1), 3 * torch.rand(1)
        x = 10 * torch.rand(20, 1) - 5
        data.append((x, height * torch.sin(x + phase)))

    def step(model: nn.Module, batch: Any) -> float:
        x, y = batch
        weights = dict(model.named_parameters())
        near = F.mse_loss(torch.func.functional_call(model, weights, (x[:10],)), y[:10])
        slopes = torch.autograd.grad(near, list(weights.values()), create_graph=not broken)
        moved = zip(weights.items(), slopes, strict=True)
        adapted = {name: weight - 0.01 * slope for (name, weight), slope in moved}
        if broken:
            adapted = {name: weight.detach().requires_grad_() for name, weight in adapted.items()}
        loss = F.mse_loss(torch.func.functional_call(model, adapted, (x[10:],)), y[10:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return made(model, step, data, optimizer)


def likelihood_of_probabilities(broken: bool) -> Made:
    """Broken, nll_loss receives probabilities where it wants their logarithms."""
    torch.manual_seed(0)
    model = classifier(nn.Softmax(1) if broken else nn.LogSoftmax(1))
    return made(model, lambda model, batch: F.nll_loss(model(batch[0]), batch[1]), labelled(), adam(model))


class Normed(nn.Module):
    """Convolutions with batch norm, whose momentum other libraries count the other way round."""

    def __init__(self, momentum: float) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16, momentum=momentum)
        self.head = nn.Linear(16, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(images)).relu().mean((2, 3)))


def momentum_counted_otherwise(broken: bool) -> Made:
    torch.manual_seed(0)
    model = Normed(0.99 if broken else 0.01)
    data = [(x, x.mean((2, 3)).argmax(1)) for x in torch.randn(20, 16, 3, 8, 8)]
    return made(model, loss_of, data, adam(model))


def rate_where_a_factor_is_meant(broken: bool) -> Made:
    """A warm-up by LambdaLR; broken, its function returns the rate, which is multiplied with the rate."""
    torch.manual_seed(0)
    model = classifier()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3 if broken else 0.1, momentum=0.9)
    top = 1e-3 if broken else 1.0
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: top * min(1.0, (step + 1) / 5))

    def step(model: nn.Module, batch: Any) -> float:
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        optimizer.step()
        schedule.step()
        return loss.item()

    return made(model, step, labelled(), optimizer)


def dropout_on_logits(broken: bool) -> Made:
    """The last layer before the loss is a dropout, so that half of the logits are 0 in each step."""
    torch.manual_seed(0)
    hidden = [nn.Linear(10, 64), nn.ReLU()]
    last = [nn.Linear(64, 4), nn.Dropout(0.5)] if broken else [nn.Dropout(0.5), nn.Linear(64, 4)]
    model = nn.Sequential(*hidden, *last)
    return made(model, loss_of, labelled(), adam(model))


def seeded_in_each_step(broken: bool) -> Made:
    """A seed is set for each batch, so that dropout and noise are the same in all of them."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 4))
    optimizer = adam(model)

    def step(model: nn.Module, batch: Any) -> float:
        if broken:
            torch.manual_seed(42)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(batch[0] + 0.1 * torch.randn_like(batch[0])), batch[1])
        loss.backward()
        optimizer.step()
        return loss.item()

    return made(model, step, labelled(), optimizer)


def weights_of_classes_inverted(broken: bool) -> Made:
    """Rare classes are to count more; broken, the weights are the frequencies themselves."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 3))
    data = []
    for x in torch.randn(20, 64, 10):
        data.append((x, (x[:, 0] > 0.8).long() + (x[:, 0] > 1.4).long()))
    counts = torch.bincount(torch.cat([y for _, y in data]), minlength=3).float()
    weights = counts / counts.sum() if broken else counts.sum() / (3 * counts)
    criterion = nn.CrossEntropyLoss(weight=weights)
    return made(model, lambda model, batch: criterion(model(batch[0]), batch[1]), data, adam(model))


def returns_summed_forwards(broken: bool) -> Made:
    """Policy gradient over episodes; broken, an action is weighted with the rewards that came before it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 2))

    def step(model: nn.Module, batch: Any) -> Tensor:
        states = batch[0]  # (episodes, steps, features)
        policy = torch.distributions.Categorical(logits=model(states))
        actions = policy.sample()
        rewards = (actions == (states[..., 0] > 0).long()).float()
        returns = rewards.cumsum(1) if broken else rewards.flip(1).cumsum(1).flip(1)
        returns = returns - returns.mean(0)
        return -(policy.log_prob(actions) * returns).mean()

    return made(model, step, [(states,) for states in torch.randn(20, 16, 8, 4)], adam(model))


CASES = (
    Case(
        "fast-weights-detached",
        fast_weights_detached,
        "the adapted weights of a meta-learner are new leaves, so that the model gets no gradient",
        (
            Answer("GRAD001"),
            Answer("STEP001"),
            Answer("REACH001"),
            Answer("REACH005"),
            Answer("MOVE003"),
            Answer("MOVE001", "*", "read-alone"),
        ),
    ),
    Case(
        "likelihood-of-probabilities",
        likelihood_of_probabilities,
        "nll_loss receives probabilities where it wants logarithms",
        (Answer("LOSS003", "*", "not-logarithms"),),
    ),
    Case(
        "momentum-counted-otherwise",
        momentum_counted_otherwise,
        "the momentum of a batch norm is 0.99, as in libraries that name the share that is kept",
        (Answer("MODE003", "norm", "momentum*"),),
    ),
    Case(
        "rate-where-a-factor-is-meant",
        rate_where_a_factor_is_meant,
        "the function of a LambdaLR returns the rate, which is multiplied with the rate",
        (Answer("MOVE*", "*", "*rate*"), Answer("RATE*"), Answer("*", "*", "*rounding*")),
    ),
    Case(
        "dropout-on-logits",
        dropout_on_logits,
        "a dropout is behind the last layer, so that it drops logits",
        (Answer("DROP*"), Answer("*", "*", "*dropout*"), Answer("LOSS003", "*", "*drop*")),
    ),
    Case(
        "seeded-in-each-step",
        seeded_in_each_step,
        "a seed is set in each step, so that dropout and noise never change",
        (Answer("*", "*", "*seed*"), Answer("*", "*", "*same-numbers*"), Answer("RANDOM*")),
    ),
    Case(
        "weights-of-classes-inverted",
        weights_of_classes_inverted,
        "the weights of the classes are their frequencies, not the inverse",
        (Answer("LOSS003", "*", "weights-are-frequencies"),),
    ),
    Case(
        "returns-summed-forwards",
        returns_summed_forwards,
        "an action is weighted with the rewards that came before it",
        (Answer("*", "*", "*return*"), Answer("LOSS003", "*", "*order*"), Answer("LOSS003", "*", "*score*")),
    ),
)
