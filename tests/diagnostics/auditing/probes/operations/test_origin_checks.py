"""Targets that mix samples, weights with a gradient and losses without a bound are found; what looks alike is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diagnostics import Severity, audit

Step = Callable[[nn.Module, Any], Tensor]
B = 16


def codes(step: Step) -> set[str]:
    """The codes of LOSS003 above a note, of a model with four outputs for six features."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))
    batches = [(x, x[:, :4].argmax(1)) for x in torch.randn(4, B, 6)]
    report = audit(model, step, batches, torch.optim.SGD(model.parameters(), 0.01), steps=4)
    return {each.code for each in report.findings if each.rule == "LOSS003" and each.severity > Severity.NOTE}


@torch.no_grad()
def values(model: nn.Module, batch: Any) -> Tensor:
    return model(batch[0].roll(1, 1))


def chosen(model: nn.Module, batch: Any) -> Tensor:
    return model(batch[0]).gather(1, batch[1][:, None])[:, 0]


def masks(batch: Any) -> Tensor:
    """(B, 2, 2) numbers of classes."""
    return (batch[0][:, :4] * 2).round().abs().clamp(max=3).view(B, 1, 2, 2)


def pixels(model: nn.Module, batch: Any) -> Tensor:
    """(B, 4, 3, 3) scores."""
    return model(batch[0])[:, :, None, None].expand(B, 4, 3, 3) * torch.arange(1.0, 10).view(3, 3)


def focal(model: nn.Module, batch: Any, reduction: str) -> Tensor:
    error = nn.CrossEntropyLoss(reduction=reduction)(model(batch[0]), batch[1])
    return ((1 - (-error).exp()).square() * error).mean()


def policy(model: nn.Module, batch: Any, kind: str, detached: bool) -> Tensor:
    scores = model(batch[0])
    weight = batch[0][:, 0] - scores[:, 3]
    weight = weight.detach() if detached else weight
    if kind == "normal":
        drawn = torch.distributions.Normal(scores[:, 0], 1.0)
        return (
            -(drawn.log_prob(drawn.sample()) * weight).mean()
            + (batch[0][:, 0] - scores[:, 3]).square().mean()
        )
    drawn = torch.distributions.Categorical(logits=scores[:, :3])
    taken = drawn.sample() if kind == "drawn" else batch[1] % 3
    return -(drawn.log_prob(taken) * weight).mean() + (batch[0][:, 0] - scores[:, 3]).square().mean()


def overlap(found: Tensor, batch: Any) -> Tensor:
    """One minus the overlap with a mask."""
    mask = F.one_hot(batch[1], 4)
    return 1 - (2 * (found * mask).sum(1) / (found.sum(1) + mask.sum(1))).mean()


