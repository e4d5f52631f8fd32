"""Eight faults that were written once the rules of `forum` stood: segmentation, values, order of a step; own code."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.diagnostics.cases.case import Answer, Case
from tests.diagnostics.cases.faults.further import adam
from tests.diagnostics.cases.faults.losses import Made, classifier, labelled, made


def _blobs(batches: int = 16) -> list[tuple[Tensor, Tensor]]:
    """(16, 1, 12, 12) images with a bright square in the left half, and its mask."""
    data = []
    for _ in range(batches):
        masks = torch.zeros(16, 1, 12, 12)
        for mask in masks:
            top, left = int(torch.randint(0, 7, ())), int(torch.randint(0, 3, ()))
            mask[:, top : top + 5, left : left + 4] = 1
        data.append((masks + 0.3 * torch.randn_like(masks), masks))
    return data


def _segmenter() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 12, 3, 1, 1), nn.ReLU(), nn.Conv2d(12, 1, 3, 1, 1))


def dice_of_logits(broken: bool) -> Made:
    """The overlap of a mask and probabilities; broken, of a mask and logits, which has no bound."""
    torch.manual_seed(0)
    model = _segmenter()

    def step(model: nn.Module, batch: Any) -> Tensor:
        found = model(batch[0]) if broken else model(batch[0]).sigmoid()
        both = (found * batch[1]).sum((1, 2, 3))
        return 1 - ((2 * both + 1) / (found.sum((1, 2, 3)) + batch[1].sum((1, 2, 3)) + 1)).mean()

    return made(model, step, _blobs(), adam(model))


def flipped_image_alone(broken: bool) -> Made:
    """Half of the images are mirrored; broken, their masks are not."""
    torch.manual_seed(0)
    model = _segmenter()

    def step(model: nn.Module, batch: Any) -> Tensor:
        images, masks = batch
        chosen = (torch.rand(len(images)) < 0.5)[:, None, None, None]
        images = torch.where(chosen, images.flip(3), images)
        masks = masks if broken else torch.where(chosen, masks.flip(3), masks)
        return F.binary_cross_entropy_with_logits(model(images), masks)

    return made(model, step, _blobs(), adam(model))


class Translator(nn.Module):
    """An encoder of the source, and a decoder that reads the words written so far."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(12, 24), nn.Embedding(12, 24)
        self.encoder, self.decoder = nn.GRU(24, 32, batch_first=True), nn.GRU(24, 32, batch_first=True)
        self.head = nn.Linear(32, 12)

    def forward(self, source: Tensor, written: Tensor) -> Tensor:
        _, state = self.encoder(self.source(source))
        return self.head(self.decoder(self.target(written), state)[0])


def decoder_fed_its_target(broken: bool) -> Made:
    """The decoder reads the words before the one that it writes; broken, that word too."""
    torch.manual_seed(0)
    model = Translator()
    data = []
    for source in torch.randint(2, 12, (20, 16, 7)):
        data.append((source, (source.flip(1) - 1) % 10 + 2))

    def step(model: nn.Module, batch: Any) -> Tensor:
        source, target = batch
        start = torch.ones(len(target), 1, dtype=torch.long)
        written = target if broken else torch.cat([start, target[:, :-1]], 1)
        return F.cross_entropy(model(source, written).transpose(1, 2), target)

    return made(model, step, data, adam(model))


def td_target_with_gradient(broken: bool) -> Made:
    """The value of a state follows that of the next one; broken, that one follows it as well."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 1))

    def step(model: nn.Module, batch: Any) -> Tensor:
        state, reward, following = batch
        ahead = model(following).squeeze(1)
        target = reward + 0.95 * (ahead if broken else ahead.detach())
        return F.mse_loss(model(state).squeeze(1), target)

    data = []
    for state in torch.randn(20, 32, 4):
        data.append((state, state[:, 0].tanh(), 0.9 * state + 0.3 * torch.randn_like(state)))
    return made(model, step, data, adam(model))


class Weighted(nn.Module):
    """Two heads, and a weight of each loss that is learnt."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(10, 32), nn.ReLU())
        self.classes, self.size = nn.Linear(32, 4), nn.Linear(32, 1)
        self.weights = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        found = self.body(x)
        return self.classes(found), self.size(found).squeeze(1)


def loss_weights_free(broken: bool) -> Made:
    """Weights of two losses are learnt; broken, without the term that keeps them from going to zero."""
    torch.manual_seed(0)
    model = Weighted()
    optimizer = torch.optim.Adam(
        [
            {"params": [p for name, p in model.named_parameters() if name != "weights"], "lr": 1e-3},
            {"params": [model.weights], "lr": 0.1},
        ]
    )

    def step(model: Any, batch: Any) -> Tensor:
        scores, size = model(batch[0])
        losses = torch.stack([F.cross_entropy(scores, batch[1]), F.mse_loss(size, batch[0][:, 4])])
        weighted = ((-model.weights).exp() * losses).sum()
        return weighted if broken else weighted + model.weights.sum()

    return made(model, step, labelled(), optimizer)


