"""The response test: does the loss change with the weights of a module, and does gradient reach them?

Gradient and response together tell four cases apart that look alike to either of them:

| | the loss responds | it does not |
|---|---|---|
| gradient | healthy | saturated |
| no gradient | cut: argmax, `.item()`, a comparison, detach() | unused: nothing reads the result |

A gradient that is exactly zero is a case of its own: with a response the function is flat (`round()`, a dead unit),
without one a factor is zero. Before a module is called unused, its weights are drawn anew several times, and so are
those of the rest of the model: small noise does not change the choice of a selector, and a gate may start at zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from diagnostics.errors import InvalidValue
from diagnostics.recording.calls.module_graph import Flow
from diagnostics.recording.random_numbers import same_random_numbers
from diagnostics.recording.tensors import as_number, tensors_in
from diagnostics.recording.terms.loss_terms import check_terms, differentiate, has_reentrant_checkpoint
from diagnostics.recording.weak_hooks import LocalHook
from diagnostics.records import Absent, Number, root_sum_squares
from diagnostics.selection import select_modules
from diagnostics.testing.trials import arrivals, untouched

Loss = Callable[[nn.Module, Any], Tensor | Mapping[str, Tensor | float]]
"""`loss(model, batch)` -> the loss with its graph, or its terms by name. It must not call backward()."""

Verdict = Literal[
    "healthy", "saturated", "overwritten", "cut", "flat", "unused", "zero factor", "idle", "frozen"
]
"""What gradient and response say together about a module and a term; see the table above.

- `overwritten`: a gradient arrives, and the loss does not respond, because computing it writes to all of the weights.
- `flat`: the gradient is exactly zero, and the term responds.
- `zero factor`: the gradient is exactly zero, and the term does not respond.
- `idle`: the term does not respond, but it does with other weights in the rest of the model.
- `frozen`: the module has no trainable parameters.
"""

SIZES = (0.01, 0.1, 1.0)
"""Standard deviations of the noise, relative to the root mean square of each tensor."""
FRESH = 3
"""Draws of fresh weights before no response is reported."""


@dataclass(frozen=True, slots=True)
class TermResponse:
    """How one term of the loss depends on the weights of one module.

    Attributes:
        verdict: What gradient and response say together.
        gradient: Gradient of the term for the trainable parameters: none, only zeros, or some that is not zero;
            Absent where torch cannot tell.
        norm: L2 norm of that gradient.
        change: Largest |change| of the term over all perturbations of the module.
        size: Size of the noise, relative to the weights, at which it first responded, infinity for fresh weights;
            Absent where it never did.
    """

    verdict: Verdict
    gradient: Literal["none", "zero", "some"] | Absent
    norm: Number
    change: float
    size: Number

    @property
    def responds(self) -> bool:
        """Whether some perturbation of the module changed the term."""
        return not isinstance(self.size, Absent)


Responses = dict[str, dict[str, TermResponse]]
"""Module -> term -> how the term depends on the module's weights."""


def probe_response(
    model: nn.Module,
    loss: Loss,
    batch: Any,
    *,
    watch: Sequence[str] | None = None,
    sizes: Sequence[float] = SIZES,
    fresh: int = FRESH,
    seed: int = 0,
) -> Responses:
    """Perturbs each module's weights and measures how far the loss moves; everything is restored bit for bit.

    The model stays in its mode. Each evaluation starts from the same random numbers, buffers and attributes, so that
    dropout and batch statistics make no difference.

    Args:
        loss: Function (model, batch) -> the loss, or its terms by name; a plain loss is the term "loss".
        watch: Names or patterns of modules, as for `Monitor`. The whole model, "", is always added.
        sizes: Sizes of the noise, relative to the root mean square of each tensor, in ascending order.
        fresh: Number of fresh draws of the weights where noise changes nothing.
        seed: Seed of the noise.

    Raises:
        ValueError: A term is not finite or has several elements, `loss` calls backward(), or a pattern matches nothing.
    """
    modules = {"": model, **select_modules(model, watch)}
    with untouched(model):
        base = _Base(model, loss, batch)
        trials = [("noise", size, seed) for size in sizes]
        trials += [("fresh", math.inf, seed + 1 + draw) for draw in range(fresh)]
        found: Responses = {}
        for name, module in modules.items():
            weights = _trainable(module)
            changes = _changes(base, weights, trials) if weights else {}
            found[name] = {term: base.judge(term, weights, changes.get(term, {})) for term in base.values}
        quiet = [name for name, terms in found.items() if _is_quiet(terms)]
        for name in quiet if fresh and found[""] else ():
            weights = _trainable(modules[name])
            for term in _wakes(base, weights, name, fresh, seed):
                old = found[name][term]
                if not old.responds:
                    found[name][term] = TermResponse("idle", old.gradient, old.norm, old.change, old.size)
    return found


