"""Ten more faults, of kinds that no other file has; small programs, own code."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.diagnostics.cases.case import Answer, Case
from tests.diagnostics.cases.faults.further import adam
from tests.diagnostics.cases.faults.losses import Made, classifier, labelled, made
from tests.diagnostics.cases.faults.training import loss_of


class Fused(nn.Module):
    """Two inputs; broken, the second branch reads the first one's input."""

    def __init__(self, broken: bool) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(6, 16), nn.Linear(6, 16), nn.Linear(32, 4)
        self.broken = broken

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        states = self.left(left), self.right(left if self.broken else right)
        return self.head(torch.cat(states, 1).relu())


def input_used_twice(broken: bool) -> Made:
    torch.manual_seed(0)
    model = Fused(broken)
    data = [
        ((one, other), (one + other)[:, :4].argmax(1))
        for one, other in zip(torch.randn(20, 32, 6), torch.randn(20, 32, 6), strict=True)
    ]
    flat = [(torch.cat(given, 1), labels) for given, labels in data]

    def step(model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[0][:, :6], batch[0][:, 6:]), batch[1])

    return made(model, step, flat, adam(model))


class Residual(nn.Module):
    """Blocks on a residual stream; broken, each block overwrites it, and starts at a thousandth."""

    def __init__(self, broken: bool) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(10, 16), nn.Linear(16, 4)
        self.blocks = nn.ModuleList(nn.Linear(16, 16) for _ in range(6))
        self.broken = broken
        for block in self.blocks:
            nn.init.normal_(block.weight, std=2e-3)

    def forward(self, x: Tensor) -> Tensor:
        state = self.enter(x)
        for block in self.blocks:
            change = torch.tanh(block(state))
            state = change if self.broken else state + change
        return self.leave(state)


def residual_dropped(broken: bool) -> Made:
    torch.manual_seed(0)
    model = Residual(broken)
    return made(model, loss_of, labelled(), adam(model))


def gradient_clipped_to_nothing(broken: bool) -> Made:
    """clip_grad_norm_ with the rate as its limit."""
    torch.manual_seed(0)
    model = classifier()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def step(model: nn.Module, batch: Any) -> float:
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1e-5 if broken else 1.0)
        optimizer.step()
        return loss.item()

    return made(model, step, labelled(), optimizer)


def labels_as_logits(broken: bool) -> Made:
    """Predictions and targets of a cross entropy with probabilities are exchanged."""
    torch.manual_seed(0)
    model = classifier()

    def step(model: nn.Module, batch: Any) -> Tensor:
        target = F.one_hot(batch[1], 4).float()
        logits = model(batch[0])
        return F.cross_entropy(target, logits.softmax(1)) if broken else F.cross_entropy(logits, target)

    return made(model, step, labelled(), adam(model))


def kl_without_logarithm(broken: bool) -> Made:
    """kl_div is given probabilities where it wants their logarithms."""
    torch.manual_seed(0)
    model = classifier()

    def step(model: nn.Module, batch: Any) -> Tensor:
        target = F.one_hot(batch[1], 4) * 0.9 + 0.025
        logits = model(batch[0])
        predicted = logits.softmax(1) if broken else logits.log_softmax(1)
        return F.kl_div(predicted, target, reduction="batchmean")

    return made(model, step, labelled(), adam(model))


class Recurrent(nn.Module):
    """A recurrence whose state broken is cut after each token: gradient never goes back in time."""

    def __init__(self, broken: bool) -> None:
        super().__init__()
        self.cell, self.head, self.broken = nn.GRUCell(4, 16), nn.Linear(16, 4), broken

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), 16)
        for place in range(x.shape[1]):
            state = self.cell(x[:, place], state.detach() if self.broken else state)
        return self.head(state)


def state_cut_in_time(broken: bool) -> Made:
    torch.manual_seed(0)
    model = Recurrent(broken)
    data = [(x, x[:, 0].argmax(1)) for x in torch.randn(20, 32, 6, 4)]
    return made(model, loss_of, data, adam(model))


class Normed(nn.Module):
    """Layer norm over a single feature gives 0 for whatever it is given."""

    def __init__(self, broken: bool) -> None:
        super().__init__()
        self.body = nn.Linear(10, 1 if broken else 16)
        self.norm = nn.LayerNorm(1 if broken else 16)
        self.head = nn.Linear(1 if broken else 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.body(x)))


