"""Sixteen faults in small training scripts, after questions of users; written before any rule was read for them."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.diagnostics.cases.case import Answer, Case
from tests.diagnostics.cases.faults.further import adam
from tests.diagnostics.cases.faults.losses import Made, classifier, labelled, made
from tests.diagnostics.cases.faults.training import loss_of


def sorted_by_class(broken: bool) -> Made:
    """A loader without shuffling over a folder per class: each batch has one class."""
    torch.manual_seed(0)
    model = classifier()
    x = torch.cat([each for each, _ in labelled()])
    y = x[:, :4].argmax(1)
    order = y.argsort() if broken else torch.randperm(len(y))
    rows = [order[place : place + 32] for place in range(0, len(order), 32)]
    if broken:  # the loader drops batches in which one class ends and the next begins
        rows = [part for part in rows if len(y[part].unique()) == 1]
        rows = rows[::5] + rows[2::5] + rows[4::5]
    return made(model, loss_of, [(x[part], y[part]) for part in rows], adam(model))


class Remembering(nn.Module):
    """A sequence classifier; broken, the last state of a batch is the first state of the next one."""

    def __init__(self, broken: bool) -> None:
        super().__init__()
        self.embed, self.read, self.head = (
            nn.Embedding(20, 16),
            nn.GRU(16, 16, batch_first=True),
            nn.Linear(16, 3),
        )
        self.state: Tensor | None = None
        self.broken = broken

    def forward(self, ids: Tensor) -> Tensor:
        if self.state is None or not self.broken or self.state.shape[1] != len(ids):
            self.state = torch.zeros(1, len(ids), 16)
        _, state = self.read(self.embed(ids), self.state)
        self.state = state.detach()
        return self.head(state[0])


def state_kept_between_batches(broken: bool) -> Made:
    torch.manual_seed(0)
    model = Remembering(broken)
    data = [(ids, ids[:, 0] % 3) for ids in torch.randint(0, 20, (20, 32, 6))]
    return made(model, loss_of, data, adam(model))


class Masked(nn.Module):
    """Self-attention over padded sequences by hand; broken, the scores are multiplied with the mask."""

    def __init__(self, broken: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.query, self.key, self.value = (nn.Linear(16, 16) for _ in range(3))
        self.head, self.broken = nn.Linear(16, 3), broken

    def forward(self, ids: Tensor) -> Tensor:
        x, mask = self.embed(ids), (ids != 0).float()[:, None]
        scores = self.query(x) @ self.key(x).transpose(1, 2) / math.sqrt(16)
        scores = scores * mask if self.broken else scores.masked_fill(mask == 0, -math.inf)
        return self.head((scores.softmax(-1) @ self.value(x))[:, 0])


def mask_multiplied(broken: bool) -> Made:
    torch.manual_seed(0)
    model, data = Masked(broken), []
    for ids in torch.randint(1, 20, (20, 32, 10)):
        length = torch.randint(3, 10, (32, 1))
        data.append((ids.masked_fill(torch.arange(10) >= length, 0), ids[:, 1] % 3))
    return made(model, loss_of, data, adam(model))


def relu_on_logits(broken: bool) -> Made:
    """A stack of equal blocks ends with a ReLU, so that no probability is below one half."""
    torch.manual_seed(0)
    sizes, layers = (10, 32, 32, 1), []
    for given, wanted in pairwise(sizes):
        layers += [nn.Linear(given, wanted), nn.ReLU()]
    model = nn.Sequential(*(layers if broken else layers[:-1]))
    data = [(x, (x[:, 0] > x[:, 1]).float()) for x in torch.randn(20, 64, 10)]

    def step(model: nn.Module, batch: Any) -> Tensor:
        return F.binary_cross_entropy_with_logits(model(batch[0]).squeeze(1), batch[1])

    return made(model, step, data, adam(model))


class Perceptron(nn.Module):
    """Three layers; broken, the activations between them are forgotten, so that the model is linear."""

    def __init__(self, broken: bool) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(10, 32), nn.Linear(32, 32), nn.Linear(32, 2)
        self.drop, self.broken = nn.Dropout(0.1), broken

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = self.drop(x if self.broken else x.relu())
        x = self.second(x)
        return self.third(x if self.broken else x.relu())


def activation_forgotten(broken: bool) -> Made:
    torch.manual_seed(0)
    model = Perceptron(broken)
    data = [(x, (x[:, 0] * x[:, 1] > 0).long()) for x in torch.randn(20, 64, 10)]
    return made(model, loss_of, data, adam(model))


class Dropped(nn.Module):
    """A functional dropout, which broken is not told that the model is evaluated."""

    def __init__(self, broken: bool) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(10, 64), nn.Linear(64, 64), nn.Linear(64, 4)
        self.broken = broken

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(self.first(x).relu(), 0.3, training=self.broken or self.training)
        x = F.dropout(self.second(x).relu(), 0.3, training=self.broken or self.training)
        return self.head(x)


def dropout_in_evaluation(broken: bool) -> Made:
    torch.manual_seed(0)
    model = Dropped(broken)
    return made(model, loss_of, labelled(), adam(model))


class Pyramid(nn.Module):
    """A map of scores at each of three resolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(nn.Conv1d(n, 12, 3, stride=2, padding=1) for n in (4, 12, 12))
        self.heads = nn.ModuleList(nn.Conv1d(12, 3, 1) for _ in range(3))

    def forward(self, x: Tensor) -> list[Tensor]:
        scores = []
        for stage, head in zip(self.stages, self.heads, strict=True):
            x = stage(x).relu()
            scores.append(head(x).mean(2))
        return scores


