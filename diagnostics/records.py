"""Records of one step: calls, modules and parameters, frozen, with scalars on the CPU.

A value that could not be measured is `Absent(reason)`, never 0. Each field says
what it holds and in which unit.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from diagnostics.causes import Cause


@dataclass(frozen=True, slots=True)
class Absent:
    """A value that could not be measured, and why. It is false, so `value or default` works.

    Attributes:
        reason: A sentence.
        code: Stable name of the reason, "" where the user's own code gives none.
    """

    reason: str
    code: str = ""

    def __bool__(self) -> bool:
        return False

    @classmethod
    def because(cls, cause: Cause) -> Absent:
        """A value that is absent for a known cause."""
        return cls(str(cause), cause.code)

    @property
    def cause(self) -> Cause:
        """The reason as the cause of a finding."""
        return Cause(self.code, "{reason}").of(reason=self.reason)


Number = float | Absent

GradientState = Literal["arrived", "zero", "detached", "no_grad", "cut inside", "not called"]
"""State of a module's gradient in one step, over all of its calls:

- `arrived`: some call received a non-zero gradient.
- `zero`: the backward pass reached it, with zeros alone.
- `detached`: its outputs require gradient and the backward pass never reached them.
- `no_grad`: every call ran with gradients disabled.
- `cut inside`: gradients were enabled, and no output requires one (frozen, `.item()`, argmax, detach).
- `not called`: its forward did not run.
"""


@dataclass(frozen=True, eq=False, slots=True)
class CallRecord:
    """One forward call of one module.

    Attributes:
        grad_enabled: Whether gradients were enabled when the call ran.
        requires_grad: Whether some output requires gradient.
        reached: Whether the backward pass came to an output, zeros included.
        gradient: Whether a non-zero gradient arrived at some output.
        rows: Leading rows that the call computed.
        samples: (rows,) int64, the sample that each row belongs to.
        row_gradients: (rows,) largest |gradient| per row, before clipping; the larger of several
            backward passes, of several outputs.
        recomputed: Whether the call ran inside the backward pass (reentrant checkpointing).
        unknown: Why gradient may have come without being seen; None where it cannot.
        checkpointed: Whether it ran in the forward pass of a reentrant checkpoint.
        passes: Numbers in torch of the backward passes that reached an output.
        raw: Whether no input requires gradient or is what an earlier call of the module returned.
        largest: The largest of `row_gradients`, 0 where there are none.
    """

    grad_enabled: bool
    requires_grad: bool
    reached: bool
    gradient: bool
    rows: int | Absent
    samples: Tensor | Absent
    row_gradients: Tensor | Absent
    recomputed: bool = False
    unknown: Cause | None = None
    checkpointed: bool = False
    raw: bool = False
    passes: frozenset[int] = frozenset()
    largest: float = 0.0


@dataclass(frozen=True, slots=True)
class OutputStats:
    """Statistics of a module's first call in the step, over at most 4096 elements of each sample.

    Attributes:
        rows: Rows that the call computed.
        elements: Elements of one row, before sampling.
        mean: Mean of the output.
        rms: Root of its mean square.
        share: Share of the mean square that lies in differences between samples, in [0, 1]:
            mean((c - mean_b c)^2) / mean(c^2).
        inputs_differ: Whether what the call was given differs between samples; known of raw data, not of what
            gradient flows into.
    """

    rows: int
    elements: int
    mean: float
    rms: float
    share: Number
    inputs_differ: bool | Absent


@dataclass(frozen=True, slots=True)
class Reach:
    """How far the gradient of this step came to one parameter, before clipping.

    Attributes:
        kind: `none` if no gradient was accumulated in the step, `zero` if it is all zero, `some` if
            part of it is non-zero, `all` if every element is.
        nonzero: Share of non-zero elements, in [0, 1]; Absent where kind is `none`.
        finite: Whether its L2 norm is finite.
        norm: L2 norm of the accumulated gradient.
    """

    kind: Literal["none", "zero", "some", "all"]
    nonzero: Number
    finite: bool | Absent
    norm: Number

    def size(self, numel: int) -> float:
        """Root mean square of so many elements, 0 where there are none or some are not finite."""
        if isinstance(self.norm, Absent) or not math.isfinite(self.norm):
            return 0.0
        return self.norm / math.sqrt(numel)


Carried = Literal["no", "own", "other"]
"""What a gradient holds in addition to the backward passes since it was last cleared, when an optimiser applies it:

