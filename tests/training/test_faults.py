from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from etrm.config import Config
from etrm.data import load_tasks
from etrm.data.splits import find_leakage
from etrm.device import to_device, to_host
from etrm.errors import ConfigError, NonFiniteError, TrainingError
from etrm.model.recursive import encode_at_reset, encode_every_step
from etrm.training.faults import FAULTS, build_recipe, find
from etrm.training.micro_batches import MicroBatch
from etrm.training.recipe import Recipe
from etrm.training.task_sets import load_held_out_tasks
from etrm.training.trainer import Trainer, train
from tests.errors import raises_code

Smoke = Callable[..., Config]
Weights = Callable[[nn.Module], dict[str, Tensor]]
Moved = Callable[[dict[str, Tensor], dict[str, Tensor]], set[str]]
RECURSIVE = [name for name, fault in FAULTS.items() if fault.models != "symbolic"]
"""Those of the symbolic solver have tests of their own."""
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
    assert build_recipe(Config()) == Recipe()


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_changes_the_recipe_and_leaves_the_default_alone(name: str) -> None:
    before = Recipe()
    assert FAULTS[name].apply(before) != before
    assert before == Recipe() == build_recipe(Config())


@pytest.mark.parametrize("name", RECURSIVE)
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
    with raises_code(ConfigError, "fault.unknown", repr("cached-contxt"), repr("cached-context")) as caught:
        find("cached-contxt")
    assert set(caught.value.allowed.split(", ")) == set(FAULTS)
    with raises_code(ConfigError, "fault.unknown", repr("zzzz")):
        build_recipe(Config(faults=("zzzz",)))


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
    with raises_code(ConfigError, "fault.needs-two-tasks", "demos-from-other-task"):
        trainer.train_step()


def test_encoder_skipped_runs_the_encoder_once(smoke: Smoke) -> None:
    trainer = faulty(smoke, "encoder-skipped")
    calls: list[int] = []
    assert trainer.model.encoder is not None
    trainer.model.encoder.register_forward_hook(lambda *_: calls.append(trainer.step))
    for _ in range(6):
        trainer.train_step()
    assert calls == [0]


@pytest.mark.parametrize("name", ["encoder-no-grad", "scalar-read", "context-detached"])
def test_a_cut_graph_changes_no_number_of_the_first_step(smoke: Smoke, name: str) -> None:
    sound, broken = faulty(smoke), faulty(smoke, name)
    seen = gradients(broken)
    assert broken.train_step()["loss"] == sound.train_step()["loss"]
    assert not any(part.startswith("encoder.") for part in seen[0])


def _core(trainer: Trainer) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.model.core.state_dict().items()}


def test_decoders_that_arrive_otherwise_than_meant(smoke: Smoke, trm_run: Path) -> None:
    given = (f'train.decoder="{trm_run}"',)
    averaged, raw = (
        _core(faulty(smoke, settings=(*given, f"train.decoder_weights={kind}"))) for kind in ("ema", "raw")
    )
    scratch = _core(faulty(smoke))
    found = _core(faulty(smoke, "decoder-raw-for-ema", settings=given))
    assert all(torch.equal(found[name], raw[name]) for name in raw)
    assert not all(torch.equal(found[name], averaged[name]) for name in raw)
    prefixed = _core(faulty(smoke, "decoder-wrong-prefix", settings=given))
    assert all(torch.equal(prefixed[name], scratch[name]) for name in scratch)


def test_decoder_moves_by_decay_alone(smoke: Smoke) -> None:
    """Decoupled decay with a zero gradient multiplies every weight by the same factor."""
    trainer = faulty(smoke, "decoder-moves", settings=("train.clip_norm=none",))
    before = _core(trainer)
    trainer.train_step()
    train = trainer.config.train
    after = _core(trainer)
    for name, _ in trainer.model.core.named_parameters():
        torch.testing.assert_close(after[name], before[name] * (1 - train.lr * train.weight_decay))
    assert not torch.equal(after["lm_head.weight"], before["lm_head.weight"])


