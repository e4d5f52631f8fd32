"""Twelve faults in plain training loops, after bug reports; written before any rule was changed for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.diagnostics.cases.case import Answer, Case
from tests.diagnostics.cases.faults.further import adam, made_of_lengths
from tests.diagnostics.cases.faults.losses import Made, classifier, labelled, made
from tests.diagnostics.cases.faults.training import loss_of


def overlap_of_decisions(broken: bool) -> Made:
    """Segmentation by cross entropy and overlap; broken, the overlap is that of pixels above a threshold."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 1, 1),
    )
    data = []
    for images in torch.randn(20, 8, 1, 12, 12):
        data.append((images, (F.avg_pool2d(images, 3, 1, 1) > 0.2).float()))

    def step(model: nn.Module, batch: Any) -> Tensor:
        logits = model(batch[0])
        shares = (logits.sigmoid() > 0.5).float() if broken else logits.sigmoid()
        common = (shares * batch[1]).sum((1, 2, 3))
        both = shares.sum((1, 2, 3)) + batch[1].sum((1, 2, 3))
        overlap = (2 * common + 1) / (both + 1)
        return F.binary_cross_entropy_with_logits(logits, batch[1]) + (1 - overlap).mean()

    return made(model, step, data, adam(model))


class Backboned(nn.Module):
    """A convolutional backbone and a new head."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU(), nn.Flatten()
        )
        self.head = nn.Linear(64, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(images))


def frozen_by_name(broken: bool) -> Made:
    """The backbone should be frozen; broken, the attribute is set on the module, where torch does not look."""
    torch.manual_seed(0)
    model = Backboned()
    if broken:
        model.backbone.requires_grad = False
    else:
        model.backbone.requires_grad_(False)
    data = [(x, x.mean((2, 3)).argmax(1)) for x in torch.randn(20, 32, 3, 11, 11)]
    return made(model, loss_of, data, adam(model)) | ({} if broken else {"expect_frozen": ["backbone"]})


class Causal(nn.Module):
    """A small language model, which computes its loss from labels as libraries do: shifted inside."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(24, 32), nn.Embedding(16, 32)
        self.block = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
        self.head = nn.Linear(32, 24)

    def forward(self, ids: Tensor) -> Tensor:
        length = ids.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        x = self.embed(ids) + self.place(torch.arange(length))
        return self.head(self.block(x, src_mask=mask, is_causal=True))


def shifted_twice(broken: bool) -> Made:
    """Labels that the dataset shifted by one, and that the loss shifts again."""
    torch.manual_seed(0)
    model, data = Causal(), []
    for start, stride in zip(
        torch.randint(0, 24, (20, 32, 1)), torch.randint(1, 4, (20, 32, 1)), strict=True
    ):
        ids = (start + stride * torch.arange(12) + (torch.rand(32, 12) < 0.1)) % 24
        labels = torch.cat([ids[:, 1:], torch.full((32, 1), -100)], 1) if broken else ids
        data.append((ids, labels))

    def step(model: nn.Module, batch: Any) -> Tensor:
        logits = model(batch[0])[:, :-1]
        return F.cross_entropy(logits.reshape(-1, 24), batch[1][:, 1:].reshape(-1), ignore_index=-100)

    return made(model, step, data, adam(model))


class Bidirectional(nn.Module):
    """A tagger of whole sequences; broken, the output at the last place is read, where one direction has just begun."""

    def __init__(self, broken: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.lstm = nn.LSTM(16, 24, batch_first=True, bidirectional=True)
        self.head, self.broken = nn.Linear(48, 3), broken

    def forward(self, ids: Tensor) -> Tensor:
        out, (last, _) = self.lstm(self.embed(ids))
        return self.head(out[:, -1] if self.broken else torch.cat([last[0], last[1]], 1))


def one_direction_read_too_early(broken: bool) -> Made:
    torch.manual_seed(0)
    model = Bidirectional(broken)
    data = [(ids, ids[:, 0] % 3) for ids in torch.randint(0, 20, (20, 32, 10))]
    return made(model, loss_of, data, adam(model))


class Packed(nn.Module):
    """Sentences of several lengths, sorted for packing; broken, the result stays in that order."""

    def __init__(self, broken: bool) -> None:
        super().__init__()
        self.embed, self.gru = nn.Embedding(20, 16, padding_idx=0), nn.GRU(16, 24, batch_first=True)
        self.head, self.broken = nn.Linear(24, 3), broken

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        lengths, order = lengths.sort(descending=True)
        packed = nn.utils.rnn.pack_padded_sequence(self.embed(ids[order]), lengths, batch_first=True)
        _, last = self.gru(packed)
        return self.head(last[0] if self.broken else last[0][order.argsort()])


def sorted_and_not_restored(broken: bool) -> Made:
    torch.manual_seed(0)
    return made_of_lengths(Packed(broken))


def advantages_in_a_column(broken: bool) -> Made:
    """Actor and critic; broken, a column of advantages meets a row of log-probabilities."""
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {
            "body": nn.Sequential(nn.Linear(6, 32), nn.Tanh()),
            "policy": nn.Linear(32, 4),
            "value": nn.Linear(32, 1),
        }
    )
    data = []
    for states in torch.randn(20, 64, 6):
        actions = torch.randint(0, 4, (64,))
        data.append((states, actions, (actions == states[:, :4].argmax(1)).float()[:, None]))

    def step(model: Any, batch: Any) -> Tensor:
        states, actions, returns = batch
        features = model["body"](states)
        values = model["value"](features)
        advantages = (returns - values).detach()
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        log_probs = torch.distributions.Categorical(logits=model["policy"](features)).log_prob(actions)
        gained = log_probs * (advantages if broken else advantages.squeeze(1))
        return 0.5 * F.mse_loss(values, returns) - gained.mean()

    return made(model, step, data, adam(model))