- `own`: passes that the same optimiser has applied before.
- `other`: passes of another loss, which another optimiser applied before the latest pass began.
"""


@dataclass(frozen=True, slots=True)
class BackwardPasses:
    """The backward passes of one step that reached a watched parameter.

    Attributes:
        total: Number of passes.
        discarded: Passes whose whole gradient was cleared before an optimiser applied any of it, in a step in which
            an optimiser applied that of others.
        repeated: Whether a pass brought exactly the gradient of the pass before it once more.
        lost: Per pass of which some gradient was applied: its number in torch, and the parameters whose gradient was
            cleared before it was applied.
    """

    total: int = 0
    discarded: int = 0
    repeated: bool = False
    lost: tuple[tuple[int, frozenset[str]], ...] = ()


@dataclass(frozen=True, slots=True)
class OptimizerPlace:
    """Where the optimisers hold a parameter.

    Attributes:
        optimizer: Position in the optimisers given to the monitor.
        group: Position in its `param_groups`.
        lr: Learning rate at the optimiser's step; Absent where it is a tensor.
        weight_decay: Its group's weight decay, 0 where the optimiser has none.
        eps: Number that the optimiser adds to the divisor of its updates, 0 if it has none.
        stepped: Whether this optimiser stepped inside the monitored step.
        gradient: Content of `.grad` when the optimiser stepped; Absent where it did not step.
        norm: L2 norm of that gradient: after clipping, if there was any.
        stops_itself: Whether the optimiser decides itself when to stop, as LBFGS does.
        scale: Scale of the GradScaler that called the optimiser's step, 1 without one: norms of `reach` carry it.
    """

    optimizer: int
    group: int
    lr: Number
    weight_decay: Number
    eps: Number
    stepped: bool
    gradient: Literal["none", "zero", "nonzero"] | Absent
    norm: Number
    scale: float = 1.0
    stops_itself: bool = False


@dataclass(frozen=True, slots=True)
class ParameterRecord:
    """One parameter in one step.

    Attributes:
        owner: The innermost watched module that holds it, or "" if none does.
        numel: Elements.
        requires_grad: Its `requires_grad` at the end of the step.
        expect_frozen: Whether the user declared it frozen.
        reach: The gradient of this step, before clipping.
        place: The optimiser group that holds it; Absent where no optimiser was given or none holds it.
        weight_norm: L2 norm when the step began.
        update_norm: L2 norm of the change from the step's entry to its exit.
        changed: Whether any bit of its value changed.
        leftover: Content of `.grad` when the first backward pass of the step began; Absent where none did.
        shared: Other watched modules that hold the same parameter, none of them inside another.
        rounding: Machine epsilon of its type, the relative distance of neighbouring numbers.
        layer_size: The largest `size` among the parameters of its layer, itself included.
        kept: Share of what the optimisers changed that is left when the step ends, by the norm of its first 64
            numbers: 1 if nothing wrote to it after them.
        replaced: Whether the model holds another tensor in its place since the monitor was made.
        carried: What the gradient held in addition to its own update's, when its optimiser applied it.
        assigned: Whether the gradient that the optimiser applied was assigned in this step (torch.func, a projection),
            not made by a backward pass.
        largest: The largest finite norm of its gradient so far.
        broken: Whether some of its values are not finite at the end of the step.
    """

    owner: str
    numel: int
    requires_grad: bool
    expect_frozen: bool
    reach: Reach
    place: OptimizerPlace | Absent
    weight_norm: float
    update_norm: float
    changed: bool
    leftover: Literal["none", "zero", "nonzero"] | Absent
    shared: tuple[str, ...]
    rounding: float
    layer_size: float
    kept: Number
    replaced: bool
    carried: Carried = "no"
    assigned: bool = False
    largest: float = 0.0
    broken: bool = False

    @property
    def size(self) -> float:
        """Root mean square of its gradient's elements, 0 where it has none or it is not finite."""
        return self.reach.size(self.numel)

    @property
    def moved(self) -> Number:
        """Change relative to the weights, ||dp|| / ||p||."""
        if self.weight_norm == 0.0 and self.changed:
            return Absent(
                f"the weights were all zero when the step began; they moved by {self.update_norm:.3g}",
                "zero-weights",
            )
        return self.update_norm / self.weight_norm if self.weight_norm else 0.0

    @property
    def stale(self) -> bool:
        """Whether the optimiser found a gradient that no backward pass of this step had made."""
        return (
            self.reach.kind == "none"
            and not self.assigned
            and not isinstance(self.place, Absent)
            and self.place.gradient == "nonzero"
        )


