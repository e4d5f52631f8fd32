"""An exception that follows numbers that are not finite is introduced by the function that made the first of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from diagnostics import Severity
from diagnostics.auditing.case_file import UserError, audit_file
from diagnostics.auditing.exceptions import find_broken_number
from diagnostics.auditing.scripts.script import audit_script
from diagnostics.findings import Finding


def finding_of(compute: Callable[[Tensor], object]) -> Finding | None:
    weights = torch.full((4,), 200.0, requires_grad=True)
    with pytest.raises(ValueError, match="refused") as caught:
        compute(weights)
    return find_broken_number(caught.value)


def refuse(values: object) -> None:
    raise ValueError("refused")


def overflows(weights: Tensor) -> None:
    powers = weights.exp()
    shares = powers / powers.sum()
    refuse(shares)


def logarithm(weights: Tensor) -> None:
    gap = (weights - 200.0).relu()
    product = gap.log() * gap
    refuse({"of": [product]})


def root(weights: Tensor) -> None:
    below = (weights - 300.0).sqrt()
    scores = torch.stack([below, below]).softmax(0)
    refuse(scores)


def finite(weights: Tensor) -> None:
    shares = weights.softmax(0)
    refuse(shares)


def masked(weights: Tensor) -> None:
    """Minus infinity hides a score on purpose."""
    scores = weights.masked_fill(torch.tensor([True, False, False, False]), -torch.inf)
    refuse(scores.softmax(0))


def data(weights: Tensor) -> None:
    given = torch.tensor([1.0, torch.nan])
    refuse(given)


@pytest.mark.parametrize(
    ("compute", "function"), [(overflows, "exp()"), (logarithm, "log()"), (root, "sqrt()"), (data, "")]
)
def test_the_first_function_is_named(compute: Callable[[Tensor], object], function: str) -> None:
    found = finding_of(compute)
    assert found is not None
    assert (found.rule, found.severity) == ("REACH003", Severity.CRITICAL)
    assert found.code == ("overflow-in-operation" if function else "overflow")
    assert function in found.cause
    assert f"{Path(__file__).name}:" in found.message


@pytest.mark.parametrize("compute", [finite, masked])
def test_other_exceptions_are_left_alone(compute: Callable[[Tensor], object]) -> None:
    assert finding_of(compute) is None


SCRIPT = """
import torch
from torch import nn

def make_case():
    net = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(net.parameters(), 1e-3)
    return {"model": net, "step": step, "batches": [torch.ones(8, 4)], "optimizer": optimizer}

def step(model, x):
    shares = model(x).add(1000).exp()
    shares = shares / shares.sum(1, keepdim=True)
    return -torch.distributions.Categorical(shares, validate_args=True).log_prob(torch.zeros(len(x))).mean()

if __name__ == "__main__":
    case = make_case()
    for number in range(4):
        if number < 2:
            loss = case["model"](case["batches"][0]).square().mean()
        else:
            loss = step(case["model"], case["batches"][0])
        case["optimizer"].zero_grad()
        loss.backward()
        case["optimizer"].step()
"""


def test_it_comes_before_the_traceback_of_scripts_and_cases(tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_text(SCRIPT)
    report = audit_script(path)
    first = report.findings[0]
    assert (report.ending, first.rule, first.code) == ("raised", "REACH003", "overflow-in-operation")
    assert "exp()" in first.cause
    with pytest.raises(UserError) as caught:
        audit_file(f"{path}:make_case")
    text = str(caught.value)
    assert text.index("REACH003") < text.index("Traceback")
