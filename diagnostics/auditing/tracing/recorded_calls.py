"""What is recorded of single calls of torch functions: where each was called, with what, and what came back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Operation:
    """One call of a torch function.

    Attributes:
        name: Name of the function.
        module: Innermost module in whose forward pass it was called, "" outside of all.
        place: File and line of the user's code, "" where there is none.
        count: Number of elements of its result that are not finite.
    """

    name: str
    module: str
    place: str
    count: int = 0

    def __str__(self) -> str:
        inside = f" in {self.module}" if self.module else ""
        return f"{self.name}(){inside}{f' at {self.place}' if self.place else ''}"


class Arrived:
    """The gradient that the first backward pass brings to a tensor; `value` is None until then."""

    def __init__(self, tensor: Tensor | None = None) -> None:
        self.value: Tensor | None = None
        if tensor is not None and tensor.grad_fn is not None:
            tensor.register_hook(self._note)

    def _note(self, gradient: Tensor) -> None:
        if self.value is None:
            with torch._C.DisableTorchFunction():
                self.value = gradient.detach().clone()


@dataclass(frozen=True)
class Pick:
    """One gather() from what has a graph.

    Attributes:
        operation: Where it was called.
        index: The index.
        shape: Shape of what it picks from.
        dim: The dimension that it picks along, not negative.
        sources: Modules whose outputs it was computed from, with no other module between.
        at_result: The gradient that the first backward pass brought to what it picked.
    """

    operation: Operation
    index: Tensor
    shape: tuple[int, ...]
    dim: int
    sources: tuple[str, ...]
    at_result: Arrived


@dataclass(frozen=True)
class LossCall:
    """One call of a loss function.

    Attributes:
        operation: Where it was called.
        kind: What made its input: softmax, log-softmax, sigmoid, log-sigmoid, tanh, relu, dropout, or "".
        values: Its input.
        target: Its target.
        made: Whether the target is none of the data: made of one value (ones_like(), fill_()), as in the loss of a GAN,
            or of decisions on what the model returned, as whether an answer is right.
        learns_target: Whether gradient flows into its target and not into its input.
        copied: Whether the target holds the values of an integer input of the model in the same order.
        source, result: Its input and its result, with their graph.
        ignored: The target that it leaves out, None where it has no such argument.
        sources: Modules whose outputs its input was computed from, with no other module between.
        unwritten: Share of the rows of a cross entropy that count although all their scores are 0.
        outside: Share of the results of a linear function that were outside of 0 to 1 before clamp() made them its
            input; -1 where it is no such input.
        misread: Whether its scores for one answer are numbers of several rows of the layer before it.
        settings: Its other arguments, by name.
        at_input, at_result: The gradient that the first backward pass brought to both.
        target_origins: What the numbers of the target come from.
        memory: Address of the memory that the target was a view of, -1 where it has none.
        held: The target itself; its memory is not given to another tensor as long as the call is kept.
        alone: Whether its input is what a module returned, changed by nothing but functions of this one tensor.
    """

    operation: Operation
    kind: str
    values: Tensor
    target: Tensor
    made: bool = False
    copied: bool = False
    learns_target: bool = False
    source: Tensor | None = None
    result: Tensor | None = None
    ignored: int | None = None
    sources: tuple[str, ...] = ()
    misread: bool = False
    outside: float = -1.0
    unwritten: float = 0.0
    settings: Mapping[str, Any] = field(default_factory=dict)
    at_input: Arrived = field(default_factory=Arrived)
    at_result: Arrived = field(default_factory=Arrived)
    target_origins: frozenset[str] = frozenset()
    memory: int = -1
    held: Tensor | None = None
    alone: bool = False


@dataclass(frozen=True)
class NearCall:
    """One call of a function that compares two tensors, both of which have a graph.

    Attributes:
        operation: Where it was called.
        one, other: The two.
        result: How near or far they are.
        nearer: The sign of a change of the result with which they come nearer.
        at_result: The gradient that the first backward pass brought to the result.
    """

    operation: Operation
    one: Tensor
    other: Tensor
    result: Tensor
    nearer: int
    at_result: Arrived = field(default_factory=Arrived)


@dataclass(frozen=True)
class MeanCall:
    """One mean of several rows that is one number.

    Attributes:
        operation: Where it was called.
        rows: Number of rows.
        at_result: The gradient that the first backward pass brought to its result.
    """

    operation: Operation
    rows: int
    at_result: Arrived


@dataclass(frozen=True)
class BranchCall:
    """One maximum or minimum of two tensors outside of all modules, one of which was clamped.

    Attributes:
        operation: Where it was called.
        sources: Modules whose outputs both were computed from, with no other module between.
        at_result: The gradient that the first backward pass brought to its result.
    """

    operation: Operation
    sources: tuple[str, ...]
    at_result: Arrived


@dataclass(frozen=True)
class FirstLayerCall:
    """One call of a linear layer or a convolution on numbers that are not computed from weights.

    Attributes:
        module: Name of the layer.
        spread: Deviation of its outputs over the samples, relative to their size.
        offset: Share of the size of its outputs that its bias alone has; the rest is the mean of the inputs.
        output: Its result.
    """

    module: str
    spread: float
    offset: float
    output: Tensor


@dataclass(frozen=True)
class RecurrentCall:
    """One call of a recurrent layer on a sequence (T, B, features), whose first dimension it reads as the time.

    Attributes:
        operation: Where it was called.
        shape: T and B.
        at_result: The gradient that the first backward pass brought to its outputs (T, B, features).
    """

    operation: Operation
    shape: tuple[int, int]
    at_result: Arrived


@dataclass(frozen=True)
class SignedCall:
    """One call of a loss function whose targets are -1 and 1.

    Attributes:
        operation: Where it was called.
        target: Its target.
    """

    operation: Operation
    target: Tensor


@dataclass(frozen=True)
class PairCall:
    """One arithmetic of a column (n, 1) and a vector (n,), whose result (n, n) has a graph.

    Attributes:
        operation: Where it was called.
        shapes: The two shapes.
        result: Its result.
        meant: Whether the column was made of a vector, as by x[:, None], so that pairs are meant.
        sources: Modules whose outputs it was computed from, with no other module between.
        at_result: The gradient that the first backward pass brought to it.
        error: Whether it is the difference of computed values and fixed ones, as predictions and targets are.
    """

    operation: Operation
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    result: Tensor
    meant: bool
    sources: tuple[str, ...] = ()
    at_result: Arrived = field(default_factory=Arrived)
    error: bool = False


@dataclass(frozen=True)
class Exchange:
    """One view whose dimensions are those of the tensor in another order.

    Attributes:
        operation: Where it was called.
        before, after: Shape before and after.
        computed: Whether the tensor has a graph.
    """

    operation: Operation
    before: tuple[int, ...]
    after: tuple[int, ...]
    computed: bool

    def leads_elsewhere(self, samples: int) -> bool:
        """Whether the dimension of the samples moves away from the first place of computed numbers, or to it."""
        moves = len(self.before) > 2 and self.before[0] != self.after[0]
        return self.computed and moves and samples in (self.before[0], self.after[0])

    def cannot_group(self) -> bool:
        """Whether the new shape is none that groups of rows give too.

        A view of 16 rows of 4 numbers as 4 rows of 16 may mean groups of four rows. Groups do not exchange dimensions
        that others are between.
        """
        pairs = zip(self.before, self.after, strict=True)
        first, *_, last = (place for place, (old, new) in enumerate(pairs) if old != new)
        sizes = sorted((self.before[first], self.after[first]))
        return min(self.before[first : last + 1]) > 1 and (
            last - first > 1 or (len(self.before) > 2 and sizes[1] % sizes[0] != 0)
        )


@dataclass(frozen=True)
class SoftmaxCall:
    """One softmax whose input requires gradient.

    Attributes:
        operation: Where it was called.
        shape: Shape of its input.
        dim: The dimension that it sums over, not negative.
        sources: Modules whose outputs its input was computed from, with no other module between.
        hard: Share of its distributions over several finite scores in which one has all the weight; 0 of log_softmax.
        masked: Whether its input is a product or a sum with a mask of zeros and ones.
        later: Whether its mask shows each place itself and later places alone.
        summed: Whether the products that use it as the weights of an attention sum over its dimension, one by one.
    """

    operation: Operation
    shape: tuple[int, ...]
    dim: int
    sources: tuple[str, ...] = ()
    hard: float = 0.0
    masked: bool = False
    later: bool = False
    summed: list[bool] = field(default_factory=list, compare=False)


@dataclass(frozen=True)
class AttentionCall:
    """One attention with a mask of keys.

    Attributes:
        operation: Where it was called.
        reads_constant: Whether the keys that the mask keeps are the same in all samples, and those that it hides are
            not.
    """

    operation: Operation
    reads_constant: bool


@dataclass(frozen=True)
class NormalizeCall:
    """One F.normalize of a computed value.

    Attributes:
        operation: Where it was called.
        shape: Shape of its input.
        dim: The dimension that it sums over, not negative.
    """

    operation: Operation
    shape: tuple[int, ...]
    dim: int
