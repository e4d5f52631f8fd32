"""An optimiser for each pass over the same data is named; one for all, for other data or other weights is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from diagnostics.auditing.scripts.script import audit_script

SCRIPT = """
import torch
from torch import nn
from torch.utils.data import DataLoader
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
loaders = [DataLoader(torch.randn(24, 4), 8) for _ in range(4)]
make = lambda part: torch.optim.{kind}(part.parameters(), 1e-2{more})
optimizer = make(net)
for epoch in range(4):
    {start}
    for x in loaders[{loader}]:
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()
    for x in loaders[3]:
        with torch.no_grad():
            net(x)
"""
NEW = "optimizer = make(net)"


@pytest.mark.parametrize(
    ("start", "kind", "more", "loader", "named"),
    [
        (NEW, "AdamW", "", "0", True),
        (NEW, "SGD", ", momentum=0.9", "0", True),
        (NEW, "SGD", "", "0", False),  # nothing is lost
        ("pass", "AdamW", "", "0", False),
        (NEW, "AdamW", "", "epoch % 3", False),
        ("optimizer = make(net[2 * (epoch % 2)])", "AdamW", "", "0", False),
        ("if epoch % 2 == 0: optimizer = make(net)", "AdamW", "", "0", False),
    ],
)
def test_an_optimizer_for_each_pass(
    start: str, kind: str, more: str, loader: str, named: bool, tmp_path: Path
) -> None:
    path = tmp_path / "train.py"
    path.write_text(SCRIPT.format(start=start, kind=kind, more=more, loader=loader), "utf-8")
    codes = {each.code for each in audit_script(path, steps=None).findings}
    assert ("optimizer-renewed" in codes) == named
