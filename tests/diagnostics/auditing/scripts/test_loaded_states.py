"""A state that is the model's own memory brings nothing back; copies, parts and other weights do."""

from __future__ import annotations

from pathlib import Path

import pytest

from diagnostics.auditing.scripts.script import audit_script

SCRIPT = """
import copy, torch
from torch import nn
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Linear(16, 3))
optimizer = torch.optim.Adam(net.parameters(), 1e-2)
{start}
for x in torch.randn(12, 8, 4):
    optimizer.zero_grad()
    net(x).square().mean().backward()
    optimizer.step()
{end}
"""


@pytest.mark.parametrize(
    ("start", "end", "named"),
    [
        ("best = net.state_dict()", "net.load_state_dict(best)", True),
        ("best = dict(net.state_dict())", "net.load_state_dict(best)", True),
        ("best = copy.deepcopy(net.state_dict())", "net.load_state_dict(best)", False),
        ("net.load_state_dict(net.state_dict())", "", False),
        ("", "net.load_state_dict(net.state_dict() | {'0.bias': torch.zeros(16)})", False),
        ("", "other = copy.deepcopy(net); other.load_state_dict(net.state_dict())", False),
    ],
)
def test_a_state_that_is_loaded(start: str, end: str, named: bool, tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_text(SCRIPT.format(start=start, end=end), "utf-8")
    assert ("SHARE004" in {each.rule for each in audit_script(path, steps=None).findings}) == named
