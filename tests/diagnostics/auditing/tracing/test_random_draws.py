"""The first random numbers of a step, against the generator itself."""

from __future__ import annotations

import torch

from diagnostics.auditing.tracing.random_draws import FirstDraw


def test_a_seed_counts_where_the_next_function_draws() -> None:
    torch.manual_seed(1)
    torch.rand(2)
    first = FirstDraw()
    torch.manual_seed(5)
    before = first.before("rand")
    torch.rand(2)
    first.after(before)
    assert first.seed == 5
    assert first.before("rand") is None
    plain = FirstDraw()
    before = plain.before("rand")
    torch.rand(2)
    plain.after(before)
    assert plain.seed is None
