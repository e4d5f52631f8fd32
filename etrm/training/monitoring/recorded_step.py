"""Record one training step from outside, by hooks and wrapped functions of the recipe, without changing it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from etrm.batch import Batch, Demos
from etrm.model.act import Carry
from etrm.model.core import Core
from etrm.model.encoders import Encoded
from etrm.reference.model.context import DemoPairs
from etrm.reference.recorded import RecordedBatch, RecordedCore, RecordedPart, RecordedStep, Snapshot
from etrm.training.execution.cuda_graphs import watched
from etrm.training.micro_batches import MicroBatch
from etrm.training.recipe import Recipe
from etrm.training.slots import Slots
from etrm.training.train_state import TrainState


class Stepping(Protocol):
    """What takes steps: a trainer."""

    recipe: Recipe
    state: TrainState


@contextmanager
def record_step(trainer: Stepping) -> Iterator[RecordedStep]:
    """Record the one step that is taken inside; its ``after`` is set when the context ends without an exception.

    No CUDA graph is replayed in it, because a replay calls no hook.
    """
    state, recipe = trainer.state, trainer.recipe
    step = RecordedStep(
        before=take_snapshot(state),
        bucket=state.bucket,
        batch_size=state.config.train.batch_size,
        parameters=tuple(name for name, _ in state.model.named_parameters()),
        freezes_decoder=state.step < state.config.train.freeze_decoder_steps,
    )
    with ExitStack() as hooks:
        _watch_forward(state, step, hooks)
        trainer.recipe = _watched(recipe, state, step)
        hooks.enter_context(watched())
        try:
            yield step
        finally:
            trainer.recipe = recipe
    step.after = take_snapshot(state)


def take_snapshot(state: TrainState) -> Snapshot:
    """Copy the state of a run between two steps; its tensors stay on their device."""
    return Snapshot(
        step=state.step,
        weights={name: _copy(value) for name, value in state.model.state_dict().items()},
        moments=dict(_moments(state)),
        averages={name: _copy(value) for name, value in state.ema.sums.items()},
        average_updates=state.ema.updates,
        carries={bucket: _carry(carry) for bucket, carry in state.carries.items()},
        rows={bucket: (tuple(slots.indices), slots.next_index) for bucket, slots in state.slots.items()},
        random_torch=torch.get_rng_state(),
        random_halting=state.halting.get_state(),
        training=state.model.training,
    )


def _moments(state: TrainState) -> Iterator[tuple[str, Tensor]]:
    names = {id(parameter): name for name, parameter in state.model.named_parameters()}
    for optimizer in state.optimizers:
        for parameter, values in optimizer.state.items():
            for name, value in values.items():
                if isinstance(value, Tensor) and id(parameter) in names:
                    yield f"{names[id(parameter)]}.{name}", _copy(value)


def _watch_forward(state: TrainState, step: RecordedStep, hooks: ExitStack) -> None:
    calls: list[RecordedCore] = []
    encoder, encodings = state.model.encoder, list[Any]()

    def encode(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        encodings.append(output)

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.clear()
        encodings.clear()
        if not step.parts:
            before, weights = step.before.weights, module.state_dict()
            step.at_forward = tuple(
                name for name, value in before.items() if not torch.equal(weights[name], value)
            )
            step.requiring = tuple(name for name, value in module.named_parameters() if value.requires_grad)
            _watch_gradients(state.model, step, hooks)  # now, because a step begins by freezing or unfreezing

    def called(module: nn.Module, args: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        calls.append(RecordedCore(*(_copy(value) for value in (*args, *output))))

    def leave(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: tuple[Any, Any]
    ) -> None:
        carry, batch, minimum = (*args, *kwargs.values(), None)[:3]
        after, found = output
        part = RecordedPart(
            rows=state.part,
            carry=_carry(carry),
            minimum=_copy(minimum),
            batch=record_batch(batch),
            carry_out=_carry(after),
            logits=_copy(found.logits),
            q_halt=_copy(found.q_halt),
            core=calls[-1] if len(calls) == 1 else None,
            kl=_copy(found.kl),
            entropy=_copy(found.entropy),
            encoded=encoder is None or bool(encodings),
        )
        step.parts.append(part)
        if len(encodings) == 1 and isinstance(encodings[0], Encoded):
            _watch_context(encodings[0].context, part)

    hooks.callback(state.model.register_forward_pre_hook(enter, with_kwargs=True).remove)
    hooks.callback(state.model.register_forward_hook(leave, with_kwargs=True).remove)
    if encoder is not None:
        hooks.callback(encoder.register_forward_hook(encode).remove)
    if isinstance(state.model.core, Core):
        hooks.callback(state.model.core.register_forward_hook(called).remove)


def _watch_context(context: Tensor, part: RecordedPart) -> None:
    """Record a context that an encoder returned, if it is that of all rows, and the gradient that comes back to it."""
    if len(context) != len(part.batch.inputs):
        return

    def arrive(gradient: Tensor) -> None:
        part.arrived = _copy(gradient)

    part.returned, part.trains = _copy(context), context.requires_grad
    if part.trains:
        context.register_hook(arrive)


def _watch_gradients(model: nn.Module, step: RecordedStep, hooks: ExitStack) -> None:
    def keep(name: str) -> Any:
        def accumulated(parameter: Tensor) -> None:
            assert parameter.grad is not None
            step.gradients[name] = _copy(parameter.grad)

        return accumulated

    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            hooks.callback(parameter.register_post_accumulate_grad_hook(keep(name)).remove)


def _watched(recipe: Recipe, state: TrainState, step: RecordedStep) -> Recipe:
    def labels(slots: Slots, part: MicroBatch) -> Tensor:
        found = recipe.labels(slots, part)
        step.parts[-1].labels = _copy(found)
        return found

    def weigh(loss: Tensor, done: int) -> Tensor:
        found = recipe.weigh(loss, done)
        step.parts[-1].total = _copy(found)
        return found

    def update(optimizers: list[Optimizer], frozen: str | None) -> None:
        names = {id(parameter): name for name, parameter in state.model.named_parameters()}
        for name, parameter in state.model.named_parameters():
            if parameter.grad is not None:
                step.applied[name] = _copy(parameter.grad)
        noted = state.journal.copy_last()
        step.logged = None if noted is None else noted.line()
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                step.rates |= {
                    names[id(parameter)]: group["lr"]
                    for parameter in group["params"]
                    if id(parameter) in names
                }
        recipe.update(optimizers, frozen)

    return replace(recipe, labels=labels, weigh=weigh, update=update)


def _carry(carry: Carry) -> dict[str, Tensor]:
    return {name: _copy(value) for name, value in carry.tensors().items()}


def record_batch(batch: Batch) -> RecordedBatch:
    """Copy the tensors of a batch, so that a later change in place is seen as one of labels and not of data."""
    return RecordedBatch(
        _copy(batch.inputs),
        _copy(batch.labels),
        _copy(batch.positions),
        _copy(batch.valid),
        _copy(batch.puzzle_ids),
        _copy(batch.sample_ids),
        record_demos(batch.demos),
    )


def record_demos(demos: Demos) -> DemoPairs:
    """Copy the tensors of demonstrations."""
    return DemoPairs(
        _copy(demos.tokens),
        _copy(demos.positions),
        _copy(demos.valid),
        _copy(demos.owner),
        demos.rows,
        _copy(demos.noise),
    )


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value
