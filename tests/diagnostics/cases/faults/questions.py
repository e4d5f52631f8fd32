"""Fourteen more faults, as users ask about them, written before any rule was read for them; own code."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tests.diagnostics.cases.case import Answer, Case
from tests.diagnostics.cases.faults.further import adam
from tests.diagnostics.cases.faults.losses import Made, classifier, labelled, made
from tests.diagnostics.cases.faults.training import loss_of


class Placed(nn.Module):
    """Batch-first tokens with a table of positions; broken, the table is cut to the size of the batch."""

    def __init__(self, broken: bool) -> None:
        super().__init__()
        self.embed, self.mix = (
            nn.Embedding(20, 16),
            nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True),
        )
        self.head, self.broken = nn.Linear(16, 2), broken
        self.register_buffer("table", torch.randn(64, 1, 16))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        x = x + (self.table[: len(x)] if self.broken else self.table[: x.shape[1]].transpose(0, 1))
        return self.head(self.mix(x).mean(1))


def position_by_sample(broken: bool) -> Made:
    torch.manual_seed(0)
    model = Placed(broken)
    data = [(ids, (ids[:, 0] < ids[:, 1]).long()) for ids in torch.randint(0, 20, (20, 32, 8))]
    return made(model, loss_of, data, adam(model))


class Padded(nn.Module):
    """A classifier of padded sequences; broken, the mask of the padding is the mask of the tokens."""

    def __init__(self, broken: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.query = nn.Parameter(torch.randn(1, 1, 16))
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.head, self.broken = nn.Linear(16, 3), broken

    def forward(self, ids: Tensor) -> Tensor:
        x, padding = self.embed(ids), ids == 0
        mask = ~padding if self.broken else padding
        query = self.query.expand(len(ids), 1, 16)
        return self.head(self.attention(query, x, x, key_padding_mask=mask, need_weights=False)[0][:, 0])


def padding_mask_inverted(broken: bool) -> Made:
    torch.manual_seed(0)
    model = Padded(broken)
    data = []
    for ids in torch.randint(1, 20, (20, 32, 10)):
        length = torch.randint(3, 9, (32, 1))
        data.append((ids.masked_fill(torch.arange(10) >= length, 0), ids[:, 0] % 3))
    return made(model, loss_of, data, adam(model))


class Sampled(nn.Module):
    """A variational autoencoder; broken, the latent is drawn by sample() instead of rsample()."""

    def __init__(self, broken: bool) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(8, 6), nn.Linear(3, 8)
        self.broken = broken

    def forward(self, x: Tensor) -> Tensor:
        mean, log_scale = self.encoder(x).chunk(2, 1)
        posterior = torch.distributions.Normal(mean, log_scale.exp())
        latent = posterior.sample() if self.broken else posterior.rsample()
        prior = torch.distributions.Normal(0.0, 1.0)
        cost = torch.distributions.kl_divergence(posterior, prior).sum(1).mean()
        return F.mse_loss(self.decoder(latent), x) + 0.01 * cost


def sampled_without_gradient(broken: bool) -> Made:
    torch.manual_seed(0)
    model = Sampled(broken)
    data = list(torch.randn(20, 32, 8) @ torch.randn(8, 8))
    return made(model, lambda model, x: model(x), data, adam(model))


def penalty_without_graph(broken: bool) -> Made:
    """A critic whose gradient penalty has no graph of its own, because create_graph was forgotten."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 1))

    def step(model: nn.Module, real: Tensor) -> Tensor:
        fake = 2 * torch.randn_like(real) + 1
        between = torch.lerp(real, fake, torch.rand(len(real), 1)).requires_grad_()
        (slope,) = torch.autograd.grad(model(between).sum(), between, create_graph=not broken)
        penalty = (slope.norm(dim=1) - 1).square().mean()
        return model(fake).mean() - model(real).mean() + 10 * penalty

    return made(model, step, list(torch.randn(20, 32, 6)), adam(model))


class Filler(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.read = nn.Embedding(21, 16), nn.GRU(16, 16, batch_first=True, bidirectional=True)
        self.head = nn.Linear(32, 20)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.read(self.embed(ids))[0])


def masked_in_place(broken: bool) -> Made:
    """Tokens are masked in the dataset's own tensors, so that in the end all are masked."""
    torch.manual_seed(0)
    model = Filler()
    data = [(ids.cumsum(1) % 20) for ids in torch.randint(0, 3, (6, 32, 12))]

    def step(model: nn.Module, ids: Tensor) -> Tensor:
        hidden = torch.rand(ids.shape) < 0.15
        hidden[:, 0] = True
        given = ids if broken else ids.clone()
        wanted = ids[hidden].clamp(max=19)
        given[hidden] = 20
        return F.cross_entropy(model(given)[hidden], wanted)

    return made(model, step, data, adam(model))