_AGAIN = 3
"""Evaluations that must agree: a loop that counts its steps changes its loss in the next one or the one after."""
_SAME = 1e-3
"""Relative difference of two evaluations from which something besides weights and batch is at work, not rounding."""


def evaluate_again(model: nn.Module, loss: Loss, batch: Any, times: int = _AGAIN) -> list[float] | None:
    """The sum of the terms, several times with the same weights and random numbers; None where it is not the same.

    It is not where the loop keeps a state of its own: the number of the step, a task in turn, a memory.
    """
    values = []
    for _ in range(times):
        with untouched(model):
            found = loss(model, batch)
            terms = found.values() if isinstance(found, Mapping) else [found]
            values.append(sum(as_number(value) for value in terms))
    return values if is_same(values) else None


def is_same(values: Sequence[float]) -> bool:
    """Whether evaluations differ by rounding alone."""
    return max(values) - min(values) <= _SAME * max(abs(value) for value in values)


def trace_flow(model: nn.Module, loss: Loss, batch: Any, watch: Sequence[str] | None = None) -> Flow:
    """Which watched modules feed which, in one forward pass; everything is restored."""
    flow = Flow()
    handles = [
        module.register_forward_hook(LocalHook(_tracer(flow, name)), with_kwargs=True)
        for name, module in select_modules(model, watch).items()
    ]
    try:
        with untouched(model):
            loss(model, batch)
    finally:
        for handle in handles:
            handle.remove()
        flow.close()
    return flow


