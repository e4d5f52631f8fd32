"""Record of a parameter in one step, and of the backward passes that reached it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from diagnostics.records.absent import Absent, Number


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
        if isinstance(self.norm, Absent) or self.norm - self.norm != 0.0:
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
        discarded: Numbers in the step of the passes whose whole gradient was cleared before an optimiser applied any
            of it, in a step in which an optimiser applied that of others.
        repeated: Whether a pass brought exactly the gradient of the pass before it once more.
        lost: Per pass of which some gradient was applied: its number in the step, and the parameters whose gradient was
            cleared before it was applied.
    """

    total: int = 0
    discarded: frozenset[int] = frozenset()
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
        beta_mean, beta_square: Factors with which Adam averages gradients and their squares, 0 for other optimisers.
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
    beta_mean: Number
    beta_square: Number
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
            numbers without those that were put back exactly: 1 if nothing wrote to it after them, 0 if all were.
        replaced: Whether the model holds another tensor in its place since the monitor was made.
        remade: Whether the step itself replaced it, by a tensor to which no gradient came.
        carried: What the gradient held in addition to its own update's, when its optimiser applied it.
        assigned: Whether the gradient that the optimiser applied was assigned in this step (torch.func, a projection),
            not made by a backward pass.
        read: Whether torch.autograd.grad() read its gradient, and no backward pass wrote one to `.grad`.
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
    remade: bool = False
    carried: Carried = "no"
    assigned: bool = False
    largest: float = 0.0
    broken: bool = False
    read: bool = False

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
