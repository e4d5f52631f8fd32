"""What a step found in the model itself: tensors outside it, ties, targets, buffers, batch norms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from diagnostics.records.absent import Absent, Number


@dataclass(frozen=True, slots=True)
class MergedAdapter:
    """A low-rank adapter whose product was added to a frozen weight between two steps, and left in it.

    Attributes:
        weight: Name of the frozen weight (out, in).
        up: Name of the trainable factor (out, rank).
        down: Name of the trainable factor (rank, in).
    """

    weight: str
    up: str
    down: str


@dataclass(frozen=True, slots=True)
class Stranger:
    """A tensor that receives gradient, and that neither the model nor an optimiser holds.

    Attributes:
        module: The innermost watched module that uses it; "" for the model itself.
        shape: Its shape.
        layer: Whether it is the parameter of some layer.
        remade: Whether each step has another one in its place.
        derived: Names of attributes of the model that hold what was computed from it.
    """

    module: str
    shape: tuple[int, ...]
    layer: bool
    remade: bool = False
    derived: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HiddenModule:
    """A module or parameter that the model holds without registering it.

    Attributes:
        path: Where it is, such as `core.predicates['red']`.
        owner: The innermost watched module that contains it; "" for the model itself.
        kind: Name of its class.
        parameters: Its parameters; trainable those with requires_grad, in_optimizers those of these that an
            optimiser holds.
        calls: Forward calls in it in the step, calls_grad_enabled those with gradients enabled; of a
            parameter 1 where it holds a gradient.
        copy_of: A registered module of the same class and shapes, "" if there is none.
    """

    path: str
    owner: str
    kind: str
    parameters: int
    trainable: int
    in_optimizers: int
    calls: int
    calls_grad_enabled: int
    copy_of: str


@dataclass(frozen=True, slots=True)
class LostTie:
    """Weights that should be one tensor and are several.

    Attributes:
        names: Names of the modules or parameters.
        declared: Whether the user declared the tie; otherwise they had equal values when the monitor was made.
    """

    names: tuple[str, ...]
    declared: bool

    @property
    def module(self) -> str:
        """The module of the last of them, which the tie would replace."""
        return self.names[-1].removesuffix(".weight")


@dataclass(frozen=True, slots=True)
class OddStatistics:
    """Batch norms in training mode whose statistics say little.

    Attributes:
        module: The watched module that holds them, layers their names in it.
        code: `one-sample` if the step has a single sample, `momentum-zero` if running statistics never move,
            `momentum-of-average` if they keep next to nothing of earlier batches.
    """

    module: str
    layers: tuple[str, ...]
    code: Literal["one-sample", "momentum-zero", "momentum-of-average"]


_NOT_HALF = Absent("the target is not in half precision, or nothing wrote to it", "not-half")
_NO_BUFFERS = Absent("it has no floating buffers", "no-buffers")


@dataclass(frozen=True, slots=True)
class TargetRecord:
    """A target network in one step.

    Attributes:
        name: Name of the target, source that of the module that it follows.
        gap: Distance to the source at the end of the step, relative to the norm of the source.
        moved: Change of the target over the step, relative to the same norm.
        towards: Cosine between its change and the way from where it began to the source.
        lag: Distance to the source, as it was before the step or is after it, relative to the change of the source.
        declared: Whether the user declared it; otherwise its name says that it is one.
        stuck: Share of the numbers that differ from the source and stay as they were in a step that wrote to them;
            Absent where the target is in single precision or better, or was not written to.
        buffers_moved: Norm of the change of its floating buffers since the monitor was made, as of running
            statistics; Absent where it has none.
        source_buffers_moved: The same of its source.
    """

    name: str
    source: str
    gap: float
    moved: float
    towards: Number
    lag: Number
    declared: bool = True
    stuck: Number = _NOT_HALF
    buffers_moved: Number = _NO_BUFFERS
    source_buffers_moved: Number = _NO_BUFFERS


@dataclass(frozen=True, slots=True)
class MovedBuffer:
    """A buffer that is declared frozen and changed in the step.

    Attributes:
        name: Its full name.
        owner: The innermost watched module that holds it, or "" if none does.
        training: Whether its layer is in training mode.
    """

    name: str
    owner: str
    training: bool