def near(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
    return model(batch[0]), model(batch[0] + 0.1 * torch.randn_like(batch[0]))


def sampled(model: nn.Module, batch: Any, keep: Callable[[Tensor], Tensor], used: bool = True) -> Tensor:
    """The error of a sample, or of its mean alone, and of the deviation itself."""
    mean, deviation = model(batch[0]).chunk(2, 1)
    deviation = (0.5 * deviation).exp()
    found = mean + torch.randn_like(mean) * keep(deviation)
    return F.mse_loss(found if used else mean, batch[0][:, :2]) + (deviation - 1).square().mean()


SOUND: dict[str, Step] = {
    "a sample": lambda m, b: sampled(m, b, lambda each: each),
    "a sample that is not in the loss": lambda m, b: sampled(m, b, torch.Tensor.detach, used=False),
    "noise as large as the data": lambda m, b: sampled(m, b, lambda each: b[0][:, :2].exp()),
    "largest of each sample": lambda m, b: F.mse_loss(
        chosen(m, b), b[0][:, 0] + 0.9 * values(m, b).max(1).values
    ),
    "targets over their largest": lambda m, b: F.mse_loss(chosen(m, b), b[0][:, 0] / b[0].max()),
    "outputs over their largest": lambda m, b: F.mse_loss(m(b[0]), values(m, b) / values(m, b).max()),
    "masks by the nearest": lambda m, b: F.cross_entropy(
        pixels(m, b), F.interpolate(masks(b), (3, 3))[:, 0].long()
    ),
    "a soft mask": lambda m, b: F.mse_loss(
        pixels(m, b)[:, :1], F.interpolate(masks(b), (3, 3), mode="bilinear", align_corners=False)
    ),
    "focal": lambda m, b: focal(m, b, "none"),
    "uncertainty": lambda m, b: (
        (-m[0].bias[0]).exp() * F.cross_entropy(m(b[0]), b[1]) + m[0].bias[0] + 0 * m(b[0]).sum()
    ),
    "advantage": lambda m, b: policy(m, b, "drawn", True),
    "a mixture of densities": lambda m, b: (
        -(
            m(b[0]).softmax(1)[:, 0] * torch.distributions.Normal(m(b[0])[:, 1], 1.0).log_prob(b[0][:, 0])
        ).mean()
    ),
    "views and their labels": lambda m, b: F.mse_loss(*near(m, b)) + F.cross_entropy(m(b[0]), b[1]),
    "a view and its target": lambda m, b: F.mse_loss(near(m, b)[0], near(m, b)[1].detach()),
    "far from others": lambda m, b: (
        F.cosine_similarity(m(b[0]), m(b[0]).roll(1, 0)) - F.cosine_similarity(*near(m, b))
    ).mean(),
    "sure and wrong of a few": lambda m, b: F.cross_entropy(
        m(b[0]) + 40 * (torch.arange(B) < 2)[:, None] * torch.eye(4)[0], b[1]
    ),
}
SOUND |= {
    "overlap of probabilities": lambda m, b: overlap(m(b[0]).sigmoid(), b),
    "shares of exponentials": lambda m, b: (m(b[0]).exp() / m(b[0]).exp().sum(1, keepdim=True))[:, 0].mean(),
    "centred outputs": lambda m, b: (m(b[0]) - m(b[0]).sum(0) / B).square().mean(),
    "a masked mean": lambda m, b: (m(b[0]) * b[0][:, :4].gt(0)).sum() / b[0][:, :4].gt(0).sum(),
}
WRONG: dict[str, tuple[Step, str]] = {
    "largest of all": (
        lambda m, b: F.mse_loss(chosen(m, b), b[0][:, 0] + 0.9 * values(m, b).max()),
        "target-over-samples",
    ),
    "amax of all": (
        lambda m, b: F.huber_loss(chosen(m, b), b[0][:, 0] + 0.9 * values(m, b).amax()),
        "target-over-samples",
    ),
    "classes between": (
        lambda m, b: F.cross_entropy(
            pixels(m, b), F.interpolate(masks(b), (3, 3), mode="bilinear", align_corners=False)[:, 0].long()
        ),
        "classes-interpolated",
    ),
    "focal of the mean": (lambda m, b: focal(m, b, "mean"), "weight-of-mean"),
    "advantage with a graph": (lambda m, b: policy(m, b, "drawn", False), "weight-not-detached"),
    "stored actions": (lambda m, b: policy(m, b, "stored", False), "weight-not-detached"),
    "actions of a normal distribution": (lambda m, b: policy(m, b, "normal", False), "weight-not-detached"),
    "two views": (lambda m, b: F.mse_loss(*near(m, b)), "both-sides-trained"),
    "two directions": (lambda m, b: -F.cosine_similarity(*near(m, b)).mean(), "both-sides-trained"),
    "a sample with a detached deviation": (
        lambda m, b: sampled(m, b, torch.Tensor.detach),
        "deviation-detached",
    ),
    "overlap of logits": (lambda m, b: overlap(m(b[0]), b), "divided-by-logits"),
    "large scores": (lambda m, b: F.cross_entropy(300 * m(b[0]), b[1]), "scores-too-large"),
}


@pytest.mark.parametrize("name", WRONG)
def test_it_is_named(name: str) -> None:
    step, code = WRONG[name]
    assert codes(step) == {code}


@pytest.mark.parametrize("name", SOUND)
def test_it_is_not_accused(name: str) -> None:
    assert codes(SOUND[name]) == set()


def weighed(model: nn.Module, batch: Any, reduction: str) -> Tensor:
    return (F.cross_entropy(model(batch[0]), batch[1], reduction=reduction) * batch[0][:, 0].abs()).mean()


def ratio(model: nn.Module, batch: Any, over: int | None) -> Tensor:
    drawn = torch.distributions.Normal(model(batch[0]), 1.0)
    change = drawn.log_prob(batch[0][:, :4]) - torch.full((B, 4), -1.0)
    change = change.sum() if over is None else change.sum(over)
    return -(change.clamp(-1, 1).exp() * batch[0][:, 5]).mean()


def learnt_factor(model: nn.Module, batch: Any) -> Tensor:
    """A weight of the model for a number per sample, as a temperature of an entropy."""
    return (model[0].weight[0, 0].exp() * batch[0][:, 5]).mean() + model(batch[0]).square().mean()


@pytest.mark.parametrize(
    ("step", "named"),
    [
        (lambda m, b: weighed(m, b, "mean"), True),
        (lambda m, b: weighed(m, b, "sum"), True),
        (lambda m, b: weighed(m, b, "none"), False),
        (lambda m, b: ratio(m, b, None), True),
        (lambda m, b: ratio(m, b, 1), False),
        (learnt_factor, False),
        (lambda m, b: (F.cross_entropy(m(b[0]), b[1]) * torch.tensor([0.5, 1.0])).sum(), False),  # two terms
    ],
)
def test_one_number_has_no_weight_for_each_sample(step: Step, named: bool) -> None:
    assert ("weight-of-one-number" in codes(step)) == named


@pytest.mark.parametrize(
    ("kind", "named"), [("again", True), ("before", False), ("own", False), ("other samples", False)]
)
def test_a_ratio_that_is_always_one(kind: str, named: bool) -> None:
    """Old log-probabilities that are computed again after each update, and those that are not."""
    torch.manual_seed(0)
    model = nn.Linear(6, 4)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def scores(x: Tensor, taken: Tensor) -> Tensor:
        return torch.distributions.Categorical(logits=model(x)).log_prob(taken)

    def step(model: nn.Module, x: Tensor) -> float:
        old = scores(x, x.argmax(1) % 4).detach()
        for number in range(3):
            own = x + number if kind == "other samples" else x
            taken, weight = own.argmax(1) % 4, own[:, 0]
            now = scores(own, taken)
            if kind in ("again", "other samples"):
                old = scores(own, taken).detach()
            ratio = (now - (now.detach() if kind == "own" else old)).exp()
            loss = -torch.minimum(ratio * weight, ratio.clamp(0.8, 1.2) * weight).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss.item()

    report = audit(model, step, list(torch.randn(3, 16, 6)), optimizer, steps=3)
    assert ("ratio-of-one" in {each.code for each in report.findings}) is named


@pytest.mark.parametrize("place", ["before", "after", "nowhere"])
def test_a_deviation_that_is_detached(place: str) -> None:
    def step(model: nn.Module, batch: Any) -> Tensor:
        mean, size = model(batch[0]).chunk(2, 1)
        deviation = (0.5 * (size.detach() if place == "before" else size)).exp()
        deviation = deviation.detach() if place == "after" else deviation
        return (mean + deviation * torch.randn_like(mean)).square().mean() + size.square().mean()

    assert codes(step) == (set() if place == "nowhere" else {"deviation-detached"})
