from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from etrm.config import Config
from etrm.errors import ConfigError, NonFiniteError, TrainingError
from etrm.model.recursive import encode_at_reset, encode_every_step
from etrm.training.faults import FAULTS, find, recipe_for
from etrm.training.recipe import Recipe
from etrm.training.trainer import Trainer, train

Smoke = Callable[..., Config]
Weights = Callable[[nn.Module], dict[str, Tensor]]
Moved = Callable[[dict[str, Tensor], dict[str, Tensor]], set[str]]
FAST = ("monitor.enabled=false", "train.warmup_steps=0", "data.buckets=1")


def faulty(smoke: Smoke, *names: str, settings: tuple[str, ...] = ()) -> Trainer:
    listed = ", ".join(f'"{name}"' for name in names)
    return Trainer(smoke(*FAST, f"faults=[{listed}]", *settings))


def gradients(trainer: Trainer) -> list[set[str]]:
    """Filled at every update with the names of the parameters that have a gradient that is not zero."""
    seen: list[set[str]] = []
    original = trainer.recipe.update

    def record(optimizers: list[Optimizer], frozen: bool) -> None:
        named = trainer.model.named_parameters()
        seen.append({name for name, p in named if p.grad is not None and p.grad.any()})
        original(optimizers, frozen)

    trainer.recipe = replace(trainer.recipe, update=record)
    return seen


@pytest.fixture(scope="module")
def trm_run(tmp_path_factory: pytest.TempPathFactory, smoke: Smoke) -> Path:
    folder = tmp_path_factory.mktemp("faults") / "trm"
    train(
        smoke("model.variant=trm", "data.augmentations=1", "train.steps=2", "monitor.enabled=false"), folder
    )
    return folder


# -- by name ------------------------------------------------------------------------------------------


def test_without_faults_the_recipe_is_the_default() -> None:
    assert recipe_for(Config()) == Recipe()


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_changes_the_recipe_and_leaves_the_default_alone(name: str) -> None:
    before = Recipe()
    assert FAULTS[name].apply(before) != before
    assert before == Recipe() == recipe_for(Config())


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_builds_and_says_what_it_should_validate(smoke: Smoke, name: str) -> None:
    fault = find(name)
    assert fault.name == name
    assert fault.root_cause in ("H1", "H2", "H3", "H4", "H5", "H6", "H7", "cost", "halting")
    assert fault.what
    assert fault.seen
    if name == "context-nan":
        with pytest.raises(NonFiniteError):
            faulty(smoke, name).train_step()
    else:
        assert faulty(smoke, name).train_step()["loss"] > 0


def test_an_unknown_fault_names_the_nearest_and_all() -> None:
    with pytest.raises(
        ConfigError, match="unknown fault 'cached-contxt'; did you mean 'cached-context'"
    ) as caught:
        find("cached-contxt")
    assert set(caught.value.allowed.split(", ")) == set(FAULTS)
    with pytest.raises(ConfigError, match=r"^unknown fault 'zzzz'\n"):
        recipe_for(Config(faults=("zzzz",)))


# -- by effect ----------------------------------------------------------------------------------------


def test_cached_context_leaves_the_encoder_without_gradient_between_resets(smoke: Smoke) -> None:
    trainer = faulty(smoke, "cached-context")
    trainer.model.core.q_head.bias.data.fill_(-20)
    seen = gradients(trainer)
    for _ in range(2):
        trainer.train_step()
    has_encoder = [any(name.startswith("encoder.") for name in names) for names in seen]
    assert has_encoder == [True, False]
    assert all(any(name.startswith("core.") for name in names) for names in seen)


@pytest.mark.parametrize("kind", ["standard", "recurrent"])
def test_context_detached_leaves_the_encoder_without_any_gradient(smoke: Smoke, kind: str) -> None:
    trainer = faulty(smoke, "context-detached", settings=(f"model.encoder.kind={kind}",))
    seen = gradients(trainer)
    for _ in range(2):
        trainer.train_step()
    assert [{name.partition(".")[0] for name in names} for names in seen] == [{"core"}] * 2


def test_encoder_frozen_trains_the_core_alone(smoke: Smoke, weights: Weights, moved: Moved) -> None:
    trainer = faulty(smoke, "encoder-frozen")
    before = weights(trainer.model)
    for _ in range(2):
        trainer.train_step()
    names = moved(before, weights(trainer.model))
    assert names
    assert all(name.startswith("core.") for name in names)


