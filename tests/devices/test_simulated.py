"""The simulated device: the numbers of the host, and an error wherever CUDA would raise one."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.devices.simulated import DEVICE, MixedDevicesError, simulated_device


@given(rows=st.integers(1, 5), inner=st.integers(1, 5), seed=st.integers(0, 100))
def test_values_and_gradients_are_those_of_the_host(rows: int, inner: int, seed: int) -> None:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(inner, 4), nn.LayerNorm(4), nn.GELU(), nn.Linear(4, 2))
    x = torch.randn(rows, inner)
    network(x).square().sum().backward()
    wanted = [p.grad for p in network.parameters()]
    moved = copy.deepcopy(network)
    with simulated_device():
        moved.zero_grad()
        moved.to("cuda")
        moved(x.to("cuda")).square().sum().backward()
        found = [p.grad for p in moved.parameters()]
        assert {(p.device, p.grad.device) for p in moved.parameters() if p.grad is not None} == {
            (DEVICE, DEVICE)
        }
        assert all(
            torch.equal(one, two.cpu()) for one, two in zip(wanted, found, strict=True) if one is not None
        )


def test_a_gradient_crosses_from_the_device_to_the_host_and_back() -> None:
    x = torch.ones(3, requires_grad=True)
    with simulated_device():
        y = (2 * x.to("cuda")).cpu() * torch.tensor([1.0, 2.0, 3.0])
        y.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [2, 4, 6]


MIXES: dict[str, Callable[[Tensor, Tensor], object]] = {
    "sum": lambda device, host: device + host,
    "product": lambda device, host: host @ device.T,
    "index of the host": lambda device, host: device[torch.tensor([0])],
    "index of the device": lambda device, host: host[device[0].long()],
    "mask of the host": lambda device, host: device[host > 0],
    "in place": lambda device, host: host.add_(device),
    "join": lambda device, host: torch.cat((device, host)),
    "stack of numbers": lambda device, host: torch.stack((device.sum(), host.sum())),
    "comparison": lambda device, host: torch.equal(device, host),
    "norms": lambda device, host: torch._foreach_add([device], [host]),
    "module": lambda device, host: nn.functional.linear(device, host),
    "random numbers": lambda device, host: device.normal_(generator=torch.Generator()),
    "new random numbers": lambda device, host: torch.rand(2, device="cuda", generator=torch.Generator()),
}


@pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES)
def test_what_mixes_host_and_device_is_refused(mix: Callable[[Tensor, Tensor], object]) -> None:
    with simulated_device():
        device, host = torch.ones(2, 2, device="cuda"), torch.ones(2, 2)
        with pytest.raises(MixedDevicesError):
            mix(device, host)


def test_numpy_reads_no_device() -> None:
    with simulated_device(), pytest.raises(TypeError):
        torch.ones(2, device="cuda").numpy()


def test_what_cuda_allows() -> None:
    number = torch.tensor(2.0)
    with simulated_device():
        device, host = torch.ones(2, 2, device="cuda"), torch.zeros(2, 2)
        assert (device * number).tolist() == [[2, 2], [2, 2]]
        host.copy_(device)
        assert host.tolist() == device.tolist() == [[1, 1], [1, 1]]
        device[[0]] = 3.0
        assert float(device.sum()) == 8
        assert torch.zeros_like(device).device == device.new_tensor([1]).device == DEVICE
        assert device.to(torch.float64).cpu().dtype == torch.float64
        assert device.cpu().device.type == "cpu"


def test_a_parameter_keeps_its_identity_and_its_hooks() -> None:
    layer = nn.Linear(2, 2)
    weight = layer.weight
    weight.register_hook(lambda gradient: -gradient)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    with simulated_device():
        layer.to("cuda")
        before = layer.weight.detach().clone()
        layer(torch.ones(1, 2, device="cuda")).sum().backward()
        optimizer.step()
        assert layer.weight is weight
        assert torch.equal(layer.weight, before + 1)
        layer.load_state_dict({name: value.cpu() for name, value in layer.state_dict().items()})
        assert layer.weight is weight
        assert weight.device == DEVICE
        assert weight._backward_hooks
