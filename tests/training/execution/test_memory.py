"""A device without memory is an error that names settings with which the same step fits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from etrm.config import Config
from etrm.errors import TrainingError
from etrm.training.trainer import Trainer
from tests.errors import raises_code

Smoke = Callable[..., Config]


@pytest.mark.parametrize(
    ("settings", "remedies", "absent"),
    [
        ((), ("train.recompute=true", "train.accumulate=2", "8 rows"), "hidden_size"),
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
