"""Checks bit by bit that a frozen module has not moved, and names the cause if it has.

The fields of `TensorReport` define each quantity. Take a `fingerprint` when freezing, `compare` at any later
time. The same two calls answer two more questions: whether an EMA copy is equal, and whether the part
that should train has moved.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from diagnostics.recording.tensors import stored_values

MovementCause = Literal[
    "weight decay",
    "stale gradients",
    "stale momentum",
    "unfrozen",
    "buffer update",
    "outside the optimiser",
]
Gradient = Literal["none", "zero", "non-zero"]


@dataclass(frozen=True)
class TensorPrint:
    """A parameter or buffer at the time of the fingerprint: a detached copy on the CPU."""

    value: Tensor
    parameter: bool
    requires_grad: bool
    state_step: float | None
    """The optimiser's own step count for it, where an optimiser was given and keeps one."""


@dataclass(frozen=True)
class Fingerprint:
    """Every parameter and buffer of a module by name; one under two names counts once, under the first."""

    tensors: dict[str, TensorPrint]


@dataclass(frozen=True)
class TensorReport:
    """The comparison of one tensor with its fingerprint."""

    name: str
    parameter: bool
    equal: bool
    """Same shape, dtype and bits: NaN equals the same NaN, and -0.0 differs from 0.0."""
    largest: float | None
    """Largest absolute difference, in the tensor's unit; inf where a NaN or an infinity came or went; None
    where shapes differ or the tensor is empty."""
    mean: float | None
    """Mean absolute difference, likewise."""
    requires_grad: bool
    requires_grad_before: bool
    in_optimizer: bool
    weight_decay: float | None
    """Of its optimiser group; None where it is in none."""
    gradient: Gradient
    """Content of .grad now."""
    has_state: bool
    """The optimiser holds state for it."""
    state_grew: bool | None
    """The optimiser's step count rose since the fingerprint; None where it is unknown at either time."""
    cause: MovementCause | None
    """Best explanation of its movement; None where it did not move."""

    @property
    def stale_gradient(self) -> bool:
        """Whether a parameter that requires no gradient holds a non-zero one, which the next step will use."""
        return not self.requires_grad and self.gradient == "non-zero"


@dataclass(frozen=True)
class FrozenReport:
    """The comparison of a module with its fingerprint."""

    tensors: tuple[TensorReport, ...]
    """One for each tensor that is in both, in the fingerprint's order."""
    missing: tuple[str, ...]
    """Names in the fingerprint that the module no longer has."""
    new: tuple[str, ...]
    """Names in the module that the fingerprint does not know."""

    @property
    def matched(self) -> int:
        """Tensors that are bitwise equal."""
        return sum(t.equal for t in self.tensors)

    @property
    def total(self) -> int:
        """Tensors in the fingerprint."""
        return len(self.tensors) + len(self.missing)

    @property
    def count(self) -> str:
        """matched/total, such as "14/14"."""
        return f"{self.matched}/{self.total}"

    @property
    def frozen(self) -> bool:
        """Everything is bitwise equal, nothing is missing and nothing new. False for a module without
        tensors.
        """
        return 0 < self.total == self.matched and not self.new

    @property
    def moved(self) -> tuple[TensorReport, ...]:
        """The tensors that are not bitwise equal."""
        return tuple(t for t in self.tensors if not t.equal)

    @property
    def cause(self) -> MovementCause | None:
        """The cause of most moved tensors, the first of them on a tie; None where nothing moved.

        A parameter's cause goes before any buffer's.
        """
        causes = [t.cause for t in sorted(self.moved, key=lambda t: not t.parameter) if t.cause is not None]
        weights = [c for c in causes if c != "buffer update"]
        return Counter(weights or causes).most_common(1)[0][0] if causes else None


def fingerprint(module: nn.Module, optimizers: Iterable[Optimizer] = ()) -> Fingerprint:
    """Copy every parameter and buffer of a module (non-persistent ones too) to the CPU.

    Pass the optimisers as well to see later whether their state for these parameters grew. Costs the module's
    size in memory: exact differences need the values, a hash would only say "different".
    """
    members = _members(optimizers)
    return Fingerprint(
        {
            name: TensorPrint(
                value=tensor.detach().cpu().clone(),
                parameter=parameter,
                requires_grad=tensor.requires_grad,
                state_step=_state_step(members.get(id(tensor))),
            )
            for name, tensor, parameter in _tensors(module)
        }
    )


