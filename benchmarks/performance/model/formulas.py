"""Formulas over grids: all cells at once against the reference loop, forward and backward."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import torch

from benchmarks.performance.section import BenchmarkSection, Conditions, Table
from benchmarks.performance.timing import Contender, Timing, Work, compute_ratios, format_spread, take_turns
from etrm.config import SymbolicConfig
from etrm.device import to_device
from etrm.symbolic import Grids, Predicates, Semantics, loop_evaluator, parse, tensor_evaluator

SIDE, BATCH = 10, 16
GOAL = 100
"""How many times faster than the loop all cells at once have to be."""
RULES = {
    "no quantifier": "where learned(x, 0) and not edge(x) paint 3",
    "exists, over pairs": "where exists y: related(x, y, 0) and learned(y, 1) paint 3",
    "forall, over pairs": "where forall y: related(x, y, 0) implies learned(y, 1) paint 3",
}


def compare_evaluators(conditions: Conditions) -> BenchmarkSection:
    """A row for each rule.

    Raises:
        AssertionError: a rule is not evaluated often enough as fast.
    """
    rows = []
    for name, text in RULES.items():
        loop_grids = BATCH if name == "no quantifier" else 1
        contenders = [
            contender(loop_evaluator, text, loop_grids, conditions.device),
            contender(tensor_evaluator, text, BATCH, conditions.device),
        ]
        slow, fast = take_turns(contenders, conditions.repetitions, conditions.device)
        times = compute_ratios(slow.seconds, fast.seconds)
        assert np.median(times) >= GOAL, (
            f"{name}: {format_spread(times)} times as fast as the loop, goal {GOAL}"
        )
        rows.append(
            (name, text, _milliseconds(slow), _milliseconds(fast), format_spread(times), str(len(times)))
        )
    header = ("rule", "text", "ms a grid, loop", "ms a grid, all cells", "times as fast", "turns")
    words = (
        f"Forward and backward on grids of {SIDE}x{SIDE} with learned predicates of width "
        f"{SymbolicConfig().width}, {BATCH} grids in a batch; the loop takes one grid of a batch where the rule "
        f"ranges over pairs of cells. The bench fails where the ratio is below {GOAL}. Both evaluators give the "
        "same values and gradients (tests/symbolic/test_evaluators.py)."
    )
    return BenchmarkSection((Table(header, tuple(rows)),), (words,))


def contender(evaluator: ModuleType, text: str, count: int, device: torch.device) -> Contender:
    """Apply a rule to some grids and take the gradient of every weight."""
    torch.manual_seed(0)
    predicates = to_device(Predicates(SymbolicConfig(families=("learned",))), device)
    rule, semantics = parse(text), Semantics()
    generator = np.random.default_rng(0)
    grids = to_device(Grids.of([generator.integers(0, 10, (SIDE, SIDE)) for _ in range(count)]), device)

    def prepare() -> Work:
        predicates.zero_grad()

        def work() -> None:
            painted = evaluator.apply_rule(rule, grids, predicates, semantics)
            painted.colours[..., 3].clamp(min=1e-6).log().sum().backward()

        return work

    return Contender(evaluator.__name__, prepare, count)


def _milliseconds(timing: Timing) -> str:
    return format_spread(1e3 * seconds for seconds in timing.seconds)