def test_freeze_skips_optimizer_has_gradients_and_moves_nothing_at_all(
    smoke: Smoke, weights: Weights, moved: Moved
) -> None:
    trainer = faulty(smoke, "freeze-skips-optimizer")
    assert trainer.config.train.freeze_decoder_steps == trainer.config.train.steps
    before, seen = weights(trainer.model), gradients(trainer)
    for _ in range(2):
        trainer.train_step()
    assert {name.partition(".")[0] for name in seen[1]} == {"encoder", "core"}
    assert moved(before, weights(trainer.model)) == set()


def test_decoder_not_loaded_starts_from_the_core_of_no_checkpoint(
    smoke: Smoke, weights: Weights, moved: Moved, trm_run: Path
) -> None:
    given = (f'train.decoder="{trm_run}"',)
    sound, broken, scratch = (
        weights(trainer.model.core)
        for trainer in (
            faulty(smoke, settings=given),
            faulty(smoke, "decoder-not-loaded", settings=given),
            faulty(smoke),
        )
    )
    assert moved(broken, scratch) == set()
    assert "lm_head.weight" in moved(sound, broken)


def test_decoder_cycles_mismatch_runs_two_cycles_more_on_the_same_weights(
    smoke: Smoke, weights: Weights, moved: Moved
) -> None:
    sound, broken = faulty(smoke), faulty(smoke, "decoder-cycles-mismatch")
    assert moved(weights(sound.model), weights(broken.model)) == set()
    calls = []
    for trainer in (sound, broken):
        count: list[int] = []
        trainer.model.core.L_level.register_forward_hook(lambda *_, seen=count: seen.append(1))
        trainer.train_step()
        calls.append(len(count))
    settings = sound.config.model
    assert calls == [settings.H_cycles * (settings.L_cycles + 1 + more) for more in (0, 2)]
    assert broken.config == sound.config.model_copy(update={"faults": ("decoder-cycles-mismatch",)})


def test_demos_from_other_task_changes_the_demos_and_nothing_else(smoke: Smoke) -> None:
    sound, broken = faulty(smoke), faulty(smoke, "demos-from-other-task")
    for index in range(12):
        true, foreign = (t.recipe.draw(t.episodes, 0, index) for t in (sound, broken))
        assert (true.task_id, true.name, true.serial) == (foreign.task_id, foreign.name, foreign.serial)
        assert np.array_equal(true.tokens, foreign.tokens)
        assert np.array_equal(true.labels, foreign.labels)
        shown = [demo.tokens.tolist() for demo in foreign.demos]
        assert shown != [demo.tokens.tolist() for demo in true.demos]
        others = (sound.recipe.draw(sound.episodes, 0, index + offset) for offset in range(1, 1000))
        other = next(s for s in others if s.task_id != true.task_id)
        assert shown == [demo.tokens.tolist() for demo in other.demos]


def test_demos_from_other_task_needs_another_task(smoke: Smoke) -> None:
    trainer = faulty(smoke, "demos-from-other-task", settings=("data.max_tasks=1",))
    with pytest.raises(ConfigError, match="needs at least two tasks"):
        trainer.train_step()


def test_faults_add_up(smoke: Smoke, weights: Weights, moved: Moved) -> None:
    trainer = faulty(smoke, "encoder-frozen", "decoder-cycles-mismatch", "cached-context")
    assert trainer.model.context_policy is encode_at_reset
    assert trainer.model.core.L_cycles == trainer.config.model.L_cycles + 2
    assert not any(p.requires_grad for p in trainer.model.encoder.parameters())
    assert faulty(smoke).model.context_policy is encode_every_step


def test_faults_that_leave_nothing_to_train_are_found_at_the_first_step(smoke: Smoke) -> None:
    trainer = faulty(smoke, "encoder-frozen", settings=("train.freeze_decoder_steps=5",))
    with pytest.raises(TrainingError, match="injected faults"):
        trainer.train_step()


@pytest.mark.parametrize("name", ["cached-context", "context-detached", "encoder-frozen"])
def test_faults_of_the_encoder_leave_a_model_without_one_alone(
    smoke: Smoke, weights: Weights, moved: Moved, name: str
) -> None:
    trm = ("model.variant=trm", "data.augmentations=1")
    ends = []
    for names in ((), (name,)):
        trainer = faulty(smoke, *names, settings=trm)
        trainer.train_step()
        ends.append(weights(trainer.model))
    assert moved(*ends) == set()
    assert torch.equal(ends[0]["core.q_head.bias"], ends[1]["core.q_head.bias"])