def compare(before: Fingerprint, module: nn.Module, optimizers: Iterable[Optimizer] = ()) -> FrozenReport:
    """Compare a module, on any device, with its fingerprint.

    Pass every optimiser of the training loop, else each movement looks as if it came from outside. The cause
    of a moved parameter, in this order:

    1. buffer: "buffer update" (batch statistics of a module left in training mode).
    2. in no optimiser: "outside the optimiser" (loaded, assigned, overwritten by an EMA copy).
    3. in a group with weight decay, and all elements shrank by one factor: "weight decay".
    4. requires no gradient but holds a non-zero one, or its optimiser state grew: "stale gradients".
    5. requires no gradient and holds none: an optimiser skips it, so "outside the optimiser".
    6. a gradient of zeros: "weight decay" if its group has any, else "stale momentum".
    7. otherwise "unfrozen": it requires a gradient.
    """
    members = _members(optimizers)
    now = {name: (tensor, parameter) for name, tensor, parameter in _tensors(module)}
    return FrozenReport(
        tensors=tuple(
            _compare_tensor(name, was, now[name][0], members)
            for name, was in before.tensors.items()
            if name in now
        ),
        missing=tuple(name for name in before.tensors if name not in now),
        new=tuple(name for name in now if name not in before.tensors),
    )


@dataclass(frozen=True)
class _Member:
    weight_decay: float
    state: dict[str, Any]  # an optimiser's own, of any content


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor, bool]]:
    for name, parameter in module.named_parameters():
        yield name, parameter, True
    for name, buffer in module.named_buffers():
        yield name, buffer, False


def _members(optimizers: Iterable[Optimizer]) -> dict[int, _Member]:
    """By id of the parameter; of several optimisers for one, the largest decay."""
    found: dict[int, _Member] = {}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            decay = float(group.get("weight_decay", 0.0))
            for p in group["params"]:
                old = found.get(id(p))
                state = {**(old.state if old else {}), **optimizer.state.get(p, {})}
                found[id(p)] = _Member(max(decay, old.weight_decay) if old else decay, state)
    return found


def _state_step(member: _Member | None) -> float | None:
    step = member.state.get("step") if member else None
    return None if step is None else float(step)


def _compare_tensor(name: str, was: TensorPrint, tensor: Tensor, members: dict[int, _Member]) -> TensorReport:
    value = tensor.detach().cpu()
    member = members.get(id(tensor))
    equal = _same_bits(was.value, value)
    largest, mean = _differences(was.value, value)
    gradient = _gradient(tensor) if was.parameter else "none"
    step = _state_step(member)
    # without a fingerprint of the optimiser, old and new state cannot be distinguished
    grew = None if step is None or was.state_step is None else step > was.state_step
    return TensorReport(
        name=name,
        parameter=was.parameter,
        equal=equal,
        largest=largest,
        mean=mean,
        requires_grad=tensor.requires_grad,
        requires_grad_before=was.requires_grad,
        in_optimizer=member is not None,
        weight_decay=member.weight_decay if member else None,
        gradient=gradient,
        has_state=bool(member and member.state),
        state_grew=grew,
        cause=None if equal else _cause(was, value, tensor.requires_grad, gradient, member, grew),
    )


def _cause(
    was: TensorPrint,
    value: Tensor,
    requires_grad: bool,
    gradient: Gradient,
    member: _Member | None,
    grew: bool | None,
) -> MovementCause:
    if not was.parameter:
        return "buffer update"
    if member is None:
        return "outside the optimiser"
    if member.weight_decay > 0 and _shrank(was.value, value):
        return "weight decay"
    if gradient == "zero":
        return "weight decay" if member.weight_decay > 0 else "stale momentum"
    if requires_grad:
        return "unfrozen"
    return "stale gradients" if gradient == "non-zero" or grew else "outside the optimiser"


def _bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _same_bits(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(_bits(a), _bits(b))


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.complex128) if tensor.is_complex() else tensor.double()


def _differences(a: Tensor, b: Tensor) -> tuple[float | None, float | None]:
    if a.shape != b.shape or not a.numel():
        return None, None
    a, b = _wide(a), _wide(b)
    difference = (a - b).abs()
    same = (a == b) | (a.isnan() & b.isnan())
    difference = difference.masked_fill(same, 0.0).nan_to_num(nan=float("inf"), posinf=float("inf"))
    return float(difference.max()), float(difference.mean())


def _gradient(parameter: Tensor) -> Gradient:
    if parameter.grad is None:
        return "none"
    return "non-zero" if bool(stored_values(parameter.grad.detach()).ne(0).any()) else "zero"


def _shrank(a: Tensor, b: Tensor) -> bool:
    """b = k·a with one factor 0 <= k < 1, to a twentieth of the movement: what decay alone does.

    A single element always fits, so it is not evidence.
    """
    if a.shape != b.shape or a.numel() < 2 or not a.is_floating_point():
        return False
    a, b = a.double().flatten(), b.double().flatten()
    squared = float(a.square().sum())
    factor = float(a @ b) / squared if squared > 0 else -1.0
    return 0 <= factor < 1 and float((b - factor * a).norm()) <= 0.05 * float((b - a).norm())