@dataclass(frozen=True, eq=False, slots=True)
class ModuleRecord:
    """One watched module in one step.

    Attributes:
        coverage: Samples with a non-zero gradient through what the module computed for them, over
            the samples in the loss. In [0, 1].
        waste: Share of the samples that it computed and that no gradient came back to, in [0, 1].
        evenness: (sum n_b)^2 / (B sum n_b^2), n_b the sample's largest |gradient| over all calls:
            1 when all samples pull alike, 1/B when one does.
        calls: Its forward calls, in order.
        state: State of the gradient, over all calls.
        gradient_max: Largest |gradient| at an output.
        grad_norm_pre_clip: L2 norm of the gradients of its parameters after the last backward pass.
        grad_norm_post_clip: The same as its optimisers found it when they stepped.
        moved: ||dp|| / ||p|| over its parameters.
        leverage: Norm of ||gradient|| ||p|| over its parameters: by how much the loss changes for a relative
            change of its weights.
        params_total: Parameters in it, params_trainable those with requires_grad, params_none the
            trainable ones without gradient in this step, params_zero those whose gradient is all zero.
        output: Statistics of its output.
        evaluating: Layers in it that act otherwise in training (dropout, batch statistics) and are in evaluation
            mode, where the module itself is.
    """

    coverage: Number
    waste: Number
    evenness: Number
    calls: tuple[CallRecord, ...]
    state: GradientState
    gradient_max: Number
    grad_norm_pre_clip: Number
    grad_norm_post_clip: Number
    moved: Number
    leverage: float
    params_total: int
    params_trainable: int
    params_none: int
    params_zero: int
    output: OutputStats | Absent
    evaluating: tuple[str, ...] = ()

    @property
    def calls_total(self) -> int:
        """Forward calls, those repeated by checkpointing left out."""
        return sum(not call.recomputed for call in self.calls)

    @property
    def calls_grad_enabled(self) -> int:
        """Forward calls that ran with gradients enabled."""
        return sum(call.grad_enabled and not call.recomputed for call in self.calls)

    @property
    def calls_with_gradient(self) -> int:
        """Calls at which a non-zero gradient arrived."""
        return sum(call.gradient for call in self.calls)

    def scalars(self) -> dict[str, Number]:
        """Every number of this record by name, for logging."""
        stats = self.output
        return {
            "coverage": self.coverage,
            "waste": self.waste,
            "evenness": self.evenness,
            "calls": self.calls_total,
            "calls_grad_enabled": self.calls_grad_enabled,
            "calls_with_gradient": self.calls_with_gradient,
            "gradient_max": self.gradient_max,
            "grad_norm_pre_clip": self.grad_norm_pre_clip,
            "grad_norm_post_clip": self.grad_norm_post_clip,
            "moved": self.moved,
            "params_none": self.params_none,
            "params_zero": self.params_zero,
            "output_mean": stats if isinstance(stats, Absent) else stats.mean,
            "output_rms": stats if isinstance(stats, Absent) else stats.rms,
            "output_share": stats if isinstance(stats, Absent) else stats.share,
        }


@dataclass(frozen=True, slots=True)
class TermReach:
    """How one named term of the loss reached one watched module, in one step.

    Attributes:
        coverage: Samples for which the term has a non-zero gradient through what the module computed, over the
            samples in the loss.
        state: State of the term's gradient, over all calls of the module.
        calls_with_gradient: Calls at which a non-zero gradient of the term arrived.
        params_trainable: Parameters with requires_grad; params_none those without gradient of the term, params_zero
            those whose gradient is all zero.
        norm: L2 norm of the term's gradient with respect to the module's parameters.
        descent: First-order fall of the term by the module's movement in this step, the sum of
            gradient x (weight before - weight after): negative where the update raises the term.
    """

    coverage: Number
    state: GradientState
    calls_with_gradient: int
    params_trainable: int
    params_none: int
    params_zero: int
    norm: Number
    descent: Number

    @property
    def kind(self) -> Literal["none", "zero", "some"]:
        """Whether the term trains the module: no gradient, only zeros, or some that is not zero."""
        if self.params_none + self.params_zero < self.params_trainable:
            return "some"
        return "zero" if self.params_zero else "none"


@dataclass(frozen=True, slots=True)
class TermRecord:
    """One named term of the loss in one step.

    Attributes:
        value: The term, summed over the micro-batches of the step.
        regulariser: Whether it was declared to be one; the others are of the task.
        modules: Reach per watched module; empty where it could not be measured.
        parameters: Reach per parameter, by its full name.
        unknown: Why the gradient could not be measured; None where it was.
        exact: Whether `value` is of tensors of single precision or better.
    """

    value: float
    regulariser: bool
    modules: Mapping[str, TermReach]
    parameters: Mapping[str, Reach]
    unknown: Cause | None = None
    exact: bool = True


