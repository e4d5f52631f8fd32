"""A simulated second device: code that mixes host and device tensors fails on a machine without a GPU.

A tensor on it computes on the host and says that it is on ``cuda:0``. An operation that takes tensors of both places
raises what CUDA raises. One thing that CUDA allows is refused on purpose: a host tensor as an index into a device
tensor. It is a hidden copy, for which the host waits.

How: :class:`DeviceTensor` wraps the values and checks every operation below autograd (``__torch_dispatch__``). torch
itself believes it to be on the CPU, because a CPU build of torch knows no other device. What names a device, ``x.to``
or ``torch.zeros(device=...)``, is caught above autograd by a ``TorchFunctionMode``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from etrm.training import optim

DEVICE = torch.device("cuda", 0)
NAME = "Simulated GPU"


class MixedDevicesError(RuntimeError):
    """An operation got tensors of the host and of the device."""


class DeviceTensor(torch.Tensor):
    """A tensor of the simulated device.

    Attributes:
        host: the values, of the same shape and type.
    """

    host: Tensor
    device = property(lambda self: DEVICE)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, host: Tensor) -> DeviceTensor:
        if host.layout is not torch.strided:
            made = torch.Tensor._make_wrapper_subclass(
                cls, host.shape, dtype=host.dtype, layout=host.layout, device="cpu"
            )
        else:
            made = torch.Tensor._make_wrapper_subclass(
                cls,
                host.shape,
                strides=host.stride(),
                storage_offset=host.storage_offset(),
                dtype=host.dtype,
                device="cpu",
            )
        made.host = host
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})

    def tolist(self) -> Any:
        return self.detach().host.tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")

    __array__ = numpy

    def data_ptr(self) -> int:
        return self.detach().host.data_ptr()

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        values = DeviceTensor(self.detach().host.clone())
        is_parameter = isinstance(self, torch.nn.Parameter)
        copied = torch.nn.Parameter(values, self.requires_grad) if is_parameter else values
        memo[id(self)] = copied
        return copied

    def __repr__(self, **kwargs: Any) -> str:
        return f"DeviceTensor({self.detach().host!r})"


class _Operation(NamedTuple):
    """What is asked of every call of an operation; found once, for a step calls thousands of them."""

    name: str
    takes_numbers: bool
    returns: bool

    @classmethod
    @cache
    def of(cls, func: Any) -> _Operation:
        name = func._schema.name
        takes_numbers = torch.Tag.pointwise in func.tags or name in _TAKE_A_NUMBER
        return cls(name, takes_numbers, bool(func._schema.returns))


def _compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One operation on the host's values; refused where tensors of both places meet."""
    operation = _Operation.of(func)
    if operation.name == "aten::copy_" and not isinstance(args[0], DeviceTensor):
        return args[0].copy_(args[1].host)  # the one operation between places
    owners: dict[int, DeviceTensor] = {}

    def values(item: Any) -> Any:
        if isinstance(item, DeviceTensor):
            owners[id(item.host)] = item
            return item.host
        if isinstance(item, (list, tuple)):
            return type(item)([values(each) for each in item])
        if operation.name != "aten::copy_" and isinstance(item, (Tensor, torch.Generator)):
            _refuse_of_host(operation, item)
        return item

    def on_device(item: Any) -> Any:
        if isinstance(item, Tensor):  # an operation in place returns the very tensor that it was given
            return owners[id(item)] if id(item) in owners else DeviceTensor(item)
        return type(item)([on_device(each) for each in item]) if isinstance(item, (list, tuple)) else item

    host_args = [values(item) for item in args]
    made = func(*host_args, **{key: values(item) for key, item in kwargs.items()})
    return on_device(made) if operation.returns else None


_TAKE_A_NUMBER = ("aten::fill_", "aten::masked_fill", "aten::masked_fill_", "aten::index_put_", "aten::where")


def _refuse_of_host(operation: _Operation, item: Tensor | torch.Generator) -> None:
    """CUDA takes a number on the host (no dimensions) in operations element by element, and in few others."""
    if isinstance(item, torch.Generator):
        raise MixedDevicesError(f"{operation.name} draws on {DEVICE} with a generator of {item.device}")
    if item.dim() > 0 or not operation.takes_numbers:
        raise MixedDevicesError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"{DEVICE} and {item.device}! (when checking the arguments of {operation.name})"
        )


