"""The source of an audited file, for tests of `etrm audit` and `python -m diagnostics audit`."""

from __future__ import annotations

CASE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, cut):
        super().__init__()
        self.encoder, self.decoder, self.cut = nn.Linear(4, 4), nn.Linear(4, 4), cut
    def forward(self, x):
        context = self.encoder(x)
        return self.decoder(context.detach() if self.cut else context)

def make_case(cut=True, step=lambda model, x: model(x).square().mean(), width=4, **more):
    torch.manual_seed(0)
    model = Net(cut)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    return {"model": model, "step": step, "batches": [torch.randn(5, width)], "optimizer": optimizer, **more}

def healthy(): return make_case(cut=False)
def too_wide(): return make_case(width=9)
def fails(): return make_case(step=lambda model, x: model(x.no_such_name))
def tuple_of_terms():
    return make_case(cut=False, step=lambda model, x: (model(x).square().mean(), 0.1 * model(x).abs().mean()))
"""
"""The encoder of `make_case` is cut off; `healthy` is its sound twin."""