def _tracer(flow: Flow, name: str) -> Callable[..., None]:
    def note(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        flow.note(name, list(tensors_in((args, kwargs))), tensors_in(output))

    return note


_REFUSALS = (ValueError, ArithmeticError, AssertionError)
"""Errors with which code refuses numbers, such as the logits of a distribution: perturbed weights have an effect."""


class _Base:
    """The loss with the weights as they are: its terms, their gradients, and how far they differ between two runs."""

    def __init__(self, model: nn.Module, loss: Loss, batch: Any) -> None:
        self.model = model
        self._loss = loss
        self._batch = batch
        with untouched(model), arrivals(model) as arrived:
            terms = self._terms()
            if arrived:
                raise InvalidValue(
                    "probes.whole-step",
                    "the response test needs a function that returns the loss; {got} also calls backward()",
                    got=getattr(loss, "__name__", "it"),
                )
            self.values = {name: as_number(value) for name, value in terms.items()}
            self.gradients = {name: _gradients(value, _trainable(model)) for name, value in terms.items()}
        again = self.evaluate()
        self.noise = {name: 4 * abs(value - again[name]) for name, value in self.values.items()}
        self._rounding = {name: 2 * _eps(value) * abs(as_number(value)) for name, value in terms.items()}
        for name, value in self.values.items():
            if not math.isfinite(value):
                raise InvalidValue(
                    "probes.loss-not-finite",
                    "the response test needs a finite loss; {name} is {got}",
                    name=name,
                    got=value,
                )

    def _terms(self) -> Mapping[str, Tensor | float]:
        with same_random_numbers(self.model):
            found = self._loss(self.model, self._batch)
        terms = found if isinstance(found, Mapping) else {"loss": found}
        check_terms(terms)
        return terms

    def evaluate(self, *changes: Callable[[], None]) -> dict[str, float]:
        """The terms after changes of the weights, which are undone; NaN where the user's code refuses them."""
        with untouched(self.model):
            with same_random_numbers(self.model):
                for change in changes:
                    change()
            try:
                return {name: as_number(value) for name, value in self._terms().items()}
            except _REFUSALS:
                return dict.fromkeys(self.values, math.nan)

    def judge(
        self, term: str, weights: Sequence[nn.Parameter], changes: Mapping[float, float]
    ) -> TermResponse:
        """What gradient and response say together.

        Args:
            weights: Trainable parameters of the module.
            changes: Size of the perturbation -> |change| of the term.
        """
        largest = max(changes.values(), default=0.0)
        responding = [size for size, change in changes.items() if change > self.noise[term]]
        size: Number = min(responding) if responding else Absent("no perturbation changed it", "no-response")
        if not weights:
            return TermResponse("frozen", "none", 0.0, largest, size)
        gradients = self.gradients[term]
        if isinstance(gradients, Absent):
            return TermResponse("healthy" if responding else "unused", gradients, gradients, largest, size)
        own = [gradients[id(weight)] for weight in weights if id(weight) in gradients]
        kind: Literal["none", "zero", "some"] = (
            "none" if not own else "some" if any(nonzero for _, nonzero in own) else "zero"
        )
        verdict: Verdict
        if kind == "some":
            by_noise = max((change for size, change in changes.items() if size < math.inf), default=0.0)
            clear = max(self.noise[term], self._rounding[term])
            verdict = "healthy" if by_noise > clear else "saturated"
            if verdict == "saturated" and self._overwrites(weights):
                verdict = "overwritten"
        elif responding:
            verdict = "cut" if kind == "none" else "flat"
        else:
            verdict = "unused" if kind == "none" else "zero factor"
        return TermResponse(verdict, kind, root_sum_squares(norm for norm, _ in own), largest, size)

    def _overwrites(self, weights: Sequence[nn.Parameter]) -> bool:
        """Whether computing the loss replaces all of these weights."""
        with untouched(self.model):
            _noise(weights, SIZES[-1], seed=0)()
            given = [weight.detach().clone() for weight in weights]
            try:
                self._terms()
            except _REFUSALS:
                return False
            return not any(torch.equal(*pair) for pair in zip(weights, given, strict=True))

    def answered(self, changes: Mapping[str, Mapping[float, float]]) -> bool:
        """Whether each term has moved by more than its rounding."""
        return all(
            max(found.values(), default=0.0) > max(self.noise[term], self._rounding[term])
            for term, found in changes.items()
        )


def _changes(
    base: _Base, weights: Sequence[nn.Parameter], trials: Sequence[tuple[str, float, int]]
) -> dict[str, dict[float, float]]:
    """Term -> size of the perturbation -> |change|; ends once every term has moved."""
    changes: dict[str, dict[float, float]] = {name: {} for name in base.values}
    for kind, size, seed in trials:
        change = _noise(weights, size, seed) if kind == "noise" else _redraw(weights, seed)
        for term, value in base.evaluate(change).items():
            if term in changes:
                moved = _distance(value, base.values[term])
                changes[term][size] = max(moved, changes[term].get(size, 0.0))
        if base.answered(changes):
            break
    return changes


def _wakes(base: _Base, weights: Sequence[nn.Parameter], name: str, draws: int, seed: int) -> set[str]:
    """Terms that respond to a module once the rest of the model has other weights."""
    if not name:
        return set()
    own = {id(weight) for weight in weights}
    rest = [weight for weight in _trainable(base.model) if id(weight) not in own]
    awake: set[str] = set()
    for draw in range(draws):
        others, mine = _redraw(rest, seed + 100 + draw), _redraw(weights, seed + 1 + draw)
        before, after = base.evaluate(others), base.evaluate(others, mine)
        awake |= {
            term
            for term in before
            if math.isfinite(before[term])
            and _distance(after[term], before[term]) > base.noise.get(term, math.inf)
        }
    return awake


def _distance(value: float, base: float) -> float:
    """|difference|, infinite where the value is no longer a number."""
    difference = abs(value - base)
    return math.inf if math.isnan(difference) else difference


def _is_quiet(terms: Mapping[str, TermResponse]) -> bool:
    return all(term.verdict in ("unused", "zero factor") for term in terms.values())


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    return [
        weight
        for weight in module.parameters()
        if weight.requires_grad and weight.is_floating_point() and weight.numel()
    ]


def _noise(weights: Iterable[nn.Parameter], size: float, seed: int) -> Callable[[], None]:
    @torch.no_grad()
    def change() -> None:
        torch.manual_seed(seed)
        for weight in weights:
            weight.add_(size * _scale(weight) * torch.randn_like(weight))

    return change


def _redraw(weights: Iterable[nn.Parameter], seed: int) -> Callable[[], None]:
    @torch.no_grad()
    def change() -> None:
        torch.manual_seed(seed)
        for weight in weights:
            weight.copy_(_scale(weight) * torch.randn_like(weight))

    return change


def _scale(weight: Tensor) -> Tensor:
    """Root mean square of a tensor; for zeros, 1 / sqrt(inputs)."""
    size = weight.detach().square().mean().sqrt()
    inputs = max(weight[0].numel() if weight.dim() > 1 else 1, 1)
    return torch.where(size > 0, size, torch.full_like(size, inputs**-0.5))


def _gradients(
    value: Tensor | float, weights: Sequence[nn.Parameter]
) -> dict[int, tuple[float, bool]] | Absent:
    """Id of a parameter -> norm of its gradient, and whether some of it is not zero; those without are left out."""
    if not isinstance(value, Tensor) or not value.requires_grad:
        return {}
    if has_reentrant_checkpoint(value):
        return Absent("reentrant checkpointing hides the parameters", "reentrant-checkpoint")
    found = differentiate(value, weights)
    return {
        id(weight): (float(gradient.norm()), bool(torch.count_nonzero(gradient)))
        for weight, gradient in zip(weights, found, strict=True)
        if gradient is not None
    }


def _eps(value: Tensor | float) -> float:
    floating = isinstance(value, Tensor) and value.is_floating_point()
    return torch.finfo(value.dtype).eps if floating else 0.0  # type: ignore[union-attr]
