"""Records of the forward calls of a module, and of the module, in one step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from diagnostics.causes import Cause
from diagnostics.records.absent import Absent, Number

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
        passes: Numbers in the step, from 0, of the backward passes that reached an output.
        raw: Whether no input requires gradient or is what an earlier call of the module returned.
        in_sampling: Whether it ran in a call of the whole model with gradients disabled that was given integers alone.
        perturbed: Whether an input was computed from a tensor that collects gradient and is no parameter, as an
            adversarial perturbation, and from nothing that a watched module returned.
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
    in_sampling: bool = False
    perturbed: bool = False
    passes: frozenset[int] = frozenset()
    largest: float = 0.0


@dataclass(frozen=True, slots=True)
class OutputStats:
    """Statistics of a module's first call in the step, over at most 64 samples and 4096 elements of each.

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
        params_total: Parameters in it, params_trainable those with requires_grad that are not declared frozen,
            params_none the trainable ones without gradient in this step, params_zero those whose gradient is all zero.
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
