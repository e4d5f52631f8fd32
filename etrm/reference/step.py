"""Compare one recorded training step with the reference, stage by stage.

Each stage is computed from the inputs that the real step gave it, so that a fault in one stage does not make later
ones differ. The first stage that differs is the place of the fault.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import get_args

import torch
from torch import Tensor

from etrm.config import KINDS, Config, VariantName
from etrm.device import to_device, to_host
from etrm.reference.context import ContextResult, encode, look_up, start_state
from etrm.reference.context_steps import move_contexts
from etrm.reference.data.loaded_rows import compare_batch
from etrm.reference.data.loader import ReferenceLoader
from etrm.reference.data.posed_queries import pose
from etrm.reference.departure import Departure, PipelineStage
from etrm.reference.logged_numbers import GRADIENT_NORM, compute_logged
from etrm.reference.network import core_step, part
from etrm.reference.objective import row_losses
from etrm.reference.optimisation import averaged, clipped, frozen_part, rate_factor, rate_of, update
from etrm.reference.recorded import RecordedBatch, RecordedPart, RecordedStep, Snapshot

ROWS_AT_A_TIME = 32  # rows of one forward and backward pass, which bounds the memory
ULPS = 8 * torch.finfo(torch.float32).eps  # rounding of a float32 sum of a few terms, relative to its largest


@dataclass(frozen=True)
class Limits:
    """The largest relative difference that precision explains.

    Attributes:
        forward: limit of contexts, states and logits, row by row.
        gradient: limit of the gradient of a parameter.
        exact: limit of what is computed in float32 or better on any device: losses, updates, averages.
        clipping: limit of clipped gradients; torch sums the squares of a large tensor in float32, to 4e-4 on a CPU.
    """

    forward: float
    gradient: float
    exact: float = 1e-5
    clipping: float = 2e-3


ROUNDINGS = 3.0
"""A difference of up to this many times the rounding of a value is taken for rounding. Two values
with independent rounding rarely differ by twice as much as one of them does from the exact one."""
SAMPLES = 4
"""Roundings of a step, of which the largest counts: in a deep recursion they differ by factors,
and one alone was exceeded more than three times in healthy runs."""
LIMITS = {"float32": Limits(forward=2e-4, gradient=1e-3), "bfloat16": Limits(forward=0.1, gradient=0.5)}
"""By ``train.precision``. Healthy runs of every encoder on a CPU stay below 5e-6 and 3e-5 in float32, and below 0.02
and 0.2 in bfloat16; a GPU sums in another order."""


def compare_step(step: RecordedStep, config: Config, rows: ReferenceLoader | None = None) -> list[Departure]:
    """The departures of a step from the reference, in the order of the stages.

    Args:
        step: the recorded step, which has ended.
        config: the settings as they were requested, without faults.
        rows: the reference of the loader; without it samples are not compared.
    """
    found = _Comparison(step, config, rows)
    departures = [
        replace(departure, step=step.before.step + 1, bucket=step.bucket) for departure in found.departures()
    ]
    order = list(PipelineStage)
    return sorted(departures, key=lambda departure: order.index(departure.stage))


def covers_model(config: Config) -> bool:
    """Whether the reference has the networks of a config: not the symbolic solver, and no code from outside."""
    model = config.model
    known = model.recursive and model.variant in get_args(VariantName)
    return known and (not model.has_encoder or model.encoder.kind in KINDS)


class _Comparison:
    def __init__(self, step: RecordedStep, config: Config, rows: ReferenceLoader | None) -> None:
        self.step, self.config, self.rows = step, config, rows
        self.before: Snapshot = step.before
        # A step that ended in an error is compared as far as it came.
        self.ended = step.after is not None
        self.after: Snapshot = step.after or step.before
        self.limits = LIMITS[config.train.precision]
        self.model, self.train = config.model, config.train
        self.fixed_time = config.model.variant == "etrm_fct"
        self.weights = {
            name: value.detach().clone().float() if value.is_floating_point() else value
            for name, value in self.before.weights.items()
        }
        frozen = frozen_part(self.before.step, self.train)
        self.trained = tuple(
            name for name in step.parameters if frozen is None or not name.startswith(frozen)
        )
        self.carry = self.before.carries[step.bucket]
        self.wanted: dict[str, Tensor] = {}  # the gradient of the reference
        self.forward: dict[
            tuple[PipelineStage, str, int], Tensor
        ] = {}  # values of what departs, by the first row
        self.kept: Collection[tuple[PipelineStage, str, int]] = ()  # more values that are kept
        self.departed: set[tuple[PipelineStage, str]] = set()
        self.missing: set[str] = (
            set()
        )  # gradients that are zero, and should not be: no rounding makes them so
        self.least = 0.0

    def departures(self) -> Iterator[Departure]:
        yield from self._schedule()
        yield from self._data()
        yield from self._weights_in_use()
        if covers_model(self.config):
            yield from self._given_carry()
            yield from self._precision()
            yield from self._model()
        yield from self._halting()
        yield from self._labels()
        yield from self._loss()
        if self.ended:
            yield from self._clipping()
            yield from self._update()
            yield from self._average()
            yield from self._carry_out()
            yield from self._logged()

    def _model(self) -> Iterator[Departure]:
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

    def _explains(self, low: _Comparison, departure: Departure) -> bool:
        """Whether rounding, as another reference has it, makes a value depart."""
        if departure.stage is PipelineStage.GRADIENT and departure.tensor in self.missing:
            return False
        if (departure.stage, departure.tensor) not in low.departed:
            return True
        return departure.size <= ROUNDINGS * self._find_rounding(departure, low)

    def _sample_roundings(self) -> Iterator[_Comparison]:
        """Comparisons in the run's own precision, with weights that differ by their rounding."""
        dtype = getattr(torch, self.train.precision)
        device = next(iter(self.weights.values())).device
        generator = torch.Generator().manual_seed(self.before.step)
        for sample in range(SAMPLES):
            low = _Comparison(self.step, self.config, None)
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

    # -- before the model -------------------------------------------------------------------------

    def _schedule(self) -> Iterator[Departure]:
        stage, done = PipelineStage.SCHEDULE, self.before.step
        if self.rows is not None:
            turn = self.model.halt.max_steps if self.fixed_time else 1
            yield from _equal(stage, "bucket", self.step.bucket, self.rows.bucket_at(done, turn))
        if self.ended:
            yield from _equal(stage, "step", self.after.step, done + 1)
        staged = self.train.freeze_decoder_steps or self.train.freeze_encoder_steps
        if staged and set(self.step.requiring) != set(self.trained):
            yield Departure(
                stage, "frozen part", 1.0, 0.0, f"{frozen_part(done, self.train) or 'no part'} is expected"
            )
        factor = rate_factor(done, self.train)
        for name, rate in self.step.rates.items():
            wanted = rate_of(name, self.train) * factor
            if not math.isclose(rate, wanted, rel_tol=self.limits.exact, abs_tol=1e-30):
                yield Departure(stage, f"rate of {name}", _share(rate, wanted), self.limits.exact)
                break

    def _data(self) -> Iterator[Departure]:
        stage, bucket = PipelineStage.DATA, self.step.bucket
        indices, following = list(self.before.rows[bucket][0]), self.before.rows[bucket][1]
        for row, begins in enumerate(self.carry["halted"].tolist()):
            if begins:
                indices[row], following = following, following + 1
        if self.ended:
            yield from _equal(stage, "indices of the rows", list(self.after.rows[bucket][0]), indices)
            yield from _equal(stage, "next index", self.after.rows[bucket][1], following)
        for other, place in self.before.rows.items():
            if other != bucket:
                yield from _equal(stage, f"rows of bucket {other}", self.after.rows[other], place)
        if self.rows is not None:
            for recorded in self.step.parts:
                yield from compare_batch(
                    self.rows, bucket, indices[recorded.rows], recorded.batch.to_arrays()
                )

    def _weights_in_use(self) -> Iterator[Departure]:
        for name in self.step.at_forward:
            yield Departure(PipelineStage.UPDATE, f"{name} between two steps", 1.0, 0.0)

    def _given_carry(self) -> Iterator[Departure]:
        stage = PipelineStage.CARRY
        for recorded in self.step.parts:
            for name, value in self.carry.items():
                given = recorded.carry.get(name)
                wanted = value[recorded.rows]
                if given is None or given.shape != wanted.shape or not torch.equal(given, wanted):
                    yield Departure(stage, f"{name} given to the model", 1.0, 0.0)
            yield from self._begun(recorded)

    def _begun(self, recorded: RecordedPart) -> Iterator[Departure]:
        """The states with which the core begins: fresh where a row begins, else those of the last step."""
        core = recorded.core
        if core is None:
            yield Departure(PipelineStage.CARRY, "call of the core", 1.0, 0.0)
            return
        halted = self.carry["halted"][recorded.rows]
        length = self.model.context_tokens + recorded.batch.inputs.shape[1]
        for name, given in (("z_H", core.z_H), ("z_L", core.z_L)):
            old = self.carry[name][recorded.rows][:, :length]
            wanted = old.new_zeros(len(old), length, old.shape[-1])
            wanted[:, : old.shape[1]] = old
            wanted[halted] = self.weights[f"core.{name[-1]}_init"].type(wanted.dtype)
            exists = _exists(recorded.batch, self.model.context_tokens, given.shape[1])
            yield from self._forward(PipelineStage.CARRY, name, given, wanted, exists)
        batch = recorded.batch
        for name, seen, sent in (
            ("inputs", core.inputs, batch.inputs),
            ("positions", core.positions, batch.positions),
            ("valid", core.valid, batch.valid),
        ):
            same = seen is sent if seen is None or sent is None else torch.equal(seen, sent)
            if not same:
                yield Departure(PipelineStage.CARRY, f"{name} of the core", 1.0, 0.0)

    # -- context, core and gradient ---------------------------------------------------------------

    def _precision(self) -> Iterator[Departure]:
        """States and halting logits are in float32, whatever the precision of products is."""
        for recorded in self.step.parts:
            values = {name: recorded.carry_out[name] for name in ("z_H", "z_L")} | {"q": recorded.q_halt}
            for name, value in values.items():
                if value.dtype is not torch.float32:
                    yield Departure(PipelineStage.CORE, f"precision of {name}", 1.0, 0.0, str(value.dtype))

    def _forward_and_backward(self) -> Iterator[Departure]:
        for name in self.trained:
            self.weights[name].requires_grad_()
        yield from self._noise()
        for recorded in self.step.parts:
            rows = len(recorded.batch.inputs)
            for start in range(0, rows, ROWS_AT_A_TIME):
                try:
                    yield from self._rows(recorded, slice(start, min(rows, start + ROWS_AT_A_TIME)))
                except KeyError as missing:  # a weight that the configured model has
                    yield Departure(PipelineStage.MODEL, "weights of the model", 1.0, 0.0, f"no {missing}")
                    return
        if self.ended:
            yield from self._gradient()
        for name in self.trained:
            self.weights[name] = self.weights[name].detach()

    def _noise(self) -> Iterator[Departure]:
        """The random numbers of a variational encoder, which are drawn for the whole batch."""
        given = [recorded.batch.demos.noise for recorded in self.step.parts]
        if all(noise is None for noise in given):
            return
        generator = torch.Generator()
        generator.set_state(self.before.random_torch)
        shape = next(noise.shape[1:] for noise in given if noise is not None)
        wanted = torch.randn(self.step.batch_size, *shape, generator=generator)
        for recorded, noise in zip(self.step.parts, given, strict=True):
            if noise is not None:
                mine = to_device(wanted[recorded.rows], noise.device)
                yield from _same(PipelineStage.CONTEXT, "noise", noise, mine)

    def _rows(self, recorded: RecordedPart, chosen: slice) -> Iterator[Departure]:
        """Context, core and loss of some rows; adds their gradient to the weights."""
        core, labels = recorded.core, recorded.labels
        if core is None or labels is None:
            return
        batch = recorded.batch
        numbers = list(range(len(batch.inputs)))[chosen]
        first = recorded.rows.start or 0
        found = self._context(recorded, numbers)
        given = self._moved(recorded, numbers, found.context) if self.train.inner_steps else found.context
        yield from self._forward(PipelineStage.CONTEXT, "context", core.context[chosen], given, None, first)
        yield from self._handed_on(recorded, chosen, found)
        if found.kl is not None and recorded.kl is not None:
            yield from self._forward(PipelineStage.CONTEXT, "kl", recorded.kl[chosen], found.kl, None, first)
        # The value of the real step with the derivative of the reference.
        context = found.context + (core.context[chosen].float() - found.context).detach()
        result = core_step(
            part(self.weights, "core"),
            self.model,
            core.z_H[chosen].float(),
            core.z_L[chosen].float(),
            context,
            core.inputs[chosen],
            core.positions[chosen],
            None if core.valid is None else core.valid[chosen],
        )
        exists = _exists(batch, self.model.context_tokens, core.z_H.shape[1])
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
        yield from _same(
            PipelineStage.HALTING, "q_halt of the step", recorded.q_halt[chosen], core.q[chosen][:, 0]
        )
        logits = result.logits + (recorded.logits[chosen].float() - result.logits).detach()
        q_halt = result.q[:, 0] + (recorded.q_halt[chosen].float() - result.q[:, 0]).detach()
        total = row_losses(logits, q_halt, labels[chosen], found.kl, None, self.train).total.sum()
        if total.requires_grad:
            torch.autograd.backward(total / self.step.batch_size)

    def _context(self, recorded: RecordedPart, numbers: list[int]) -> ContextResult:
        batch = recorded.batch
        if not self.model.has_encoder:
            return ContextResult(look_up(self.weights, batch.puzzle_ids[numbers], self.model.context_tokens))
        encoder = part(self.weights, "encoder")
        halted = self.carry["halted"][recorded.rows][numbers]
        if self.model.variant != "etrm_cached":
            state = self._encoder_state(recorded, numbers, halted)
            return encode(encoder, self.model, batch.demos.of(numbers), state)
        stored = self.carry.get("context")
        width = (len(numbers), self.model.context_tokens, self.model.hidden_size)
        context = halted.new_zeros(width, dtype=torch.float32)
        if stored is not None:
            context = stored[recorded.rows][numbers].float().clone()
        begins = [number for number, flag in zip(numbers, halted.tolist(), strict=True) if flag]
        if not begins:
            return ContextResult(context)
        places = halted.nonzero().flatten()
        encoded = encode(encoder, self.model, batch.demos.of(begins), None)
        kl = (
            None
            if encoded.kl is None
            else encoded.kl.new_zeros(len(numbers)).index_put((places,), encoded.kl)
        )
        return ContextResult(context.index_put((places,), encoded.context), kl)

    def _moved(self, recorded: RecordedPart, numbers: list[int], contexts: Tensor) -> Tensor:
        """The contexts of some rows after the inner steps."""
        demos = recorded.batch.demos
        posed = pose([demos.shown_to(row) for row in numbers], self.config.data, contexts.device)
        return move_contexts(part(self.weights, "core"), self.model, self.train, contexts, posed)

    def _handed_on(self, recorded: RecordedPart, chosen: slice, found: ContextResult) -> Iterator[Departure]:
        """What the encoder leaves for the next step: the state of a stateful one, or the context that is stored."""
        left = {f"encoder_state.{name}": value for name, value in (found.state or {}).items()}
        if self.model.variant == "etrm_cached":
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
        starts = start_state(part(self.weights, "encoder"), self.model, len(numbers))
        if starts is None:
            return None
        found = {}
        for name, start in starts.items():
            old = self.carry.get(f"encoder_state.{name}")
            kept = start if old is None else old[recorded.rows][numbers].float()
            found[name] = torch.where(halted[:, None, None], start, kept)
        return found

    def _gradient(self) -> Iterator[Departure]:
        stage = PipelineStage.GRADIENT
        zero = {name: torch.zeros_like(self.weights[name]) for name in self.step.parameters}
        self.wanted = {
            name: zero[name] if (grad := self.weights[name].grad) is None else grad
            for name in self.step.parameters
        }
        # A gradient far below the others is rounding of theirs.
        self.least = 1e-3 * _norm(list(self.wanted.values()))
        for name in self.step.parameters:
            real = self.step.gradients.get(name)
            size = self._compare_gradient(name, zero[name] if real is None else _dense(real).float())
            if (real is None or not bool(_dense(real).any())) and _norm([self.wanted[name]]) > self.least:
                self.missing.add(name)
            if not size <= self.limits.gradient:
                yield Departure(stage, name, size, self.limits.gradient)

    def _compare_gradient(self, name: str, other: Tensor) -> float:
        """The difference of a gradient from that of the reference, relative to the latter."""
        return _ratio(_norm([other - self.wanted[name]]), max(_norm([self.wanted[name]]), self.least))

    def _find_rounding(self, departure: Departure, low: _Comparison) -> float:
        """What another reference differs by from this one; 0 of what it does not compute."""
        stage, tensor = departure.stage, departure.tensor
        if stage is PipelineStage.GRADIENT and tensor in low.wanted:
            return self._compare_gradient(tensor, low.wanted[tensor])
        return max(
            (
                float(_row_sizes(low.forward[key], wanted).max())
                for key, wanted in self.forward.items()
                if key[:2] == (stage, tensor) and key in low.forward
            ),
            default=0.0,
        )

    # -- after the model --------------------------------------------------------------------------

    def _halting(self) -> Iterator[Departure]:
        stage, halt = PipelineStage.HALTING, self.model.halt
        explores = not self.fixed_time and halt.exploration > 0 and halt.max_steps > 1
        wanted: Tensor | None = None
        if explores and covers_model(self.config):
            generator = torch.Generator()
            generator.set_state(self.before.random_halting)
            held = torch.rand(self.step.batch_size, generator=generator) < halt.exploration
            drawn = torch.randint(2, halt.max_steps + 1, (self.step.batch_size,), generator=generator)
            wanted = torch.where(held, drawn, torch.zeros_like(drawn))
        for recorded in self.step.parts:
            if wanted is not None:
                mine, given = wanted[recorded.rows], recorded.minimum
                if given is None or not torch.equal(to_host(given), mine):
                    yield Departure(stage, "least numbers of steps", 1.0, 0.0)
            begun = self.carry["steps"][recorded.rows].masked_fill(self.carry["halted"][recorded.rows], 0)
            steps = begun + 1
            ends = steps >= halt.max_steps
            if not self.fixed_time and covers_model(self.config):
                ends = ends | (recorded.q_halt > 0)
                if recorded.minimum is not None:
                    ends = ends & (steps >= recorded.minimum)
            yield from _same(stage, "steps", recorded.carry_out["steps"], steps)
            yield from _same(stage, "halted", recorded.carry_out["halted"], ends)

    def _labels(self) -> Iterator[Departure]:
        for recorded in self.step.parts:
            if recorded.labels is None:
                yield Departure(PipelineStage.LABELS, "labels", 1.0, 0.0)
            else:
                yield from _same(PipelineStage.LABELS, "labels", recorded.labels, recorded.batch.labels)

    def _loss(self) -> Iterator[Departure]:
        for recorded in self.step.parts:
            if recorded.labels is None or recorded.total is None:
                continue
            wanted = row_losses(
                recorded.logits, recorded.q_halt, recorded.labels, recorded.kl, recorded.entropy, self.train
            ).total.sum()
            size = _share(float(recorded.total), float(wanted))
            if not size <= self.limits.exact:
                yield Departure(PipelineStage.LOSS, "loss", size, self.limits.exact)

    def _clipping(self) -> Iterator[Departure]:
        dense = {name: _dense(value).float() for name, value in self.step.gradients.items()}
        wanted = clipped(dense, self.train)
        for name, value in wanted.items():
            real = self.step.applied.get(name)
            real = torch.zeros_like(value) if real is None else _dense(real).float()
            size = _ratio(_norm([real - value]), _norm([value]))
            if not size <= self.limits.clipping:
                lost = not bool(real.any())
                yield Departure(PipelineStage.CLIPPING, name, size, self.limits.clipping, unmoved=lost)

    def _update(self) -> Iterator[Departure]:
        stage, factor = PipelineStage.UPDATE, rate_factor(self.before.step, self.train)
        ids = torch.cat([recorded.batch.puzzle_ids for recorded in self.step.parts])
        for name, old in self.before.weights.items():
            new = self.after.weights[name]
            gradient = self.step.applied.get(name)
            if name not in self.trained or gradient is None:
                if not torch.equal(new, old):
                    yield Departure(
                        stage, name, _ratio(_norm([new - old]), _norm([old])), 0.0, "without a gradient"
                    )
                continue
            moments = self.before.moments
            count = int(moments.get(f"{name}.step", torch.zeros(()))) + 1
            wanted = update(
                old.double(),
                _dense(gradient).double(),
                _double(moments.get(f"{name}.exp_avg")),
                _double(moments.get(f"{name}.exp_avg_sq")),
                count,
                rate_of(name, self.train) * factor,
                self.train,
                ids if name.startswith("puzzle_table.") else None,
            )
            size = _moved_apart(new, wanted.weight, old)
            if not size <= self.limits.exact:
                yield Departure(stage, name, size, self.limits.exact, unmoved=torch.equal(new, old))
            for kind, value in (("exp_avg", wanted.mean), ("exp_avg_sq", wanted.square)):
                real = self.after.moments.get(f"{name}.{kind}")
                if value is not None:
                    size = 1.0 if real is None else _ratio(_norm([real.double() - value]), _norm([value]))
                    if not size <= self.limits.exact:
                        yield Departure(stage, f"{name}.{kind}", size, self.limits.exact)

    def _average(self) -> Iterator[Departure]:
        stage = PipelineStage.AVERAGE
        yield from _equal(
            stage, "updates of the average", self.after.average_updates, self.before.average_updates + 1
        )
        for name, old in self.before.averages.items():
            wanted = averaged(old.double(), self.after.weights[name].double(), self.train.ema_decay)
            size = _moved_apart(self.after.averages[name], wanted, old)
            if not size <= self.limits.exact:
                yield Departure(stage, name, size, self.limits.exact)

    def _carry_out(self) -> Iterator[Departure]:
        stage, after = PipelineStage.CARRY, self.after.carries
        for recorded in self.step.parts:
            for name, value in recorded.carry_out.items():
                kept = after[self.step.bucket].get(name)
                if kept is None or not torch.equal(kept[recorded.rows], value):
                    yield Departure(stage, f"{name} kept for the next step", 1.0, 0.0)
            core = recorded.core
            if core is not None:
                for name, made in (("z_H", core.z_H_out), ("z_L", core.z_L_out)):
                    if not torch.equal(recorded.carry_out[name], made):
                        yield Departure(stage, f"{name} returned by the model", 1.0, 0.0)
        for bucket, old in self.before.carries.items():
            if bucket != self.step.bucket and any(
                not torch.equal(value, after[bucket][name]) for name, value in old.items()
            ):
                yield Departure(stage, f"states of bucket {bucket}", 1.0, 0.0)

    def _logged(self) -> Iterator[Departure]:
        """The numbers that the step logs, from its recorded rows."""
        if self.step.logged is None:
            yield Departure(PipelineStage.SCORE, "logged numbers", 1.0, 0.0)
            return
        for name, wanted in compute_logged(self.step, self.config).items():
            real = self.step.logged.get(name)
            limit = self.limits.clipping if name == GRADIENT_NORM else self.limits.exact
            if real is None or wanted is None:
                size = 0.0 if real is wanted else math.inf
            else:
                size = abs(real - wanted) / max(abs(wanted), 1.0)
            if not size <= limit:
                where = f"{real} is logged instead of {wanted}"
                yield Departure(PipelineStage.SCORE, f"logged {name}", size, limit, where)

    def _forward(
        self,
        stage: PipelineStage,
        tensor: str,
        real: Tensor,
        wanted: Tensor,
        exists: Tensor | None,
        first: int = 0,
    ) -> Iterator[Departure]:
        """A departure where one row differs by more than the limit."""
        if real.shape != wanted.shape:
            yield Departure(
                stage, tensor, math.inf, 0.0, f"shape {tuple(real.shape)}, not {tuple(wanted.shape)}"
            )
            return
        real, wanted = real.detach().double(), wanted.detach().double()
        if exists is not None:
            real, wanted = real * exists[..., None], wanted * exists[..., None]
        sizes = _row_sizes(real, wanted)
        worst, key = int(sizes.argmax()), (stage, tensor, first)
        departs = not float(sizes[worst]) <= self.limits.forward
        if departs or key in self.kept:
            self.forward[key] = wanted
        if departs:
            yield Departure(stage, tensor, float(sizes[worst]), self.limits.forward, f"row {first + worst}")


