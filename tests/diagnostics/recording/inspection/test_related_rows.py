"""Whether rows are related to each other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from diagnostics import Monitor, Severity
from diagnostics.recording.inspection.related_rows import has_matrix_of_rows, relates_rows

NODES = torch.randn(5, 3)
PAIRS = torch.tensor([[0, 1, 4], [1, 2, 0]])


@pytest.mark.parametrize(
    ("given", "related"),
    [
        ([NODES, PAIRS], True),
        ([NODES, torch.zeros(5, 5)], True),
        ([NODES, torch.eye(5).to_sparse()], True),
        ([NODES], False),
        ([torch.randn(5, 5)], False),  # features of that width
        ([NODES, PAIRS + 1], False),  # no numbers of rows
        ([NODES, torch.tensor([0, 1, 2, 3, 4])], False),  # a class per sample
        ([torch.randn(5, 4, 3), torch.zeros(5, 5)], False),  # sequences, and a mask of positions
        ([torch.randint(0, 5, (2, 7))], False),  # two sequences of tokens
    ],
)
def test_pairs_or_a_matrix_next_to_features_relate_rows(given: list[Tensor], related: bool) -> None:
    assert relates_rows(given, samples=5) is related


def test_a_buffer_over_all_pairs_of_samples() -> None:
    model = nn.Linear(3, 3)
    model.register_buffer("edges", torch.eye(5))
    assert has_matrix_of_rows(model, 5)
    assert not has_matrix_of_rows(model, 4)


class Convolved(nn.Module):
    """Every second node passes its state on to the one before it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor, pairs: Tensor | None = None) -> Tensor:
        state = self.layer(x)
        first, second = ([1, 3], [0, 2]) if pairs is None else pairs
        return self.head(state.index_add(0, torch.as_tensor(second), state[first]))


@pytest.mark.parametrize(
    ("given", "severity"),
    [((NODES, torch.tensor([[1, 3], [0, 2]])), Severity.NOTE), ((NODES,), Severity.CRITICAL)],
    ids=["pairs that are given", "pairs that nobody sees"],
)
def test_nodes_without_label_are_a_note(given: tuple[Tensor, ...], severity: Severity) -> None:
    model = Convolved()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    monitor = Monitor(model, optimizer)
    for _ in range(12):
        with monitor.step(samples=5):
            model(*given)[:1].square().mean().backward()  # of the first node alone
            optimizer.step()
            optimizer.zero_grad()
    found = [each for one in monitor.findings() for each in (one, *one.consequences)]
    assert {each.severity for each in found if each.rule == "COV001"} == {severity}
    assert monitor.last.related is (severity is Severity.NOTE)