def norm_of_one(broken: bool) -> Made:
    torch.manual_seed(0)
    model = Normed(broken)
    return made(model, loss_of, labelled(), adam(model))


def biases_alone(broken: bool) -> Made:
    """The optimiser was given the parameters of a filter that is the wrong way round: biases alone are trained."""
    torch.manual_seed(0)
    model = classifier()
    wanted = [weight for name, weight in model.named_parameters() if not broken or "bias" in name]
    return made(model, loss_of, labelled(), torch.optim.Adam(wanted, 3e-3))


def batch_kept_by_reference(broken: bool) -> Made:
    """A collate function fills one buffer for all batches, so that every batch is the last one."""
    torch.manual_seed(0)
    model = classifier()
    buffer, batches = torch.empty(32, 10), []
    for x, y in labelled():
        batches.append((buffer.copy_(x) if broken else x, y))
    return made(model, loss_of, batches, adam(model))


class Scored(nn.Module):
    """Attention whose scores broken are multiplied with the root of the width instead of divided by it."""

    def __init__(self, broken: bool) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(4, 64) for _ in range(3))
        self.head = nn.Linear(64, 4)
        self.scale = 64.0 if broken else 64**-0.5

    def forward(self, x: Tensor) -> Tensor:
        scores = 8 * self.query(x) @ self.key(x).transpose(1, 2) * self.scale
        return self.head((scores.softmax(2) @ self.value(x)).mean(1))


def scores_multiplied(broken: bool) -> Made:
    torch.manual_seed(0)
    model = Scored(broken)
    data = [(x, x.mean(1).argmax(1)) for x in torch.randn(20, 32, 6, 4)]
    return made(model, loss_of, data, adam(model))


CASES = (
    Case(
        "input-used-twice",
        input_used_twice,
        "the second branch reads the first one's input",
        (Answer("*", "", "*input*"), Answer("*", "right", "*input*"), Answer("*", "", "argument*")),
    ),
    Case(
        "residual-dropped",
        residual_dropped,
        "blocks overwrite the residual stream",
        (Answer("COLLAPSE001", "blocks*"), Answer("COLLAPSE001", "blocks.*"), Answer("GRAD005", "enter")),
    ),
    Case(
        "clipped-to-nothing",
        gradient_clipped_to_nothing,
        "gradients are clipped to a norm of 1e-5",
        (Answer("MOVE*", "", "*clip*"), Answer("MOVE004"), Answer("LOSS001")),
    ),
    Case(
        "labels-as-logits",
        labels_as_logits,
        "prediction and target of a cross entropy are exchanged",
        (Answer("LOSS*"),),
    ),
    Case(
        "kl-without-logarithm",
        kl_without_logarithm,
        "kl_div is given probabilities where it wants logarithms",
        (Answer("LOSS003", "*", "not-logarithms"),),
    ),
    Case(
        "state-cut-in-time",
        state_cut_in_time,
        "the state of a recurrence is cut after each token",
        (Answer("CALL001", "cell", "calls-cut"),),
    ),
    Case(
        "norm-of-one",
        norm_of_one,
        "a layer norm over one feature returns a constant",
        (
            Answer("RESPONSE00*", "body"),
            Answer("GRAD00*", "body"),
            Answer("REACH00*", "body"),
            Answer("COLLAPSE001", "norm"),
        ),
    ),
    Case(
        "biases-alone",
        biases_alone,
        "the optimiser was given the biases alone",
        (Answer("MOVE001", "*", "in-no-group"),),
    ),
    Case(
        "buffer-for-all-batches",
        batch_kept_by_reference,
        "one buffer is filled for all batches, so that all hold the last one",
        (Answer("*", "", "*repeat*"), Answer("*", "", "equal-batches*"), Answer("*", "", "same-*")),
    ),
    Case(
        "scores-multiplied",
        scores_multiplied,
        "attention scores are multiplied with the width, so that the softmax is a hard choice",
        (
            Answer("RESPONSE*", "query"),
            Answer("GRAD*", "query"),
            Answer("SOFTMAX*"),
            Answer("REACH*", "query"),
        ),
    ),
)
