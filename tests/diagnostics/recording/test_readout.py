"""On an accelerator a read by the host waits for all work: no step has one, and what is read later comes at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from diagnostics import Monitor
from diagnostics.recording.readout import Readout, fetch_all
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
    """The reads of each of six steps, of which every second one is recorded, and those of the first look at them."""
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
            with host_reads(monkeypatch) as reads:
                assert monitor.last.step == 4
            found.append(reads)
            assert monitor.coverage("core" if watch is None else "encoder.0") == 1.0
    return found


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("watch", [None, ["encoder.*", "core", "head"]])
def test_no_step_reads_the_device_and_a_look_at_three_steps_reads_once(
    monkeypatch: pytest.MonkeyPatch, watch: list[str] | None, frozen: bool
) -> None:
    *steps, look = count_reads(monkeypatch, watch, frozen)
    assert steps == [[]] * 6
    assert look == ["cpu()"]


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


def test_several_readouts_are_fetched_together() -> None:
    with simulated_device():
        readouts, keys = [Readout() for _ in range(3)], []
        for number, readout in enumerate(readouts):
            keys.append(
                (readout.add(torch.full((2,), float(number)).to(DEVICE)), readout.add(torch.tensor([7.0])))
            )
            readout.pack()
        fetch_all(readouts)
    found = [(read.numbers(one), read.numbers(two)) for read, (one, two) in zip(readouts, keys, strict=True)]
    assert found == [([float(number)] * 2, [7.0]) for number in range(3)]
