"""Faults of the kinds that users report, as whole programs of our own; each with its fix."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tests.diagnostics.cases.case import Answer, Case
from tests.diagnostics.cases.faults.losses import Made, classifier, labelled, made


def loss_of(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


class Twice(nn.Module):
    def __init__(self, aliased: bool) -> None:
        super().__init__()
        self.first = nn.Linear(10, 10)
        self.second = self.first if aliased else nn.Linear(10, 10)
        self.head = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.second(torch.tanh(self.first(x)))))


def second_is_first(broken: bool) -> Made:
    torch.manual_seed(0)
    return made(Twice(broken), loss_of, labelled())


class Student(nn.Module):
    def __init__(self, copied: bool) -> None:
        super().__init__()
        self.student = classifier()
        self.ema_student = copy.deepcopy(self.student).requires_grad_(False) if copied else self.student


def average_is_student(broken: bool) -> Made:
    torch.manual_seed(0)
    model = Student(not broken)
    optimizer = torch.optim.Adam(model.student.parameters(), 1e-3)

    def step(model: Any, batch: Any) -> float:
        with torch.no_grad():
            steady = model.ema_student(batch[0]).softmax(1)
        logits = model.student(batch[0])
        loss = F.cross_entropy(logits, batch[1]) + 0.1 * F.kl_div(logits.log_softmax(1), steady)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for own, other in zip(model.ema_student.parameters(), model.student.parameters(), strict=True):
                own.lerp_(other, 0.05)
        return loss.item()

    return made(model, step, labelled(), optimizer)


class Language(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, 16)
        self.mix = nn.GRU(16, 16, batch_first=True)
        self.head = nn.Linear(16, 30, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.mix(self.embed(ids))[0])


def next_token(model: nn.Module, ids: Tensor) -> Tensor:
    return F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())


def tie_copied_apart(broken: bool) -> Made:
    torch.manual_seed(0)
    model = Language()
    if broken:
        model.head = copy.deepcopy(model.head)
    return {
        **made(model, next_token, list(torch.randint(0, 30, (20, 16, 9)))),
        "expect_tied": [("embed", "head")],
    }


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 6))
        self.critic = nn.Sequential(nn.Linear(6, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))


def adversarial(broken: str) -> Made:
    torch.manual_seed(0)
    model = Pair()
    og = torch.optim.Adam(model.generator.parameters(), 1e-3)
    oc = torch.optim.Adam(model.critic.parameters(), 1e-3)

    def step(model: Any, real: Tensor) -> float:
        fake = model.generator(torch.randn(32, 6))
        judged = model.critic(fake.detach() if broken == "detached" else fake)
        loss = F.softplus(-judged).mean() + F.mse_loss(fake.mean(0), real.mean(0))
        og.zero_grad()
        loss.backward()
        og.step()
        if broken != "mixed":
            oc.zero_grad()
        (F.softplus(-model.critic(real)).mean() + F.softplus(model.critic(fake.detach())).mean()).backward()
        oc.step()
        if broken == "mixed":
            oc.zero_grad()
        return loss.item()

    return made(model, step, list(torch.randn(20, 32, 6)), [og, oc])


def micro_batches(broken: bool) -> Made:
    torch.manual_seed(0)
    model = classifier()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)

    def step(model: nn.Module, batch: Any) -> float:
        total = 0.0
        for number, (x, y) in enumerate(zip(batch[0].chunk(4), batch[1].chunk(4), strict=True)):
            if broken or not number:
                optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y) / 4
            loss.backward()
            total += loss.item()
        optimizer.step()
        return total

    return made(model, step, labelled(), optimizer)


def scaled(kind: str) -> Made:
    torch.manual_seed(0)
    model = classifier()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu")

    def step(model: nn.Module, batch: Any) -> float:
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        if kind == "skipped":
            loss = loss + (model[2].bias[0] * 0).sqrt() * 0
        scaler.scale(loss).backward()
        if kind != "clipped":
            scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        scaler.step(optimizer)
        scaler.update()
        return loss.item()

    return made(model, step, labelled(), optimizer)


class Reader(nn.Module):
    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 12)
        self.reader = nn.GRU(12, 24, batch_first=batch_first)
        self.head = nn.Linear(24, 20)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.reader(self.embed(ids))[0])


def sequence_first(broken: bool) -> Made:
    torch.manual_seed(0)
    return made(Reader(not broken), next_token, list(torch.randint(0, 20, (20, 16, 9))))


class Pooling(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.score = nn.Linear(5, 3)
        self.value = nn.Linear(5, 12)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.score(x).softmax(self.dim)
        return torch.einsum("bth,btd->bhd", weights, self.value(x)).flatten(1)


def pooled_over_samples(broken: bool) -> Made:
    torch.manual_seed(0)
    model = nn.Sequential(Pooling(0 if broken else 1), nn.Linear(36, 4))
    return made(model, loss_of, [(x, x[:, :, :4].sum(1).argmax(1)) for x in torch.randn(20, 24, 7, 5)])


class Routed(nn.Module):
    def __init__(self, normalise: bool) -> None:
        super().__init__()
        self.normalise = normalise
        self.router = nn.Linear(10, 4)
        self.experts = nn.ModuleList(nn.Linear(10, 10) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        weights, chosen = self.router(x).softmax(-1).topk(1)
        if self.normalise:
            weights = weights / weights.sum(-1, keepdim=True)
        every = torch.stack([expert(x) for expert in self.experts], 1)
        return (weights[..., None] * every.gather(1, chosen[..., None].expand(-1, -1, 10))).sum(1)


def router_normalised(broken: bool) -> Made:
    torch.manual_seed(0)
    return made(nn.Sequential(Routed(broken), nn.Linear(10, 4)), loss_of, labelled())


class Norms(nn.Module):
    def __init__(self, safe: bool) -> None:
        super().__init__()
        self.safe = safe
        self.encoder = nn.Linear(10, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h = self.encoder(x) * mask
        size = h.square().sum(1, keepdim=True)
        there = mask.any(1, keepdim=True)
        size = size.where(there, torch.ones(())) if self.safe else size
        return self.head(h / size.sqrt().where(there, torch.ones(())))


def masked_root(broken: bool) -> Made:
    torch.manual_seed(0)
    data = []
    for number, (x, y) in enumerate(labelled()):
        mask = torch.rand(32, 8) > 0.3
        mask[4] &= number != 5
        data.append((x, mask, y))
    return made(
        Norms(not broken), lambda model, batch: F.cross_entropy(model(batch[0], batch[1]), batch[2]), data
    )


class Adapted(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.embed = nn.Linear(10, 16).requires_grad_(False)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(16, 16), nn.Tanh()) for _ in range(2))
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=self.reentrant)
        return self.head(x)


def checkpointed(broken: bool) -> Made:
    torch.manual_seed(0)
    return made(Adapted(broken), loss_of, labelled())


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(10, 16), nn.BatchNorm1d(16), nn.ReLU()).requires_grad_(False)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))


def adapting_statistics(broken: bool) -> Made:
    torch.manual_seed(0)
    model = Backbone().train()
    if not broken:
        model.backbone.eval()
    return made(model, loss_of, labelled(), torch.optim.Adam(model.head.parameters(), 1e-3))


def stale_gradient(broken: bool) -> Made:
    torch.manual_seed(0)
    model = classifier()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    data = labelled()
    loss_of(model, data[0]).backward()
    optimizer.step()
    model[0].requires_grad_(False)
    if broken:
        model[2].zero_grad()
    else:
        optimizer.zero_grad()

    def step(model: Any, batch: Any) -> float:
        model[2].zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        optimizer.step()
        return loss.item()

    return made(model, step, data, optimizer)


class Latent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(10, 32), nn.ReLU())
        self.mu, self.logvar = nn.Linear(32, 16), nn.Linear(32, 16)
        self.decoder = nn.Sequential(nn.Linear(26, 32), nn.ReLU(), nn.Linear(32, 10))

    def forward(self, x: Tensor, shown: Tensor) -> tuple[Tensor, Tensor]:
        h = self.encoder(x)
        mu, logvar = self.mu(h), self.logvar(h)
        z = mu + torch.randn_like(mu) * (0.5 * logvar).exp()
        kl = 0.5 * (mu.square() + logvar.exp() - 1 - logvar).sum(1).mean()
        return self.decoder(torch.cat([z, shown], 1)), kl


def latent_ignored(broken: bool) -> Made:
    torch.manual_seed(0)
    model = Latent()

    def step(model: nn.Module, batch: Any) -> Tensor:
        x = batch[0]
        output, kl = model(x, x if broken else torch.zeros_like(x))
        return F.mse_loss(output, x, reduction="none").sum(1).mean() + (5.0 if broken else 0.01) * kl

    return made(model, step, labelled(), torch.optim.Adam(model.parameters(), 3e-3))


def written_average(broken: bool) -> Made:
    torch.manual_seed(0)
    model = classifier().half()
    data = [(x.half(), y) for x, y in labelled()]
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, eps=1e-8 if broken else 1e-4)
    return made(
        model, lambda model, batch: 1e-2 * F.cross_entropy(model(batch[0]).float(), batch[1]), data, optimizer
    )


CASES = (
    Case(
        "second-is-first",
        second_is_first,
        "two layers are one object",
        (Answer("SHARE003", "first", "alias"),),
    ),
    Case(
        "average-is-student",
        average_is_student,
        "the average is the student itself",
        (Answer("SHARE003", "student", "alias-of-role"), Answer("SHARE004", "", "alias-of-weights")),
    ),
    Case("tie-copied-apart", tie_copied_apart, "a deep copy unties the head", (Answer("SHARE002", "head"),)),
    Case(
        "fake-detached",
        lambda broken: adversarial("detached" if broken else ""),
        "the fake is detached in the generator's own step",
        (Answer("GRAD007", "critic", "dead-end"),),
    ),
    Case(
        "losses-mixed",
        lambda broken: adversarial("mixed" if broken else ""),
        "the critic applies the gradient of the generator's loss too",
        (Answer("GRAD004", "critic", "other-loss"),),
    ),
    Case(
        "cleared-per-part",
        micro_batches,
        "zero_grad per micro-batch",
        (Answer("GRAD006", "", "pass-discarded"),),
    ),
    Case(
        "clipped-while-scaled",
        lambda broken: scaled("clipped" if broken else ""),
        "clipping before unscaling",
        (Answer("MOVE004", "", "clipped-scaled"),),
    ),
    Case(
        "every-step-skipped",
        lambda broken: scaled("skipped" if broken else ""),
        "a GradScaler skips every step",
        (Answer("MOVE003", "", "scaler-skips"),),
    ),
    Case(
        "sequence-first",
        sequence_first,
        "batch-first data in a sequence-first layer",
        (Answer("LEAK001", "reader"),),
    ),
    Case(
        "softmax-over-samples",
        pooled_over_samples,
        "attention weights compete between samples",
        (Answer("SOFTMAX001", "0", "over-samples"),),
    ),
    Case(
        "router-normalised",
        router_normalised,
        "the weight of the one chosen expert is divided by itself",
        (Answer("REACH007", "0", "rounding-size"),),
    ),
    Case(
        "root-of-masked-zero",
        masked_root,
        "where() after sqrt() of 0",
        (
            Answer("REACH003", "encoder", "overflow-in-operation"),
            Answer("REACH003", "encoder", "overflow-after"),
        ),
    ),
    Case(
        "checkpoint-of-frozen",
        checkpointed,
        "reentrant checkpoints behind a frozen embedding",
        (Answer("GRAD001", "blocks.*", "checkpoint-without-gradient"),),
    ),
    Case(
        "frozen-statistics",
        adapting_statistics,
        "a frozen backbone in training mode",
        (Answer("MODE002", "backbone"),),
    ),
    Case(
        "stale-gradient",
        stale_gradient,
        "a frozen layer keeps its last gradient, which is applied again",
        (Answer("MOVE002", "0", "stale-gradient-frozen"),),
    ),
    Case("latent-ignored", latent_ignored, "posterior collapse", (Answer("COLLAPSE002", "mu"),)),
    Case(
        "eps-underflows",
        written_average,
        "Adam in half precision divides by 0",
        (Answer("REACH006", "*", "eps-underflow"),),
    ),
)
