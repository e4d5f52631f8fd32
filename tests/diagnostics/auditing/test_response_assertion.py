"""A module whose result is cut off, unused or saturated fails; a healthy one passes and stays what it was."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from diagnostics import CheckFailed, assert_responds
from tests.diagnostics.auditing.test_responses import PATHS, Chooser, X, terms
from tests.diagnostics.refusals import refused


def loss_of(path: str) -> tuple[nn.Module, object]:
    model = Chooser(PATHS[path][0])
    return model, lambda: terms(model, X)


@pytest.mark.parametrize(
    ("path", "rule", "code"),
    [
        ("argmax", "RESPONSE001", "scalar-read"),
        ("not read", "RESPONSE002", "result-unused"),
        ("saturated", "RESPONSE003", "unit-saturated"),
    ],
)
def test_a_module_that_the_loss_cannot_train_is_named_with_its_cause(path: str, rule: str, code: str) -> None:
    model, loss = loss_of(path)
    with pytest.raises(CheckFailed) as caught:
        assert_responds(model, loss, regularisers=["entropy"])  # type: ignore[arg-type]  # a closure
    first = caught.value.findings[0]
    assert (first.rule, first.module, first.code) == (rule, "selector", code)
    assert first.remedy in " ".join(str(caught.value).split())
    assert_responds(model, loss, regularisers=["entropy"], ignore=["selector", "encoder", "norm"])  # type: ignore[arg-type]


def test_a_healthy_model_passes_and_is_restored() -> None:
    model, loss = loss_of("mixture")
    before = [weight.clone() for weight in model.parameters()]
    found = assert_responds(model, loss, regularisers=["entropy"])  # type: ignore[arg-type]  # a closure
    assert found["selector"]["task"].verdict == "healthy"
    assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))


def test_nothing_to_judge_is_no_pass() -> None:
    model = nn.Sequential(nn.Linear(2, 2))

    def loss() -> Tensor:
        return model(torch.ones(3, 2)).square().mean()

    with refused(ValueError, "assertions.no-module-responds"):
        assert_responds(model, loss, ignore=["*"])
    with refused(ValueError, "selection.no-match", argument="ignore", got="encoder"):
        assert_responds(model, loss, ignore=["encoder"])
