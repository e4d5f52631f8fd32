"""One call of a torch function as the recorders of a step see it, and what they share about that step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor
from torch.overrides import resolve_name

from diagnostics.auditing.tracing.origins.value_origins import ValueOrigins
from diagnostics.auditing.tracing.recorded_calls import Operation
from diagnostics.auditing.tracing.value_kinds import ValueKinds
from diagnostics.recording.calls.callers import calling_line
from diagnostics.recording.calls.module_graph import Flow


class TracedStep:
    """What the recorders of a step share.

    Attributes:
        origins: What the tensors of the step come from.
        kinds: What made them.
        flow: The modules that they were computed from.
        running: The modules whose forward pass runs, the innermost last.
        inside_model: Whether the forward pass of the model runs.
        inputs: Integers that the model was given, flat.
        weights: Addresses of the parameters of the model.
    """

    def __init__(self) -> None:
        self.origins = ValueOrigins()
        self.kinds = ValueKinds()
        self.flow = Flow()
        self.running: list[str] = []
        self.inside_model = False
        self.inputs: list[Tensor] = []
        self.weights: frozenset[int] = frozenset()

    @property
    def module(self) -> str:
        """The innermost module whose forward pass runs, "" outside of all."""
        return self.running[-1] if self.running else ""

    def sources(self, tensors: Iterable[Tensor]) -> tuple[str, ...]:
        """The modules whose outputs tensors were computed from, with no other module between."""
        return tuple(sorted(self.flow.nearest(tensors)))


class TorchCall:
    """One call of a torch function.

    Attributes:
        func: The function.
        name: Its plain name.
        args, kwargs: Its arguments.
        result: What it returned.
        step: The step in which it was called.
    """

    __slots__ = ("_place", "args", "func", "kwargs", "name", "result", "step")

    def __init__(
        self,
        func: Any,
        name: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        result: Any,
        step: TracedStep,
    ) -> None:
        self.func, self.name, self.args, self.kwargs = func, name, args, kwargs
        self.result, self.step = result, step
        self._place: str | None = None

    @property
    def place(self) -> str:
        """File and line of the user's code."""
        if self._place is None:
            self._place = place_of()
        return self._place

    def operation(self, *, name: str = "", count: int = 0) -> Operation:
        """The call as findings show it.

        Args:
            name: Another name of the function.
            count: Number of elements of its result that are not finite.
        """
        return Operation((name or self.name).removesuffix("_"), self.step.module, self.place, count)

    def argument(self, name: str, place: int, default: Any = None) -> Any:
        """An argument, given by name or by its place."""
        return self.kwargs.get(name, self.args[place] if len(self.args) > place else default)

    @property
    def pair(self) -> list[Tensor]:
        """The tensors among the first two arguments."""
        return [each for each in self.args[:2] if isinstance(each, Tensor)]


class CallRecorder(Protocol):
    """Keeps what it needs of some calls."""

    def wants(self, name: str) -> bool:
        """Whether it looks at calls of functions of this name."""

    def note(self, call: TorchCall) -> None:
        """Look at a call of one that it wants."""


def name_of(func: Any) -> str:
    """The plain name of a torch function."""
    full = getattr(func, "__name__", "") or (resolve_name(func) or "")
    return str(full).rpartition(".")[2]


def place_of() -> str:
    """File and line of the innermost frame that is neither torch's nor the toolkit's."""
    file, line = calling_line()
    return f"{Path(file).name}:{line}" if file else ""