def clipped_before_backward(broken: bool) -> Made:
    """Gradients are clipped; broken, before there are any."""
    torch.manual_seed(0)
    model = classifier()
    optimizer = torch.optim.SGD(model.parameters(), 0.5, momentum=0.9)

    def step(model: nn.Module, batch: Any) -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(batch[0]), batch[1])
        if broken:
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        loss.backward()
        if not broken:
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        return loss.item()

    return made(model, step, labelled(), optimizer)


class Distilled(nn.Module):
    """A student, and a frozen teacher with dropout."""

    def __init__(self, broken: bool) -> None:
        super().__init__()
        self.student = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 4))
        self.teacher = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 4))
        self.teacher.requires_grad_(False)
        self.broken = broken
        self.train()

    def train(self, mode: bool = True) -> Distilled:
        super().train(mode)
        if not self.broken:
            self.teacher.eval()
        return self


def teacher_with_dropout(broken: bool) -> Made:
    """Distillation; broken, the teacher is in training mode, so that its answers are random."""
    torch.manual_seed(0)
    model = Distilled(broken)

    def step(model: Any, batch: Any) -> Tensor:
        with torch.no_grad():
            wanted = (3 * model.teacher(batch[0])).softmax(1)
        return F.kl_div(model.student(batch[0]).log_softmax(1), wanted, reduction="batchmean")

    optimizer = torch.optim.Adam(model.student.parameters(), 3e-3)
    return made(model, step, labelled(), optimizer)


class Timed(nn.Module):
    """Predicts the noise in a point, from the time too."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Embedding(50, 32)
        self.enter, self.leave = nn.Linear(2, 32), nn.Linear(32, 2)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.leave(F.silu(self.enter(x) + self.time(time)))


def time_drawn_twice(broken: bool) -> Made:
    """Diffusion; broken, the model receives another time than that of the noise."""
    torch.manual_seed(0)
    model = Timed()
    kept = (1 - torch.linspace(1e-3, 0.12, 50)).cumprod(0)

    def step(model: nn.Module, batch: Any) -> Tensor:
        (x,) = batch
        time, noise = torch.randint(0, 50, (len(x),)), torch.randn_like(x)
        noisy = kept[time].sqrt()[:, None] * x + (1 - kept[time]).sqrt()[:, None] * noise
        told = torch.randint(0, 50, (len(x),)) if broken else time
        return F.mse_loss(model(noisy, told), noise)

    angles = 6.3 * torch.rand(20, 64)
    data = [(torch.stack([angle.cos(), angle.sin()], 1),) for angle in angles]
    return made(model, step, data, adam(model))


CASES = (
    Case(
        "dice-of-logits",
        dice_of_logits,
        "the overlap in a segmentation loss is that of logits, not of probabilities",
        (Answer("LOSS003", "*", "*logit*"), Answer("LOSS003", "*", "*bound*")),
    ),
    Case(
        "flipped-image-alone",
        flipped_image_alone,
        "images are mirrored and their masks are not",
        (Answer("ORIGIN001"), Answer("*", "*", "*flip*"), Answer("*", "*", "*augment*")),
    ),
    Case(
        "decoder-fed-its-target",
        decoder_fed_its_target,
        "the decoder is given the word that it has to write",
        (Answer("LEAK002"), Answer("LEAK003"), Answer("LOSS003", "*", "not-shifted")),
    ),
    Case(
        "td-target-with-gradient",
        td_target_with_gradient,
        "the value of the next state, which is the target, has a gradient too",
        (Answer("LOSS003", "*", "both-sides-trained"), Answer("TARGET*")),
    ),
    Case(
        "loss-weights-free",
        loss_weights_free,
        "weights of losses are learnt, and nothing keeps them from going to zero",
        (Answer("*", "*", "*weight*free*"), Answer("TERM*"), Answer("LOSS*", "*", "*factor*")),
    ),
    Case(
        "clipped-before-backward",
        clipped_before_backward,
        "gradients are clipped before there are any",
        (Answer("MOVE007"), Answer("*", "*", "*clip*")),
    ),
    Case(
        "teacher-with-dropout",
        teacher_with_dropout,
        "a frozen teacher is in training mode, so that its answers are random",
        (Answer("MODE*", "teacher*"), Answer("*", "teacher*", "*dropout*")),
    ),
    Case(
        "time-drawn-twice",
        time_drawn_twice,
        "a diffusion model receives another time than that of the noise",
        (
            Answer("LOSS003", "*", "*drawn*"),
            Answer("INPUT*", "*", "*drawn*"),
            Answer("*", "*", "*unrelated*"),
        ),
    ),
)
