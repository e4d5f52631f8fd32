"""The reference of a step: equal to the real one for every model, and a planted change is named at its stage."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch

from etrm.config import KINDS, Config, load, with_settings
from etrm.model import layers
from etrm.model.act import Carry
from etrm.model.recursive import RecursiveModel
from etrm.reference.data.loader import ReferenceLoader, choose_training_tasks
from etrm.reference.departure import Departure, PipelineStage
from etrm.reference.training.stages.differences import Limits
from etrm.reference.training.step import compare_step
from etrm.training import trainer as trainer_module
from etrm.training.ema import Ema
from etrm.training.metrics import StepSums
from etrm.training.monitoring.recorded_step import record_step
from etrm.training.optim import build_optimizers
from etrm.training.slots import Slots
from etrm.training.train_state import TrainState
from etrm.training.trainer import Trainer
from tests.sampled import one_in

SMALL = {
    "data": {"max_tasks": 6, "max_side": 3},
    "monitor": {"enabled": False},
    "train": {"batch_size": 4, "threads": 1},
}
MODELS: dict[str, dict[str, Any]] = {
    **{kind: {"model": {"encoder": {"kind": kind}}} for kind in KINDS},
    "trm": {"model": {"variant": "trm"}, "data": {"augmentations": 2}},
    "etrm_cached": {"model": {"variant": "etrm_cached"}},
    "etrm_fct": {"model": {"variant": "etrm_fct"}, "data": {"buckets": 2}},
    "attention": {
        "model": {"encoder": {"pooling": "attention", "norm": "pre", "layer_scale": 0.1, "qk_norm": True}},
        "train": {"accumulate": 2, "optimizer": "adam_atan2"},
    },
    "weighted": {
        "model": {"encoder": {"pooling": "weighted"}, "qk_norm": True, "positions": "learned", "layers": 2},
        "train": {"loss": "softmax", "freeze_decoder_steps": 2},
    },
    "cells": {"model": {"encoder": {"layout": "cells", "pooling": "none", "set_layers": 2}}},
    "lpn cells": {"model": {"encoder": {"kind": "lpn_standard", "layout": "cells"}}},
    "inner steps": {"train": {"inner_steps": 2, "accumulate": 2}, "data": {"translate": 1}},
    "inner steps, trm": {
        "model": {"variant": "trm"},
        "data": {"augmentations": 2},
        "train": {"inner_steps": 1},
    },
    "inner steps, cached": {"model": {"variant": "etrm_cached"}, "train": {"inner_steps": 1}},
    "buckets": {
        "data": {"buckets": 2},
        "train": {"clip_norm": None, "warmup_steps": 4, "lr_min_ratio": 0.1},
    },
}


def config_of(**changes: Any) -> Config:
    return with_settings(with_settings(load("smoke"), **SMALL), **changes)


def departures(
    config: Config, steps: int = 4, change: Callable[[Trainer], None] = lambda trainer: None
) -> list[Departure]:
    """Those of the first steps, after a change to the trainer."""
    trainer = Trainer(config)
    change(trainer)
    data, model = config.data, config.model
    rows = ReferenceLoader(choose_training_tasks(data), data, model.has_encoder, config.train.seed)
    found = []
    for _ in range(steps):
        with record_step(trainer) as step:
            trainer.advance()
        found += compare_step(step, config, rows)
    return found


@pytest.mark.parametrize("name", one_in(2, MODELS))
def test_a_healthy_run_departs_nowhere(name: str) -> None:
    assert departures(config_of(**MODELS[name])) == []


def test_what_the_reference_computes_is_not_trivial() -> None:
    """Another learning rate in the reference alone is a departure of every weight."""
    trainer = Trainer(config_of())
    with record_step(trainer) as step:
        trainer.advance()
    found = compare_step(step, config_of(train={"lr": 2e-3}))
    assert {departure.stage for departure in found} == {PipelineStage.SCHEDULE, PipelineStage.UPDATE}
    assert {departure.step for departure in found} == {1}


def first_stage(config: Config, change: Callable[[Trainer], None]) -> PipelineStage:
    found = departures(config, 4, change)
    assert found
    return found[0].stage


def test_demonstrations_of_another_row_are_data(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = Slots._sample

    def changed(self: Slots, index: int) -> Any:
        found = sample(self, index)
        return replace(found, demos=sample(self, index + 1).demos) if index > 1 else found

    monkeypatch.setattr(Slots, "_sample", changed)
    assert first_stage(config_of(), lambda trainer: None) is PipelineStage.DATA


def test_a_context_of_another_row_is_the_context() -> None:
    def change(trainer: Trainer) -> None:
        policy = trainer.model.context_policy

        def rolled(*args: Any) -> Any:
            given = policy(*args)
            return replace(given, context=given.context.roll(1, 0))

        trainer.model.context_policy = rolled

    assert first_stage(config_of(), change) is PipelineStage.CONTEXT


def test_a_context_moved_by_old_weights_is_the_context(monkeypatch: pytest.MonkeyPatch) -> None:
    def change(trainer: Trainer) -> None:
        assert trainer.inner is not None
        trainer.inner.shared = deepcopy(trainer.inner.shared)

    assert first_stage(config_of(train={"inner_steps": 1}), change) is PipelineStage.CONTEXT


@pytest.mark.parametrize(
    ("model", "kept"),
    [
        ({"encoder": {"kind": "recurrent"}}, "state"),
        ({"encoder": {"kind": "trm_style"}}, "state"),
        ({"variant": "etrm_cached"}, "stored"),
    ],
)
def test_what_an_encoder_leaves_for_the_next_step_is_the_context(model: dict[str, Any], kept: str) -> None:
    """At the step that leaves it; the next one starts from it, and would be equal."""

    def change(trainer: Trainer) -> None:
        policy = trainer.model.context_policy

        def scaled(*args: Any) -> Any:
            given = policy(*args)
            left = {"state": given.state, "stored": given.stored}[kept]
            left = {name: 2 * value for name, value in left.items()} if kept == "state" else 2 * left
            return replace(given, **{kept: left})

        trainer.model.context_policy = scaled

    found = departures(config_of(model=model), 1, change)
    assert {departure.stage for departure in found} == {PipelineStage.CONTEXT}


@pytest.mark.filterwarnings("ignore:train.precision")
@pytest.mark.parametrize("value", ["z_L", "q_halt"])
def test_states_and_halting_logits_of_lower_precision_are_the_core(value: str) -> None:
    def change(trainer: Trainer) -> None:
        step = trainer.model.step

        def lowered(*args: Any) -> Any:
            carry, output = step(*args)
            if value == "z_L":
                return replace(carry, z_L=carry.z_L.bfloat16()), output
            return carry, replace(output, q_halt=output.q_halt.bfloat16())

        trainer.model.step = lowered  # type: ignore[method-assign]

    config = config_of(train={"precision": "bfloat16"})
    assert departures(config, 1) == []
    found = [one for one in departures(config, 1, change) if one.tensor.startswith("precision")]
    assert [one.stage for one in found] == [PipelineStage.CORE]


@pytest.mark.filterwarnings("ignore:train.precision")
def test_a_norm_that_rounds_the_states_is_the_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """The states are float32 all the same, and differ by no more than the rounding of products."""
    plain = layers.rms_norm
    monkeypatch.setattr(layers, "rms_norm", lambda x: plain(x.bfloat16()).to(x.dtype))
    found = departures(config_of(train={"precision": "bfloat16"}), 1)
    assert [(one.stage, one.tensor) for one in found] == [
        (PipelineStage.CORE, "precision of z_H"),
        (PipelineStage.CORE, "precision of z_L"),
    ]


def test_rows_that_begin_with_old_states_are_the_carry(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = Carry.begin

    def kept(self: Carry, length: int, *inits: torch.Tensor) -> Carry:
        found = begin(self, length, *inits)
        return replace(
            found, z_H=begin(replace(self, halted=self.halted & (self.steps == 0)), length, *inits).z_H
        )

    monkeypatch.setattr(Carry, "begin", kept)
    assert (
        first_stage(config_of(model={"halt": {"max_steps": 2}}), lambda trainer: None) is PipelineStage.CARRY
    )


@pytest.mark.parametrize("kind", ["standard", "own_encoder.py:Own"])
def test_which_rows_end_follows_their_logits_with_an_encoder_from_outside_too(kind: str) -> None:
    trainer = Trainer(config_of())
    with torch.no_grad():
        trainer.model.core.q_head.bias[0] = 9.0
    requested = config_of(model={"encoder": {"kind": kind}})
    with record_step(trainer) as step:
        trainer.advance()
    halted = step.parts[0].carry_out["halted"]
    assert bool(halted.any())
    assert compare_step(step, requested) == []
    halted.logical_not_()
    assert {found.stage for found in compare_step(step, requested)} >= {PipelineStage.HALTING}


@pytest.mark.parametrize(
    ("change", "stage"),
    [
        (lambda model: None, None),
        (lambda model: setattr(model.core, "H_cycles", 1), PipelineStage.CORE),
        (
            lambda model: model.core.lm_head.weight.register_hook(lambda gradient: 0.5 * gradient),
            PipelineStage.GRADIENT,
        ),
        (lambda model: model.encoder.register_forward_hook(halve_context), None),
        (lambda model: pass_on(model, lambda context: context.roll(1, 0)), PipelineStage.CONTEXT),
        (lambda model: pass_on(model, lambda context: context.detach()), PipelineStage.GRADIENT),
        (
            lambda model: pass_on(model, lambda context: torch.cat((context[:1], context[1:].detach()))),
            PipelineStage.GRADIENT,
        ),
    ],
)
def test_the_core_is_compared_with_an_encoder_from_outside_too(
    change: Callable[[Any], object], stage: PipelineStage | None
) -> None:
    """What the encoder computes is its own."""
    trainer = Trainer(config_of())
    change(trainer.model)
    with record_step(trainer) as step:
        trainer.advance()
    found = compare_step(step, config_of(model={"encoder": {"kind": "own_encoder.py:Own"}}))
    assert (found[0].stage if found else None) is stage


@pytest.mark.parametrize(
    ("kind", "stages"), [("own_encoder.py:Own", set()), ("recurrent", {PipelineStage.UPDATE})]
)
def test_an_encoder_from_outside_may_count_in_its_buffers(kind: str, stages: set[PipelineStage]) -> None:
    """As a batch norm does."""
    trainer = Trainer(config_of(model={"encoder": {"kind": "recurrent"}}))

    def count(module: Any, args: Any, encoded: Any) -> None:
        module.z_init.add_(1.0)

    trainer.model.encoder.register_forward_hook(count)  # type: ignore[union-attr]
    with record_step(trainer) as step:
        trainer.advance()
    requested = config_of(model={"encoder": {"kind": kind}})
    assert {found.stage for found in compare_step(step, requested)} == stages


def pass_on(model: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Change contexts on their way from the encoder to the core."""
    policy = model.context_policy
    model.context_policy = lambda *call: replace(given := policy(*call), context=change(given.context))


