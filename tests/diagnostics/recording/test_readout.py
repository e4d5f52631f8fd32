"""On an accelerator a read by the host waits for all work: a step that is left out has none, a recorded one has one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from diagnostics import Monitor
from diagnostics.recording.readout import Readout
from tests.devices import simulated
from tests.devices.simulated import DEVICE, DeviceTensor, simulated_device

BATCH = 6
WAITS = {
    "aten::_local_scalar_dense",
    "aten::equal",
    "aten::nonzero",
    "aten::is_nonzero",
    "aten::masked_select",
}
"""Operations whose result the host needs."""


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8))
        self.core, self.head = nn.Linear(8, 8), nn.Linear(8, 3)
        self.frozen = nn.Linear(8, 8).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        state = context = self.encoder(x)
        for _ in range(3):
            state = self.core(state + context).tanh()
        return self.head(state + self.frozen(context))


class _Waits(TorchDispatchMode):
    def __init__(self, reads: list[str]) -> None:
        super().__init__()
        self._reads = reads

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name in WAITS and any(isinstance(each, DeviceTensor) for each in args):
            self._reads.append(func._schema.name)
        return func(*args, **(kwargs or {}))


@contextmanager
def host_reads(patch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Every read of the device by the host in the block."""
    reads: list[str] = []
    move, listed = simulated._ToHost.forward, DeviceTensor.tolist

    def moved(ctx: Any, tensor: DeviceTensor) -> Tensor:
        reads.append("cpu()")
        return move(ctx, tensor)

    def to_list(self: DeviceTensor) -> Any:
        reads.append("tolist()")
        return listed(self)

    with patch.context() as inside, _Waits(reads):
        inside.setattr(simulated._ToHost, "forward", staticmethod(moved))
        inside.setattr(DeviceTensor, "tolist", to_list)
        yield reads


def count_reads(monkeypatch: pytest.MonkeyPatch, watch: list[str] | None, frozen: bool) -> list[list[str]]:
    """The reads of each of six steps, of which every second one is recorded."""
    with simulated_device():
        torch.manual_seed(0)
        model = Net().to(DEVICE)
        if not frozen:
            model.frozen.requires_grad_(True)
        x = torch.randn(BATCH, 4).to(DEVICE)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.SGD(trained, 0.1)
        found = []
        with Monitor(model, optimizer, watch=watch, every=2) as monitor:
            for _ in range(6):
                with host_reads(monkeypatch) as reads, monitor.step(samples=BATCH):
                    model(x).square().mean().backward()
                    optimizer.step()
                    optimizer.zero_grad()
                found.append(reads)
            assert monitor.coverage("core" if watch is None else "encoder.0") == 1.0
    return found


@pytest.mark.parametrize("watch", [None, ["encoder.*", "core", "head"]])
def test_a_recorded_step_reads_the_device_once_and_another_never(
    monkeypatch: pytest.MonkeyPatch, watch: list[str] | None
) -> None:
    found = count_reads(monkeypatch, watch, frozen=False)
    assert found[1::2] == [[], [], []]
    assert found[0::2] == [["cpu()"]] * 3


def test_frozen_weights_need_no_read_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    found = count_reads(monkeypatch, None, frozen=True)
    assert found[1::2] == [[], [], []]
    assert found[0::2] == [["cpu()"]] * 3


def test_values_come_back_under_their_keys_whatever_their_shape_and_type() -> None:
    readout = Readout()
    matrix = readout.add(torch.tensor([[1.5, 2.5], [3.5, 4.5]]))
    nothing = readout.add_scalars([])
    counts = readout.add_scalars([torch.tensor(7), torch.tensor(8)])
    half = readout.add(torch.tensor([0.25], dtype=torch.float16))
    readout.fetch()
    assert readout[matrix].tolist() == [1.5, 2.5, 3.5, 4.5]
    assert readout.numbers(nothing) == []
    assert readout.numbers(counts) == [7.0, 8.0]
    assert readout.numbers(half) == [0.25]
    assert readout[half].dtype == torch.float32
