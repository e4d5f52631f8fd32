"""Audits of models on a device whose steps take batches of the host: the findings are those of the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diagnostics import audit
from etrm.device import to_device
from tests.devices.conftest import entered
from tests.devices.simulated import DEVICE

HOST = torch.device("cpu")
SAMPLES, TOKENS, CLASSES = 12, 6, 4
Parts = dict[str, Tensor]


class Reader(nn.Module):
    """Tokens -> their sums so far -> scores; its parts are switched on by name.

    Args:
        parts: what the forward pass has besides: ``state`` of the call before, ``dropout`` that is always on, ``relu``
            on the scores, ``attention`` with a mask that multiplies the scores.
    """

    def __init__(self, *parts: str) -> None:
        super().__init__()
        self.parts = parts
        self.state: Tensor | None = None
        self.embed, self.read = nn.Embedding(9, 8), nn.Linear(8, 8)
        self.score = nn.Linear(8, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) -> (B, T, C)."""
        hidden = self.embed(tokens)
        if "attention" in self.parts:
            scores = (hidden @ hidden.transpose(1, 2)) * (tokens > 0)[:, None, :]
            hidden = hidden + scores.softmax(-1) @ hidden
        hidden = self.read(hidden).cumsum(1)
        if "state" in self.parts:
            hidden = hidden if self.state is None else hidden + self.state[:, None]
            self.state = hidden[:, -1].detach()
        hidden = hidden.tanh()
        if "dropout" in self.parts:
            hidden = F.dropout(hidden, 0.5)
        found = self.score(hidden)
        return found.relu() if "relu" in self.parts else found


def draw(number: int) -> Parts:
    """A batch on the host."""
    drawn = torch.Generator().manual_seed(number)
    tokens = torch.randint(1, 9, (SAMPLES, TOKENS), generator=drawn)
    lengths = torch.randint(2, TOKENS + 1, (SAMPLES,), generator=drawn)
    tokens[torch.arange(TOKENS) >= lengths[:, None]] = 0
    return {
        "tokens": tokens,
        "lengths": lengths,
        "labels": tokens.cumsum(1) % CLASSES,
        "label": tokens.sum(1) % CLASSES,
    }


Read = Callable[[nn.Module, Parts], Tensor]


def per_token(model: nn.Module, batch: Parts) -> Tensor:
    return F.cross_entropy(model(batch["tokens"]).flatten(0, 1), batch["labels"].flatten())


def per_token_ignored(model: nn.Module, batch: Parts) -> Tensor:
    return F.cross_entropy(model(batch["tokens"]).flatten(0, 1), batch["labels"].flatten(), ignore_index=1)


def per_sample(model: nn.Module, batch: Parts) -> Tensor:
    return F.cross_entropy(model(batch["tokens"])[:, -1], batch["label"])


def sorted_apart(model: nn.Module, batch: Parts) -> Tensor:
    return F.cross_entropy(model(batch["tokens"][batch["lengths"].argsort()])[:, -1], batch["label"])


def time_first(model: nn.Module, batch: Parts) -> Tensor:
    return F.cross_entropy(model(batch["tokens"]).transpose(0, 1).flatten(0, 1), batch["labels"].flatten())


CASES: dict[str, tuple[tuple[str, ...], Read, set[str]]] = {
    "tokens": ((), per_token, set()),
    "samples": ((), per_sample, set()),
    "a class is ignored": ((), per_token_ignored, {"LOSS003"}),
    "sorted apart": ((), sorted_apart, {"ORIGIN001"}),
    "time first": ((), time_first, {"ORIGIN001"}),
    "a state is kept": (("state",), per_sample, {"STATE001"}),
    "dropout is always on": (("dropout",), per_sample, {"MODE004"}),
    "relu on logits": (("relu",), per_sample, {"LOSS003"}),
    "a mask is multiplied": (("attention",), per_sample, {"SOFTMAX001"}),
}


TWICE = ("samples", "time first", "relu on logits", "a class is ignored", "a mask is multiplied")
"""Cases whose rules, or layout, another case has: left to `make test-slow`."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in TWICE else []) for name in CASES]
)
def test_findings_are_those_of_the_host(name: str, place: str) -> None:
    parts, read, expected = CASES[name]

    def find(device: torch.device) -> set[tuple[str, str, str]]:
        torch.manual_seed(0)
        model = to_device(Reader(*parts), device)
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)

        def step(model: nn.Module, batch: Parts) -> Any:
            return read(model, {key: to_device(value, device) for key, value in batch.items()})

        found = audit(model, step, [draw(number) for number in range(6)], optimizer, steps=12).findings
        return {(each.rule, each.module, each.cause) for each in found}

    on_host = find(HOST)
    assert {rule for rule, *_ in on_host} >= expected
    with entered(place):
        assert find(DEVICE) == on_host
