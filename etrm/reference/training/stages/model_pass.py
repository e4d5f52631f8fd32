"""Context, core and gradient of a step, computed again, and how far rounding explains a difference."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from etrm.reference.data.posed_queries import pose
from etrm.reference.departure import Departure, PipelineStage
from etrm.reference.model.context import ContextResult, encode, look_up, start_state
from etrm.reference.model.network import core_step, part
from etrm.reference.recorded import RecordedPart
from etrm.reference.training.context_steps import move_contexts
from etrm.reference.training.objective import row_losses
from etrm.reference.training.stages.checked_step import CheckedStep, covers_model
from etrm.reference.training.stages.differences import (
    compare_exactly,
    compare_rows,
    dense,
    dither,
    existing,
    existing_tokens,
    norm,
    ratio,
    row_sizes,
)

ROWS_AT_A_TIME = 32  # rows of one forward and backward pass, which bounds the memory
ROUNDINGS = 3.0
"""A difference of up to this many times the rounding of a value is taken for rounding. Two values
with independent rounding rarely differ by twice as much as one of them does from the exact one."""
SAMPLES = 4
"""Roundings of a step, of which the largest counts: in a deep recursion they differ by factors,
and one alone was exceeded more than three times in healthy runs."""


LOWER = torch.bfloat16, torch.float16
RETURNED = "context of the encoder"
"""The name of what an encoder from outside returns, where its gradient departs."""


def compare_precision(checked: CheckedStep) -> Iterator[Departure]:
    """States and halting logits are in float32, whatever the precision of products is, and no norm rounds the states.

    With products in a lower precision, a rounding of states is no larger than that of products. But then all values of
    a state have few digits, and one value in some thousands has them by chance.
    """
    for recorded in checked.step.parts:
        states = {name: recorded.carry_out[name] for name in ("z_H", "z_L")}
        for name, value in (states | {"q": recorded.q_halt}).items():
            dtype = value.dtype if name == "q" else find_precision(value)
            if dtype is not torch.float32:
                yield Departure(PipelineStage.CORE, f"precision of {name}", 1.0, 0.0, str(dtype))


def find_precision(value: Tensor) -> torch.dtype:
    """Return the lowest precision that holds all values of a tensor exactly; that of the tensor if all are zero."""
    if not bool(value.any()):
        return value.dtype
    return next((low for low in LOWER if torch.equal(value, value.to(low).to(value.dtype))), value.dtype)


class ModelPass:
    """One forward and backward pass of the reference, from the weights and inputs of a recorded step.

    An encoder from outside has no reference: the pass then begins with the contexts that it returned, and ends with
    their gradient.

    Args:
        checked: the step.

    Attributes:
        encodes: whether the reference has the encoder, or the model has none.
        weights: the weights by name, in float32; they get the gradient.
        wanted: the gradient of the reference, by the name of the parameter.
        forward: the values (B, ...) of the reference where the step departs, by stage, tensor and first row.
        kept: more values to keep, in the same form.
        departed: the departing values of the step, by stage and tensor.
        sent: the gradients of the contexts of an encoder from outside.
        missing: parameters whose gradient is zero and should not be: no rounding makes it so.
        least: the norm of a gradient below which it is rounding of the others.
    """

    def __init__(self, checked: CheckedStep) -> None:
        self.checked = checked
        self.encodes = covers_model(checked.config)
        self.weights = {
            name: value.detach().clone().float() if value.is_floating_point() else value
            for name, value in checked.before.weights.items()
        }
        self.wanted: dict[str, Tensor] = {}
        self.forward: dict[tuple[PipelineStage, str, int], Tensor] = {}
        self.kept: Collection[tuple[PipelineStage, str, int]] = ()
        self.departed: set[tuple[PipelineStage, str]] = set()
        self.missing: set[str] = set()
        self.sent: list[Tensor] = []
        self.least = 0.0

    def departures(self) -> Iterator[Departure]:
        """Context, core and gradient: what departs by more than rounding explains.

        A recursion amplifies rounding, and where the gradients of rows cancel, rounding is most of what is left.
        So beyond the limits a value must differ by more than references in the run's own precision do, whose weights
        differ by the rounding of that precision.
        """
        found = list(self._forward_and_backward())
        samples = self._sample_roundings()
        while found and (low := next(samples, None)):
            found = [departure for departure in found if not self._explains(low, departure)]
        yield from found

    def _explains(self, low: ModelPass, departure: Departure) -> bool:
        """Whether rounding, as another reference has it, makes a value depart."""
        if departure.stage is PipelineStage.GRADIENT and departure.tensor in self.missing:
            return False
        if (departure.stage, departure.tensor) not in low.departed:
            return True
        return departure.size <= ROUNDINGS * self._find_rounding(departure, low)

    def _sample_roundings(self) -> Iterator[ModelPass]:
        """Comparisons in the run's own precision, with weights that differ by their rounding."""
        dtype = getattr(torch, self.checked.train.precision)
        device = next(iter(self.weights.values())).device
        generator = torch.Generator().manual_seed(self.checked.before.step)
        for sample in range(SAMPLES):
            low = ModelPass(self.checked)
            low.kept = self.forward.keys()
            if sample or dtype is torch.float32:
                low.weights = {
                    name: dither(value, dtype, generator) if value.is_floating_point() else value
                    for name, value in low.weights.items()
                }
            with torch.autocast(device.type, dtype, enabled=dtype is not torch.float32):
                low.departed = {
                    (departure.stage, departure.tensor) for departure in low._forward_and_backward()
                }
            yield low

    def _forward_and_backward(self) -> Iterator[Departure]:
        for name in self.checked.trained:
            self.weights[name].requires_grad_()
        for recorded in self.checked.step.parts:
            rows = len(recorded.batch.inputs)
            for start in range(0, rows, ROWS_AT_A_TIME):
                try:
                    yield from self._rows(recorded, slice(start, min(rows, start + ROWS_AT_A_TIME)))
                except KeyError as missing:  # a weight that the configured model has
                    yield Departure(PipelineStage.MODEL, "weights of the model", 1.0, 0.0, f"no {missing}")
                    return
        if self.checked.ended:
            yield from self._gradient()
        for name in self.checked.trained:
            self.weights[name] = self.weights[name].detach()

    def _rows(self, recorded: RecordedPart, chosen: slice) -> Iterator[Departure]:
        """Context, core and loss of some rows; adds their gradient to the weights."""
        core, labels = recorded.core, recorded.labels
        if core is None or labels is None:
            return
        batch = recorded.batch
        numbers = list(range(len(batch.inputs)))[chosen]
        first = recorded.rows.start or 0
        if self.encodes:
            found = self._context(recorded, numbers)
        else:
            given = recorded.returned if self._follows(recorded) else None
            found = ContextResult((core.context if given is None else given)[chosen].float().requires_grad_())
        if self.encodes or self._follows(recorded):
            yield from self._contexts(recorded, chosen, found)
        # The value of the real step with the derivative of the reference.
        context = found.context + (core.context[chosen].float() - found.context).detach()
        result = core_step(
            part(self.weights, "core"),
            self.checked.model,
            core.z_H[chosen].float(),
            core.z_L[chosen].float(),
            context,
            core.inputs[chosen],
            core.positions[chosen],
            None if core.valid is None else core.valid[chosen],
        )
        exists = existing_tokens(batch, self.checked.model.context_tokens, core.z_H.shape[1])
        exists = None if exists is None else exists[chosen]
        tokens = None if batch.valid is None else batch.valid[chosen]
        stage = PipelineStage.CORE
        yield from self._forward(stage, "z_H", core.z_H_out[chosen], result.z_H, exists, first)
        yield from self._forward(stage, "z_L", core.z_L_out[chosen], result.z_L, exists, first)
        yield from self._forward(stage, "logits", core.logits[chosen], result.logits, tokens, first)
        yield from self._forward(PipelineStage.HALTING, "q", core.q[chosen], result.q, None, first)
        yield from self._forward(
            stage, "logits of the step", recorded.logits[chosen], core.logits[chosen], tokens
        )
        yield from compare_exactly(
            PipelineStage.HALTING, "q_halt of the step", recorded.q_halt[chosen], core.q[chosen][:, 0]
        )
        logits = result.logits + (recorded.logits[chosen].float() - result.logits).detach()
        q_halt = result.q[:, 0] + (recorded.q_halt[chosen].float() - result.q[:, 0]).detach()
        total = row_losses(logits, q_halt, labels[chosen], found.kl, None, self.checked.train).total.sum()
        if total.requires_grad:
            torch.autograd.backward(total / self.checked.step.batch_size)
        if not self.encodes and self._follows(recorded):
            grad = found.context.grad
            self.sent.append(torch.zeros_like(found.context) if grad is None else grad)

    def _follows(self, recorded: RecordedPart) -> bool:
        """Whether the core must get what the encoder returned in this step, for all rows."""
        return recorded.returned is not None and self.checked.model.variant != "etrm_cached"

    def _contexts(self, recorded: RecordedPart, chosen: slice, found: ContextResult) -> Iterator[Departure]:
        """What the core gets of the encoder, and what that leaves."""
        core, first = recorded.core, recorded.rows.start or 0
        assert core is not None, "parts without a call of the core have no context"
        given = found.context
        if self.checked.train.inner_steps:
            given = self._moved(recorded, list(range(len(recorded.batch.inputs)))[chosen], given)
        for one in self._forward(PipelineStage.CONTEXT, "context", core.context[chosen], given, None, first):
            yield one if recorded.encoded else self._not_encoded(one)
        yield from self._handed_on(recorded, chosen, found)
        if found.kl is not None and recorded.kl is not None:
            yield from self._forward(PipelineStage.CONTEXT, "kl", recorded.kl[chosen], found.kl, None, first)

    def _context(self, recorded: RecordedPart, numbers: list[int]) -> ContextResult:
        batch = recorded.batch
        if not self.checked.model.has_encoder:
            return ContextResult(
                look_up(self.weights, batch.puzzle_ids[numbers], self.checked.model.context_tokens)
            )
        encoder = part(self.weights, "encoder")
        halted = self.checked.carry["halted"][recorded.rows][numbers]
        if self.checked.model.variant != "etrm_cached":
            state = self._encoder_state(recorded, numbers, halted)
            return encode(encoder, self.checked.model, batch.demos.of(numbers), state)
        stored = self.checked.carry.get("context")
        width = (len(numbers), self.checked.model.context_tokens, self.checked.model.hidden_size)
        context = halted.new_zeros(width, dtype=torch.float32)
        if stored is not None:
            context = stored[recorded.rows][numbers].float().clone()
        begins = [number for number, flag in zip(numbers, halted.tolist(), strict=True) if flag]
        if not begins:
            return ContextResult(context)
        places = halted.nonzero().flatten()
        encoded = encode(encoder, self.checked.model, batch.demos.of(begins), None)
        kl = (
            None
            if encoded.kl is None
            else encoded.kl.new_zeros(len(numbers)).index_put((places,), encoded.kl)
        )
        return ContextResult(context.index_put((places,), encoded.context), kl)

    def _not_encoded(self, departure: Departure) -> Departure:
        """A departing context of a step in which the encoder was not called, as its variant may allow."""
        if self.checked.model.variant == "etrm_cached":
            return departure
        return replace(departure, where=f"{departure.where}, the encoder is not called", unmoved=True)

    def _moved(self, recorded: RecordedPart, numbers: list[int], contexts: Tensor) -> Tensor:
        """The contexts of some rows after the inner steps."""
        demos = recorded.batch.demos
        posed = pose([demos.shown_to(row) for row in numbers], self.checked.config.data, contexts.device)
        return move_contexts(
            part(self.weights, "core"), self.checked.model, self.checked.train, contexts, posed
        )

    def _handed_on(self, recorded: RecordedPart, chosen: slice, found: ContextResult) -> Iterator[Departure]:
        """What the encoder leaves for the next step: the state of a stateful one, or the context that is stored."""
        left = {f"encoder_state.{name}": value for name, value in (found.state or {}).items()}
        if self.checked.model.variant == "etrm_cached":
            left["context"] = found.context
        for name, value in left.items():
            real, first = recorded.carry_out.get(name), recorded.rows.start or 0
            if real is None:
                yield Departure(PipelineStage.CONTEXT, f"{name} for the next step", 1.0, 0.0)
            else:
                tensor = f"{name} for the next step"
                yield from self._forward(PipelineStage.CONTEXT, tensor, real[chosen], value, None, first)

    def _encoder_state(
        self, recorded: RecordedPart, numbers: list[int], halted: Tensor
    ) -> dict[str, Tensor] | None:
        starts = start_state(part(self.weights, "encoder"), self.checked.model, len(numbers))
        if starts is None:
            return None
        found = {}
        for name, start in starts.items():
            old = self.checked.carry.get(f"encoder_state.{name}")
            kept = start if old is None else old[recorded.rows][numbers].float()
            found[name] = torch.where(halted[:, None, None], start, kept)
        return found

    def _gradient(self) -> Iterator[Departure]:
        stage = PipelineStage.GRADIENT
        known = self.checked.step.parameters
        names = [name for name in known if self.encodes or not name.startswith("encoder.")]
        zero = {name: torch.zeros_like(self.weights[name]) for name in names}
        self.wanted = {
            name: zero[name] if (grad := self.weights[name].grad) is None else grad for name in names
        }
        # A gradient far below the others is rounding of theirs.
        self.least = 1e-3 * norm(list(self.wanted.values()))
        gradients = dict(self.checked.step.gradients)
        if self.sent and all(recorded.trains for recorded in self.checked.step.parts):
            names = [*names, RETURNED]
            self.wanted[RETURNED] = torch.cat(self.sent)
            zero[RETURNED] = torch.zeros_like(self.wanted[RETURNED])
            if (arrived := self._find_arrived()) is not None:
                gradients[RETURNED] = arrived
        for name in names:
            real = gradients.get(name)
            size = self._compare_gradient(name, zero[name] if real is None else dense(real).float())
            if (real is None or not bool(dense(real).any())) and norm([self.wanted[name]]) > self.least:
                self.missing.add(name)
            if not size <= self.checked.limits.gradient:
                yield Departure(stage, name, size, self.checked.limits.gradient)

    def _find_arrived(self) -> Tensor | None:
        """(B, P, D) the gradient that comes back to what the encoder returned; None where none does."""
        found = [(recorded.returned, recorded.arrived) for recorded in self.checked.step.parts]
        if all(arrived is None for _, arrived in found):
            return None
        return torch.cat(
            [
                torch.zeros_like(context) if arrived is None else arrived
                for context, arrived in found
                if context is not None
            ]
        )

    def _compare_gradient(self, name: str, other: Tensor) -> float:
        """The difference of a gradient from that of the reference, relative to the latter."""
        return ratio(norm([other - self.wanted[name]]), max(norm([self.wanted[name]]), self.least))

    def _find_rounding(self, departure: Departure, low: ModelPass) -> float:
        """What another reference differs by from this one; 0 of what it does not compute."""
        stage, tensor = departure.stage, departure.tensor
        if stage is PipelineStage.GRADIENT and tensor in low.wanted:
            return self._compare_gradient(tensor, low.wanted[tensor])
        return max(
            (
                float(row_sizes(low.forward[key], wanted).max())
                for key, wanted in self.forward.items()
                if key[:2] == (stage, tensor) and key in low.forward
            ),
            default=0.0,
        )

    def _forward(
        self,
        stage: PipelineStage,
        tensor: str,
        real: Tensor,
        wanted: Tensor,
        exists: Tensor | None,
        first: int = 0,
    ) -> Iterator[Departure]:
        """A departure where one row differs by more than the limit; keeps the value of the reference then."""
        found = list(compare_rows(stage, tensor, real, wanted, self.checked.limits.forward, exists, first))
        key = (stage, tensor, first)
        if real.shape == wanted.shape and (found or key in self.kept):
            self.forward[key] = existing(wanted, exists)
        yield from found
