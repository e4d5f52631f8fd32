"""An evaluation in training mode is named; other uses of a model between steps are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from diagnostics.auditing.scripts.script import audit_script

START = """
import torch
from torch import nn
from torch.nn import functional as F
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), {layer}, nn.Linear(16, 3))
optimizer = torch.optim.Adam(net.parameters(), 1e-2)
data = torch.randn(40, 16, 4)

def judge():
    x = data[0]
    return F.cross_entropy(net(x), x[:, :3].argmax(1))

def compare():
    return (net(data[0]).argmax(1) == data[0, :, :3].argmax(1)).float().mean()

for number, x in enumerate(data):
    y = x[:, :3].argmax(1)
    {before}
    loss = F.cross_entropy(net(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if number % 6 == 5:
        with torch.no_grad():
            {evaluation}
"""
DROPS, PLAIN, NORM = "nn.Dropout(0.3)", "nn.Dropout(0.0)", "nn.BatchNorm1d(16)"
CHOSEN = "\n".join(
    (
        "with torch.no_grad():",
        "        kept = F.cross_entropy(net(x), y, reduction='none').argsort()[:12]",
        "    x, y = x[kept], y[kept]",
    )
)


@pytest.mark.parametrize(
    ("layer", "before", "evaluation", "named"),
    [
        (DROPS, "pass", "judge()", True),
        (NORM, "pass", "compare()", True),
        (DROPS, "pass", "net.eval(); judge(); net.train()", False),
        (PLAIN, "pass", "judge()", False),
        (NORM, "pass", "print(net(data[0]).std())", False),  # samples for a look
        (DROPS, CHOSEN, "pass", False),  # the step chooses samples by their loss
    ],
    ids=["loss", "accuracy", "told", "without dropout", "samples", "chosen samples"],
)
def test_a_model_between_the_steps(
    tmp_path: Path, layer: str, before: str, evaluation: str, named: bool
) -> None:
    path = tmp_path / "train.py"
    path.write_text(START.format(layer=layer, before=before, evaluation=evaluation))
    found = {each.code for each in audit_script(path).findings if each.rule == "MODE004"}
    assert found == ({"evaluated-in-training-mode"} if named else set())