def temperature_multiplied(broken: bool) -> Made:
    """Contrast of two views; broken, cosines are multiplied with the temperature."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 16))
    data = [(x + 0.3 * torch.randn(32, 12), x + 0.3 * torch.randn(32, 12)) for x in torch.randn(20, 32, 12)]

    def step(model: nn.Module, batch: Any) -> Tensor:
        first, second = (F.normalize(model(view), dim=1) for view in batch)
        scores = first @ second.T * 0.07 if broken else first @ second.T / 0.07
        labels = torch.arange(len(scores))
        return (F.cross_entropy(scores, labels) + F.cross_entropy(scores.T, labels)) / 2

    return made(model, step, data, adam(model))


class Denoiser(nn.Module):
    """Predicts the noise in a noisy point, given the time."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(1, 32), nn.SiLU(), nn.Linear(32, 64))
        self.enter, self.middle, self.leave = nn.Linear(8, 64), nn.Linear(64, 64), nn.Linear(64, 8)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        state = F.silu(self.enter(x) + self.time(t[:, None] / 100))
        return self.leave(F.silu(self.middle(state)))


def noise_drawn_twice(broken: bool) -> Made:
    """Diffusion; broken, the target is another draw than the noise that was added."""
    torch.manual_seed(0)
    model = Denoiser()
    kept = torch.cumprod(1 - torch.linspace(1e-3, 0.1, 100), 0)
    data = [(3 * torch.sign(torch.randn(64, 1)) + 0.2 * torch.randn(64, 8),) for _ in range(20)]

    def noised(x: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        return kept[t].sqrt()[:, None] * x + (1 - kept[t]).sqrt()[:, None] * noise

    def step(model: nn.Module, batch: Any) -> Tensor:
        x = batch[0]
        t = torch.randint(0, 100, (len(x),))
        noise = torch.randn_like(x)
        noisy = noised(x, t, torch.randn_like(x) if broken else noise)
        return F.mse_loss(model(noisy, t), noise)

    return made(model, step, data, adam(model))


def cosine_in_batches(broken: bool) -> Made:
    """A cosine schedule over ten epochs; broken, it advances with each batch, so that the rate swings up and down."""
    torch.manual_seed(0)
    model, data = classifier(), labelled()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=5)
    seen = [0]

    def step(model: nn.Module, batch: Any) -> float:
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        optimizer.step()
        seen[0] += 1
        if broken or seen[0] % len(data) == 0:
            schedule.step()
        return loss.item()

    return made(model, step, data, optimizer)


class LongReader(nn.Module):
    """Sinusoids for 400 places; broken, the places are counted in the half precision of the activations."""

    def __init__(self, broken: bool) -> None:
        super().__init__()
        self.embed, self.broken = nn.Embedding(20, 16), broken
        self.attend = nn.MultiheadAttention(16, 2, batch_first=True)
        self.head = nn.Linear(16, 20)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        places = torch.arange(ids.shape[1])
        places = places.to(torch.bfloat16) if self.broken else places.float()
        angles = places[:, None].float() / 10 ** torch.linspace(0, 3, 8)
        x = x + torch.cat([angles.sin(), angles.cos()], 1)
        return self.head(x + self.attend(x, x, x, need_weights=False)[0])


def places_in_bfloat16(broken: bool) -> Made:
    torch.manual_seed(0)
    model = LongReader(broken)
    data = [(ids, ids.roll(1, 1)) for ids in torch.randint(0, 20, (20, 8, 400))]

    def step(model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())

    return made(model, step, data, adam(model))


