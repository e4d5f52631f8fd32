"""How seldom the host waits for the device, and that no step's line is lost by it."""

from __future__ import annotations

import functools
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from etrm.checkpoints.run_folder import read_metrics
from etrm.config import Config
from etrm.training.trainer import Trainer, train

Smoke = Callable[..., Config]


def asker() -> str:
    """The function of ours that asks, innermost first."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if module.partition(".")[0] in ("etrm", "diagnostics"):
            return f"{module}.{frame.f_code.co_qualname}"
        frame = frame.f_back
    return "nobody of ours"


class Readings(TorchDispatchMode):
    """Counts by function what would make the host wait for a GPU: values, or sizes that depend on values."""

    WAITS = frozenset(
        {
            torch.ops.aten._local_scalar_dense.default,  # item, int, float, bool, if
            torch.ops.aten.equal.default,
            torch.ops.aten.nonzero.default,
            torch.ops.aten.masked_select.default,
            torch.ops.aten.bincount.default,
            torch.ops.aten._unique2.default,
            torch.ops.aten.repeat_interleave.Tensor,
            torch.ops.aten._coalesce.default,
        }
    )

    def __init__(self) -> None:
        super().__init__()
        self.by: Counter[str] = Counter()
        self.asking = False
        """Whether a counted method is running: under a function mode torch calls it from within itself."""
        self.of_the_host: list[Tensor] = []
        """Tensors that lie on the host, whatever the device of the run."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        masks = func is torch.ops.aten.index.Tensor and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if (func in self.WAITS or masks) and not any(args[0] is held for held in self.of_the_host):
            self.by[asker()] += 1
        return func(*args, **(kwargs or {}))


def noted(counting: Readings, plain: Callable[..., Any]) -> Callable[..., Any]:
    """A method of tensors, counted as well: of a tensor on the CPU it dispatches nothing."""

    @functools.wraps(plain)  # the simulated device knows methods by their names
    def ask(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        active = torch.utils._python_dispatch._get_current_dispatch_mode() is counting
        if active and not counting.asking:
            counting.by[asker()] += 1
        before, counting.asking = counting.asking, True
        try:
            return plain(tensor, *args, **kwargs)
        finally:
            counting.asking = before

    return ask


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> Readings:
    """Not counting until it is entered."""
    counting = Readings()
    for name in ("tolist", "numpy", "cpu"):
        monkeypatch.setattr(Tensor, name, noted(counting, getattr(Tensor, name)))
    return counting


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ((), 1),
        (("train.accumulate=2",), 2),
        (("train.optimizer=adam_atan2",), 1),
        pytest.param(("model.encoder.kind=lpn_variational",), 1, marks=pytest.mark.slow),
        pytest.param(("model.encoder.kind=trm_style",), 1, marks=pytest.mark.slow),
        (("model.variant=trm", "data.augmentations=2"), 1),
    ],
)
def test_a_step_whose_numbers_are_not_read_asks_only_which_rows_halted(
    smoke: Smoke, readings: Readings, settings: tuple[str, ...], parts: int
) -> None:
    trainer = Trainer(smoke("data.buckets=1", "monitor.every=10", "train.log_every=10", *settings))
    trainer.advance(read=True)
    states = [state for optimizer in trainer.optimizers for state in optimizer.state.values()]
    readings.of_the_host = [state["step"] for state in states]
    for _ in range(3):
        readings.by.clear()
        with readings:
            assert trainer.advance(read=False) == []
        assert readings.by == {"etrm.training.metric_log.Landing.read": parts}
    with readings:  # the counter sees a reading where there is one
        assert len(trainer.advance(read=True)) == 4
    assert readings.by["etrm.training.metric_log.Journal.fetch"] == 1


def test_log_every_changes_no_line_and_no_weight(
    tmp_path: Path, smoke: Smoke, weights: Callable[..., dict[str, Tensor]]
) -> None:
    found = []
    for name, log_every in (("each", 1), ("seldom", 3)):
        kept: list[dict[str, Tensor]] = []

        def keep(trainer: Trainer, metrics: dict[str, Any], kept: list[dict[str, Tensor]] = kept) -> None:
            kept.append(weights(trainer.model))

        train(smoke("train.steps=8", f"train.log_every={log_every}"), tmp_path / name, on_step=keep)
        assert len(kept) == 8
        found.append((read_metrics(tmp_path / name), kept[-1]))
    (lines, first), (others, second) = found
    assert lines == others
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_copy_of_the_newest_step_leaves_it_unread(smoke: Smoke) -> None:
    trainer = Trainer(smoke())
    journal = trainer.state.journal
    assert journal.copy_last() is None
    trainer.advance(read=False)
    copied = journal.copy_last()
    assert copied is not None
    assert [step for step, _ in journal.fetch()] == [1]
    [line] = journal.read()
    assert copied.line() == {name: line[name] for name in copied.line()}