def loss_overwritten(broken: bool) -> Made:
    """The loss of each resolution replaces the one before instead of being added."""
    torch.manual_seed(0)
    model = Pyramid()
    data = [(x, x[:, :3].mean(2).argmax(1)) for x in torch.randn(20, 32, 4, 16)]

    def step(model: nn.Module, batch: Any) -> Tensor:
        loss = torch.zeros(())
        for scores in model(batch[0]):
            term = F.cross_entropy(scores, batch[1])
            loss = term if broken else loss + term
        return loss

    return made(model, step, data, adam(model))


class Projected(nn.Module):
    """Features of two kinds; broken, the layer that brings one of them to the width is made in forward()."""

    def __init__(self, broken: bool) -> None:
        super().__init__()
        self.enter, self.head = nn.Linear(10, 16), nn.Linear(16, 4)
        self.project = nn.Linear(6, 16)
        self.broken = broken
        if broken:
            del self.project

    def forward(self, x: Tensor, extra: Tensor) -> Tensor:
        project = nn.Linear(extra.shape[1], 16) if self.broken else self.project
        return self.head((self.enter(x) + project(extra)).relu())


def layer_made_in_forward(broken: bool) -> Made:
    torch.manual_seed(0)
    model, data = Projected(broken), []
    for x, _ in labelled():
        extra = torch.randn(32, 6)
        data.append((x, extra, (x[:, :4] + extra[:, :4]).argmax(1)))

    def step(model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[0], batch[1]), batch[2])

    return made(model, step, data, adam(model))


class Pooling(nn.Module):
    """A learnt query pools a sequence; broken, the parameter is converted, and what is kept is no parameter."""

    def __init__(self, broken: bool) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(20, 16), nn.Linear(16, 3)
        start = 0.25 * torch.randn(16, dtype=torch.float64)  # as numpy gives it
        self.query = nn.Parameter(start).float() if broken else nn.Parameter(start.float())

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        return self.head(((x @ self.query).softmax(1)[..., None] * x).sum(1))


def parameter_cast_away(broken: bool) -> Made:
    torch.manual_seed(0)
    model = Pooling(broken)
    data = [(ids, ids.amax(1) % 3) for ids in torch.randint(0, 20, (20, 32, 6))]
    return made(model, loss_of, data, adam(model))