@pytest.mark.parametrize("settings", [{"accumulate": 2}, {"inner_steps": 1}])
def test_the_context_of_an_encoder_from_outside_reaches_the_core_in_parts_and_moved(
    settings: dict[str, int],
) -> None:
    trainer = Trainer(config_of(train=settings))
    with record_step(trainer) as step:
        trainer.advance()
    assert (
        compare_step(step, config_of(train=settings, model={"encoder": {"kind": "own_encoder.py:Own"}})) == []
    )


def halve_context(module: Any, args: Any, encoded: Any) -> Any:
    return replace(encoded, context=0.5 * encoded.context)


def test_fewer_cycles_are_the_core() -> None:
    def change(trainer: Trainer) -> None:
        trainer.model.core.H_cycles = 1  # type: ignore[assignment]

    assert first_stage(config_of(), change) is PipelineStage.CORE


def test_half_of_the_labels_is_the_labels() -> None:
    def change(trainer: Trainer) -> None:
        labels = trainer.recipe.labels

        def half(*args: Any) -> torch.Tensor:
            found = labels(*args).clone()
            found[:, ::2] = -100
            return found

        trainer.recipe = replace(trainer.recipe, labels=half)

    assert first_stage(config_of(), change) is PipelineStage.LABELS


def test_a_scaled_loss_is_the_loss() -> None:
    def change(trainer: Trainer) -> None:
        trainer.recipe = replace(trainer.recipe, weigh=lambda loss, step: 1.01 * loss)

    assert first_stage(config_of(), change) is PipelineStage.LOSS


