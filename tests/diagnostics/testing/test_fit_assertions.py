"""The first loss, and one batch learnt by heart."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from diagnostics import CheckFailed, assert_initial_loss, assert_overfits_batch
from tests.diagnostics.refusals import refused
from tests.diagnostics.rules.trainings import Cases, Training, raised

CLASSES = 5
Y = torch.arange(20) % CLASSES


def make(scale: float = 1.0) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, CLASSES))
    return model, scale * torch.randn(20, 8)


def starts(scale: float) -> Training:
    def run(**options: object) -> set[str]:
        model, x = make()
        return raised(
            lambda: assert_initial_loss(
                model, lambda: cross_entropy(scale * model(x), Y), expected=math.log(CLASSES)
            )
        )

    return run


def fits(rate: float, shuffled: bool = False, parts: int = 3) -> Training:
    def run(**options: object) -> set[str]:
        return raised(lambda: overfit(rate, shuffled, parts))

    return run


def overfit(rate: float, shuffled: bool = False, parts: int = 3, **options: float) -> list[float]:
    model, x = make()
    optimizer = torch.optim.Adam(model[:parts].parameters(), rate)

    def step() -> Tensor:
        labels = Y[torch.randperm(20)] if shuffled else Y
        loss = cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return assert_overfits_batch(model, step, **options)  # type: ignore[arg-type]  # numbers by name


CASES: Cases = {
    "INIT001": (starts(100.0), starts(1.0)),
    "FIT001": (fits(0.03, shuffled=True), fits(0.03)),
}


def cause_of(caught: pytest.ExceptionInfo[CheckFailed]) -> str:
    (finding,) = caught.value.findings
    return finding.code


def test_the_first_loss_is_that_of_a_guess_and_the_model_is_left_alone() -> None:
    model, x = make()
    before = [weight.clone() for weight in model.parameters()]
    random = torch.get_rng_state()
    found = assert_initial_loss(
        model, lambda: cross_entropy(model(x + 0 * torch.randn(20, 8)), Y), expected=math.log(CLASSES)
    )
    assert found == pytest.approx(cross_entropy(model(x), Y).item())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("loss", "cause"),
    [
        (lambda logits: cross_entropy(300 * logits, Y), "above-guess"),
        (lambda logits: cross_entropy(logits, Y, reduction="sum"), "above-guess"),
        (lambda logits: 0.1 * cross_entropy(logits, Y), "below-guess"),
        (lambda logits: logits.sum() * math.nan, "loss-not-finite"),
    ],
)
def test_another_first_loss_has_a_cause(loss, cause: str) -> None:
    model, x = make()
    with pytest.raises(CheckFailed) as caught:
        assert_initial_loss(model, lambda: loss(model(x)), expected=math.log(CLASSES))
    assert cause_of(caught) == cause
    first = model[0](x).square().mean().sqrt().item()
    assert [line.split()[0] for line in caught.value.table.splitlines()[2:]] == ["0", "1", "2"]
    assert float(caught.value.table.splitlines()[2].split()[1]) == pytest.approx(first, rel=1e-2)
    with refused(ValueError, "assertions.expected-loss", got=0.0):
        assert_initial_loss(model, lambda: loss(model(x)), expected=0.0)


def test_training_stops_at_the_first_loss_that_is_low_enough() -> None:
    losses = overfit(0.03)
    assert losses[-1] <= 0.1 * losses[0] < losses[-2]
    assert len(losses) < 200


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"rate": 0.03, "shuffled": True}, "stuck"),
        ({"rate": 1e-6}, "stuck"),
        ({"rate": 0.0}, "parameters-still"),
        ({"rate": 0.03, "parts": 1, "to": 1e-6}, "parameters-still"),
        ({"rate": 100.0, "steps": 3}, "diverged"),
    ],
)
def test_a_batch_that_is_not_learnt_has_a_cause(options: dict[str, float], cause: str) -> None:
    with pytest.raises(CheckFailed) as caught:
        overfit(**options)  # type: ignore[arg-type]  # numbers by name
    assert cause_of(caught) == cause
    assert "with gradient" in caught.value.table


def test_one_step_shows_no_fall() -> None:
    with refused(ValueError, "assertions.too-few-steps-to-fit", got=1):
        overfit(0.03, steps=1)


def test_a_loss_without_a_share_is_refused() -> None:
    with refused(ValueError, "assertions.loss-not-above-0", got=-1.0):
        assert_overfits_batch(make()[0], lambda: -1.0, steps=2)