def _row_sizes(real: Tensor, wanted: Tensor) -> Tensor:
    """The differences of rows (B, ...) relative to their own norm, or a tenth of the usual one."""
    real, wanted = real.reshape(len(real), -1), wanted.reshape(len(wanted), -1)
    scale = wanted.norm(dim=1)
    typical = float(scale.square().mean().sqrt())
    sizes = (real - wanted).norm(dim=1) / scale.clamp(min=max(0.1 * typical, 1e-12))
    return sizes.nan_to_num(math.inf)


def dither(value: Tensor, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Return floating-point values, every element moved by at most half the spacing of a precision at its size."""
    noise = to_device(torch.rand(value.shape, generator=generator), value.device) - 0.5
    return value * (1 + torch.finfo(dtype).eps * noise)


def _exists(batch: RecordedBatch, lead: int, length: int) -> Tensor | None:
    """(B, L) bool of tokens that exist, context tokens included."""
    if batch.valid is None or lead + batch.valid.shape[1] != length:
        return None
    ahead = torch.ones(len(batch.valid), lead, dtype=torch.bool, device=batch.valid.device)
    return torch.cat((ahead, batch.valid), dim=1)


def _equal(stage: PipelineStage, tensor: str, real: object, wanted: object) -> Iterator[Departure]:
    if real != wanted:
        yield Departure(stage, tensor, 1.0, 0.0, f"{real}, not {wanted}")


def _same(stage: PipelineStage, tensor: str, real: Tensor, wanted: Tensor) -> Iterator[Departure]:
    """A departure where two tensors are not equal bit for bit."""
    if real.shape != wanted.shape:
        yield Departure(stage, tensor, math.inf, 0.0, f"shape {tuple(real.shape)}, not {tuple(wanted.shape)}")
        return
    differs = real != wanted
    if bool(differs.any()):
        row = int(differs.reshape(len(real), -1).any(1).nonzero()[0])
        yield Departure(stage, tensor, float(differs.double().mean()), 0.0, f"row {row}")


def _dense(value: Tensor) -> Tensor:
    return value.to_dense() if value.is_sparse else value


def _double(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.double()


def _norm(values: Sequence[Tensor]) -> float:
    return math.sqrt(sum(float(value.detach().double().square().sum()) for value in values))


def _ratio(difference: float, base: float) -> float:
    if math.isnan(difference):
        return math.inf
    return difference / base if base else (0.0 if difference == 0 else math.inf)


def _share(real: float, wanted: float) -> float:
    return _ratio(abs(real - wanted), abs(wanted))


def _moved_apart(real: Tensor, wanted: Tensor, old: Tensor) -> float:
    """How far a tensor is from where it should be, as a share of the distance to go, apart from rounding."""
    wanted = wanted.double()
    rounding = ULPS * torch.maximum(old.double().abs(), wanted.abs())
    apart = ((real.double() - wanted).abs() - rounding).clamp(min=0)
    return _ratio(_norm([apart]), _norm([wanted - old.double()]))