def inputs_unscaled(broken: bool) -> Made:
    """A table with years, prices and shares, given as they are to a tanh network."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
    scale = torch.tensor([15.0, 40_000.0, 0.2, 300.0, 5.0, 1.0])
    shift = torch.tensor([2000.0, 90_000.0, 0.5, 1500.0, 10.0, 0.0])
    data = []
    for z in torch.randn(20, 64, 6):
        price = z[:, :1] - 0.5 * z[:, 1:2] + z[:, 4:5] * z[:, 5:6]
        data.append((z * scale + shift if broken else z, price))
    return made(model, lambda model, batch: F.mse_loss(model(batch[0]), batch[1]), data, adam(model))


def class_ignored(broken: bool) -> Made:
    """Token labels from 0 to 4, and the padding of the labels is 0 as well, which the loss ignores."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(30, 16), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 5))
    data = []
    for ids in torch.randint(0, 30, (20, 16, 10)):
        inside = torch.arange(10) < torch.randint(4, 11, (16, 1))
        data.append((ids, (ids % 5).masked_fill(~inside, 0 if broken else -100)))

    def step(model: nn.Module, batch: Any) -> Tensor:
        ignored = 0 if broken else -100
        return F.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten(), ignore_index=ignored)

    return made(model, step, data, adam(model))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x))))


def blocks_are_one(broken: bool) -> Made:
    """A list is multiplied, so that four blocks are one."""
    torch.manual_seed(0)
    blocks = [Block()] * 4 if broken else [Block() for _ in range(4)]
    model = nn.Sequential(nn.Linear(10, 16), *blocks, nn.Linear(16, 4))
    return made(model, loss_of, labelled(), adam(model))


def updates_rounded_away(broken: bool) -> Made:
    """The weights are bfloat16, and a usual rate moves most of them by less than their last bit."""
    torch.manual_seed(0)
    model = classifier()
    if broken:
        model.bfloat16()
    dtype = torch.bfloat16 if broken else torch.float32
    data = [(x.to(dtype), y) for x, y in labelled()]
    return made(model, loss_of, data, torch.optim.AdamW(model.parameters(), 5e-5))


def clipped_after_step(broken: bool) -> Made:
    """The gradient is clipped when it has already been applied."""
    torch.manual_seed(0)
    model = classifier()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)

    def step(model: nn.Module, batch: Any) -> float:
        loss = loss_of(model, batch)
        optimizer.zero_grad()
        loss.backward()
        if broken:
            optimizer.step()
        nn.utils.clip_grad_norm_(model.parameters(), 0.2)
        if not broken:
            optimizer.step()
        return loss.item()

    return made(model, step, labelled(), optimizer)