class Beams(nn.Module):
    """Each source is decoded with several targets; broken, the sources are tiled and the targets interleaved."""

    def __init__(self, broken: bool) -> None:
        super().__init__()
        self.source, self.target, self.head = nn.Linear(6, 16), nn.Linear(2, 16), nn.Linear(16, 4)
        self.broken = broken

    def forward(self, source: Tensor, targets: Tensor) -> Tensor:
        count = targets.shape[1]
        memory = self.source(source)
        memory = memory.repeat(count, 1) if self.broken else memory.repeat_interleave(count, 0)
        return self.head(torch.tanh(memory + self.target(targets.flatten(0, 1)))).unflatten(0, (-1, count))


def repeat_for_interleave(broken: bool) -> Made:
    torch.manual_seed(0)
    model = Beams(broken)
    data = [
        (x, targets, (x[:, None, :2] + targets).argmax(2) + 2 * (x[:, None, 2] > 0).long())
        for x, targets in zip(torch.randn(20, 32, 6), torch.randn(20, 32, 5, 2), strict=True)
    ]

    def step(model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[0], batch[1]).flatten(0, 1), batch[2].flatten())

    return made(model, step, data, adam(model))


def target_beyond_tanh(broken: bool) -> Made:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1), nn.Tanh())
    data = [(x, torch.tanh(x[:, :1]) * (8.0 if broken else 0.9)) for x in torch.randn(20, 32, 10)]
    return made(model, lambda model, batch: F.mse_loss(model(batch[0]), batch[1]), data, adam(model))


class Variational(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(8, 6), nn.Linear(3, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.encoder(x).chunk(2, 1)
        latent = mean + (log_variance / 2).exp() * torch.randn_like(mean)
        return self.decoder(latent), mean, log_variance


def kl_sign(broken: bool) -> Made:
    """The divergence from the prior is subtracted, so that the loss has no lower bound."""
    torch.manual_seed(0)
    model = Variational()

    def step(model: nn.Module, x: Tensor) -> Tensor:
        output, mean, log_variance = model(x)
        cost = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1).mean()
        return F.mse_loss(output, x, reduction="none").sum(1).mean() + (-cost if broken else cost)

    return made(model, step, list(torch.randn(20, 32, 8)), adam(model))


def self_not_excluded(broken: bool) -> Made:
    """Of 2 B views each should find its other half; broken, the one to be found is the view itself."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 16))

    def step(model: nn.Module, batch: Any) -> Tensor:
        one, other = batch
        z = F.normalize(torch.cat([model(one), model(other)]), dim=1)
        scores, count = z @ z.T / 0.2, len(one)
        if broken:
            return F.cross_entropy(scores, torch.arange(2 * count))
        scores = scores.masked_fill(torch.eye(2 * count, dtype=torch.bool), -1e9)
        return F.cross_entropy(scores, torch.arange(2 * count).roll(count))

    data = [(x + 0.1 * torch.randn_like(x), x + 0.1 * torch.randn_like(x)) for x in torch.randn(20, 32, 10)]
    return made(model, step, data, adam(model))


def normalised_over_batch(broken: bool) -> Made:
    """Features are normalised over dim 0, the samples, before they are compared with prototypes."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"body": classifier(), "prototypes": nn.Linear(4, 4, bias=False)})

    def step(model: Any, batch: Any) -> Tensor:
        features = F.normalize(model["body"](batch[0]), dim=0 if broken else 1)
        return F.cross_entropy(5 * model["prototypes"](features), batch[1])

    return made(model, step, labelled(), adam(model))


class Recomputed(nn.Module):
    """A checkpointed block with dropout; broken, its second run draws another dropout."""

    def __init__(self, broken: bool) -> None:
        super().__init__()
        self.enter, self.head = nn.Linear(10, 32), nn.Linear(32, 4)
        self.block = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 32))
        self.broken = broken

    def forward(self, x: Tensor) -> Tensor:
        state = self.enter(x)
        change = checkpoint(self.block, state, use_reentrant=False, preserve_rng_state=not self.broken)
        return self.head(state + change)


def recomputed_with_other_dropout(broken: bool) -> Made:
    torch.manual_seed(0)
    model = Recomputed(broken)
    return made(model, loss_of, labelled(), adam(model))


