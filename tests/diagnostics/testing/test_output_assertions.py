"""Whether samples get other outputs at other places of a batch, for batches of every form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from diagnostics import audit
from diagnostics.testing.failure import CheckFailed
from diagnostics.testing.output_assertions import (
    COMPETE,
    LEAK001,
    MIXES_SAMPLES,
    PLACE_IN_BATCH,
    RETURNS_SORTED,
    assert_sample_independence,
    find_place_dependence,
)

B = 8


class Named(NamedTuple):
    x: Tensor
    lengths: Any


@dataclass(frozen=True)
class Frozen:
    x: Tensor
    lengths: Any


class Loose:
    """A batch of a class that nobody knows."""

    def __init__(self, x: Tensor, lengths: Any) -> None:
        self.x, self.lengths = x, lengths


class Model(nn.Module):
    def __init__(self, placed: bool) -> None:
        super().__init__()
        self.layer, self.placed = nn.Linear(4, 3), placed

    def forward(self, batch: Any) -> Tensor:
        h: Tensor = self.layer(batch.x)
        h = h / torch.as_tensor(batch.lengths).view(-1, 1)
        return h + torch.arange(len(h))[:, None] if self.placed else h


LENGTHS = torch.arange(1.0, B + 1)
FORMS: dict[str, Callable[[Tensor], Any]] = {
    "named": lambda x: Named(x, LENGTHS),
    "dataclass": lambda x: Frozen(x, LENGTHS),
}
UNSEEN: dict[str, Callable[[Tensor], Any]] = {
    "numbers": lambda x: Named(x, LENGTHS.tolist()),
    "object": lambda x: Loose(x, LENGTHS),
}


def place_dependence(placed: bool, form: Callable[[Tensor], Any]) -> Any:
    torch.manual_seed(0)
    batch = form(torch.randn(B, 4))
    inputs = [batch, torch.zeros(B)]  # the second says how many samples there are
    return find_place_dependence(
        Model(placed), inputs, forward=lambda given: Model.forward(MODELS[placed], given[0]), watch=()
    )


MODELS = {placed: Model(placed) for placed in (False, True)}


@pytest.mark.parametrize("form", FORMS)
def test_samples_are_moved_in_every_form(form: str) -> None:
    found = place_dependence(True, FORMS[form])
    assert (found.rule, found.code) == (LEAK001.id, PLACE_IN_BATCH.code)
    assert place_dependence(False, FORMS[form]) is None


@pytest.mark.parametrize("form", UNSEEN)
@pytest.mark.parametrize("placed", [False, True])
def test_values_of_samples_that_do_not_move_decide_nothing(form: str, placed: bool) -> None:
    assert place_dependence(placed, UNSEEN[form]) is None


@pytest.mark.parametrize("form", [*FORMS, *UNSEEN])
def test_an_audit_accuses_no_form_of_a_batch(form: str) -> None:
    torch.manual_seed(0)
    model = Model(placed=False)
    batches = [(FORMS | UNSEEN)[form](torch.randn(B, 4)) for _ in range(3)]
    report = audit(
        model,
        lambda model, batch: (model(batch) - batch.x[:, :3]).square().mean(),
        batches,
        optimizer=torch.optim.SGD(model.parameters(), 1e-2),
        samples=lambda batch: len(batch.x),
        steps=4,
    )
    assert "LEAK001" not in {finding.rule for finding in report.findings}


class Sorting(nn.Module):
    """Sorts its samples by their first feature, and puts them back, or not, or one place off, or mixes neighbours."""

    def __init__(self, then: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.head, self.then = nn.Linear(4, 5), nn.Linear(5, 2), then

    def forward(self, x: Tensor) -> Tensor:
        order = x[:, 0].argsort()
        found = self.layer(x[order])
        if self.then == "mixes":
            found = found + found.roll(1, 0)
        found = self.head(found)
        if self.then == "stays":
            return found
        back = found[order.argsort()]
        return back.roll(1, 0) if self.then == "exchanges" else back


@pytest.mark.parametrize(
    ("then", "code"),
    [
        ("back", None),
        ("stays", RETURNS_SORTED.code),
        ("mixes", MIXES_SAMPLES.code),
        ("exchanges", MIXES_SAMPLES.code),
    ],
)
def test_samples_that_are_sorted_inside(then: str, code: str | None) -> None:
    torch.manual_seed(1)
    model, found = Sorting(then), None
    try:
        assert_sample_independence(model, torch.randn(B, 4))
    except CheckFailed as failed:
        (found,) = (each.code for each in failed.findings)
    assert found == code


class Reader(nn.Module):
    """Attention over padded sequences; a sequence of padding alone is read as NaN."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(4, 1, batch_first=True)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        return self.attend(x, x, x, key_padding_mask=hidden)[0].sum(1)


def test_a_sample_whose_result_is_not_a_number_is_no_influence() -> None:
    hidden = torch.zeros(6, 3, dtype=torch.bool)
    hidden[2] = True
    assert_sample_independence(Reader(), (torch.randn(6, 3, 4), hidden), watch=["attend"])


class Places(nn.Module):
    """Keeps the three highest results, and multiplies them with the largest if asked to."""

    def __init__(self, by_largest: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.by_largest = nn.Linear(4, 1), by_largest

    def forward(self, x: Tensor) -> Tensor:
        found = self.layer(x)
        found = found * torch.zeros(len(x), 1).index_fill(0, found[:, 0].topk(3).indices, 1.0)
        return found * found.max() if self.by_largest else found


@pytest.mark.parametrize(("by_largest", "code"), [(False, COMPETE.code), (True, MIXES_SAMPLES.code)])
def test_samples_that_compete_for_places_are_told_from_those_that_mix(by_largest: bool, code: str) -> None:
    torch.manual_seed(2)
    with pytest.raises(CheckFailed) as failed:
        assert_sample_independence(Places(by_largest), torch.randn(B, 4))
    assert [each.code for each in failed.value.findings] == [code]


class Remembers(nn.Module):
    """Adds the mean of the samples of all earlier calls."""

    before: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("before", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        found = x + self.before
        self.before.add_(x.mean(0))
        return found


def test_a_state_of_earlier_calls_is_no_influence_between_samples() -> None:
    model = Remembers()
    assert_sample_independence(model, torch.randn(B, 4))
    assert not model.before.any()