def ranking_of_zero_and_one(broken: bool) -> Made:
    """Which of two is better; broken, the answers are 0 and 1 where the ranking loss takes -1 and 1."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1))
    criterion, data = nn.MarginRankingLoss(margin=0.5), []
    for first, second in zip(torch.randn(20, 32, 10), torch.randn(20, 32, 10), strict=True):
        better = (first[:, 0] > second[:, 0]).float()
        data.append((first, second, better if broken else 2 * better - 1))

    def step(model: nn.Module, batch: Any) -> Tensor:
        return criterion(model(batch[0]).squeeze(1), model(batch[1]).squeeze(1), batch[2])

    return made(model, step, data, adam(model))


def classes_by_view(broken: bool) -> Made:
    """A tag per token; broken, (B, T, C) becomes (B, C, T) by view() instead of a transposition."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(30, 24), nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 5))
    data = [(ids, ids % 5) for ids in torch.randint(0, 30, (20, 16, 9))]

    def step(model: nn.Module, batch: Any) -> Tensor:
        logits = model(batch[0])
        classes_first = logits.view(16, 5, 9) if broken else logits.transpose(1, 2)
        return F.cross_entropy(classes_first, batch[1])

    return made(model, step, data, adam(model))


CASES = (
    Case(
        "overlap-of-decisions",
        overlap_of_decisions,
        "the overlap in a segmentation loss is that of thresholded pixels, which has no gradient",
        (Answer("LOSS006"), Answer("*", "*", "*threshold*")),
    ),
    Case(
        "frozen-by-name",
        frozen_by_name,
        "requires_grad is set on a module, where it is an attribute like any other",
        (
            Answer("*", "backbone*", "*attribute*"),
            Answer("FROZEN*", "backbone*"),
            Answer("HIDDEN*", "backbone*"),
        ),
    ),
    Case(
        "shifted-twice",
        shifted_twice,
        "the dataset shifts the labels, and the loss shifts them again",
        (Answer("LOSS003", "*", "*shift*"), Answer("LABEL*"), Answer("*", "*", "*shifted*")),
    ),
    Case(
        "one-direction-read-too-early",
        one_direction_read_too_early,
        "the backward direction is read at the last token, which is the first that it saw",
        (
            Answer("REACH002", "lstm"),
            Answer("REACH001", "lstm"),
            Answer("*", "lstm", "*direction*"),
            Answer("*", "lstm", "*recurr*"),
        ),
    ),
    Case(
        "sorted-and-not-restored",
        sorted_and_not_restored,
        "the model sorts its samples by length and returns them in that order",
        (Answer("ORIGIN*"), Answer("*", "*", "*order*"), Answer("LEAK001", "*", "*place*")),
    ),
    Case(
        "advantages-in-a-column",
        advantages_in_a_column,
        "a column of advantages is multiplied with a row of log-probabilities",
        (Answer("*", "*", "*broadcast*"), Answer("*", "*", "*pairs*")),
    ),
    Case(
        "temperature-multiplied",
        temperature_multiplied,
        "cosines are multiplied with the temperature, so that the softmax is flat whatever the weights are",
        (
            Answer("SOFTMAX*", "*", "*flat*"),
            Answer("SOFTMAX*", "*", "*soft*"),
            Answer("*", "*", "*temperature*"),
        ),
    ),
    Case(
        "noise-drawn-twice",
        noise_drawn_twice,
        "the target of a diffusion model is another draw than the noise that was added",
        (Answer("*", "*", "*drawn*"), Answer("*", "*", "*random-target*"), Answer("ORIGIN*")),
    ),
    Case(
        "cosine-in-batches",
        cosine_in_batches,
        "a schedule over epochs advances with each batch, so that the rate swings",
        (Answer("*", "*", "*rate*"), Answer("*", "*", "*schedul*")),
    ),
    Case(
        "places-in-bfloat16",
        places_in_bfloat16,
        "positions are counted in bfloat16, which has no odd numbers above 256",
        (Answer("*", "*", "*round*"), Answer("*", "*", "*precision*"), Answer("*", "*", "*collide*")),
    ),
    Case(
        "ranking-of-zero-and-one",
        ranking_of_zero_and_one,
        "a ranking loss takes -1 and 1, and receives 0 and 1",
        (Answer("LOSS003", "*", "*range*"), Answer("LOSS003", "*", "*sign*")),
    ),
    Case(
        "classes-by-view",
        classes_by_view,
        "a view, where a transposition was meant, makes logits of several tokens the classes of one",
        (Answer("ORIGIN*"), Answer("LOSS003", "*", "*class*"), Answer("*", "*", "*view*")),
    ),
)
