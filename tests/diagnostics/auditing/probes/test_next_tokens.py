"""A monitor sees that a model of the next token attends to it; masks, other targets and encoders are no fault."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diagnostics import Monitor, audit


class Model(nn.Module):
    def __init__(self, causal: bool, own: bool, source: bool) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(12, 8), nn.Linear(8, 12)
        self.layer = nn.MultiheadAttention(8, 2, batch_first=True)
        self.causal, self.own, self.source = causal, own, source

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        if self.source:  # reads the whole sequence, as of the other language
            x = x + F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None])[:, 0]
        if self.own:
            mask = nn.Transformer.generate_square_subsequent_mask(ids.shape[1])
            x = self.layer(x, x, x, attn_mask=mask if self.causal else None, need_weights=False)[0]
        else:
            x = F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None], is_causal=self.causal)[
                :, 0
            ]
        return self.head(x)


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize(
    ("causal", "shift", "source", "sees"),
    [(False, 1, False, True), (True, 1, False, False), (False, 0, False, False), (True, 1, True, False)],
)
def test_attention_without_a_mask(own: bool, causal: bool, shift: int, source: bool, sees: bool) -> None:
    torch.manual_seed(0)
    model = Model(causal, own, source)
    monitor = Monitor(model, torch.optim.SGD(model.parameters(), 1e-2))
    for _ in range(12):
        words = torch.randint(0, 12, (6, 9))
        ids, target = words[:, :8], words[:, shift : 8 + shift]
        with monitor.step(samples=6):
            F.cross_entropy(model(ids).flatten(0, 1), target.flatten()).backward()
    assert ("LEAK002" in {each.rule for each in monitor.findings()}) == sees


class ByHand(nn.Module):
    def __init__(self, mask: Tensor | None, source: bool) -> None:
        super().__init__()
        self.embed, self.place, self.head = nn.Embedding(12, 8), nn.Embedding(8, 8), nn.Linear(8, 12)
        self.reads = nn.Linear(8, 24)
        self.mask, self.source = mask, source

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids) + self.place(torch.arange(8).expand_as(ids))
        q, k, v = self.reads(x).chunk(3, -1)
        if self.source:  # the words of another language, as long by chance
            k = v = self.embed(ids.flip(0))
        scores = q @ k.mT / 8**0.5
        if self.mask is not None:
            scores = scores.masked_fill(self.mask, -torch.inf)
        return self.head(x + F.dropout(scores.softmax(-1), 0.1) @ v)


@pytest.mark.parametrize(
    ("mask", "source", "sees"),
    [
        (None, False, True),
        (None, True, False),
        (torch.ones(8, 8, dtype=torch.bool).triu(1), False, False),
        (torch.ones(8, 8, dtype=torch.bool).triu(2), False, True),
        (torch.ones(8, 8, dtype=torch.bool).tril(-1), False, True),
    ],
    ids=["none", "other words", "causal", "one too far", "inverted"],
)
def test_the_mask_of_an_attention_by_hand(mask: Tensor | None, source: bool, sees: bool) -> None:
    torch.manual_seed(0)
    model = ByHand(mask, source)
    monitor = Monitor(model, torch.optim.SGD(model.parameters(), 1e-2))
    for _ in range(12):
        words = torch.randint(0, 12, (6, 9))
        with monitor.step(samples=6):
            F.cross_entropy(model(words[:, :8]).flatten(0, 1), words[:, 1:].flatten()).backward()
    assert ("LEAK002" in {each.rule for each in monitor.findings()}) == sees


class PrefixModel(nn.Module):
    """A place sees the places before it, and those of the prefix see all of the prefix."""

    def __init__(self, prefix: int) -> None:
        super().__init__()
        self.embed, self.place, self.head = nn.Embedding(12, 8), nn.Embedding(16, 8), nn.Linear(8, 12)
        self.hidden = torch.ones(16, 16, dtype=torch.bool).triu(1)
        self.hidden[:prefix, :prefix] = False

    def forward(self, ids: Tensor) -> Tensor:
        x = (self.embed(ids) + self.place(torch.arange(16)))[:, None]
        return self.head(x + F.scaled_dot_product_attention(x, x, x, attn_mask=~self.hidden))[:, 0]


@pytest.mark.parametrize(("prefix", "sees"), [(0, False), (12, False), (16, True)])
def test_targets_of_which_a_prompt_is_left_out(prefix: int, sees: bool) -> None:
    torch.manual_seed(0)
    model, words = PrefixModel(prefix), torch.randint(0, 12, (6, 17))
    target = words[:, 1:].clone()
    target[:, : max(prefix % 16 - 1, 3)] = -100
    found = audit(model, lambda net, ids: F.cross_entropy(net(ids).mT, target), [words[:, :16]], steps=2)
    assert ("LEAK002" in {each.rule for each in found.findings}) == sees


@pytest.mark.parametrize("causal", [True, False])
def test_parts_of_a_batch_are_no_other_sequences(causal: bool) -> None:
    torch.manual_seed(0)
    model = Model(causal, own=False, source=False)
    monitor = Monitor(model, torch.optim.SGD(model.parameters(), 1e-2))
    for _ in range(12):
        with monitor.step(samples=12):
            for words in torch.randint(0, 12, (2, 6, 9)):
                F.cross_entropy(model(words[:, :8]).flatten(0, 1), words[:, 1:].flatten()).backward()
    assert ("LEAK002" in {each.rule for each in monitor.findings()}) != causal
