"""Faults of models, of kinds that no rule was written for; small programs, own code."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.diagnostics.cases.case import Answer, Case
from tests.diagnostics.cases.faults.losses import Made, classifier, labelled, made


class Decoder(nn.Module):
    """One block of causal attention with learned positions."""

    def __init__(
        self, inverted: bool = False, one_position: bool = False, padding: int | None = None
    ) -> None:
        super().__init__()
        self.inverted, self.one_position = inverted, one_position
        self.tokens = nn.Embedding(20, 16, padding_idx=padding)
        self.positions = nn.Embedding(12, 16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.head = nn.Linear(16, 20)

    def forward(self, ids: Tensor) -> Tensor:
        length = ids.shape[1]
        place = torch.arange(length) * (0 if self.one_position else 1)
        x = self.tokens(ids) + self.positions(place)
        hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
        hidden = hidden.T if self.inverted else hidden
        return self.head(x + self.attention(x, x, x, attn_mask=hidden, need_weights=False)[0])


def next_token(model: nn.Module, ids: Tensor) -> Tensor:
    return F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())


def sentences() -> list[Tensor]:
    return list(torch.randint(0, 20, (20, 16, 12)))


def inverted_mask(broken: bool) -> Made:
    torch.manual_seed(0)
    return made(Decoder(inverted=broken), next_token, sentences())


def one_position(broken: bool) -> Made:
    torch.manual_seed(0)
    return made(Decoder(one_position=broken), next_token, sentences())


def padding_hit(broken: bool) -> Made:
    torch.manual_seed(0)
    return made(Decoder(padding=0 if broken else None), next_token, sentences())


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(10, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3))
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def left_in_eval(broken: bool) -> Made:
    torch.manual_seed(0)
    model = Noisy()

    def step(model: nn.Module, batch: Any) -> Tensor:
        if broken:
            model.eval()
        return F.cross_entropy(model(batch[0]), batch[1])

    return made(model, step, labelled())


def statistics_of_one(broken: bool) -> Made:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )
    data = [(x, x.mean((1, 2, 3)).gt(0).long()) for x in torch.randn(20, 1 if broken else 16, 1, 8, 8)]
    return made(model, lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]), data)


def statistics_stand_still(broken: bool) -> Made:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(10, 32), nn.BatchNorm1d(32, momentum=0.0 if broken else 0.1), nn.ReLU(), nn.Linear(32, 4)
    )
    return made(model, lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]), labelled())


class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 16))
        self.predictor = nn.Linear(16, 16)


def wrong_branch(broken: bool) -> Made:
    torch.manual_seed(0)
    model = Siamese()

    def step(model: Any, batch: Any) -> Tensor:
        one, other = batch[0] + 0.1 * torch.randn(32, 10), batch[0] + 0.1 * torch.randn(32, 10)
        z = model.encoder(other)
        p = model.predictor(model.encoder(one))
        p, z = (p.detach(), z) if broken else (p, z.detach())
        return -F.cosine_similarity(p, z).mean()

    return made(model, step, labelled())


class Captioner(nn.Module):
    def __init__(self, off: bool) -> None:
        super().__init__()
        self.off = off
        self.vision = nn.Sequential(nn.Linear(10, 32), nn.ReLU())
        self.text = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(not self.off):
            seen = self.vision(x)
        return self.text(seen)


def no_grad_left(broken: bool) -> Made:
    torch.manual_seed(0)
    return made(
        Captioner(broken), lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]), labelled()
    )


class Distillation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.teacher = classifier()
        self.student = classifier()


def swapped_roles(broken: bool) -> Made:
    torch.manual_seed(0)
    model = Distillation()
    student, teacher = (model.teacher, model.student) if broken else (model.student, model.teacher)

    def step(model: Any, batch: Any) -> Tensor:
        with torch.no_grad():
            wanted = teacher(batch[0]).softmax(1)
        return F.cross_entropy(student(batch[0]), wanted)

    optimizer = torch.optim.Adam(model.student.parameters(), 1e-3)
    if not broken:
        model.teacher.requires_grad_(False)
    return made(model, step, labelled(), optimizer)


class Online(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.online = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3))
        self.target = copy.deepcopy(self.online).requires_grad_(False)


def target_is_online(broken: bool) -> Made:
    torch.manual_seed(0)
    model = Online()
    optimizer = torch.optim.Adam(model.online.parameters(), 1e-3)
    data = [(x, torch.randint(0, 3, (32, 1)), torch.randn(32)) for x in torch.randn(20, 32, 6)]

    def step(model: Any, batch: Any) -> float:
        with torch.no_grad():
            for own, other in zip(model.target.parameters(), model.online.parameters(), strict=True):
                own.lerp_(other, 1.0 if broken else 0.01)
            wanted = batch[2] + 0.9 * model.target(batch[0]).amax(1)
        loss = F.mse_loss(model.online(batch[0]).gather(1, batch[1]).squeeze(1), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return made(model, step, data, optimizer)


def clamped_output(broken: bool) -> Made:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1))
    data = [(x, x[:, :1] * 2 + 5) for x in torch.randn(20, 32, 10)]

    def step(model: nn.Module, batch: Any) -> Tensor:
        output = model(batch[0])
        return F.mse_loss(output.clamp(4, 6) if broken else output, batch[1])

    return made(model, step, data)


def zero_weights(broken: bool) -> Made:
    torch.manual_seed(0)
    model = classifier()
    if broken:
        for weight in model.parameters():
            nn.init.zeros_(weight)
    return made(model, lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]), labelled())


def equal_weights(broken: bool) -> Made:
    torch.manual_seed(0)
    model = classifier()
    if broken:
        nn.init.constant_(model[0].weight, 0.1)
        nn.init.constant_(model[0].bias, 0.1)
        nn.init.constant_(model[2].weight, 0.1)
    return made(model, lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]), labelled())


class Recurrent(nn.Module):
    def __init__(self, place: int) -> None:
        super().__init__()
        self.place = place
        self.embed = nn.Embedding(20, 16)
        self.reader = nn.GRU(16, 32, batch_first=True)
        self.head = nn.Linear(32, 2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.reader(self.embed(ids))[0][:, self.place])


def first_token_read(broken: bool) -> Made:
    torch.manual_seed(0)
    data = [(ids, (ids == 3).any(1).long()) for ids in torch.randint(0, 20, (20, 32, 9))]
    return made(
        Recurrent(0 if broken else -1), lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]), data
    )


class Mixer(nn.Module):
    def __init__(self, mixes: bool) -> None:
        super().__init__()
        self.mixes = mixes
        self.embed = nn.Linear(5, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.embed(x))
        # (B, T, D) -> (T, B, D): a view where a transposition was meant
        h = h.reshape(h.shape[1], h.shape[0], -1) if self.mixes else h.transpose(0, 1)
        return self.head(h.mean(0))


def view_for_transpose(broken: bool) -> Made:
    torch.manual_seed(0)
    data = [(x, x[:, :, :4].sum(1).argmax(1)) for x in torch.randn(20, 16, 7, 5)]
    return made(Mixer(broken), lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]), data)


class Scaled(nn.Module):
    def __init__(self, hidden: bool) -> None:
        super().__init__()
        self.hidden = hidden
        self.body = nn.Linear(10, 32)
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x).exp()
        if self.hidden:
            h.data.div_(h.data.sum(1, keepdim=True))
            return self.head(h)
        return self.head(h / h.sum(1, keepdim=True))


def changed_under_autograd(broken: bool) -> Made:
    torch.manual_seed(0)
    return made(Scaled(broken), lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]), labelled())


CASES = (
    Case(
        "mask-inverted",
        inverted_mask,
        "each token attends to itself and the future",
        (Answer("LEAK*"), Answer("LOSS*")),
    ),
    Case(
        "one-position",
        one_position,
        "every token gets position 0",
        (Answer("REACH*", "positions"), Answer("ROWS*", "positions")),
    ),
    Case(
        "padding-hit",
        padding_hit,
        "padding_idx is the id of a real token, which is never trained",
        (Answer("REACH*", "tokens"), Answer("ROWS*", "tokens")),
    ),
    Case("left-in-eval", left_in_eval, "the model trains in evaluation mode", (Answer("MODE001"),)),
    Case(
        "statistics-of-one",
        statistics_of_one,
        "batch norm with a batch of 1",
        (Answer("MODE*"), Answer("STATS*")),
    ),
    Case(
        "statistics-stand-still",
        statistics_stand_still,
        "momentum 0: running statistics never move",
        (Answer("MODE*", "1"), Answer("STATS*", "1")),
    ),
    Case(
        "wrong-branch-detached",
        wrong_branch,
        "the prediction is detached instead of the target",
        (Answer("GRAD001", "predictor", "detached"),),
    ),
    Case(
        "no-grad-left",
        no_grad_left,
        "a sub-module still runs without gradient",
        (Answer("GRAD001", "vision", "no-grad"),),
    ),
    Case(
        "roles-swapped",
        swapped_roles,
        "the student runs without gradient, the teacher in no optimiser is trained",
        (Answer("GRAD001", "student", "no-grad"), Answer("MOVE001", "teacher", "in-no-group")),
    ),
    Case(
        "target-is-online",
        target_is_online,
        "the target copies all of the online network in each step",
        (Answer("SHARE*", "target"), Answer("MOVE*", "target"), Answer("TARGET001", "target", "no-lag")),
    ),
    Case(
        "output-clamped",
        clamped_output,
        "the output is clamped to a range that it is never in",
        (Answer("UNITS002", "*", "clamped-away"), Answer("GRAD002", ""), Answer("RESPONSE*")),
    ),
    Case(
        "weights-zero",
        zero_weights,
        "all weights start at 0",
        (Answer("REACH002", "0"), Answer("GRAD002", "0"), Answer("COLLAPSE*"), Answer("UNITS001")),
    ),
    Case(
        "weights-equal",
        equal_weights,
        "all units start equal and stay so",
        (Answer("COLLAPSE*"), Answer("UNITS*")),
    ),
    Case(
        "first-token-read",
        first_token_read,
        "the state after the first token is read instead of the last",
        (
            Answer("COV*", "reader"),
            Answer("RESPONSE*"),
            Answer("DATA*"),
            Answer("REACH002", "reader", "first-state"),
        ),
    ),
    Case(
        "view-for-transpose",
        view_for_transpose,
        "a view mixes samples where a transposition was meant",
        (Answer("LOSS003", "", "dimensions-exchanged-by-view"), Answer("LEAK001")),
    ),
    Case(
        "changed-under-autograd",
        changed_under_autograd,
        "a value is changed through .data after exp() saved it",
        (Answer("GRAD*"), Answer("OPER*")),
    ),
)