def test_a_logged_number_of_other_rows_is_the_score(monkeypatch: pytest.MonkeyPatch) -> None:
    sums, place = trainer_module.sum_step, StepSums._fields.index("lm_loss")

    def doubled(*args: Any) -> torch.Tensor:
        found = sums(*args)
        found[place] *= 2
        return found

    monkeypatch.setattr(trainer_module, "sum_step", doubled)
    [found] = departures(config_of(train={"accumulate": 2}), 1)
    assert (found.stage, found.tensor) == (PipelineStage.SCORE, "logged lm_loss")


def test_the_logged_stage_of_a_curriculum_is_that_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    stages = {"curriculum": ((3, 1), (5, 19)), "replay": 0.5, "max_tasks": 12, "max_side": 5}
    config, stage = config_of(data=stages), TrainState.stage
    assert departures(config, 2) == []

    def replayed(state: TrainState) -> dict[str, int]:
        return stage.__get__(state) | {"replayed": 1}

    monkeypatch.setattr(TrainState, "stage", property(replayed))
    assert {(one.stage, one.tensor) for one in departures(config, 2)} == {
        (PipelineStage.SCORE, "logged replayed")
    }


def test_a_detached_context_is_the_gradient() -> None:
    def change(trainer: Trainer) -> None:
        policy = trainer.model.context_policy

        def detached(*args: Any) -> Any:
            given = policy(*args)
            return replace(given, context=given.context.detach())

        trainer.model.context_policy = detached

    found = departures(config_of(), 2, change)
    assert {departure.stage for departure in found} == {PipelineStage.GRADIENT}
    assert {departure.tensor.split(".")[0] for departure in found} == {"encoder"}


