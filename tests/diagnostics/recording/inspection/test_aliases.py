"""One module under two names, and ties: declared, lost, and never meant."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from diagnostics import InvalidValue, Monitor, Severity, UnknownName
from tests.errors import raises_code


class Language(nn.Module):
    def __init__(self, tied: bool = True) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 4)
        self.mix = nn.Linear(4, 4)
        self.head = nn.Linear(4, 9, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.mix(self.embed(ids))))


def found(model: nn.Module, **given: object) -> dict[tuple[str, str], tuple[str, Severity]]:
    monitor = Monitor(model, **given)
    with monitor.step(samples=5):
        model(torch.randint(0, 9, (5, 3))).square().mean().backward()
    return {
        (each.rule, each.module): (each.code, each.severity)
        for each in monitor.findings(select=["SHARE002", "SHARE003"])
    }


def test_a_tie_that_holds_is_quiet() -> None:
    assert found(Language()) == {}
    assert found(Language(), expect_tied=[("embed", "head")]) == {}
    assert found(Language(), expect_tied=[("embed.weight", "head.weight")]) == {}


def test_a_declared_tie_that_is_missing() -> None:
    lost = {("SHARE002", "head"): ("tie-missing", Severity.CRITICAL)}
    assert found(Language(tied=False), expect_tied=[("embed.weight", "head.weight")]) == lost
    assert found(Language(tied=False), expect_tied=[("embed", "head")]) == lost


def test_equal_values_in_two_tensors_were_tied_once() -> None:
    model = Language()
    model.head = copy.deepcopy(model.head)
    assert found(model) == {("SHARE002", "head"): ("equal-apart", Severity.WARNING)}
    assert found(Language(tied=False)) == {}


def test_names_tell_what_an_alias_is() -> None:
    sibling, target, listed, shortcut = (Language() for _ in range(4))
    sibling.again = sibling.mix
    target.mix_target = target.mix
    listed.many = nn.ModuleList([listed.mix] * 3)
    shortcut.inner = nn.Sequential(shortcut.mix)
    assert found(sibling) == {("SHARE003", "mix"): ("alias", Severity.WARNING)}
    assert found(target) == {("SHARE003", "mix"): ("alias-of-role", Severity.CRITICAL)}
    assert found(listed) == {("SHARE003", "mix"): ("alias", Severity.NOTE)}
    assert found(shortcut) == {("SHARE003", "mix"): ("alias", Severity.NOTE)}
    assert found(sibling, expect_tied=[("mix", "again")]) == {}


class Translation(nn.Module):
    """Source and target words in one vocabulary, with one table for both."""

    def __init__(self, first: str, second: str, shared: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        one, other = nn.Embedding(9, 4), nn.Embedding(9, 4)
        other.weight = one.weight
        self.add_module(first, one)
        self.add_module(second, one if shared == "module" else other)
        self.head = nn.Linear(4, 9)
        self.tables = (first, second)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        one, other = (getattr(self, name)(ids) for name in self.tables)
        return self.head(torch.tanh(one + other))


@pytest.mark.parametrize(
    ("names", "severity"),
    [
        (("source_embedding", "target_embedding"), Severity.NOTE),
        (("src_embed", "target_embed"), Severity.NOTE),
        (("context_embeddings", "target_embeddings"), Severity.NOTE),
        (("context_net", "target_net"), Severity.CRITICAL),
        (("embedding", "target_embedding"), Severity.CRITICAL),
        (("source_embedding", "ema_embedding"), Severity.CRITICAL),
    ],
)
def test_a_target_of_a_translation_is_no_target_network(names: tuple[str, str], severity: Severity) -> None:
    for shared, rule in (("module", "SHARE003"), ("weight", "SHARE001")):
        model = Translation(*names, shared)
        optimizer = torch.optim.Adam(model.parameters())
        monitor = Monitor(model, optimizer)
        for _ in range(6):
            with monitor.step(samples=5):
                nn.functional.cross_entropy(model(torch.arange(5)), torch.arange(5)).backward()
                optimizer.step()
                optimizer.zero_grad()
        seen = {each.rule: each.severity for each in monitor.findings(select=["SHARE*", "TARGET*"])}
        assert seen == {rule: severity}


def test_wrong_declarations_are_refused() -> None:
    with raises_code(InvalidValue, "monitor.tie-of-one"):
        Monitor(Language(), expect_tied=["embed"])
    with pytest.raises((InvalidValue, UnknownName)):
        Monitor(Language(), expect_tied=[("embed", "nothing")])


@pytest.mark.parametrize("copied", [True, False])
def test_a_vocabulary_that_grew(copied: bool) -> None:
    model = Language()
    old = model.embed.weight.detach()
    model.embed, model.head = nn.Embedding(12, 4), nn.Linear(4, 12, bias=False)
    model.embed.weight.data[:9] = old
    if copied:
        model.head.weight.data[:9] = old
    lost = {("SHARE002", "head"): ("equal-apart", Severity.WARNING)}
    assert found(model) == (lost if copied else {})
