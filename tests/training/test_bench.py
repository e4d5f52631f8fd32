"""The ladder of the benchmark changes the time of a step and not what it computes; no time is asserted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from etrm.config import Config, load, with_overrides
from etrm.data import Pair, Task, TaskSet, collate
from etrm.model.encoder import PAD
from etrm.training import bench

PUBLISHED_PADDED, PUBLISHED_REAL, REGIONS, BUCKETS, OURS = bench.LADDER


@pytest.fixture(scope="module")
def config() -> Config:
    changed = ("train.batch_size=2", "model.hidden_size=8", "model.num_heads=2", "model.context_tokens=2")
    return load("small", overrides=(*bench.SETTINGS, *changed))


@pytest.fixture(scope="module")
def tasks() -> TaskSet:
    """Tasks of two to four demos, whose sides differ."""
    rng = np.random.default_rng(0)

    def pair(side: int) -> Pair:
        grid = rng.integers(0, 10, (side, side - 1)).astype(np.uint8)
        return Pair(grid, np.fliplr(grid).copy())

    made = (
        Task(f"task{i}", tuple(pair(2 + (i + k) % 6) for k in range(2 + i % 3)), (pair(3 + i % 4),))
        for i in range(16)
    )
    return TaskSet(tuple(made), "invented", "training")


def loss_and_gradients(rung: bench.Rung, config: Config, tasks: TaskSet) -> tuple[float, list[torch.Tensor]]:
    arm = bench.Arm(rung, config, tasks)
    loss = arm.loss(arm.next_batch())
    loss.backward()
    return loss.item(), [parameter.grad for parameter in arm.model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize(
    ("one", "other"), [(PUBLISHED_PADDED, PUBLISHED_REAL), (BUCKETS, OURS)], ids=["padding", "grouping"]
)
def test_a_rung_that_only_saves_work_computes_the_same(
    one: bench.Rung, other: bench.Rung, config: Config, tasks: TaskSet
) -> None:
    loss, gradients = loss_and_gradients(one, config, tasks)
    same_loss, same_gradients = loss_and_gradients(other, config, tasks)
    assert loss == pytest.approx(same_loss, rel=1e-5)
    assert len(gradients) == len(same_gradients) > 0
    for first, second in zip(gradients, same_gradients, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-5)


def test_a_sample_has_the_same_loss_whatever_its_bucket(config: Config, tasks: TaskSet) -> None:
    """Batch mates and padding change nothing, so buckets only choose who shares a batch."""
    mixed = bench.Arm(REGIONS, config, tasks)
    together = collate([mixed.episodes.sample(0, index) for index in range(4)])
    alone = [mixed.loss(collate([mixed.episodes.sample(0, index)])).item() for index in range(4)]
    assert mixed.loss(together).item() == pytest.approx(sum(alone), rel=1e-5)


def test_all_rungs_pass_over_the_same_tasks(config: Config, tasks: TaskSet) -> None:
    for rung in bench.LADDER:
        arm = bench.Arm(rung, config, tasks)
        queries = [q for bucket in range(arm.episodes.buckets) for q in arm.episodes.bucket_queries(bucket)]
        assert {query.task.id for query in queries} == {task.id for task in tasks}


def test_the_published_layout_is_ten_pairs_on_the_whole_canvas(config: Config, tasks: TaskSet) -> None:
    batch = bench.Arm(PUBLISHED_PADDED, config, tasks).next_batch()
    real = bench.Arm(PUBLISHED_REAL, config, tasks).next_batch()
    assert batch.inputs.shape == (2, 900)
    assert batch.demos.tokens.shape == (2 * bench.PADDED_DEMOS, 1800)
    assert batch.valid is None
    assert batch.demos.valid is None
    assert batch.demos.owner.tolist() == [0] * 10 + [1] * 10
    kept = batch.demos.tokens[(batch.demos.tokens != PAD).any(1)]
    assert torch.equal(kept, real.demos.tokens)


def test_work_is_counted_with_its_padding(config: Config, tasks: TaskSet) -> None:
    def tokens(rung: bench.Rung) -> int:
        arm = bench.Arm(rung, config, tasks)
        return arm.tokens(arm.next_batch())

    assert tokens(PUBLISHED_PADDED) == 2 * 900 + 20 * 1800
    assert tokens(OURS) <= tokens(BUCKETS) < tokens(PUBLISHED_REAL) < tokens(PUBLISHED_PADDED)


def test_a_loader_that_fills_every_row_draws_sixteen_times_more(config: Config, tasks: TaskSet) -> None:
    halting = with_overrides(config, ("model.halt.max_steps=16",))
    drawn = bench.count_draws(halting, tasks, cycles=3)
    assert (drawn.steps, drawn.published, drawn.ours) == (48, 96, 6)
    assert drawn.ratio == 16


def test_ratios_are_taken_within_a_repetition() -> None:
    slow = bench.Timing(PUBLISHED_PADDED, [10.0, 30.0, 20.0], [10.0, 30.0, 20.0], [100.0])
    fast = bench.Timing(OURS, [1.0, 3.0, 1.0], [1.0, 1.0, 1.0], [5.0])
    assert bench.ratios(slow.seconds, fast.seconds) == [10, 10, 20]
    published, ours = bench.rows([slow, fast])
    assert published[1:4] == ("20 [15, 25]", "1", "")
    assert ours[1:] == ("1 [1, 2]", "10 [10, 15]", "10 [10, 15]", "5", "3 x 8")
    assert "10 [10, 15] times faster" in bench.verdict([slow, fast])
    assert "in processor time 20 [15, 25] times" in bench.verdict([slow, fast])


def test_a_document_holds_the_table_that_was_measured(config: Config, tasks: TaskSet) -> None:
    ladder = [replace(rung, steps=1) for rung in (BUCKETS, OURS)]
    timings = bench.measure(config, tasks, 2, ladder)
    text = bench.markdown(timings, ["a paragraph"])
    for cells in bench.rows(timings):
        assert "| " + " | ".join(cells) + " |" in text
    assert text.endswith("a paragraph\n")
