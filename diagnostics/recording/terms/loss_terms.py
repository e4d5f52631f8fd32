"""Measures the named terms of the loss of one step: which modules and samples the gradient of each term reaches.

The gradient of each term is computed on the graph of the step, which is kept for the step's own backward pass.
Nothing is written to `.grad`, and buffers and random numbers, which checkpointing may use when it repeats a forward
pass, are put back. Hooks of the user on tensors and modules are called once more per term.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from diagnostics.causes import Cause
from diagnostics.errors import InvalidType, InvalidValue
from diagnostics.recording.calls.capture import Capture
from diagnostics.recording.random_numbers import same_random_numbers
from diagnostics.recording.readout import Readout
from diagnostics.recording.tensors import count_nonzero, inner_product, measure_norms, stored_values
from diagnostics.recording.terms.term_records import Term, TermStep
from diagnostics.recording.updates.parameters import ParameterWatch
from diagnostics.selection import check_list

NOT_DIFFERENTIABLE = Cause("not-differentiable", "torch could not compute its gradient: {reason}")
REENTRANT_CHECKPOINT = Cause(
    "reentrant-checkpoint",
    "reentrant checkpointing hides the parameters from the graph; use_reentrant=False shows them",
)
SEVERAL_PROCESSES = Cause(
    "several-processes", "terms are not measured where several processes train one model"
)


class LossTerms:
    """The terms of one step.

    Args:
        regularisers: Names of the terms that are not of the task.
        shared: Whether several processes train the model.
    """

    def __init__(self, model: nn.Module, regularisers: Sequence[str], shared: bool) -> None:
        check_list("regularisers", regularisers)
        self._model = model
        self.regularisers = frozenset(regularisers)
        self._shared = shared
        self._terms: dict[str, Term] = {}
        self._loss = Term("")
        self.unmeasured: dict[str, Cause] = {}
        """Why the gradient of a term could not be measured, in the latest step in which it could not."""
        self.met: set[str] = set()
        """Names of all terms so far."""

    def begin(self) -> None:
        """Start a step."""
        self._terms = {}
        self._loss = Term("")

    def note(self, loss: Tensor) -> None:
        """Keep the value of the loss, summed over the micro-batches.

        Raises:
            InvalidValue: It has more than one element.
        """
        check_terms({"loss": loss})
        self._loss.add_value(loss)

    @property
    def undeclared(self) -> list[str]:
        """Names of regularisers that no term had so far; all of them are expected once there was a term."""
        return sorted(self.regularisers - self.met) if self.met else []

    def measure(
        self, terms: Mapping[str, Tensor | float], capture: Capture, parameters: ParameterWatch
    ) -> None:
        """Compute the gradient of each term.

        Raises:
            InvalidType: `terms` is no mapping of names to scalars.
            InvalidValue: A term is a tensor of more than one element.
        """
        check_terms(terms)
        self.met.update(terms)
        for name, value in terms.items():
            term = self._terms.setdefault(name, Term(name))
            term.add_value(value)
            if not isinstance(value, Tensor):
                continue
            if self._shared:
                term.unknown = SEVERAL_PROCESSES
            elif value.requires_grad and term.unknown is None:
                self._differentiate(name, value, capture, parameters)

    def _differentiate(self, name: str, value: Tensor, capture: Capture, parameters: ParameterWatch) -> None:
        term = self._terms[name]
        wanted = [(place, each) for place, each in enumerate(parameters.tensors) if each.requires_grad]
        if not wanted:
            return
        if has_reentrant_checkpoint(value):
            term.unknown = REENTRANT_CHECKPOINT
            return
        try:
            with capture.of_term(name), parameters.paused(), _nothing_else_changes(self._model):
                found = differentiate(value, [each for _, each in wanted])
        except Exception as error:  # noqa: BLE001 - reported; the user's step continues as without terms
            lines = str(error).strip().splitlines() or [type(error).__name__]
            term.unknown = NOT_DIFFERENTIABLE.of(reason=lines[0])
            term.gradients.clear()
            capture.forget_term(name)
            return
        for (place, _), gradient in zip(wanted, found, strict=True):
            if gradient is not None:
                term.add(place, gradient)

    def finish(self, readout: Readout, parameters: ParameterWatch) -> TermStep:
        """End of the step, after that of the parameters; what is returned builds the records after the readout."""
        for term in self._terms.values():
            stored = [stored_values(gradient) for gradient in term.gradients.values()]
            falls = [
                _dot(gradient, parameters.fall[place]) if parameters.fall else gradient.new_zeros(())
                for place, gradient in term.gradients.items()
            ]
            term.close(readout, measure_norms(stored), count_nonzero(stored), falls)
            if term.unknown is not None:
                self.unmeasured[term.name] = term.unknown
        self._loss.close(readout)
        return TermStep(self._terms, self._loss, self.regularisers, self._shared)


def check_terms(terms: Mapping[str, Tensor | float]) -> None:
    """Refuse what is no mapping of names to scalars.

    Raises:
        InvalidType: It is something else.
        InvalidValue: A tensor has more than one element.
    """
    named = isinstance(terms, Mapping) and all(isinstance(name, str) and name for name in terms)
    if not named or not all(isinstance(value, (Tensor, int, float)) for value in terms.values()):
        got = {name: type(value).__name__ for name, value in terms.items()} if named else type(terms).__name__
        raise InvalidType(
            "monitor.terms-not-named",
            "terms must map names to scalars, such as {{'task': loss, 'entropy': penalty}}; found {got}",
            got=got,
        )
    for name, value in terms.items():
        if isinstance(value, Tensor) and value.numel() != 1:
            raise InvalidValue(
                "monitor.term-not-scalar",
                "the term {name!r} must be a scalar, found the shape {got}",
                name=name,
                got=tuple(value.shape),
            )


def name_terms(returned: Any, names: Sequence[str]) -> Mapping[str, Tensor | float]:
    """The terms of the loss that a training step returned, by name; none where it returned the loss alone.

    Args:
        returned: What the step returned: the loss, or its terms as a mapping or a tuple.
        names: Names of the members of a tuple, or of members of the mapping.

    Raises:
        InvalidType: `names` is a string.
        InvalidValue: There are other terms than the names say.
    """
    check_list("terms", names)
    if isinstance(returned, (tuple, list)) and len(returned) == len(names):
        return dict(zip(names, returned, strict=True))
    found: Mapping[str, Tensor | float] = returned if isinstance(returned, Mapping) else {}
    if not set(names) <= set(found):
        kind = (
            f"{type(returned).__name__} of {len(returned)}" if isinstance(returned, (tuple, list)) else None
        )
        raise InvalidValue(
            "monitor.terms-not-returned",
            "the terms {allowed} are named; the step returned {got}",
            allowed=", ".join(names),
            got=kind or ", ".join(map(str, found)) or f"a {type(returned).__name__} without terms",
        )
    return found


def sum_terms(terms: Mapping[str, Tensor | float]) -> Tensor | float:
    """The loss: the sum of its terms, in their order, as a scalar."""
    scalars = [value.reshape(()) if isinstance(value, Tensor) else value for value in terms.values()]
    return sum(scalars[1:], scalars[0]) if scalars else 0.0


def differentiate(value: Tensor, weights: Sequence[Tensor]) -> list[Tensor | None]:
    """The gradient of a scalar by each weight, with the graph kept; None where the value does not depend on it.

    An own function may run a backward pass in its backward pass, as a checkpoint does. That one writes to `.grad` of
    weights that the graph does not show; it counts here, and `.grad` is put back.
    """
    kept = [weight.grad for weight in weights]
    for weight in weights:
        weight.grad = None
    try:
        found = torch.autograd.grad(value.reshape(()), weights, retain_graph=True, allow_unused=True)
        inner = [weight.grad for weight in weights]
    finally:
        for weight, gradient in zip(weights, kept, strict=True):
            weight.grad = gradient
    return [
        one if other is None else other if one is None else one + other
        for one, other in zip(found, inner, strict=True)
    ]


def has_reentrant_checkpoint(value: Tensor) -> bool:
    """Whether a part of the graph is built only by the backward pass of the step."""
    waiting = [value.grad_fn]
    seen: set[Any] = set(waiting)
    while waiting:
        node = waiting.pop()
        if node is None:
            continue
        if node.name() == "CheckpointFunctionBackward":
            return True
        new = {before for before, _ in node.next_functions} - seen
        seen |= new
        waiting += new
    return False


def _dot(gradient: Tensor, fall: Tensor) -> Tensor:
    return inner_product(gradient.to_dense() if gradient.is_sparse else gradient, fall)


@contextmanager
def _nothing_else_changes(model: nn.Module) -> Iterator[None]:
    """Puts random numbers and buffers back: checkpointing repeats forward passes, which may use both."""
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    try:
        with same_random_numbers(model):
            yield
    finally:
        for buffer, value in buffers:
            buffer.data.copy_(value)  # .data: the step's own backward pass may still need this version
