"""The ladder changes the time of a step and not what it computes; no time is asserted."""

from __future__ import annotations

import pytest
import torch

from benchmarks.performance.model import layout as bench
from benchmarks.performance.model.workload import PADDED_DEMOS, BatchLayout, LayoutRun
from benchmarks.performance.section import Conditions
from benchmarks.performance.timing import Timing
from etrm.config import Config, with_settings
from etrm.data import TaskSet, collate
from etrm.model.encoders import PAD

CPU = torch.device("cpu")
PUBLISHED_PADDED, PUBLISHED_REAL, REGIONS, BUCKETS, OURS = (rung.layout for rung in bench.LADDER)


def arm(layout: BatchLayout, config: Config, tasks: TaskSet) -> LayoutRun:
    return LayoutRun(layout, config, tasks, CPU)


def loss_and_gradients(
    layout: BatchLayout, config: Config, tasks: TaskSet
) -> tuple[float, dict[str, torch.Tensor]]:
    at_work = arm(layout, config, tasks)
    loss = at_work.step.loss(at_work.batches.next())
    loss.backward()
    return loss.item(), {name: p.grad for name, p in at_work.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("one", "other", "rows"),
    [pytest.param(PUBLISHED_PADDED, PUBLISHED_REAL, 1, marks=pytest.mark.slow), (BUCKETS, OURS, 4)],
    ids=["padding", "pairs"],
)
def test_a_rung_that_only_saves_work_computes_the_same(
    one: BatchLayout, other: BatchLayout, rows: int, config: Config, tasks: TaskSet
) -> None:
    config = with_settings(config, train={"batch_size": rows})
    loss, gradients = loss_and_gradients(one, config, tasks)
    same_loss, same_gradients = loss_and_gradients(other, config, tasks)
    assert loss == pytest.approx(same_loss, rel=1e-5)
    assert gradients.keys() == same_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, same_gradients[name], rtol=1e-3, atol=1e-5)


def test_a_sample_has_the_same_loss_whatever_its_bucket(config: Config, tasks: TaskSet) -> None:
    """Batch mates and padding change nothing, so buckets only choose who shares a batch."""
    mixed = arm(REGIONS, config, tasks)
    samples = [mixed.batches.episodes.sample(0, index) for index in range(4)]
    alone = [mixed.step.loss(collate([sample])).item() for sample in samples]
    assert mixed.step.loss(collate(samples)).item() == pytest.approx(sum(alone), rel=1e-5)


def test_all_rungs_pass_over_the_same_tasks_in_batches_of_one_bucket(config: Config, tasks: TaskSet) -> None:
    for rung in bench.LADDER:
        batches = arm(rung.layout, config, tasks).batches
        episodes = batches.episodes
        queries = [q for bucket in range(episodes.buckets) for q in episodes.bucket_queries(bucket)]
        assert {query.task.id for query in queries} == {task.id for task in tasks}
        drawn = [batches.next().sample_ids for _ in range(2 * episodes.buckets)]
        assert len(torch.cat(drawn).unique()) == 4 * episodes.buckets
        for ids in drawn:
            assert len((ids % episodes.buckets).unique()) == 1


def test_the_published_layout_is_ten_pairs_on_the_whole_canvas(config: Config, tasks: TaskSet) -> None:
    batch = arm(PUBLISHED_PADDED, config, tasks).batches.next()
    real = arm(PUBLISHED_REAL, config, tasks).batches.next()
    assert batch.inputs.shape == (2, 900)
    assert batch.demos.tokens.shape == (2 * PADDED_DEMOS, 1800)
    assert batch.valid is None
    assert batch.demos.valid is None
    assert batch.demos.owner.tolist() == [0] * 10 + [1] * 10
    kept = batch.demos.tokens[(batch.demos.tokens != PAD).any(1)]
    assert torch.equal(kept, real.demos.tokens)


def test_work_is_counted_with_its_padding(config: Config, tasks: TaskSet) -> None:
    def tokens(layout: BatchLayout) -> int:
        at_work = arm(layout, with_settings(config, train={"batch_size": 4}), tasks)
        batch = at_work.batches.next()
        return bench.count_computed_tokens(layout, batch)

    assert tokens(PUBLISHED_PADDED) == 4 * 900 + 40 * 1800
    assert tokens(OURS) <= tokens(BUCKETS) < tokens(PUBLISHED_REAL)


def test_a_loader_that_fills_every_row_draws_sixteen_times_more(config: Config, tasks: TaskSet) -> None:
    halting = with_settings(config, model={"halt": {"max_steps": 16}})
    drawn = bench.count_draws(halting, tasks, cycles=3, timed=4)
    assert (drawn.steps, drawn.published, drawn.ours) == (48, 96, 6)
    assert drawn.ratio == 16
    assert len(drawn.seconds) == 4
    words = bench.Drawn(48, 96, 6, [0.001, 0.001]).sentence(2)
    assert "ours draws 6 samples and the published loader 96 (16 times as many)" in words
    assert "takes 1 [1, 1] ms (n 2)" in words


def test_the_verdict_is_about_the_last_rung() -> None:
    timings = [
        Timing(rung.name, rung.steps, [2.0 / place, 4.0 / place], [3.0 / place] * 2)
        for place, rung in enumerate(bench.LADDER, start=1)
    ]
    words = bench.verdict(timings)
    assert "5 [5, 5] times as many samples" in words
    assert "in processor time 5 [5, 5] times" in words
    table = bench.table(timings, [100.0] * 5, batch_size=8)
    assert table.rows[1][:4] == (bench.LADDER[1].name, "1.5 [1.25, 1.75]", "2 [2, 2]", "2 [2, 2]")
    assert table.rows[0][-2:] == ("2.67", "100")


def test_every_rung_is_measured_in_every_turn(config: Config, tasks: TaskSet) -> None:
    ladder = [bench.Rung(rung.name, rung.layout, 2) for rung in bench.LADDER[3:]]
    timings, tokens = bench.measure(config, tasks, Conditions(CPU, 2), ladder)
    assert [timing.name for timing in timings] == [rung.name for rung in ladder]
    assert all(len(timing.seconds) == len(timing.cpu) == 2 for timing in timings)
    assert tokens[0] >= tokens[1] > 0
