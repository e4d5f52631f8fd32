"""Settings of loss functions against the targets that they receive, each with a sound use next to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diagnostics.auditing.probes.operations.loss_arguments import judge_arguments
from diagnostics.auditing.replay import trace_step

COUNTS = torch.tensor([80.0, 16.0, 4.0])  # of a hundred samples
RARE = (torch.arange(100) > 89).float()[:, None]  # a tenth is positive


def labels() -> Tensor:
    return torch.repeat_interleave(torch.arange(3), COUNTS.long())


def entropy(**settings: Any) -> Callable[[Tensor], Tensor]:
    return lambda scores: F.cross_entropy(scores, labels(), **settings)


def soft(targets: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda scores: F.cross_entropy(scores, targets)


def binary(weight: float) -> Callable[[Tensor], Tensor]:
    return lambda scores: F.binary_cross_entropy_with_logits(
        scores[:, :1], RARE, pos_weight=torch.tensor([weight])
    )


def alignment(letters: Tensor, **settings: Any) -> Callable[[Tensor], Tensor]:
    def loss(scores: Tensor) -> Tensor:
        known = scores.reshape(10, 10, 3).log_softmax(2)  # ten frames of ten samples
        return F.ctc_loss(known, letters, torch.full((10,), 10), torch.full((10,), 3), **settings)

    return loss


padded = torch.cat([torch.ones(10, 3, dtype=torch.long), torch.zeros(10, 2, dtype=torch.long)], 1)
hot = F.one_hot(labels(), 3).float()
several = (torch.arange(300).reshape(100, 3) % 2).float() + torch.tensor([1.0, 0.0, 0.0])
WRONG = {
    "smoothed-away": entropy(label_smoothing=0.9),
    "several-classes": soft(several.clamp(max=1.0)),
    "weights-are-frequencies": entropy(weight=COUNTS / 100),
    "blank-in-targets": alignment(torch.arange(30).reshape(10, 3) % 3),
}
SOUND = {
    "a little smoothing": entropy(label_smoothing=0.2),
    "one of several": soft(hot),
    "a mixture": soft(0.6 * hot + 0.4 * hot.flip(0)),
    "weights of samples in the targets": soft(3 * hot),
    "inverse weights": entropy(weight=1 / COUNTS),
    "equal weights": entropy(weight=torch.ones(3)),
    "one class counts more": entropy(weight=torch.tensor([1.0, 1.0, 5.0])),
    "negatives over positives": binary(9.0),
    "letters from one": alignment(torch.arange(30).reshape(10, 3) % 2 + 1),
    "another blank": alignment(torch.arange(30).reshape(10, 3) % 2, blank=2),
    "padding behind the letters": alignment(padded),
}


def codes(loss: Callable[[Tensor], Tensor], steps: int = 3) -> set[str]:
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    traces = [
        trace_step(model, lambda model, x: loss(model(x)), torch.randn(100, 4), []) for _ in range(steps)
    ]
    return {cause.code for _, cause in judge_arguments([each for each in traces if each is not None])}


@pytest.mark.parametrize("code", WRONG)
def test_what_contradicts_the_targets_is_named(code: str) -> None:
    assert codes(WRONG[code]) == {code}


def test_the_weight_of_rare_positives_is_the_inverse_of_their_odds() -> None:
    assert codes(binary(1 / 9)) == {"weights-are-frequencies"}


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_use_is_quiet(name: str) -> None:
    assert codes(SOUND[name]) == set()


def test_no_step_shows_nothing() -> None:
    assert codes(WRONG["smoothed-away"], steps=0) == set()