class _ToDevice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, host: Tensor) -> Tensor:
        return DeviceTensor(host.detach().clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.host


class _ToHost(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: DeviceTensor) -> Tensor:
        return tensor.host.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return DeviceTensor(gradient)


class _NamedDevices(TorchFunctionMode):
    """Calls that name a device, or move a tensor between places."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name in ("to", "cpu", "cuda") and args and isinstance(args[0], Tensor):
            return _moved(name, args, kwargs)
        if name in ("__getitem__", "__setitem__") and isinstance(args[0], DeviceTensor):
            args = (args[0], _index(args[1]), *args[2:])
        kwargs.pop("pin_memory", None)
        if name == "pin_memory":
            if isinstance(args[0], DeviceTensor):
                raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")
            return args[0].clone()
        if name == "new_tensor" and isinstance(args[0], DeviceTensor):  # torch would make it on the CPU
            kwargs.setdefault("device", DEVICE)
            kwargs.setdefault("dtype", args[0].dtype)
            func, args = torch.tensor, args[1:]
        if kwargs.get("device") is None:
            return func(*args, **kwargs)
        place = torch.device(kwargs["device"])
        generator = kwargs.get("generator")
        if generator is not None and generator.device.type != place.type:
            raise MixedDevicesError(f"{name} draws on {place} with a generator of {generator.device}")
        made = func(*pytree.tree_map_only(DeviceTensor, _host, args), **{**kwargs, "device": "cpu"})
        return DeviceTensor(made).requires_grad_(made.requires_grad) if place.type == "cuda" else made


def _host(tensor: DeviceTensor) -> Tensor:
    return tensor.detach().host


def _moved(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """What ``x.to(...)``, ``x.cpu()`` and ``x.cuda()`` give."""
    tensor, *rest = args
    given = [*rest, kwargs.get("device"), kwargs.get("dtype"), kwargs.get("other")]
    like = [item for item in given if isinstance(item, Tensor)]
    kinds = [item for item in given if isinstance(item, torch.dtype)] + [item.dtype for item in like]
    places = [item for item in given if isinstance(item, (str, torch.device))] + [
        item.device for item in like
    ]
    if kinds:
        tensor = tensor.type(kinds[0])
    there = isinstance(tensor, DeviceTensor)
    target = name if name != "to" else torch.device(places[0]).type if places else None
    if target is None or (target == "cuda") == there:
        return tensor.clone() if kwargs.get("copy") else tensor
    moved: Tensor = (_ToHost if there else _ToDevice).apply(tensor)
    return moved


def _index(index: Any) -> Any:
    """CUDA takes lists as indices to the device; a tensor of the host stays what it is."""
    if isinstance(index, tuple):
        return tuple(map(_index, index))
    return DeviceTensor(torch.tensor(index)) if isinstance(index, (list, range)) else index


_torch_apply = torch.nn.Module._apply


def _apply(self: torch.nn.Module, fn: Any, recurse: bool = True) -> torch.nn.Module:
    """Moves a module and keeps what a real device keeps: parameters stay the same objects, with their hooks."""
    hooks = {p: list((p._backward_hooks or {}).values()) for p in self._parameters.values() if p is not None}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.__future__, "_swap_module_params_on_conversion", True)
        _torch_apply(self, fn, recurse)
    for parameter, registered in hooks.items():
        parameter._backward_hooks = None  # the exchange leaves them to the old tensor
        for hook in registered:
            parameter.register_hook(hook)
    return self


class _Event:
    def record(self, *args: Any) -> None: ...

    def synchronize(self) -> None: ...


class _Autocast(torch.autocast):
    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        super().__init__("cpu" if device_type == "cuda" else device_type, *args, **kwargs)


_PROPERTIES = SimpleNamespace(name=NAME, major=9, minor=0, total_memory=2**34, multi_processor_count=1)
_CUDA: dict[str, Callable[..., Any]] = {
    "is_available": lambda: True,
    "is_current_stream_capturing": lambda: False,
    "device_count": lambda: 1,
    "current_device": lambda: 0,
    "set_device": lambda device: None,
    "synchronize": lambda device=None: None,
    "is_bf16_supported": lambda including_emulation=True: True,
    "get_device_name": lambda device=None: NAME,
    "get_device_properties": lambda device=None: _PROPERTIES,
    "get_rng_state": lambda device=DEVICE: torch.zeros(16, dtype=torch.uint8),
    "set_rng_state": lambda state, device=DEVICE: None,
    "manual_seed": lambda seed: None,
    "manual_seed_all": lambda seed: None,
    "_lazy_init": lambda: None,
    "Event": _Event,
}


@contextmanager
def simulated_device() -> Iterator[torch.device]:
    """A machine with one GPU, for all that happens inside the block."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _CUDA.items():
            patch.setattr(torch.cuda, name, value)
        patch.setattr(torch, "autocast", _Autocast)
        patch.setattr(torch.nn.Module, "_apply", _apply)
        patch.setattr(
            optim, "FUSED", frozenset()
        )  # rounds differently, where tests compare bits with the host's
        with _NamedDevices():
            yield DEVICE
