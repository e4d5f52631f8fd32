from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.performance.model import throughput as bench
from benchmarks.performance.model.growth import Point
from benchmarks.performance.model.workload import BatchLayout, LayoutRun
from etrm.config import Config
from etrm.data import TaskSet

CPU = torch.device("cpu")


POINT = Point(width=16, side=6, demos=2, rows=3)


def test_operations_are_those_of_the_formulas() -> None:
    """By hand: 2 m n k of every product; backward costs twice the forward pass."""
    step, batch = POINT.step(CPU), POINT.batch(CPU)
    found, model = bench.count_flops(step, [batch]), step.config.model
    d, inner, query, pair = 16, 256, model.context_tokens + 36, 72
    token = 2 * (4 * d * d + 3 * d * inner)  # of a block: qkv, output, gate, up, down
    calls = model.L_cycles + 1
    passes = model.layers * (model.H_cycles * calls + 2 * calls)  # only the last H cycle has a backward pass
    core = token * POINT.rows * query * passes
    encoder = token * 6 * pair * model.encoder.layers * 3
    assert found["matrix products"] == pytest.approx(core + encoder, rel=0.05)
    attention = 4 * d * POINT.rows * query**2 * passes + 4 * d * 6 * pair**2 * model.encoder.layers * 3
    assert found["attention"] == pytest.approx(attention, rel=0.01)


def test_a_kernel_counts_as_the_products_that_it_replaces() -> None:
    step, batch = POINT.step(CPU), POINT.batch(CPU)
    found = bench.count_flops(step, [batch])
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        step(batch)
    by_name = {str(name): flops for name, flops in counter.get_flop_counts()["Global"].items()}
    pooling = 2 * 2 * 6 * 72 * 16  # of the tokens, forward and back to them, a batched product too
    assert found["attention"] == by_name["aten.bmm"] - pooling
    assert sum(found.values()) == counter.get_total_flops()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("aten::_scaled_dot_product_flash_attention_for_cpu_backward", "attention"),
        ("aten::mm", "matrix products"),
        ("aten::addmm", "matrix products"),
        ("aten::copy_", "copies, gathers and fills"),
        ("aten::embedding_dense_backward", "copies, gathers and fills"),
        ("aten::zeros_like", "copies, gathers and fills"),
        ("aten::silu_backward", "elementwise, norms and sums"),
        ("aten::addcmul_", "elementwise, norms and sums"),
        ("aten::t", None),
        ("aten::as_strided", None),
        ("aten::empty_like", None),
        ("MmBackward0", None),
        ("Optimizer.step#AdamW.step", None),
    ],
)
def test_every_operation_has_a_kind(name: str, kind: str | None) -> None:
    assert bench.classify(name) == kind


def test_a_profile_leaves_no_time_out(config: Config, tasks: TaskSet) -> None:
    arm = LayoutRun(BatchLayout({}), config, tasks, CPU)
    seconds, wall = bench.profile_steps(arm, [arm.batches.next()], CPU)
    assert all(spent > 0 for spent in seconds.values())
    assert sum(seconds.values()) < wall
    table = bench._shares(seconds, wall, {"attention": 10**9, "matrix products": 10**9})
    assert [row[0] for row in table.rows] == [*(kind for kind, _ in bench.KINDS), bench.REST]
    assert sum(int(row[1]) for row in table.rows) == pytest.approx(100, abs=3)
