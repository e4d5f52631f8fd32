"""A shortage of memory is an error that names settings with which the same step fits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from etrm.config import Config, load, with_settings
from etrm.errors import TrainingError
from etrm.training.execution.memory import explain_shortage, is_shortage
from etrm.training.trainer import Trainer
from tests.errors import raises_code

Smoke = Callable[..., Config]


@pytest.mark.parametrize(
    ("settings", "remedies", "absent"),
    [
        ((), ("train.recompute=true", "train.accumulate=2", "--find-batch-size", "8 rows"), "hidden_size"),
        (("train.accumulate=2",), ("train.recompute=true", "train.accumulate=4", "4 rows"), "hidden_size"),
        (("train.recompute=true", "train.accumulate=8"), ("model.hidden_size", "1 rows"), "accumulate="),
    ],
)
def test_a_shortage_names_what_needs_less(
    smoke: Smoke,
    monkeypatch: pytest.MonkeyPatch,
    settings: tuple[str, ...],
    remedies: tuple[str, ...],
    absent: str,
) -> None:
    trainer = Trainer(smoke("monitor.enabled=false", "train.batch_size=8", *settings))

    def fail(read: bool = True) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")

    monkeypatch.setattr(trainer, "advance", fail)
    with raises_code(TrainingError, "train.out-of-memory", "2.00 GiB", *remedies) as found:
        trainer.run()
    assert absent not in str(found.value)


@pytest.mark.parametrize(
    ("allocates", "error"),
    [
        ("etrm.training.trainer.Slots", MemoryError()),
        ("etrm.training.trainer.Ema", RuntimeError("DefaultCPUAllocator: can't allocate memory: 64 bytes")),
        ("etrm.training.trainer.Slots", OverflowError("cannot fit 'int' into an index-sized integer")),
    ],
)
def test_a_run_that_does_not_fit_names_its_sizes(
    smoke: Smoke, monkeypatch: pytest.MonkeyPatch, allocates: str, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(allocates, fail)
    sizes = ("train.batch_size", "model.hidden_size", "data.max_side")
    with raises_code(TrainingError, "train.out-of-memory", *sizes, got=error) as found:
        Trainer(smoke())
    assert is_shortage(found.value)  # so that the search for a batch size continues


def test_parts_divide_the_rows_of_a_process() -> None:
    """Two processes have three rows each, which cannot be split in two."""
    train = with_settings(load("smoke"), train={"batch_size": 6}).train
    with raises_code(TrainingError, "train.out-of-memory", "accumulate=3"), explain_shortage(train, rows=3):
        raise MemoryError


def test_replayed_parts_are_not_split() -> None:
    train = with_settings(load("smoke"), train={"cuda_graphs": True}).train
    with (
        raises_code(TrainingError, "train.out-of-memory", "--find-batch-size") as found,
        explain_shortage(train, rows=4),
    ):
        raise torch.OutOfMemoryError
    assert "accumulate=" not in str(found.value)


def test_a_host_without_memory_is_a_shortage_and_other_errors_are_not() -> None:
    train = load("smoke").train
    with raises_code(TrainingError, "train.out-of-memory"), explain_shortage(train, rows=4):
        torch.empty(1 << 60, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="shapes"), explain_shortage(train, rows=4):
        raise RuntimeError("shapes")
    assert not is_shortage(ValueError("can't allocate memory"))
