"""Use of the context."""

from __future__ import annotations

import torch

from diagnostics import ContextUse
from tests.diagnostics.rules.trainings import Cases, run_probe, squares

CASES: Cases = {
    "CONTEXT001": (
        run_probe(ContextUse(squares, lambda batch, index: batch, samples=len)),
        run_probe(ContextUse(lambda m, b: squares(m, b * torch.arange(8)[:, None]), lambda b, i: b[i], len)),
    ),
}
