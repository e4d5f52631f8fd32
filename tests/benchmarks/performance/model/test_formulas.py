from __future__ import annotations

import pytest
import torch

from benchmarks.performance.model import formulas as bench
from benchmarks.performance.section import Conditions
from etrm.symbolic import tensor_evaluator

CPU = torch.device("cpu")


def test_a_rule_that_is_not_fast_enough_fails_the_bench(monkeypatch: pytest.MonkeyPatch) -> None:
    """The evaluator against itself: a ratio of about one."""
    monkeypatch.setattr(bench, "loop_evaluator", tensor_evaluator)
    monkeypatch.setattr(bench, "SIDE", 2)
    with pytest.raises(AssertionError, match="no quantifier"):
        bench.compare_evaluators(Conditions(CPU, 1))


def test_a_row_for_each_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "SIDE", 2)
    monkeypatch.setattr(bench, "GOAL", 0)
    (table,) = bench.compare_evaluators(Conditions(CPU, 1)).tables
    assert [row[1] for row in table.rows] == list(bench.RULES.values())
