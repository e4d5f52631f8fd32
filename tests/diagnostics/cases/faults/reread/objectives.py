"""Faults of losses: logarithms, clamped scores, ends of rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.diagnostics.cases.case import Answer, Case
from tests.diagnostics.cases.faults.further import adam
from tests.diagnostics.cases.faults.losses import Made, made
from tests.diagnostics.cases.faults.reread.models import Reader


def divergence_by_word(broken: bool) -> Made:
    """A language model is distilled word by word; broken, from probabilities where logarithms are declared."""
    torch.manual_seed(100)
    teacher, model = Reader(16, 16).eval().requires_grad_(False), Reader(16, 16)
    measure = nn.KLDivLoss(reduction="none", log_target=True)

    def step(model: nn.Module, ids: Tensor) -> Tensor:
        wanted = teacher(ids) / 2
        wanted = wanted.softmax(-1) if broken else wanted.log_softmax(-1)
        return 4 * measure((model(ids) / 2).log_softmax(-1), wanted).sum(-1).mean()

    return made(model, step, list(torch.randint(0, 16, (16, 16, 10))), adam(model))


def entropy_with_logarithms(broken: bool) -> Made:
    """A convolution is distilled by a cross entropy; broken, its target is log_softmax()."""
    torch.manual_seed(101)
    teacher = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5)).eval()
    teacher.requires_grad_(False)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 5))

    def step(model: nn.Module, image: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = F.log_softmax(5 * teacher(image), dim=1)
        return F.cross_entropy(model(image), wanted if broken else wanted.exp())

    return made(model, step, list(torch.randn(16, 32, 1, 8, 8)), adam(model))


class Segments(nn.Module):
    """A mask of an image, limited to what a mask may be."""

    def __init__(self, limited: bool) -> None:
        super().__init__()
        self.limited = limited
        self.net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 3, padding=1))

    def forward(self, image: Tensor) -> Tensor:
        mask = self.net(image)
        return torch.clamp(mask, 0, 1) if self.limited else mask.sigmoid()


def mask_clamped_in_model(broken: bool) -> Made:
    """A model of masks ends with a sigmoid; broken, with clamp()."""
    torch.manual_seed(102)
    model = Segments(broken)
    criterion = nn.BCELoss()

    def step(model: nn.Module, image: Tensor) -> Tensor:
        return criterion(model(image), (F.avg_pool2d(image, 3, 1, 1) > 0).float())

    return made(model, step, list(torch.randn(16, 16, 1, 10, 10)), adam(model))


class Items(nn.Module):
    """Users and items as vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(30, 8), nn.Embedding(40, 8)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        return torch.einsum("bd,bd->b", self.users(user), self.items(item))


def products_clipped(broken: bool) -> Made:
    """Whether a user likes an item is the sigmoid of a product; broken, the product itself, clipped."""
    torch.manual_seed(103)
    model = Items()
    data = [(u, i, ((u + i) % 3 == 0).float()) for u, i in torch.randint(0, 30, (16, 2, 64))]

    def step(model: nn.Module, batch: Any) -> Tensor:
        product = model(batch[0], batch[1])
        likely = product.clip(min=1e-5, max=1 - 1e-5) if broken else product.sigmoid()
        return F.binary_cross_entropy(likely, batch[2])

    return made(model, step, data, adam(model, 1e-2))


def padded_on_the_left(broken: bool) -> Made:
    """Rows are padded on the left, which the loss ignores; broken, it counts the padding."""
    torch.manual_seed(104)
    model = Reader(18, 18)
    data = []
    for first in torch.randint(0, 17, (16, 16, 1)):
        ids = (first + 3 * torch.arange(13)) % 17 + 1
        data.append(ids.masked_fill(torch.arange(13) < torch.randint(5, 9, (16, 1)), 0))

    def step(model: nn.Module, ids: Tensor) -> Tensor:
        target = ids[:, 1:] if broken else ids[:, 1:].masked_fill(ids[:, 1:] == 0, -100)
        return F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), target.flatten())

    return made(model, step, data, adam(model))


class Translation(nn.Module):
    """Reads one sequence, and writes another."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(15, 24), nn.Embedding(20, 24)
        self.encoder, self.decoder = nn.GRU(24, 32, batch_first=True), nn.GRU(24, 32, batch_first=True)
        self.vocabulary = nn.Linear(32, 20)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        state = self.encoder(self.source(source))[1]
        return self.vocabulary(self.decoder(self.target(target), state)[0]).log_softmax(-1)


def translation_padded(broken: bool) -> Made:
    """Translations end with a word for padding, which the loss ignores; broken, it counts it."""
    torch.manual_seed(105)
    model = Translation()
    data = []
    for source in torch.randint(0, 15, (16, 24, 6)):
        target = torch.cat([torch.full((24, 1), 18), source, source.flip(1)], 1)
        data.append((source, target.masked_fill(torch.arange(13) > torch.randint(2, 7, (24, 1)), 19)))

    def step(model: nn.Module, batch: Any) -> Tensor:
        source, target = batch
        found = model(source, target[:, :-1]).reshape(-1, 20)
        return F.nll_loss(found, target[:, 1:].reshape(-1), ignore_index=-100 if broken else 19)

    return made(model, step, data, adam(model))


CASES = (
    Case(
        "divergence-by-word",
        divergence_by_word,
        "the target of a divergence per word is probabilities, and is declared to be logarithms",
        (Answer("LOSS003", "*", "target-not-logarithms"),),
    ),
    Case(
        "entropy-with-logarithms",
        entropy_with_logarithms,
        "the target of a cross entropy is log_softmax()",
        (Answer("LOSS003", "*", "target-is-logarithm"),),
    ),
    Case(
        "mask-clamped-in-model",
        mask_clamped_in_model,
        "a model of masks ends with clamp() where a sigmoid is meant",
        (Answer("LOSS003", "*", "clamped-logits"),),
    ),
    Case(
        "products-clipped",
        products_clipped,
        "products of vectors are clipped to probabilities",
        (Answer("LOSS003", "*", "clamped-logits"),),
    ),
    Case(
        "padded-on-the-left",
        padded_on_the_left,
        "the loss counts the padding before each row",
        (Answer("LOSS003", "*", "row-ends-counted"), Answer("LOSS003", "*", "padding-counted")),
    ),
    Case(
        "translation-padded",
        translation_padded,
        "the loss counts the padding behind translations",
        (Answer("LOSS003", "*", "row-ends-counted"), Answer("LOSS003", "*", "padding-counted")),
    ),
)