def test_only_the_last_part_of_an_accumulation_is_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    backward = torch.autograd.backward

    def change(trainer: Trainer) -> None:
        def alone(total: torch.Tensor) -> None:
            trainer.model.zero_grad()
            backward(total)

        monkeypatch.setattr(torch.autograd, "backward", alone)

    config = config_of(train={"accumulate": 2})
    trainer = Trainer(config)
    change(trainer)
    with record_step(trainer) as step:
        trainer.advance()
    monkeypatch.undo()
    assert compare_step(step, config)[0].stage is PipelineStage.GRADIENT


DEEP = with_settings(
    load("smoke"),
    model={"L_cycles": 3, "encoder": {"kind": "lpn_standard"}},
    train={"precision": "bfloat16", "weight_decay": 0.0, "seed": 2, "warmup_steps": 5},
    data={"max_demos": 5},
    monitor={"enabled": False},
)


@pytest.mark.filterwarnings("ignore:train.precision bfloat16:UserWarning")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_rounding_is_no_departure_however_much_a_recursion_amplifies_it(
    monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """With limits far below rounding, most tensors are beyond them, and the sampled roundings explain them all."""
    low = 3e-7 if precision == "float32" else 1e-5
    monkeypatch.setattr(
        "etrm.reference.training.stages.checked_step.LIMITS", {precision: Limits(forward=low, gradient=low)}
    )
    config = with_settings(DEEP, train={"precision": precision})
    trainer = Trainer(config)
    beyond = 0
    for _ in range(2):
        with record_step(trainer) as step:
            trainer.advance()
        assert compare_step(step, config) == []
        with monkeypatch.context() as limits_alone:
            limits_alone.setattr("etrm.reference.training.stages.model_pass.SAMPLES", 0)
            beyond += len(compare_step(step, config))
    assert beyond > 20


@pytest.mark.filterwarnings("ignore:train.precision bfloat16:UserWarning")
@pytest.mark.parametrize("kl_weight", [0.0, 0.1])
def test_divergences_in_bfloat16_are_added_up_without_rounding(kl_weight: float) -> None:
    config = config_of(
        model={"encoder": {"kind": "lpn_variational"}},
        train={"precision": "bfloat16", "kl_weight": kl_weight, "batch_size": 12, "accumulate": 2},
    )
    assert departures(config, 1) == []


@pytest.mark.filterwarnings("ignore:train.precision bfloat16:UserWarning")
def test_a_gradient_of_zero_is_no_rounding() -> None:
    trainer = Trainer(with_settings(DEEP, faults=("context-detached",)))
    for _ in range(2):
        with record_step(trainer) as step:
            trainer.advance()
        assert compare_step(step, DEEP)[0].stage is PipelineStage.GRADIENT


def test_clipping_twice_as_much_is_the_clipping(monkeypatch: pytest.MonkeyPatch) -> None:
    clip = torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda params, limit: clip(params, limit / 2))
    assert first_stage(config_of(train={"clip_norm": 0.1}), lambda trainer: None) is PipelineStage.CLIPPING