@dataclass(frozen=True, slots=True)
class Stranger:
    """A tensor that receives gradient, and that neither the model nor an optimiser holds.

    Attributes:
        module: The innermost watched module that uses it; "" for the model itself.
        shape: Its shape.
        layer: Whether it is the parameter of some layer.
    """

    module: str
    shape: tuple[int, ...]
    layer: bool


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
        code: `one-sample` if the step has a single sample, `momentum-zero` if running statistics never move.
    """

    module: str
    layers: tuple[str, ...]
    code: Literal["one-sample", "momentum-zero"]


@dataclass(frozen=True, slots=True)
class TargetRecord:
    """A declared target network in one step.

    Attributes:
        name: Name of the target, source that of the module that it follows.
        gap: Distance to the source at the end of the step, relative to the norm of the source.
        moved: Change of the target over the step, relative to the same norm.
        towards: Cosine between its change and the way from where it began to the source.
    """

    name: str
    source: str
    gap: float
    moved: float
    towards: Number


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


@dataclass(frozen=True, eq=False, slots=True)
class StepRecord:
    """Everything measured in one step.

    Attributes:
        step: Number of the step, from 0, counted over all `Monitor.step` blocks, recorded or not.
        samples: Samples in the loss, B.
        modules: Record per watched module.
        parameters: Record per parameter, by its full name.
        order: Watched modules in the order of their first call.
        optimizers: Number of steps of each optimiser given.
        partial: Watched modules that are declared to run some of their calls with gradients disabled.
        gap: Steps since the one recorded before it, 1 where each is recorded.
        strangers: Tensors that learn outside the model.
        moved_buffers: Buffers that are declared frozen and changed; those that no checkpoint has are left out.
        hidden: Modules and parameters that the model holds without registering them.
        terms: Record per named term of the loss, as far as any was given to `Monitor.terms`.
        passes: The backward passes of the step.
        into: Watched module -> those that feed it directly, as far as the first recorded step shows.
        never: Share of the positions in the batch that no watched module had gradient for in any step so far.
        copies: Watched module -> another one of the same class and shapes.
        aliases: Module -> other names under which the model holds the same object.
        lost_ties: Weights that should be tied and are not.
        kinds: Watched module -> name of its class.
        targets: The declared target networks.
        odd_statistics: Batch norms in training mode whose statistics say little.
        equal_units: Weights whose rows were all equal when the monitor was made, and still are.
        adapting: Watched module without trainable parameters -> its layers that update running statistics.
    """

    step: int
    samples: int
    modules: Mapping[str, ModuleRecord]
    parameters: Mapping[str, ParameterRecord]
    order: tuple[str, ...]
    optimizers: tuple[int, ...]
    partial: frozenset[str] = frozenset()
    gap: int = 1
    strangers: tuple[Stranger, ...] = ()
    moved_buffers: tuple[MovedBuffer, ...] = ()
    terms: Mapping[str, TermRecord] = field(default_factory=dict)
    hidden: tuple[HiddenModule, ...] = ()
    passes: BackwardPasses = BackwardPasses()
    into: Mapping[str, frozenset[str]] = field(default_factory=dict)
    never: float = 0.0
    copies: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    lost_ties: tuple[LostTie, ...] = ()
    adapting: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    targets: tuple[TargetRecord, ...] = ()
    odd_statistics: tuple[OddStatistics, ...] = ()
    equal_units: tuple[str, ...] = ()
    kinds: Mapping[str, str] = field(default_factory=dict)

    def is_declared_target(self, module: str) -> bool:
        """Whether a module is a declared target network, or inside one."""
        return any(module == each.name or module.startswith(f"{each.name}.") for each in self.targets)

    def held_by(self, module: str) -> list[ParameterRecord]:
        """The parameters in a module."""
        return [each for name, each in self.parameters.items() if name.startswith(f"{module}.")]


@dataclass(frozen=True, slots=True)
class StepScalars:
    """The scalars of one past step: `modules[name]` is `ModuleRecord.scalars()`.

    Attributes:
        losses: The loss, as "", and its named terms, as far as they were given in single precision or better.
        batch: Name of the batch that `Monitor.step` received; None where there is none.
    """

    step: int
    samples: int
    modules: Mapping[str, Mapping[str, Number]] = field(repr=False)
    order: tuple[str, ...] = ()
    losses: Mapping[str, float] = field(default_factory=dict)
    batch: Hashable = None


def root_sum_squares(values: Iterable[float]) -> float:
    """L2 norm of a vector, from the norms of its parts."""
    return math.hypot(*values)
