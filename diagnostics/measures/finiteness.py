"""Finds where the first NaN or infinity of a step arises, in the order in which the step ran.

Every module is watched at its inputs, its outputs and its parameters, forward and backward, so that a
number that is not finite is found as soon as it crosses one of these borders, and what lies between two
borders are the module's own operations. It reads every tensor, so it is meant for the replay of a step that is
known to be bad, not for every step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from diagnostics.recording.tensors import stored_values, tensors_in
from diagnostics.recording.weak_hooks import LocalHook

Phase = Literal["parameters", "forward", "backward"]
Place = Literal[
    "value", "input", "handed-on", "output", "input-gradient", "output-gradient", "parameter-gradient"
]
_WORDS: dict[Place, str] = {
    "value": "its {name} before the step",
    "input": "its inputs",
    "handed-on": "the input that it passes to {name}",
    "output": "its output",
    "input-gradient": "the gradient that it sends back to its input",
    "output-gradient": "the gradient that comes back to the output of {name}",
    "parameter-gradient": "the gradient of its {name}",
}


@dataclass(frozen=True)
class Origin:
    """The first number of a step that is not finite.

    Attributes:
        phase: `parameters` where a parameter or buffer was not finite before the step began, else the pass.
        module: dotted name of the innermost module that made it, by an operation of its own; `""` is the
            model itself, or in the backward phase the loss.
        place: the place where it was first found, as a code: in a parameter's or buffer's ``value``, in the ``input``
            of the model, in a tensor that the module passed on (``handed-on``) to another one, in its
            ``output``, or in a gradient.
        name: name of that parameter or buffer, or of the other module; empty where the place needs none.
        shape: shape of that tensor.
        elements: number of its elements that are not finite.
        rows: the leading rows that contain a non-finite value, of a tensor with two or more dimensions.
    """

    phase: Phase
    module: str
    place: Place
    name: str
    shape: tuple[int, ...]
    elements: int
    rows: tuple[int, ...]

    @property
    def what(self) -> str:
        """Where it was first found, a phrase."""
        return _WORDS[self.place].format(name=self.name or "the model")

    def __str__(self) -> str:
        size = torch.Size(self.shape).numel()
        return f"{self.module or 'the model itself'}: {self.what} ({self.elements} of {size} elements)"


class FirstNonFinite:
    """The result of :func:`first_nonfinite` so far.

    Attributes:
        origin: the first number that is not finite, None while there is none.
    """

    def __init__(self, model: nn.Module) -> None:
        self._names = {module: name for name, module in model.named_modules()}
        self._running: list[str] = []
        self._returned: dict[int, tuple[Tensor, str]] = {}  # outputs, kept so that no id comes twice
        self.origin: Origin | None = None
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            owner, _, own = name.rpartition(".")
            self._look(tensor, "parameters", owner, "value", own)

    def begin_call(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """A module is called: its inputs were made by the module that calls it."""
        name = self._names[module]
        for tensor in tensors_in((args, kwargs)):
            if self._running:
                self._look(tensor, "forward", self._running[-1], "handed-on", name)
            else:
                self._look(tensor, "forward", "", "input")
        self._running.append(name)
        watched = tuple(self._watch_input(value, name) for value in args)
        return watched, {key: self._watch_input(value, name) for key, value in kwargs.items()}

    def _watch_input(self, value: Any, name: str) -> Any:
        """An alias of an input, through which the gradient of this call comes back alone."""
        if not isinstance(value, Tensor) or not value.requires_grad or not torch.is_grad_enabled():
            return value
        alias = value.view_as(value)
        alias.register_hook(self._watcher(lambda: name, "input-gradient"))
        return alias

    def end_call(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """A module returns: an inner one returns before the one that calls it."""
        name = self._running.pop()
        user = self._running[-1] if self._running else ""
        for tensor in tensors_in(output):
            self._look(tensor, "forward", name, "output")
            if not tensor.requires_grad:
                continue
            key = id(tensor)
            if key not in self._returned:
                tensor.register_hook(self._watcher(self._user_of(key), "output-gradient", name))
            # one that is passed on unchanged is used by the caller's caller
            self._returned[key] = (tensor, user)

    def _user_of(self, key: int) -> Callable[[], str]:
        return lambda: self._returned[key][1]

    def parameter_hook(self, owner: str, own: str) -> Callable[[Tensor], None]:
        """A hook for the gradient of one parameter."""
        return self._watcher(lambda: owner, "parameter-gradient", own)

    def _watcher(self, module: Callable[[], str], place: Place, name: str = "") -> Callable[[Tensor], None]:
        return lambda gradient: self._look(gradient, "backward", module(), place, name)

    @torch.no_grad()
    def _look(self, tensor: Tensor, phase: Phase, module: str, place: Place, name: str = "") -> None:
        values = stored_values(tensor)
        if self.origin is not None or not (values.is_floating_point() or values.is_complex()):
            return
        bad = ~torch.isfinite(values)
        if not bool(bad.any()) or (phase != "backward" and _is_mask(tensor, values)):
            return
        rows = bad.flatten(1).any(1).nonzero().flatten().tolist() if bad.dim() > 1 else []
        self.origin = Origin(phase, module, place, name, tuple(values.shape), int(bad.sum()), tuple(rows))


def _is_mask(tensor: Tensor, values: Tensor) -> bool:
    """Whether a tensor may be a mask to add to scores: constant, and everywhere 0 or -inf."""
    return not tensor.requires_grad and bool(((values == 0) | (values == -torch.inf)).all())


@contextmanager
def first_nonfinite(model: nn.Module) -> Iterator[FirstNonFinite]:
    """Watch one step of `model` for the first number that is not finite.

    The step must run inside: forward, and backward if gradients are to be checked. The result stays valid
    afterwards. A constant tensor of 0 and -inf counts as a mask, and not as not finite.
    """
    found = FirstNonFinite(model)
    handles = []
    for module in model.modules():
        handles.append(module.register_forward_pre_hook(LocalHook(found.begin_call), with_kwargs=True))
        handles.append(module.register_forward_hook(LocalHook(found.end_call)))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            owner, _, own = name.rpartition(".")
            handles.append(parameter.register_hook(found.parameter_hook(owner, own)))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
