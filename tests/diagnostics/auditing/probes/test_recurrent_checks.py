"""A recurrent layer that reads samples as time is named; sequences with the time first are no fault."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diagnostics import Monitor

B, T = 6, 9


class Reader(nn.Module):
    def __init__(self, batch_first: bool, whole: bool) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(12, 8), nn.Linear(8, 12)
        self.layer = nn.GRU(8, 8, batch_first=batch_first)
        self.whole = whole

    def forward(self, ids: Tensor) -> Tensor:
        states = self.layer(self.embed(ids))[0]
        return self.head(states if self.whole else states[:, -1] if len(ids) == B else states[-1])


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(("batch_first", "moved", "named"), [(True, 0, 0), (False, 1, 0), (False, 0, 1)])
def test_the_dimension_of_the_time(whole: bool, batch_first: bool, moved: bool, named: bool) -> None:
    torch.manual_seed(0)
    model = Reader(batch_first, whole)
    monitor = Monitor(model, torch.optim.SGD(model.parameters(), 1e-2))
    for _ in range(12):
        words = torch.randint(0, 12, (B, T + 1))
        given, targets = words[:, :T], words[:, 1:] if whole else words[:, T]
        if moved:
            given, targets = given.T, targets.T if whole else targets
        with monitor.step(samples=B):
            F.cross_entropy(model(given).reshape(-1, 12), targets.reshape(-1)).backward()
    found = [(each.module, each.code) for each in monitor.findings(select=["LEAK001"])]
    assert found == ([("layer", "steps-are-samples")] if named else [])