@pytest.mark.parametrize("lost", [True, False])
def test_a_gradient_that_is_lost_behind_the_clipping_does_not_reach_its_parameter(
    lost: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(trainer: Trainer) -> None:
        clip = torch.nn.utils.clip_grad_norm_
        assert trainer.model.encoder is not None
        chosen = list(trainer.model.encoder.parameters())

        def changed(parameters: list[torch.nn.Parameter], limit: float) -> torch.Tensor:
            norm = clip(parameters, limit)
            for parameter in chosen:
                parameter.grad = None if lost or parameter.grad is None else parameter.grad / 2
            return norm

        monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", changed)

    found = departures(config_of(train={"clip_norm": 0.1}), 1, change)
    clipped = [one for one in found if one.stage is PipelineStage.CLIPPING]
    assert found[: len(clipped)] == clipped
    assert all(one.tensor.startswith("encoder.") for one in clipped)
    assert {one.unmoved for one in clipped} == {lost}


@pytest.mark.parametrize("kind", ["rounded", "second", "momentum"])
def test_what_happens_in_the_update_is_the_update(kind: str) -> None:
    def change(trainer: Trainer) -> None:
        update = trainer.recipe.update
        second = build_optimizers(trainer.model, trainer.config.train)

        def changed(optimizers: Any, frozen: str | None) -> None:
            update(optimizers, frozen)
            with torch.no_grad():
                if kind == "rounded":
                    for weight in trainer.model.parameters():
                        weight.copy_(weight.bfloat16())
                elif kind == "second":
                    update(second, frozen)
                else:
                    optimizers[0].state[trainer.model.core.lm_head.weight]["exp_avg"].zero_()  # type: ignore[union-attr, index]

        trainer.recipe = replace(trainer.recipe, update=changed)

    assert first_stage(config_of(), change) is PipelineStage.UPDATE


def test_squares_that_are_zero_in_float32_depart_nowhere() -> None:
    def change(trainer: Trainer) -> None:
        trainer.model.core.lm_head.weight.data.mul_(1e-26)  # type: ignore[union-attr, operator]

    assert departures(config_of(), 1, change) == []


@pytest.mark.parametrize("left_out", [True, False])
def test_an_update_says_which_parameters_it_leaves_where_they_were(left_out: bool) -> None:
    """An optimiser without the encoder, or one that does not decay it."""

    def change(trainer: Trainer) -> None:
        for group in trainer.optimizers[0].param_groups:
            if group["name"] == "encoder":
                group |= {"params": []} if left_out else {"weight_decay": 0.0}

    found = departures(config_of(), 1, change)
    assert {one.stage for one in found} == {PipelineStage.UPDATE}
    weights = [one for one in found if not one.tensor.endswith(("exp_avg", "exp_avg_sq"))]
    assert weights
    assert all(one.unmoved is left_out and one.tensor.startswith("encoder.") for one in weights)


@pytest.mark.parametrize("optimizer", ["adamw", "adam_atan2"])
def test_a_counter_of_updates_that_stands_still_is_the_update(optimizer: str) -> None:
    def change(trainer: Trainer) -> None:
        update = trainer.recipe.update

        def changed(optimizers: Any, frozen: str | None) -> None:
            update(optimizers, frozen)
            for state in optimizers[0].state.values():
                state["step"].zero_()

        trainer.recipe = replace(trainer.recipe, update=changed)

    found = departures(config_of(train={"optimizer": optimizer}), 1, change)
    assert {one.stage for one in found} == {PipelineStage.UPDATE}
    assert all(one.tensor.endswith(".step") for one in found)


def test_updates_are_counted_from_the_end_of_a_frozen_stage_and_from_imported_weights() -> None:
    config = config_of(train={"freeze_decoder_steps": 2})
    assert departures(config, 4) == []
    trainer = Trainer(config)
    trainer.state.step = 3
    with record_step(trainer) as step:
        trainer.advance()
    assert compare_step(step, config) == []


@pytest.mark.parametrize("part", ["encoder.", "core.H_init"])
def test_weights_that_are_not_averaged_are_the_average(part: str) -> None:
    def change(trainer: Trainer) -> None:
        for name in [name for name in trainer.ema.sums if name.startswith(part)]:
            del trainer.ema.sums[name]
        kept = [value for name, value in trainer.model.state_dict().items() if name in trainer.ema.sums]

        def update(model: Any) -> None:
            trainer.ema.updates += 1
            torch._foreach_lerp_([*trainer.ema.sums.values()], kept, 1 - trainer.ema.decay)

        trainer.ema.update = update  # type: ignore[method-assign]

    found = departures(config_of(), 1, change)
    assert {one.stage for one in found} == {PipelineStage.AVERAGE}
    assert all(one.tensor.startswith(part) for one in found)


def test_noise_that_is_the_same_in_every_step_is_the_context(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = RecursiveModel.draw_noise

    def repeated(self: RecursiveModel, rows: int, pairs: int) -> torch.Tensor | None:
        with torch.random.fork_rng():
            return drawn(self, rows, pairs)

    monkeypatch.setattr(RecursiveModel, "draw_noise", repeated)
    [found] = departures(config_of(model={"encoder": {"kind": "lpn_variational"}}), 1)
    assert (found.stage, found.where) == (PipelineStage.CONTEXT, "after the step")


def test_least_steps_that_are_the_same_in_every_step_are_the_halting(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = RecursiveModel.draw_minimum

    def repeated(self: RecursiveModel, rows: int, generator: torch.Generator) -> torch.Tensor | None:
        return drawn(self, rows, generator.clone_state())

    monkeypatch.setattr(RecursiveModel, "draw_minimum", repeated)
    [found] = departures(config_of(), 1)
    assert (found.stage, found.where) == (PipelineStage.HALTING, "after the step")


def test_an_average_that_stands_still_is_the_average(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ema, "update", lambda self, model: None)
    assert first_stage(config_of(), lambda trainer: None) is PipelineStage.AVERAGE


def test_a_rate_that_never_falls_is_the_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_module, "schedule", lambda step, train: 1.0)
    config = config_of(train={"warmup_steps": 0, "lr_min_ratio": 0.1})
    assert departures(config, 1) == []  # the first step has the full rate
    assert first_stage(config, lambda trainer: None) is PipelineStage.SCHEDULE


def test_another_bucket_is_the_data() -> None:
    """It decides which samples a step has, as the settings of the data say."""

    def change(trainer: Trainer) -> None:
        own = trainer.episodes.bucket_at
        trainer.episodes.bucket_at = lambda step, turn=1: 1 - own(step, turn)  # type: ignore[method-assign]

    assert first_stage(config_of(data={"buckets": 2}), change) is PipelineStage.DATA


@pytest.mark.parametrize("part", ["decoder", "encoder"])
def test_a_part_that_is_not_frozen_is_the_schedule_and_a_decoder_that_moves_is_not_that_of_its_checkpoint(
    part: str,
) -> None:
    def change(trainer: Trainer) -> None:
        trainer.stage._freeze = lambda model, part, frozen: None

    found = departures(config_of(train={f"freeze_{part}_steps": 2}), 1, change)
    stages = {one.stage for one in found}
    assert PipelineStage.SCHEDULE in stages
    assert (PipelineStage.LOADING in stages) is (part == "decoder")


def test_a_tensor_that_stays_frozen_is_the_gradient_and_no_matter_of_the_schedule() -> None:
    def change(trainer: Trainer) -> None:
        def freeze(model: Any, part: str, frozen: bool) -> None:
            own(model, part, frozen)
            model.core.embed_tokens.requires_grad_(False)

        own = trainer.stage._freeze
        trainer.stage._freeze = freeze

    found = departures(config_of(train={"freeze_decoder_steps": 1}), 2, change)
    assert (found[0].stage, found[0].step) == (PipelineStage.GRADIENT, 2)
    assert found[0].tensor == "core.embed_tokens.embedding_weight"


@pytest.mark.parametrize(
    ("fault", "stage", "unmoved"),
    [
        ("decoder-moves", PipelineStage.LOADING, False),
        ("freeze-skips-optimizer", PipelineStage.UPDATE, True),
        ("cached-context", PipelineStage.CONTEXT, True),
        ("encoder-skipped", PipelineStage.CONTEXT, True),
        ("context-ignored", PipelineStage.CONTEXT, False),
    ],
)
def test_a_departure_says_whether_the_encoder_trains(fault: str, stage: PipelineStage, unmoved: bool) -> None:
    """It is not called or does not move, or something else departs."""
    found = departures(config_of(faults=(fault,)), 2)
    first = [one for one in found if (one.stage, one.step) == (stage, found[0].step)]
    assert found[0].stage is stage
    assert {one.unmoved for one in first} == {unmoved}


def test_a_step_that_is_not_finite_is_compared_as_far_as_it_came() -> None:
    def change(trainer: Trainer) -> None:
        with torch.no_grad():
            trainer.model.encoder.grid_encoder.pool_proj.weight.fill_(torch.nan)  # type: ignore[union-attr, union-attr, operator]

    trainer = Trainer(config_of())
    policy = trainer.model.context_policy
    trainer.model.context_policy = lambda *args: replace(
        found := policy(*args), context=found.context * torch.nan
    )
    with pytest.raises(Exception, match="not finite"), record_step(trainer) as step:
        trainer.advance()
    found = compare_step(step, config_of())
    assert found[0].stage is PipelineStage.CONTEXT