def handed(trainer: Trainer) -> tuple[Tensor, Tensor]:
    """What the encoder says and what the core is given, for one batch."""
    slots = trainer.slots[0]
    slots.refill([True] * len(slots.indices))
    batch = to_device(slots.batch(), trainer.device)
    model = trainer.model.eval()
    assert model.encoder is not None
    with torch.no_grad():
        said = model.encoder(batch.demos, model.encoder.begin(None, trainer.carries[0].halted)).context
        return said, model.context_policy(model, trainer.carries[0], batch).context


def test_what_the_decoder_is_given_in_place_of_the_context(smoke: Smoke) -> None:
    said, given = handed(faulty(smoke, "context-scale"))
    assert torch.equal(given, 30 * said)
    said, given = handed(faulty(smoke, "context-ignored"))
    assert not given.any()
    said, given = handed(faulty(smoke, "context-collapsed"))
    torch.testing.assert_close(given, said.mean(0, keepdim=True).expand_as(said))
    said, given = handed(faulty(smoke, "context-nan"))
    assert given[0].isnan().all()
    assert torch.equal(given[1:], said[1:])
    said, given = handed(faulty(smoke, "encode-all-discard"))
    assert torch.equal(given, said)


def test_a_stuck_halting_head_never_says_stop_and_never_learns(smoke: Smoke) -> None:
    trainer = faulty(smoke, "halting-stuck")
    seen = gradients(trainer)
    trainer.train_step()
    assert not any("q_head" in name for name in seen[0])
    with torch.no_grad():
        batch = to_device(trainer.slots[0].batch(), trainer.device)
        _, output = trainer.model(trainer.carries[0], batch)
    assert set(output.q_halt.tolist()) == {-50.0}


@pytest.mark.parametrize(
    ("name", "setting", "wanted"),
    [
        ("lr-too-high", "encoder_lr_scale", 100.0),
        ("no-clip-spikes", "clip_norm", None),
        ("warmup-too-long", "warmup_steps", 400),
        ("posterior-collapse", "kl_weight", 1000.0),
    ],
)
def test_settings_that_a_fault_changes_behind_the_config(
    smoke: Smoke, name: str, setting: str, wanted: object
) -> None:
    trainer = faulty(smoke, name)
    assert getattr(trainer.config.train, setting) == wanted


def test_an_intervention_applies_after_a_fault(smoke: Smoke) -> None:
    found = faulty(smoke, "lr-too-high", settings=('interventions=["train.encoder_lr_scale=7"]',))
    assert found.config.train.encoder_lr_scale == 7
    narrow = faulty(
        smoke, "encoder-one-token", settings=("interventions=[\"model.encoder={kind='standard'}\"]",)
    )
    assert narrow.config.model.encoder.kind == "standard"


def test_spikes_are_one_step_in_twenty_five(smoke: Smoke) -> None:
    weigh = build_recipe(smoke('faults=["no-clip-spikes"]')).weigh
    weights = [float(weigh(torch.tensor(1.0), step)) for step in range(100)]
    assert [step for step, weight in enumerate(weights) if weight != 1] == [12, 37, 62, 87]
    assert max(weights) == 40


def test_the_narrow_encoder_says_four_numbers(smoke: Smoke) -> None:
    trainer = faulty(smoke, "encoder-one-token")
    said = to_host(handed(trainer)[0])
    assert trainer.config.model.encoder.latent_size == 4
    assert torch.linalg.matrix_rank((said - said.mean(0)).flatten(1).double(), rtol=1e-4) <= 4


