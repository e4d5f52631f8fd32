from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.performance.model import evaluation as bench
from benchmarks.performance.model.workload import REGION, Batches, build_model
from benchmarks.performance.section import Conditions
from etrm.batch import Batch
from etrm.config import Config, with_settings
from etrm.data import TaskSet
from etrm.model.recursive import RecursiveModel
from etrm.model.solve import solve

CPU = torch.device("cpu")


@pytest.fixture
def model(config: Config) -> RecursiveModel:
    return build_model(with_settings(config, model={"halt": {"max_steps": 3}}), CPU).eval()


@pytest.fixture
def batches(config: Config, tasks: TaskSet) -> list[Batch]:
    changed = with_settings(config, train={"batch_size": 5}, data={**REGION, "buckets": 1, "max_demos": 2})
    source = Batches(changed, tasks, CPU)
    return [source.next(), source.next()]


def test_encoding_again_does_all_steps_with_an_encoding_each(
    model: RecursiveModel, batches: list[Batch]
) -> None:
    calls: dict[str, int] = {"encoder": 0, "core": 0}

    def count(name: str) -> Any:
        def hook(*_: Any) -> None:
            calls[name] += 1

        return hook

    assert model.encoder is not None
    model.encoder.register_forward_hook(count("encoder"))
    model.core.register_forward_hook(count("core"))
    bench.encode_again(model, batches[0])
    assert calls == {"encoder": 3, "core": 3}
    bench.solve_all(model, batches[0])
    assert calls == {"encoder": 4, "core": 6}


def test_the_clock_adds_up_what_passes_inside_the_encoder(
    model: RecursiveModel, batches: list[Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter(range(0, 1000, 1))
    monkeypatch.setattr(bench.time, "perf_counter", lambda: next(now))
    clock = bench.EncoderClock(model, CPU)
    clock.turns.append(0.0)
    bench.encode_again(model, batches[0])  # each call reads the clock when it begins and ends: 1
    assert clock.turns == [3.0]
    clock.close()
    bench.encode_again(model, batches[0])
    assert clock.turns == [3.0]


@pytest.mark.parametrize(("share", "leaving"), [(0.0, 0), (0.5, 5), (0.9, 9), (1.0, 10)])
def test_a_share_of_the_rows_asks_to_halt_at_once(
    model: RecursiveModel, batches: list[Batch], share: float, leaving: int
) -> None:
    mean = bench.let_halt(model, batches, share)
    steps = torch.cat([solve(model, batch, early=True).steps for batch in batches])
    assert int((steps == 1).sum()) == leaving
    assert mean == pytest.approx(steps.float().mean().item())
    assert (share > 0) or (mean == 3)


@pytest.mark.slow
def test_both_comparisons_name_their_ways(model: RecursiveModel, batches: list[Batch]) -> None:
    table, words = bench._context(model, batches, Conditions(CPU, 1))
    assert [row[0] for row in table.rows] == ["encoded at every step", "encoded once"]
    assert "The encoder's share takes" in words
    table, _ = bench._halting(model, batches, Conditions(CPU, 1))
    assert [row[0] for row in table.rows][:2] == ["all_steps", "early, 0% leave at once"]
    assert [row[1] for row in table.rows][:2] == ["3.0", "3.0"]