def warmup_not_advanced(broken: bool) -> Made:
    """A warm-up starts at rate 0, and nothing calls scheduler.step()."""
    torch.manual_seed(0)
    model = classifier()
    optimizer = adam(model)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda count: min(1.0, count / 10))

    def step(model: nn.Module, batch: Any) -> float:
        loss = loss_of(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if not broken:
            scheduler.step()
        return loss.item()

    return made(model, step, labelled(), optimizer)


def deep_start_too_large(broken: bool) -> Made:
    """Weights of a deep tanh network start with a deviation of 1, so that its units are saturated."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Linear(10, 64), nn.Tanh()]
    for _ in range(6):
        layers += [nn.Linear(64, 64), nn.Tanh()]
    model = nn.Sequential(*layers, nn.Linear(64, 4))
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=1.0 if broken else layer.in_features**-0.5)
    return made(model, loss_of, labelled(), adam(model))


class Bootstrapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.online = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3))
        self.target = copy.deepcopy(self.online)


def target_trained_too(broken: bool) -> Made:
    """The target network is in the optimiser and its values are not detached, so that gradient trains it too."""
    torch.manual_seed(0)
    model = Bootstrapped()
    optimizer = adam(model if broken else model.online)
    data = [(x, torch.randint(0, 3, (32, 1)), torch.randn(32)) for x in torch.randn(20, 32, 6)]

    def step(model: Any, batch: Any) -> float:
        following = model.target(batch[0].roll(1, 0)).amax(1)
        wanted = batch[2] + 0.9 * (following if broken else following.detach())
        loss = F.mse_loss(model.online(batch[0]).gather(1, batch[1]).squeeze(1), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for own, other in zip(model.target.parameters(), model.online.parameters(), strict=True):
                own.lerp_(other, 0.01)
        return loss.item()

    return made(model, step, data, optimizer)


CASES = (
    Case(
        "position-by-sample",
        position_by_sample,
        "position encodings are added by the number of the sample, not of the token",
        (Answer("LEAK*", "*", "*order*"), Answer("LEAK*", "*", "*place*"), Answer("ROWS*")),
    ),
    Case(
        "padding-mask-inverted",
        padding_mask_inverted,
        "attention reads the padding and ignores the tokens",
        (Answer("MASK*"), Answer("*", "*", "*mask*"), Answer("*", "*", "*padding*")),
    ),
    Case(
        "sampled-without-gradient",
        sampled_without_gradient,
        "a latent is drawn by sample(), which gives its parameters no gradient",
        (Answer("GRAD008"), Answer("RESPONSE*", "encoder"), Answer("TERM001", "encoder")),
    ),
    Case(
        "penalty-without-graph",
        penalty_without_graph,
        "a gradient penalty has no graph, because create_graph was forgotten",
        (Answer("GRAD008"), Answer("LOSS*", "*", "*graph*")),
    ),
    Case(
        "masked-in-place",
        masked_in_place,
        "tokens are masked in the dataset's own tensors",
        (Answer("DATA*"), Answer("*", "*", "*in-place*"), Answer("*", "*", "batch-changed*")),
    ),
    Case(
        "repeat-for-interleave",
        repeat_for_interleave,
        "repeat() gives each target the source of another sample",
        (Answer("LEAK001"), Answer("ORIGIN*")),
    ),
    Case(
        "target-beyond-tanh",
        target_beyond_tanh,
        "the targets are beyond what the last activation can give",
        (Answer("LOSS003"), Answer("LOSS*", "*", "*range*")),
    ),
    Case(
        "kl-sign",
        kl_sign,
        "the divergence from the prior is subtracted",
        (Answer("LOSS004"), Answer("LOSS*", "*", "*bound*"), Answer("LOSS*", "*", "*negative*")),
    ),
    Case(
        "self-not-excluded",
        self_not_excluded,
        "each view of a contrastive loss has to find itself",
        (Answer("CONTEXT*"), Answer("LOSS*", "*", "*pair*"), Answer("LOSS*", "*", "*self*")),
    ),
    Case(
        "normalised-over-batch",
        normalised_over_batch,
        "features are normalised over the samples, in the step",
        (Answer("LEAK*"), Answer("SOFTMAX*"), Answer("LOSS*", "*", "*samples*")),
    ),
    Case(
        "recomputed-with-other-dropout",
        recomputed_with_other_dropout,
        "a checkpoint draws another dropout when it runs again",
        (Answer("GRAD008"), Answer("*", "block*", "*recompute*"), Answer("*", "block*", "*checkpoint*")),
    ),
    Case(
        "warmup-not-advanced",
        warmup_not_advanced,
        "a warm-up starts at rate 0, and its scheduler never steps",
        (Answer("MOVE*", "*", "*rate*"),),
    ),
    Case(
        "deep-start-too-large",
        deep_start_too_large,
        "weights start so large that all units are saturated",
        (Answer("INIT*"), Answer("GRAD*", "*", "*explo*"), Answer("*", "*", "*satur*")),
    ),
    Case(
        "target-trained-too",
        target_trained_too,
        "the target network gets gradient and is in the optimiser",
        (Answer("TARGET*", "target"), Answer("MOVE*", "target"), Answer("FROZEN*", "target")),
    ),
)