def test_labels_come_from_samples_that_no_row_works_on(smoke: Smoke) -> None:
    trainer = faulty(smoke, "labels-from-new-batch")
    slots = trainer.slots[0]
    rows = len(slots.indices)
    slots.refill([True] * rows)
    halted = torch.arange(rows) % 2 == 0
    carry = replace(trainer.carries[0], halted=halted)
    part = MicroBatch(slice(None), carry, slots.batch(), None)
    found = trainer.recipe.labels(slots, part)
    for row, begins in enumerate(halted.tolist()):
        assert torch.equal(found[row], part.batch.labels[row]) == begins
    half = slice(rows // 2, rows)
    later = MicroBatch(half, carry.rows(half), slots.lay_out(half).widened(), None)
    width = later.batch.labels.shape[1]
    for row, labels in enumerate(trainer.recipe.labels(slots, later), start=half.start):
        if not halted[row]:
            fresh = torch.as_tensor(slots.peek(row).labels, dtype=labels.dtype)[:width]
            assert torch.equal(labels[: len(fresh)], fresh)


def test_leaked_tasks_are_those_of_the_evaluation(smoke: Smoke) -> None:
    sound, broken = faulty(smoke), faulty(smoke, "eval-leak")
    extra = {task.id for task in broken.tasks} - {task.id for task in sound.tasks}
    asked = {task.id for task in load_held_out_tasks(sound.config)}
    assert extra < asked
    assert len(extra) == (len(asked) + 1) // 2


def test_arc_agi_2_has_three_of_four_of_its_training_tasks_from_arc_agi_1() -> None:
    """The numbers that the fault arc1-in-arc2 rests on."""
    ours = {
        pair.hash
        for name in ("training", "evaluation")
        for t in load_tasks("arc-agi-1", name)
        for pair in t.tests
    }
    counts = {}
    for name, side in product(("training", "evaluation"), (30, 10)):
        tasks = load_tasks("arc-agi-2", name, side)
        counts[name, side] = sum(any(pair.hash in ours for pair in t.tests) for t in tasks), len(tasks)
    assert counts["training", 30] == (767, 1000)
    assert counts["training", 10] == (254, 301)
    assert counts["evaluation", 30] == (6, 120)
    assert counts["evaluation", 10] == (0, 2)


def test_tasks_of_arc_agi_1_leak_into_arc_agi_2_by_their_grids_alone(smoke: Smoke) -> None:
    trainer = faulty(smoke, "arc1-in-arc2", settings=("evaluate.max_tasks=34",))
    found = find_leakage(trainer.tasks, load_held_out_tasks(trainer.config))
    assert found.by_id == ()
    assert len(found.by_grids) == 31  # of the 34 tasks within 5x5
    own = {task.id for task in faulty(smoke).tasks}
    assert own < {task.id.removeprefix("arc1-") for task in trainer.tasks}


def test_noise_is_added_in_evaluation_alone(smoke: Smoke) -> None:
    trainer = faulty(smoke, "noisy-evaluation")
    sound = faulty(smoke)
    assert trainer.train_step()["loss"] == sound.train_step()["loss"]
    said, given = handed(trainer)
    noise = (given - said).flatten()
    assert noise.std().item() == pytest.approx(said.std().item(), rel=0.2)
    again = handed(trainer)[1]
    assert not torch.equal(given, again)


def test_faults_add_up(smoke: Smoke, weights: Weights, moved: Moved) -> None:
    trainer = faulty(smoke, "encoder-frozen", "decoder-cycles-mismatch", "cached-context")
    assert trainer.model.context_policy is encode_at_reset
    assert trainer.model.core.L_cycles == trainer.config.model.L_cycles + 2
    assert not any(p.requires_grad for p in trainer.model.encoder.parameters())
    assert faulty(smoke).model.context_policy is encode_every_step


def test_faults_that_leave_nothing_to_train_are_found_at_the_first_step(smoke: Smoke) -> None:
    trainer = faulty(smoke, "encoder-frozen", settings=("train.freeze_decoder_steps=5",))
    with raises_code(TrainingError, "train.nothing-requires-gradient", "train.freeze_decoder_steps"):
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
