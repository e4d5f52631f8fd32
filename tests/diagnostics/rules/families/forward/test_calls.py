"""Calls of a module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diagnostics import Finding, Monitor, Severity
from tests.diagnostics.rules.trainings import HEALTHY, Cases, changed
from tests.sampled import one_in

CASES: Cases = {
    "CALL001": (changed(lambda model: setattr(model, "first_cycle_has_gradient", False)), HEALTHY),
    "CALL002": (changed(lambda model: setattr(model, "spare", nn.Linear(2, 2))), HEALTHY),
}


class Predicates(nn.Module):
    """A container without a forward of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.red = nn.Linear(4, 1)
        self.spare = nn.Linear(4, 1)


class Cells(nn.Module):
    """Calls a predicate once per cell, and keeps some of the answers."""

    def __init__(self, keep: Callable[[Tensor, int], Tensor | None]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.predicates = Predicates()
        self.head = nn.Linear(1, 1)
        self.keep = keep

    def forward(self, grid: Tensor) -> Tensor:
        cells = range(grid.shape[1])
        kept = (self.keep(self.predicates.red(grid[:, cell]), cell) for cell in cells)
        return self.head(sum(answer for answer in kept if answer is not None))


def watch(model: nn.Module, names: list[str] | None = None) -> Monitor:
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    monitor = Monitor(model, optimizer, watch=names)
    for _ in range(12):
        with monitor.step(samples=3):
            model(torch.randn(3, 5, 4)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    return monitor


def calls(monitor: Monitor) -> list[Finding]:
    return [each for each in monitor.findings() if each.rule == "CALL001"]


@pytest.mark.parametrize(
    ("keep", "code", "severity"),
    [
        (lambda answer, cell: answer * (cell < 3), "calls-zero", Severity.NOTE),
        (lambda answer, cell: answer.where(torch.tensor(cell < 3), 0), "calls-zero", Severity.NOTE),
        (lambda answer, cell: answer * (cell < 2), "calls-zero", Severity.WARNING),
        (lambda answer, cell: answer if cell < 3 else answer.detach(), "calls-cut", Severity.WARNING),
        (lambda answer, cell: answer if cell < 3 else None, "calls-cut", Severity.WARNING),
        (lambda answer, cell: answer * (cell < 2) if cell < 3 else None, "calls-cut", Severity.WARNING),
    ],
    ids=["masked", "where", "mostly masked", "detached", "dropped", "masked and dropped"],
)
def test_rows_that_are_masked_are_not_cut(
    keep: Callable[[Tensor, int], Tensor | None], code: str, severity: Severity
) -> None:
    (finding,) = calls(watch(Cells(keep)))
    assert (finding.module, finding.code, finding.severity) == ("predicates.red", code, severity)


def test_a_mask_over_rows_that_are_all_kept_is_quiet() -> None:
    assert calls(watch(Cells(lambda answer, cell: answer))) == []


def test_the_children_of_a_container_are_watched_by_default() -> None:
    monitor = watch(Cells(lambda answer, cell: answer))
    assert list(monitor.last.modules) == ["predicates.red", "predicates.spare", "head"]
    assert [each.module for each in monitor.findings() if each.rule == "CALL002"] == ["predicates.spare"]


class Scripted(nn.Sequential):
    """Its class has a forward that cannot be read, as that of a TorchScript module."""

    class Unreadable:
        def __get__(self, instance: nn.Module | None, owner: type) -> Any:
            if instance is None:
                raise AttributeError
            return nn.Sequential.forward.__get__(instance)

    forward = Unreadable()


def test_a_scripted_child_is_no_container() -> None:
    model = nn.Sequential(Scripted(nn.Linear(4, 4)), nn.Linear(4, 1))
    assert list(watch(model).last.modules) == ["0", "1"]


def test_the_children_of_a_container_that_is_named_are_watched() -> None:
    monitor = watch(Cells(lambda answer, cell: answer), ["predicates", "head"])
    assert list(monitor.last.modules) == ["predicates.red", "predicates.spare", "head"]
    assert {"COV001", "GRAD001"}.isdisjoint(each.rule for each in monitor.findings())


def test_a_module_that_never_runs_and_shares_a_tensor_is_still_named() -> None:
    model = Cells(lambda answer, cell: answer)
    model.twin = nn.Linear(4, 1)
    model.twin.weight = model.predicates.red.weight
    assert "twin" in {each.module for each in watch(model).findings() if each.rule == "CALL002"}


class Skipped(nn.Module):
    """A block that some steps leave out."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enter, self.block, self.head = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 1)
        self.steps = 0

    def forward(self, x: Tensor, called: Callable[[int], bool]) -> Tensor:
        state = self.enter(x)
        if called(self.steps):
            state = state + self.block(state.relu())
        self.steps += 1
        return self.head(state)


def watch_skipped(called: Callable[[int], bool], steps: int = 60) -> set[tuple[str, str]]:
    model = Skipped()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    monitor = Monitor(model, optimizer)
    for _ in range(steps):
        with monitor.step(samples=8):
            model(torch.randn(8, 4), called).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    return {
        (finding.rule, finding.module) for finding in monitor.findings() if finding.severity > Severity.NOTE
    }


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.7])
@pytest.mark.parametrize("seed", one_in(5, range(5)))
def test_a_block_that_is_left_out_at_random_is_not_accused(rate: float, seed: int) -> None:
    kept = (torch.rand(60, generator=torch.Generator().manual_seed(seed)) > rate).tolist()
    assert watch_skipped(lambda step: kept[step]) == set()


@pytest.mark.parametrize(
    ("called", "rule"),
    [
        (lambda step: False, "CALL002"),
        (lambda step: step == 0, "CALL002"),
        (lambda step: step < 30, "CALL002"),
        (lambda step: step % 4 == 0, "COV001"),
    ],
    ids=["never", "once", "no longer", "every fourth step"],
)
def test_a_block_that_is_no_longer_called_or_at_regular_intervals_is(
    called: Callable[[int], bool], rule: str
) -> None:
    assert watch_skipped(called) == {(rule, "block")}


class Routed(nn.Module):
    """Calls one of the first three of four experts, in turn or always the first."""

    def __init__(self, in_turn: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.experts = nn.ModuleList(nn.Linear(4, 2) for _ in range(4))
        self.in_turn, self.steps = in_turn, 0

    def forward(self, x: Tensor) -> Tensor:
        self.steps += 1
        chosen = (self.steps * self.steps // 3) % 3 if self.in_turn else 0
        return self.experts[chosen](x[:, 0])


@pytest.mark.parametrize(
    ("in_turn", "severity", "code"),
    [(True, Severity.NOTE, "unchosen"), (False, Severity.WARNING, "not-used")],
)
def test_an_expert_that_no_step_chose(in_turn: bool, severity: Severity, code: str) -> None:
    found = [each for each in watch(Routed(in_turn)).findings() if each.module == "experts.3"]
    assert [(each.rule, each.severity, each.code) for each in found] == [("CALL002", severity, code)]


@pytest.mark.parametrize(
    ("own_optimizer", "severity"), [(True, Severity.NOTE), (False, Severity.WARNING)], ids=["own", "shared"]
)
def test_calls_that_are_the_data_of_another_optimizer(own_optimizer: bool, severity: Severity) -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"maker": nn.Linear(4, 3), "judge": nn.Linear(3, 1)})
    parts = [model["maker"].parameters(), model["judge"].parameters()]
    groups = parts if own_optimizer else [[weight for part in parts for weight in part]]
    optimizers = [torch.optim.SGD(group, 0.01) for group in groups]
    monitor = Monitor(model, optimizers)
    for x in torch.randn(12, 4, 8, 4):
        with monitor.step(samples=8):
            for given in x[:3]:
                model["judge"](model["maker"](given).detach()).square().mean().backward()
            (-model["judge"](model["maker"](x[3])).mean()).backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
    (found,) = [each for each in calls(monitor) if each.module == "maker"]
    assert (found.code, found.severity) == ("calls-cut", severity)


class Reader(nn.Module):
    """Reads a sequence with a cell, and each state with a head."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRUCell(2, 3), nn.Linear(3, 1)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        answers = []
        for each in x.unbind(1):
            state = self.cell(each, state)
            answers.append(self.head(state))
        return torch.stack(answers, 1), state


@pytest.mark.parametrize("carried", [False, True], ids=["a target of its own", "cut in the middle"])
def test_a_sequence_without_gradient_is_a_target_unless_the_next_one_goes_on_from_it(carried: bool) -> None:
    torch.manual_seed(0)
    model = Reader()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    monitor = Monitor(model, optimizer)
    for x in torch.randn(8, 6, 4, 2):
        with monitor.step(samples=6):
            aim, state = model(x, torch.zeros(6, 3))
            found, _ = model(x + 0.1, state.detach() if carried else torch.zeros(6, 3))
            (found - aim.detach()).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert any(each.severity > Severity.NOTE for each in calls(monitor)) == carried


class Sampler(nn.Module):
    """Reads numbers of words, or their embeddings."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(5, 4), nn.Linear(4, 5)

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.embed(words) if words.dtype == torch.long else words).mean(1)


@pytest.mark.parametrize(("sampled", "severity"), [(True, Severity.NOTE), (False, Severity.WARNING)])
def test_words_may_be_sampled_in_the_step_but_states_may_not(sampled: bool, severity: Severity) -> None:
    model = Sampler()
    monitor = Monitor(model)
    for _ in range(6):
        with monitor.step(samples=3):
            words = torch.randint(0, 5, (3, 2))
            with torch.no_grad():
                for _ in range(4):
                    found = model(words if sampled else model.embed(words))
                    words = torch.cat([words, found.argmax(1, keepdim=True)], 1)
            model(words).square().mean().backward()
    assert {each.severity for each in calls(monitor)} == {severity}


@pytest.mark.parametrize(("updates", "severity"), [(3, Severity.NOTE), (1, Severity.WARNING)])
def test_evaluations_between_updates(updates: int, severity: Severity) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    monitor = Monitor(model, optimizer)
    for x in torch.randn(8, 3, 4):
        with monitor.step(samples=3):
            goal = model(x).detach()
            for _ in range(updates):
                with torch.no_grad():
                    model(x)
                (model(x) - goal - 1).square().mean().backward()
                optimizer.step()
                optimizer.zero_grad()
    assert {each.severity for each in monitor.findings() if each.rule == "CALL001"} == {severity}
