"""Ten further faults, written after the rules of the other unlisted kinds; small programs, own code."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.diagnostics.cases.case import Answer, Case
from tests.diagnostics.cases.faults.losses import Made, classifier, labelled, made
from tests.diagnostics.cases.faults.training import loss_of


def adam(model: nn.Module, rate: float = 3e-3) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), rate)


def made_of_lengths(model: nn.Module) -> Made:
    """The case of a model that classifies padded sequences by their lengths."""
    data = []
    for ids in torch.randint(1, 20, (20, 32, 10)):
        lengths = torch.randint(3, 11, (32,))
        data.append((ids.masked_fill(torch.arange(10) >= lengths[:, None], 0), lengths, ids[:, 0] % 3))

    def step(model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[0], batch[1]), batch[2])

    return made(model, step, data, adam(model))


def dropout_keeps_little(broken: bool) -> Made:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(10, 64), nn.ReLU(), nn.Dropout(0.98 if broken else 0.02), nn.Linear(64, 4)
    )
    return made(model, loss_of, labelled(), adam(model))


class Rounded(nn.Module):
    def __init__(self, broken: bool) -> None:
        super().__init__()
        self.body, self.broken = nn.Linear(10, 16), broken
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = 10 * self.body(x)
        return self.head(hidden.round() if self.broken else hidden.tanh())


def output_rounded(broken: bool) -> Made:
    torch.manual_seed(0)
    model = Rounded(broken)
    return made(model, loss_of, labelled(), adam(model))


def _stepping(model: nn.Module, optimizer: torch.optim.Optimizer, after: Any) -> Any:
    def step(model: nn.Module, batch: Any) -> float:
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        optimizer.step()
        after()
        return loss.item()

    return step


def weights_clamped(broken: bool) -> Made:
    torch.manual_seed(0)
    model = classifier()
    optimizer = adam(model)

    @torch.no_grad()
    def clamp() -> None:
        for weight in model.parameters():
            weight.clamp_(*((-1e-6, 1e-6) if broken else (-10.0, 10.0)))

    return made(model, _stepping(model, optimizer, clamp), labelled(), optimizer)


def labels_random(broken: bool) -> Made:
    torch.manual_seed(0)
    model = classifier()
    batches = [(x, y[torch.randperm(len(y))] if broken else y) for x, y in labelled()]
    return made(model, loss_of, batches, adam(model))


def constant_feature(broken: bool) -> Made:
    torch.manual_seed(0)
    model = classifier()

    def loss(model: nn.Module, batch: Any) -> Tensor:
        x = torch.cat([batch[0][:, :-1], torch.ones_like(batch[0][:, :1])], 1)
        x = (x - x.mean(0)) / (x.std(0) + (0.0 if broken else 1e-5))
        return F.cross_entropy(model(x), batch[1])

    return made(model, loss, labelled(), adam(model))


def head_reset(broken: bool) -> Made:
    torch.manual_seed(0)
    model = classifier()
    optimizer = adam(model)
    start = {name: value.clone() for name, value in model[-1].state_dict().items()}

    def reset() -> None:
        if broken:
            model[-1].load_state_dict(start)

    return made(model, _stepping(model, optimizer, reset), labelled(), optimizer)


def gradient_negated(broken: bool) -> Made:
    torch.manual_seed(0)
    model = classifier()
    if broken:
        for weight in model.parameters():
            weight.register_hook(lambda gradient: -gradient)
    return made(model, loss_of, labelled(), torch.optim.SGD(model.parameters(), 0.05))


def group_without_rate(broken: bool) -> Made:
    torch.manual_seed(0)
    model = classifier()
    groups = [
        {"params": model[0].parameters(), "lr": 0.0 if broken else 1e-3},
        {"params": [weight for layer in list(model)[1:] for weight in layer.parameters()], "lr": 1e-3},
    ]
    return made(model, loss_of, labelled(), torch.optim.Adam(groups))


class Averaged(nn.Module):
    def __init__(self, broken: bool) -> None:
        super().__init__()
        self.body, self.head, self.broken = nn.Linear(10, 16), nn.Linear(16, 4), broken

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.body(x).relu()
        return self.head(hidden.mean(0, keepdim=True).expand_as(hidden) if self.broken else hidden)


def batch_averaged(broken: bool) -> Made:
    torch.manual_seed(0)
    model = Averaged(broken)
    return made(model, loss_of, labelled(), adam(model))


class Attentive(nn.Module):
    def __init__(self, broken: bool) -> None:
        super().__init__()
        self.query, self.value, self.broken = nn.Linear(10, 6), nn.Linear(6, 4), broken
        self.values = nn.Parameter(torch.randn(6, 6))

    def forward(self, x: Tensor) -> Tensor:
        scores = self.query(x) * (1e4 if self.broken else 1.0)  # a temperature of 1e-4 where 1 was meant
        return self.value(scores.softmax(1) @ self.values)


def softmax_cold(broken: bool) -> Made:
    torch.manual_seed(0)
    model = Attentive(broken)
    return made(model, loss_of, labelled(), adam(model))


CASES = (
    Case(
        "dropout-keeps-little",
        dropout_keeps_little,
        "the rate of a dropout is the share that was to be kept",
        (Answer("MODE*", "2"), Answer("DROP*"), Answer("SPIKE*")),
    ),
    Case(
        "output-rounded",
        output_rounded,
        "round() in the middle of the model",
        (Answer("GRAD002", "body"), Answer("RESPONSE001", "body"), Answer("GRAD001", "body")),
    ),
    Case(
        "weights-clamped",
        weights_clamped,
        "weights are clamped to nearly 0 after each update",
        (Answer("MOVE*"),),
    ),
    Case("labels-random", labels_random, "labels are shuffled apart from their inputs", (Answer("LOSS*"),)),
    Case(
        "constant-feature",
        constant_feature,
        "a constant feature is divided by its deviation of 0",
        (Answer("REACH003"), Answer("INPUT005", "", "nan-in-input")),
    ),
    Case(
        "head-reset",
        head_reset,
        "the head is loaded again after each update",
        (Answer("MOVE*", "2", "overwritten"), Answer("MOVE*", "2", "set-back"), Answer("MOVE*", "4", "*")),
    ),
    Case("gradient-negated", gradient_negated, "a hook negates every gradient", (Answer("LOSS*"),)),
    Case(
        "group-without-rate",
        group_without_rate,
        "a group of the optimiser has the rate 0",
        (Answer("MOVE001", "0", "zero-rate"),),
    ),
    Case(
        "batch-averaged",
        batch_averaged,
        "the hidden state is averaged over the batch",
        (Answer("LEAK001"), Answer("COLLAPSE001")),
    ),
    Case(
        "softmax-cold",
        softmax_cold,
        "a temperature of 1e-4 makes the softmax a hard choice",
        (
            Answer("RESPONSE*", "query"),
            Answer("GRAD*", "query"),
            Answer("SOFTMAX*"),
            Answer("REACH*", "query"),
        ),
    ),
)
