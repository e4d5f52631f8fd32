"""The search for the largest batch, against a known limit of rows and with real steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from etrm.config import Config, load, with_settings
from etrm.errors import TrainingError
from etrm.training import batch_size
from etrm.training.batch_size import find_batch_size
from etrm.training.execution.memory_meter import HostMeter
from etrm.training.trainer import Trainer
from tests.devices.simulated import simulated_device
from tests.errors import raises_code

Smoke = Callable[..., Config]


class KnownMeter:
    """A device with room for a number of rows of one MiB each; allocations beyond the room may fail or not."""

    def __init__(self, room: int, fails: bool) -> None:
        self.limit = room * 2**20 * 10 // 9 + 10
        self.room, self.fails, self.rows = room, fails, 0

    @contextmanager
    def bounded(self) -> Iterator[None]:
        self.rows = 0
        yield

    def read_peak(self) -> int:
        return self.rows * 2**20

    def step(self, config: Config) -> list[float]:
        self.rows = config.train.batch_size
        if self.fails and self.rows > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [0.5, 1.5]


@settings(max_examples=30)
@given(room=st.integers(1, 3000), parts=st.integers(1, 5), fails=st.booleans())
def test_the_largest_is_found_to_a_sixteenth(room: int, parts: int, fails: bool) -> None:
    meter = KnownMeter(room, fails)
    config = with_settings(load("smoke"), train={"batch_size": parts, "accumulate": parts})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch_size, "_time_steps", meter.step)
        patch.setattr("gc.collect", lambda: 0)  # 400 of them would take minutes, and no tensor is made here
        if room < parts:
            with raises_code(TrainingError, "train.out-of-memory", "train.recompute=true"):
                find_batch_size(config, meter)
            return
        found = find_batch_size(config, meter)
    best = found.largest.rows
    assert best % parts == 0
    assert best <= room < best + max(parts, best // 16) + parts
    assert found.bounded_by_memory
    assert all(trial.fits == (trial.rows <= room) for trial in found.trials)
    assert found.largest.rows_per_second == best


@pytest.mark.parametrize(("name", "value"), [("MOST_ROWS", 4), ("LONGEST", 0.0)])
def test_it_ends_where_memory_does_not_bound_it(
    monkeypatch: pytest.MonkeyPatch, name: str, value: float
) -> None:
    meter = KnownMeter(3000, fails=False)
    monkeypatch.setattr(batch_size, "_time_steps", meter.step)
    monkeypatch.setattr(batch_size, name, value)
    found = find_batch_size(load("smoke"), meter)
    assert [trial.rows for trial in found.trials] == ([1, 2, 4] if name == "MOST_ROWS" else [1])
    assert not found.bounded_by_memory


def test_real_steps_train_every_bucket_and_leave_nothing(
    smoke: Smoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(batch_size, "MOST_ROWS", 2)
    trained: list[tuple[int, int]] = []
    step = Trainer.train_step

    def watched(trainer: Trainer) -> object:
        metrics = step(trainer)
        trained.append((metrics["rows"], metrics["bucket"]))
        return metrics

    monkeypatch.setattr(Trainer, "train_step", watched)
    tried: list[int] = []
    found = find_batch_size(smoke("data.buckets=2", "train.steps=20"), on_try=tried.append)
    assert tried == [trial.rows for trial in found.trials] == [1, 2]
    assert {rows: {b for r, b in trained if r == rows} for rows in tried} == {1: {0, 1}, 2: {0, 1}}
    assert len(trained) == 8
    assert all(trial.peak and 0 < trial.peak <= found.limit for trial in found.trials)
    assert list(tmp_path.iterdir()) == []


def test_an_error_that_is_not_about_memory_is_raised(smoke: Smoke, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(trainer: Trainer) -> None:
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(Trainer, "train_step", fail)
    with pytest.raises(RuntimeError, match="multiplied"):
        find_batch_size(smoke(), HostMeter())


def test_a_gpu_counts_what_torch_reserved(smoke: Smoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulated device has room for what torch is said to reserve in steps of one row."""
    taken = {"bytes": 0}
    step = Trainer.train_step

    def watched(trainer: Trainer) -> object:
        taken["bytes"] = 100 * len(trainer.mine)
        return step(trainer)

    monkeypatch.setattr(Trainer, "train_step", watched)
    with simulated_device():
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (60, 1000))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 56)
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: taken.update(bytes=0))
        monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: taken["bytes"])
        found = find_batch_size(smoke("train.device=cuda"))
    assert found.limit == 104
    assert [(trial.rows, trial.peak, trial.fits) for trial in found.trials] == [
        (1, 100, True),
        (2, 200, False),
    ]
