"""The parts that are captured, with functions that are called instead of graphs: which calls are replayed, and what of.

That replays of real graphs compute the same is tested on a GPU (``tests/devices/test_gpu.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from etrm.config import Config
from etrm.errors import ConfigError
from etrm.model.forward_context import run_part
from etrm.training import trainer as training
from etrm.training.execution.cuda_graphs import CudaGraphs
from etrm.training.monitoring.step_check import StepCheck
from etrm.training.trainer import Trainer
from tests.errors import raises_code

Smoke = Callable[..., Config]
CPU = torch.device("cpu")


class Captures:
    """Stands for torch's capture: keeps what it was given, and counts the replays of each capture."""

    def __init__(self) -> None:
        self.modules: list[nn.Module] = []
        self.samples: list[tuple[Tensor, ...]] = []
        self.replays: list[int] = []
        self.pools: list[object] = []

    def __call__(
        self, module: nn.Module, samples: tuple[Tensor, ...], allow_unused_input: bool, pool: object
    ) -> Callable[..., Any]:
        number = len(self.modules)
        self.pools.append(pool)
        self.modules.append(module)
        self.samples.append(samples)
        self.replays.append(0)

        def replay(*args: Tensor) -> Any:
            assert [arg.shape for arg in args] == [sample.shape for sample in samples]
            self.replays[number] += 1
            return module(*args)

        return replay


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> Captures:
    """What trainers capture on this processor."""
    found = Captures()
    monkeypatch.setattr(
        training, "CudaGraphs", lambda train, device: CudaGraphs(train, device, found, object)
    )
    return found


def test_without_a_gpu_or_in_parts_it_is_refused(smoke: Smoke) -> None:
    with raises_code(ConfigError, "train.no-cuda-graphs", "cpu", "train.cuda_graphs=false"):
        Trainer(smoke("train.cuda_graphs=true", "train.device=cpu"))
    with raises_code(ConfigError, "train.cuda-graphs-in-parts", "train.accumulate=2"):
        CudaGraphs(smoke("train.accumulate=2").train, CPU, Captures(), object)


ALL_PARTS = "train.static_shapes=true"
SETTINGS = ("train.lr=1e-3", "data.augmentations=fresh", "monitor.every=3", "monitor.probe_every=3")
VARIANTS: dict[str, tuple[tuple[str, ...], int]] = {
    "standard": ((ALL_PARTS,), 3),
    "groups of pairs": ((), 2),
    "tokens of cells": ((ALL_PARTS, "model.encoder.layout=cells", "model.encoder.pooling=none"), 3),
    "trm_style": ((ALL_PARTS, "model.encoder.kind=trm_style"), 2),
    "trm": (("model.variant=trm", "data.augmentations=2"), 1),
    "frozen decoder": ((ALL_PARTS, "train.freeze_decoder_steps=100"), 3),
}


@pytest.mark.parametrize(("settings", "parts"), VARIANTS.values(), ids=VARIANTS)
def test_steps_are_the_same_and_recorded_ones_replay_nothing(
    smoke: Smoke, captures: Captures, settings: tuple[str, ...], parts: int
) -> None:
    plain = Trainer(smoke(*SETTINGS, *settings, "train.static_shapes=false"))
    replayed = Trainer(smoke(*SETTINGS, *settings, "train.cuda_graphs=true"))
    assert replayed.graphs is not None
    calls = []
    for trainer in (plain, replayed):
        torch.manual_seed(0)
        for _ in range(6):
            before = sum(captures.replays)
            trainer.advance()
            calls.append(sum(captures.replays) - before)
    assert calls == [0] * 6 + [0, parts, parts] * 2  # the first and fourth steps are recorded
    assert len(captures.modules) == replayed.graphs.count
    for name, value in plain.model.state_dict().items():
        torch.testing.assert_close(replayed.model.state_dict()[name], value, rtol=1e-3, atol=1e-4, msg=name)


def test_a_compared_step_replays_nothing(smoke: Smoke, captures: Captures) -> None:
    config = smoke("train.cuda_graphs=true", ALL_PARTS, "monitor.enabled=false")
    trainer, check = Trainer(config), StepCheck(config)
    trainer.advance()
    before = sum(captures.replays)
    with check.step(trainer):
        trainer.advance()
    assert before
    assert sum(captures.replays) == before
    assert [step.departures for step in check.compared] == [()]


def test_a_shape_is_captured_once_and_a_freeze_is_another_graph(smoke: Smoke) -> None:
    captures, part, frozen = Captures(), nn.Linear(3, 2), nn.Linear(3, 2).requires_grad_(False)
    graphs = CudaGraphs(smoke().train, CPU, captures, object)
    x = torch.randn(4, 3)
    with graphs.replaying():
        for _ in range(3):
            assert torch.equal(run_part(part, part, x), part(x))
        assert captures.replays == [3]
        run_part(part, part, x[:2])
        part.bias.requires_grad_(False)
        run_part(part, part, x)
        run_part(frozen, frozen, x)  # has no backward pass
        with torch.no_grad():
            run_part(part, part, x)
        part.eval()
        run_part(part, part, x)
        other = nn.Linear(3, 2)
        run_part(other, other, x)
    assert captures.replays == [3, 1, 1, 1]
    assert graphs.count == 4
    assert len({id(pool) for pool in captures.pools[:3]}) == 1  # all shapes of a part
    assert captures.pools[3] is not captures.pools[0]
    assert not any(sample.data_ptr() == x.data_ptr() for samples in captures.samples for sample in samples)


def test_results_are_copies_and_absent_arguments_stay_absent(smoke: Smoke) -> None:
    kept: list[tuple[Tensor, Tensor]] = []

    def both(x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        assert mask is None
        kept.append((x * part.weight, x + part.weight))
        return kept[-1]

    part = nn.Linear(3, 1, bias=False)
    with CudaGraphs(smoke().train, CPU, Captures(), object).replaying():
        found = run_part(part, both, torch.ones(2, 3), None)
    for mine, theirs in zip(found, kept[-1], strict=True):
        assert torch.equal(mine, theirs)
        assert mine.data_ptr() != theirs.data_ptr()
        assert mine.requires_grad
