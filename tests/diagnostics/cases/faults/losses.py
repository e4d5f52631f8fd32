"""Faults of the loss, the data and the labels, of kinds that no rule was written for; small programs, own code."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.diagnostics.cases.case import Answer, Case

Made = dict[str, Any]


def classifier(*extra: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 4), *extra)


def labelled(batches: int = 20, size: int = 32) -> list[tuple[Tensor, Tensor]]:
    return [(x, x[:, :4].argmax(1)) for x in torch.randn(batches, size, 10)]


def made(model: nn.Module, step: Any, batches: Any, optimizer: Any = None) -> Made:
    return {
        "model": model,
        "step": step,
        "batches": batches,
        "optimizer": optimizer or torch.optim.Adam(model.parameters(), 1e-3),
    }


def broadcast(broken: bool) -> Made:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1))
    data = [(x, x[:, 0] * 2) for x in torch.randn(20, 32, 10)]

    def step(model: nn.Module, batch: Any) -> Tensor:
        output = model(batch[0])
        return F.mse_loss(output if broken else output.squeeze(1), batch[1])

    return made(model, step, data)


def double_softmax(broken: bool) -> Made:
    torch.manual_seed(0)
    model = classifier(nn.Softmax(dim=1)) if broken else classifier()
    return made(model, lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]), labelled())


def double_sigmoid(broken: bool) -> Made:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1))
    data = [(x, (x[:, :1] > 0).float()) for x in torch.randn(20, 32, 10)]

    def step(model: nn.Module, batch: Any) -> Tensor:
        score = model(batch[0])
        score = torch.sigmoid(score) if broken else score
        return F.binary_cross_entropy_with_logits(score, batch[1])

    return made(model, step, data)


def wrong_sign(broken: bool) -> Made:
    torch.manual_seed(0)
    model = classifier()

    def step(model: nn.Module, batch: Any) -> Tensor:
        chosen = model(batch[0]).log_softmax(1).gather(1, batch[1][:, None]).mean()
        return chosen if broken else -chosen

    return made(model, step, labelled())


def half_of_batch(broken: bool) -> Made:
    torch.manual_seed(0)
    model = classifier()

    def step(model: nn.Module, batch: Any) -> Tensor:
        kept = 14 if broken else 32
        return F.cross_entropy(model(batch[0])[:kept], batch[1][:kept])

    return made(model, step, labelled())


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, 16)
        self.mix = nn.GRU(16, 16, batch_first=True)
        self.head = nn.Linear(16, 30)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.mix(self.embed(ids))[0])


def label_not_shifted(broken: bool) -> Made:
    torch.manual_seed(0)
    model = Tagger()

    def step(model: nn.Module, ids: Tensor) -> Tensor:
        logits = model(ids) if broken else model(ids[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1), (ids if broken else ids[:, 1:]).flatten())

    return made(model, step, list(torch.randint(0, 30, (20, 16, 12))))


def loss_on_padding(broken: bool) -> Made:
    torch.manual_seed(0)
    model = Tagger()
    data = []
    for ids in torch.randint(1, 30, (20, 16, 12)):
        length = torch.randint(4, 12, (16, 1))
        data.append(ids.masked_fill(torch.arange(12) >= length, 0))

    def step(model: nn.Module, ids: Tensor) -> Tensor:
        losses = F.cross_entropy(model(ids[:, :-1]).transpose(1, 2), ids[:, 1:], reduction="none")
        mask = (ids[:, 1:] == 0) if broken else (ids[:, 1:] != 0)
        return (losses * mask).sum() / mask.sum()

    return made(model, step, data)


def reward_of_one(broken: bool) -> Made:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 3))
    data = [(x, torch.randn(32)) for x in torch.randn(20, 32, 6)]

    def step(model: nn.Module, batch: Any) -> Tensor:
        policy = torch.distributions.Categorical(logits=model(batch[0]))
        groups = batch[1].view(32, 1) if broken else batch[1].view(8, 4)
        advantage = (groups - groups.mean(1, keepdim=True)).flatten()
        return -(policy.log_prob(policy.sample()) * advantage).mean()

    return made(model, step, data)


def truncated_targets(broken: bool) -> Made:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1))
    data = []
    for x in torch.randn(20, 32, 10):
        score = torch.sigmoid(x[:, 0] + x[:, 1])
        data.append((x, score.long() if broken else score.round().long()))

    def step(model: nn.Module, batch: Any) -> Tensor:
        return F.binary_cross_entropy_with_logits(model(batch[0]).squeeze(1), batch[1].float())

    return made(model, step, data)


def one_sample_repeated(broken: bool) -> Made:
    torch.manual_seed(0)
    model = classifier()
    data = [(x[[0] * 32] if broken else x, y[[0] * 32] if broken else y) for x, y in labelled()]
    return made(model, lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]), data)


def empty_input(broken: bool) -> Made:
    torch.manual_seed(0)
    model = classifier()
    data = [((x / 255).to(torch.uint8).float() if broken else x, y) for x, y in labelled()]
    return made(model, lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]), data)


def answer_in_input(broken: bool) -> Made:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(14, 32), nn.ReLU(), nn.Linear(32, 4))
    data = []
    for x, y in labelled():
        shown = F.one_hot(y, 4).float() if broken else torch.randn(32, 4)
        data.append((torch.cat([x, shown], 1), y))
    return made(model, lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]), data)


CASES = (
    Case(
        "target-broadcast",
        broadcast,
        "mse_loss of (B, 1) against (B,) is averaged over all pairs",
        (Answer("LOSS*"),),
    ),
    Case(
        "softmax-twice",
        double_softmax,
        "the model ends with softmax, and cross_entropy applies it again",
        (Answer("LOSS*"),),
    ),
    Case(
        "sigmoid-twice", double_sigmoid, "sigmoid before binary_cross_entropy_with_logits", (Answer("LOSS*"),)
    ),
    Case("loss-negated", wrong_sign, "the log-likelihood is minimised", (Answer("LOSS*"),)),
    Case(
        "part-of-batch-dropped",
        half_of_batch,
        "the loss reads the first 14 of 32 samples",
        (Answer("COV001", "", "loss-without-gradient"),),
    ),
    Case(
        "labels-not-shifted",
        label_not_shifted,
        "each token is its own label",
        (Answer("LOSS*"), Answer("LEAK*")),
    ),
    Case(
        "loss-on-padding",
        loss_on_padding,
        "the mask keeps the padding and drops the tokens",
        (Answer("LOSS*"),),
    ),
    Case(
        "advantage-of-one",
        reward_of_one,
        "advantages are normalised within groups of one, so all are 0",
        (Answer("GRAD002", ""), Answer("LOSS002")),
    ),
    Case(
        "labels-truncated",
        truncated_targets,
        "probabilities become integers, so all labels are 0",
        (Answer("LOSS*"), Answer("DATA*")),
    ),
    Case(
        "one-sample-repeated",
        one_sample_repeated,
        "the loader fills each batch with one sample",
        (Answer("COLLAPSE001", "0", "equal-input"),),
    ),
    Case(
        "input-of-zeros",
        empty_input,
        "scaling before a cast to integers makes the input 0",
        (Answer("COLLAPSE001", "0", "equal-input"),),
    ),
    Case(
        "answer-in-input",
        answer_in_input,
        "the label is among the features",
        (Answer("LEAK*"), Answer("DATA*")),
    ),
)