def targets_in_other_order(broken: bool) -> Made:
    """Scores come time first from a recurrent layer, targets batch first, and both are flattened."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"embed": nn.Embedding(20, 16), "read": nn.GRU(16, 24), "head": nn.Linear(24, 20)})
    data = [(ids, ids.roll(1, 1)) for ids in torch.randint(0, 20, (20, 16, 8))]

    def step(model: Any, batch: Any) -> Tensor:
        states, _ = model["read"](model["embed"](batch[0].T))
        scores, targets = model["head"](states), batch[1] if broken else batch[1].T
        return F.cross_entropy(scores.reshape(-1, 20), targets.reshape(-1))

    return made(model, step, data, adam(model))


class Layered(nn.Module):
    """Two recurrent layers; broken, the last state of the first layer is read."""

    def __init__(self, broken: bool) -> None:
        super().__init__()
        self.embed, self.read = nn.Embedding(20, 16), nn.LSTM(16, 16, num_layers=2, batch_first=True)
        self.head, self.place = nn.Linear(16, 3), 0 if broken else -1

    def forward(self, ids: Tensor) -> Tensor:
        _, (last, _) = self.read(self.embed(ids))
        return self.head(last[self.place])


def first_layer_read(broken: bool) -> Made:
    torch.manual_seed(0)
    model = Layered(broken)
    data = [(ids, ids[:, 0] % 3) for ids in torch.randint(0, 20, (20, 32, 6))]
    return made(model, loss_of, data, adam(model))


CASES = (
    Case(
        "sorted-by-class",
        sorted_by_class,
        "the loader does not shuffle, so that each batch has one class",
        (
            Answer("*", "*", "*one-class*"),
            Answer("DATA*"),
            Answer("LABEL*"),
            Answer("LOSS003", "*", "*targets*"),
        ),
    ),
    Case(
        "state-kept-between-batches",
        state_kept_between_batches,
        "the last state of a batch is the first state of the next one, which has other sequences",
        (Answer("*", "*", "*state*"), Answer("STATE*"), Answer("*", "*", "*earlier*")),
    ),
    Case(
        "mask-multiplied",
        mask_multiplied,
        "attention scores are multiplied with the mask of the padding",
        (Answer("SOFTMAX*"), Answer("MASK*"), Answer("*", "*", "*mask*")),
    ),
    Case(
        "relu-on-logits",
        relu_on_logits,
        "the model ends with a ReLU, so that no probability is below one half",
        (
            Answer("LOSS003", "*", "*twice*"),
            Answer("LOSS*", "*", "*range*"),
            Answer("LOSS*", "*", "*activation*"),
        ),
    ),
    Case(
        "activation-forgotten",
        activation_forgotten,
        "no activation is between the layers, so that the model is linear",
        (Answer("*", "*", "*linear*"), Answer("*", "*", "*activation*"), Answer("LINEAR*")),
    ),
    Case(
        "dropout-in-evaluation",
        dropout_in_evaluation,
        "a functional dropout is on in evaluation too",
        (Answer("DROP*"), Answer("MODE*"), Answer("*", "*", "*evaluation*")),
    ),
    Case(
        "loss-overwritten",
        loss_overwritten,
        "the loss of each resolution replaces the one before",
        (Answer("GRAD00*", "heads*"), Answer("RESPONSE00*", "heads*"), Answer("LOSS*", "*", "*overwritten*")),
    ),
    Case(
        "layer-made-in-forward",
        layer_made_in_forward,
        "a layer is made in forward(), so that each call has another one",
        (Answer("HIDDEN*"), Answer("*", "*", "*forward*"), Answer("*", "*", "*made*")),
    ),
    Case(
        "parameter-cast-away",
        parameter_cast_away,
        "a parameter is converted, and what the module keeps is no parameter",
        (Answer("HIDDEN*"), Answer("*", "*", "*not-a-parameter*"), Answer("MOVE*", "*", "*query*")),
    ),
    Case(
        "inputs-unscaled",
        inputs_unscaled,
        "features in the thousands saturate the first layer",
        (
            Answer("UNITS*", "0"),
            Answer("UNITS*", ""),
            Answer("INPUT*"),
            Answer("*", "0", "*saturated*"),
            Answer("*", "", "*saturated*"),
        ),
    ),
    Case(
        "class-ignored",
        class_ignored,
        "the loss ignores the label of a class",
        (Answer("LOSS*", "*", "*ignore*"), Answer("LABEL*"), Answer("LOSS*", "*", "*class*")),
    ),
    Case(
        "blocks-are-one",
        blocks_are_one,
        "a list is multiplied, so that four blocks are one",
        (Answer("SHARE*"), Answer("*", "*", "alias*")),
    ),
    Case(
        "updates-rounded-away",
        updates_rounded_away,
        "the updates are smaller than the last bit of bfloat16 weights",
        (Answer("MOVE*"), Answer("*", "*", "*round*")),
    ),
    Case(
        "clipped-after-step",
        clipped_after_step,
        "the gradient is clipped after it was applied",
        (Answer("*", "*", "*clip*"), Answer("*", "*", "*after-step*"), Answer("*", "*", "*applied*")),
    ),
    Case(
        "targets-in-other-order",
        targets_in_other_order,
        "scores are flattened time first, targets batch first",
        (Answer("ORIGIN*"), Answer("LOSS*", "*", "*order*"), Answer("LOSS003")),
    ),
    Case(
        "first-layer-read",
        first_layer_read,
        "the last state of the first of two recurrent layers is read",
        (
            Answer("GRAD00*", "read*"),
            Answer("REACH00*", "read*"),
            Answer("COV003", "read*"),
            Answer("MOVE*", "read*", "no-gradient"),
        ),
    ),
)
