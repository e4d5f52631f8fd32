from __future__ import annotations

import copy
import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from etrm.checkpoints import format as checkpoints
from etrm.checkpoints.run_folder import RunFolder, read_metrics
from etrm.checkpoints.saved_steps import list_saved
from etrm.config import Config
from etrm.device import pick_device, pick_device_of_trained, to_device, to_host
from etrm.errors import CheckpointError, ConfigError, LeakageError, NonFiniteError, TrainingError
from etrm.training.loss import act_loss
from etrm.training.optim import schedule, set_rates
from etrm.training.recipe import update
from etrm.training.scoring.predictor import make_batch
from etrm.training.trainer import Trainer, train
from tests.errors import raises_code

Smoke = Callable[..., Config]
Weights = Callable[[nn.Module], dict[str, Tensor]]
Moved = Callable[[dict[str, Tensor], dict[str, Tensor]], set[str]]
RunBytes = Callable[[Path], dict[str, bytes]]
ROOT = Path(__file__).parents[2]
QUIET = "monitor.enabled=false"


class Killed(Exception):
    """Ends a run as a crash would: nothing is written any more."""


def killed_after(step: int) -> Callable[[Trainer, dict[str, Any]], None]:
    def on_step(trainer: Trainer, metrics: dict[str, Any]) -> None:
        if metrics["step"] == step:
            raise Killed

    return on_step


def train_with_kills(config: Config, folder: Path, kills: list[int]) -> None:
    """Train to the end, dying right after each of the given steps."""
    for number, step in enumerate(kills):
        with pytest.raises(Killed):
            train(config, folder, resume=number > 0, on_step=killed_after(step))
    assert train(config, folder, resume=True)


def assert_same_run(first: dict[str, bytes], second: dict[str, bytes]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


# -- resuming is exact --------------------------------------------------------------------------------


STAGES = (
    "data.source=rules:recolour",  # grids of 3x3 to 6x6
    "data.max_tasks=40",
    "data.max_side=6",
    "data.augmentations=1",
    "evaluate.source=rules:recolour",
    "evaluate.max_tasks=2",
    "evaluate.augmentations=1",
    "train.steps=12",
    "data.curriculum=[[4, 5], [6, 7]]",
)
RUNS = {
    "etrm": (),
    "etrm, adam_atan2, no monitor": ("train.optimizer=adam_atan2", QUIET),
    "etrm_cached": ("model.variant=etrm_cached",),
    "trm": ("model.variant=trm", "data.augmentations=2"),
    "etrm_fct": ("model.variant=etrm_fct", "model.halt.max_steps=3"),
    "frozen decoder, thawed late": ("train.freeze_decoder_steps=8",),
    "frozen encoder, thawed late": ("train.freeze_encoder_steps=8",),
    "curriculum, killed at the end of a stage and in the next": (
        *STAGES,
        "data.replay=0.3",
    ),
    "curriculum of turns": (
        *STAGES,
        "model.variant=etrm_fct",
        "model.halt.max_steps=3",
    ),
}


LONGER = (
    "etrm, adam_atan2, no monitor",
    "trm",
    "etrm_cached",
    "etrm_fct",
    "frozen decoder, thawed late",
    "frozen encoder, thawed late",
    "curriculum of turns",
)
"""What differs little from another run, and is left to `make test-slow`."""


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(settings, id=name, marks=[pytest.mark.slow] if name in LONGER else [])
        for name, settings in RUNS.items()
    ],
)
def test_a_run_that_died_and_was_resumed_leaves_the_same_bytes(
    tmp_path: Path, smoke: Smoke, run_bytes: RunBytes, settings: tuple[str, ...]
) -> None:
    config = smoke("train.steps=12", "train.checkpoint_every=3", "model.halt.exploration=0.5", *settings)
    assert train(config, tmp_path / "whole")
    train_with_kills(config, tmp_path / "resumed", [1, 5, 6, 10])
    whole, resumed = run_bytes(tmp_path / "whole"), run_bytes(tmp_path / "resumed")
    assert len(whole) == 1 + 2 * 4
    assert_same_run(whole, resumed)


def test_every_random_stream_goes_on_where_it_was(smoke: Smoke) -> None:
    trainer, _ = steps_of(smoke(QUIET), 1)
    captured = copy.deepcopy(trainer.state.capture())

    def draws() -> list[Tensor]:
        return [torch.rand(3), torch.rand(3, generator=trainer.halting)]

    first = draws()
    trainer.state.restore(captured)
    assert all(torch.equal(a, b) for a, b in zip(first, draws(), strict=True))


@pytest.fixture
def heeded() -> Iterator[None]:
    """Signals as a terminal gives them: in a shell's background, or under nohup, some are ignored."""
    numbers = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in numbers.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("heeded")
@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)]
)
def test_a_signal_ends_the_run_after_the_step_in_hand(
    tmp_path: Path, smoke: Smoke, run_bytes: RunBytes, number: signal.Signals
) -> None:
    config = smoke("train.steps=8", "train.checkpoint_every=4")
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]

    def interrupt(trainer: Trainer, metrics: dict[str, Any]) -> None:
        if metrics["step"] == 3:
            os.kill(os.getpid(), number)

    assert train(config, tmp_path / "run", on_step=interrupt) is False
    newest = list_saved(tmp_path / "run" / "checkpoints")[-1]
    assert newest.name == "step_00000003"
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
    assert train(config, tmp_path / "run", resume=True)
    assert train(config, tmp_path / "whole")
    assert run_bytes(tmp_path / "run")["metrics.jsonl"] == run_bytes(tmp_path / "whole")["metrics.jsonl"]


@pytest.mark.usefixtures("heeded")
def test_a_second_ctrl_c_ends_at_once(tmp_path: Path, smoke: Smoke) -> None:
    def interrupt_twice(trainer: Trainer, metrics: dict[str, Any]) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(smoke("train.steps=8"), tmp_path / "run", on_step=interrupt_twice)


def damage(checkpoint: Path) -> None:
    file = checkpoint / "state.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    tmp_path: Path, smoke: Smoke, run_bytes: RunBytes
) -> None:
    config = smoke("train.steps=10", "train.checkpoint_every=2")
    assert train(config, tmp_path / "whole")
    with pytest.raises(Killed):
        train(config, tmp_path / "run", on_step=killed_after(7))
    damage(tmp_path / "run" / "checkpoints" / "step_00000006")
    assert train(config, tmp_path / "run", resume=True)
    assert_same_run(run_bytes(tmp_path / "whole"), run_bytes(tmp_path / "run"))


def test_without_a_whole_checkpoint_resuming_is_refused(tmp_path: Path, smoke: Smoke) -> None:
    config = smoke("train.steps=4", "train.checkpoint_every=2")
    assert train(config, tmp_path)
    for path in list_saved(tmp_path / "checkpoints"):
        damage(path)
    with raises_code(CheckpointError, "checkpoint.none-whole", "step_00000004"):
        train(config, tmp_path, resume=True)


def test_a_finished_run_is_resumed_to_nothing_new(tmp_path: Path, smoke: Smoke, run_bytes: RunBytes) -> None:
    config = smoke("train.steps=4", "train.checkpoint_every=2")
    assert train(config, tmp_path)
    before = run_bytes(tmp_path)
    assert train(config, tmp_path, resume=True)
    assert_same_run(before, run_bytes(tmp_path))


# -- determinism --------------------------------------------------------------------------------------


def steps_of(config: Config, count: int) -> tuple[Trainer, list[dict[str, Any]]]:
    trainer = Trainer(config)
    return trainer, [trainer.train_step() for _ in range(count)]


def test_the_same_seed_gives_the_same_numbers_and_another_does_not(smoke: Smoke) -> None:
    first, again, other = (steps_of(smoke(f"train.seed={seed}"), 4)[1] for seed in (1, 1, 2))
    assert first == again
    assert [a["loss"] == b["loss"] for a, b in zip(first, other, strict=True)] == [False] * 4


@pytest.mark.parametrize("variant", ["etrm", "etrm_cached"])
def test_watching_changes_nothing(smoke: Smoke, weights: Weights, moved: Moved, variant: str) -> None:
    ends = []
    for settings in (
        ("monitor.enabled=false",),
        ("monitor.every=1",),
        ("monitor.every=3", "monitor.probe_every=2"),
    ):
        trainer, metrics = steps_of(smoke(f"model.variant={variant}", *settings), 7)
        random_states = {"torch": torch.get_rng_state(), "halting": trainer.halting.get_state()}
        ends.append((weights(trainer.model) | trainer.ema.sums | random_states, [m["loss"] for m in metrics]))
    for tensors, losses in ends[1:]:
        assert moved(ends[0][0], tensors) == set()
        assert losses == ends[0][1]


def test_a_run_in_memory_and_one_on_disk_are_the_same(tmp_path: Path, smoke: Smoke) -> None:
    config = smoke("train.steps=4")
    assert train(config, tmp_path)
    assert read_metrics(tmp_path) == steps_of(config, 4)[1]


# -- one step -----------------------------------------------------------------------------------------


def test_fixed_time_is_n_steps_on_one_batch_then_the_next(
    smoke: Smoke, weights: Weights, moved: Moved
) -> None:
    """Against the loop of ETRM-FCT written out: encode, refine, learn, N times; then a new batch."""
    n = 3
    config = smoke("model.variant=etrm_fct", f"model.halt.max_steps={n}", "train.clip_norm=1.0")
    trainer, reference = Trainer(config), Trainer(config)
    metrics = [trainer.train_step() for _ in range(3 * n)]
    assert [m["reset_share"] for m in metrics] == [1, 0, 0] * 3
    assert all(m["encoder.coverage"] == 1 for m in metrics)

    model, taken = reference.model, dict.fromkeys(range(reference.episodes.buckets), 0)
    for turn in range(3):
        bucket = reference.episodes.bucket_at(turn)
        rows = [reference.episodes.sample(bucket, taken[bucket] + row) for row in range(4)]
        taken[bucket] += 4
        batch, carry = make_batch(model, rows), model.initial_carry(4)
        for step in range(n):
            set_rates(reference.optimizers, schedule(turn * n + step, config.train))
            assert model.encoder is not None
            carry, output = model.step(carry, batch, model.encoder(batch.demos).context)
            (act_loss(output, batch.labels).total(config.train) / 4).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in reference.optimizers:
                optimizer.step()
                optimizer.zero_grad()
    assert moved(weights(model), weights(trainer.model)) == set()


@pytest.mark.parametrize("clip", ["1e-2", "none"])
def test_a_step_is_forward_backward_clip_and_update(
    smoke: Smoke, weights: Weights, moved: Moved, clip: str
) -> None:
    trainer, _ = steps_of(smoke("train.warmup_steps=10", f"train.clip_norm={clip}", QUIET), 2)
    config = trainer.config.train
    model = copy.deepcopy(trainer.model)
    optimizers = trainer.recipe.build_optimizers(model, config)
    optimizers[0].load_state_dict(copy.deepcopy(trainer.optimizers[0].state_dict()))
    halting = torch.Generator()
    halting.set_state(trainer.halting.get_state())
    bucket = trainer.episodes.bucket_at(trainer.step)
    slots, carry = copy.deepcopy(trainer.slots[bucket]), trainer.carries[bucket]

    metrics = trainer.train_step()

    slots.refill(carry.halted.tolist())
    minimum = model.draw_minimum(carry.halted.numel(), halting)
    batch = to_device(slots.batch(), trainer.device)
    _, output = model(carry, batch, to_device(minimum, trainer.device))
    (act_loss(output, batch.labels).total(config) / config.batch_size).backward()
    norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
    if config.clip_norm is not None:
        assert norm > config.clip_norm
        assert metrics["grad_norm_before_clip"] == pytest.approx(norm.item(), rel=1e-5)
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
    else:
        assert "grad_norm_before_clip" not in metrics
    set_rates(optimizers, 0.3)  # the third of ten steps of warm-up
    optimizers[0].step()
    assert metrics["lr_factor"] == pytest.approx(0.3)
    assert moved(weights(trainer.model), weights(model)) == set()


def test_the_average_is_of_the_weights_after_every_step(smoke: Smoke) -> None:
    trainer = Trainer(smoke("train.ema_decay=0.5", QUIET))
    seen = []
    for _ in range(3):
        trainer.train_step()
        seen.append(trainer.model.core.lm_head.weight.detach().clone())
    expected = (seen[0] + 2 * seen[1] + 4 * seen[2]) / 7
    torch.testing.assert_close(trainer.ema.average()["core.lm_head.weight"], expected, rtol=1e-5, atol=1e-6)


def test_checkpoints_hold_raw_and_averaged_weights_and_say_which(tmp_path: Path, smoke: Smoke) -> None:
    trainers = []
    train(smoke("train.steps=3"), tmp_path, on_step=lambda trainer, _: trainers.append(trainer))
    found = checkpoints.read(list_saved(tmp_path / "checkpoints")[-1])
    assert found.state["weights"] == {"model.safetensors": "raw", "ema.safetensors": "ema"}
    for name, value in trainers[-1].model.state_dict().items():
        assert torch.equal(found.model[name], to_host(value)), name
    for name, value in trainers[-1].ema.average().items():
        assert torch.equal(found.ema[name], to_host(value)), name


def test_metrics_say_where_the_run_stands(smoke: Smoke) -> None:
    trainer, found = steps_of(smoke("train.warmup_steps=4"), 6)
    assert [m["step"] for m in found] == [1, 2, 3, 4, 5, 6]
    assert [m["lr_factor"] for m in found] == [schedule(step, trainer.config.train) for step in range(6)]
    buckets = [trainer.episodes.bucket_at(step) for step in range(6)]
    assert [m["bucket"] for m in found] == buckets
    assert set(buckets) == {0, 1}
    firsts = {buckets.index(bucket) for bucket in (0, 1)}
    assert all(found[step]["reset_share"] == 1 for step in firsts)
    json.dumps(found, allow_nan=False)


def test_metrics_name_the_stage_of_the_curriculum(smoke: Smoke) -> None:
    trainer, found = steps_of(smoke(*STAGES, "data.replay=0.5", QUIET), 12)
    assert [m["stage_side"] for m in found] == [4] * 5 + [6] * 7
    for metrics in found:
        side = trainer.episodes.bucket_queries(metrics["bucket"])[0].task.demo_side
        assert metrics["replayed"] == (side <= 4 and metrics["stage_side"] == 6)
    assert {m["replayed"] for m in found} == {0, 1}


def test_each_bucket_keeps_its_own_rows(smoke: Smoke) -> None:
    trainer = Trainer(smoke(QUIET))
    trainer.train_step()
    idle = 1 - trainer.episodes.bucket_at(0)
    assert trainer.slots[idle].next_index == 0
    assert trainer.carries[idle].halted.all()
    assert trainer.slots[1 - idle].next_index == trainer.config.train.batch_size


# -- what cannot go on --------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_training_before_any_update(
    smoke: Smoke, weights: Weights, moved: Moved, value: float
) -> None:
    trainer, _ = steps_of(smoke(QUIET), 1)
    trainer.model.core.q_head.bias.data.fill_(value)
    before = weights(trainer.model.encoder)
    with raises_code(NonFiniteError, "train.nonfinite-loss", "step 2") as caught:
        trainer.train_step()
    assert caught.value.got in ("nan", "inf")
    assert moved(before, weights(trainer.model.encoder)) == set()
    assert trainer.step == 1


def test_a_failed_run_keeps_its_last_checkpoint(tmp_path: Path, smoke: Smoke) -> None:
    def spoil(trainer: Trainer, metrics: dict[str, Any]) -> None:
        if trainer.step == 3:
            trainer.model.core.q_head.bias.data.fill_(float("nan"))

    with raises_code(NonFiniteError, "train.nonfinite-loss", "step 4"):
        train(smoke("train.steps=8", "train.checkpoint_every=2"), tmp_path, on_step=spoil)
    newest = checkpoints.read(list_saved(tmp_path / "checkpoints")[-1])
    assert newest.step == 2
    assert all(t.isfinite().all() for t in newest.model.values())


@pytest.mark.parametrize("value", [1.0, float("nan")])
def test_a_run_that_stops_between_two_readings_keeps_no_step_that_was_not_checked(
    tmp_path: Path, smoke: Smoke, value: float
) -> None:
    def change_and_stop(optimizers: list[Optimizer], frozen: str | None) -> None:
        trainer.model.core.q_head.bias.data.fill_(value)
        trainer.stop()

    config = smoke(QUIET, "train.log_every=5", "train.clip_norm=none")
    with closing(RunFolder(tmp_path / "run", config, resume=False)) as folder:
        trainer = Trainer(config, folder)
        trainer.recipe = replace(trainer.recipe, update=change_and_stop)
        finite = value == 1.0
        with nullcontext() if finite else raises_code(NonFiniteError, "train.nonfinite-loss", "step 2"):
            assert not trainer.run()
    newest = checkpoints.read(list_saved(tmp_path / "run" / "checkpoints")[-1])
    assert newest.step == len(read_metrics(tmp_path / "run")) == (2 if finite else 0)
    assert all(t.isfinite().all() for t in newest.model.values())


def test_training_on_what_is_asked_is_refused(smoke: Smoke) -> None:
    with raises_code(LeakageError, "data.leakage", "3 of 3", "task100") as caught:
        Trainer(smoke("data.subset=evaluation"))
    assert "task100" in caught.value.got


@pytest.mark.parametrize("names", ['["all"]', '["task100", "task101", "task102"]'])
def test_training_on_what_is_asked_is_done_where_it_is_allowed_by_name(smoke: Smoke, names: str) -> None:
    trainer = Trainer(smoke("data.subset=evaluation", f"evaluate.allow_trained={names}", QUIET))
    assert [task.id for task in trainer.tasks] == ["task100", "task101", "task102"]


def test_allowing_one_task_does_not_allow_the_others(smoke: Smoke) -> None:
    with raises_code(LeakageError, "data.leakage", "2 of 3", "task100, task102"):
        Trainer(smoke("data.subset=evaluation", 'evaluate.allow_trained=["task101"]'))


def test_a_device_that_is_named_is_taken_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for backend in (torch.cuda, torch.backends.mps):
        monkeypatch.setattr(backend, "is_available", lambda: False)
    assert pick_device("cpu") == torch.device("cpu")
    for name in ("cuda", "mps"):
        with raises_code(ConfigError, "train.no-such-device", name):
            pick_device(name)
        assert pick_device_of_trained(name) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda")
    assert pick_device_of_trained("cpu") == torch.device("cpu")


# -- freezing -----------------------------------------------------------------------------------------


FROZEN = ("train.steps=8", "train.freeze_decoder_steps=5", "train.checkpoint_every=2", "train.warmup_steps=0")


@pytest.mark.parametrize("optimizer", ["adamw", "adam_atan2"])
@pytest.mark.parametrize("part", ["decoder", "encoder"])
def test_a_frozen_part_stays_bit_for_bit_and_thaws_in_time(
    smoke: Smoke, weights: Weights, moved: Moved, part: str, optimizer: str
) -> None:
    trainer = Trainer(
        smoke("train.warmup_steps=0", f"train.freeze_{part}_steps=5", f"train.optimizer={optimizer}")
    )
    modules = {"decoder": trainer.model.core, "encoder": trainer.model.encoder}
    before = {name: weights(module) for name, module in modules.items()}
    trained = {"decoder": set(before["decoder"]) - {"H_init", "L_init"}, "encoder": set(before["encoder"])}
    assert [trainer.train_step()["frozen"] for _ in range(5)] == [part] * 5
    for name, module in modules.items():
        expected = set() if name == part else trained[name]
        assert moved(before[name], weights(module)) == expected
    assert trainer.train_step()["frozen"] is None
    assert moved(before[part], weights(modules[part])) == trained[part]
    assert all(p.requires_grad for p in trainer.model.parameters())


def test_freezing_survives_a_resume_and_the_proof_is_of_the_whole_span(
    tmp_path: Path, smoke: Smoke, run_bytes: RunBytes
) -> None:
    config = smoke(*FROZEN, "train.keep_checkpoints=9")
    assert train(config, tmp_path / "whole")
    train_with_kills(config, tmp_path / "run", [1, 3])
    assert_same_run(run_bytes(tmp_path / "whole"), run_bytes(tmp_path / "run"))
    first, later = (
        checkpoints.read(tmp_path / "run" / "checkpoints" / f"step_0000000{step}").model for step in (0, 4)
    )
    core = [name for name in first if name.startswith("core.")]
    assert all(torch.equal(first[name], later[name]) for name in core)
    span = json.loads((tmp_path / "run" / "frozen.json").read_text())
    assert span == {
        "part": "decoder",
        "last_step": 5,
        "matched": len(core),
        "total": len(core),
        "largest": 0.0,
    }


def test_a_decoder_that_moves_while_it_is_meant_to_be_frozen_is_found_out(
    tmp_path: Path, smoke: Smoke
) -> None:
    def nudge(trainer: Trainer, metrics: dict[str, Any]) -> None:
        if trainer.step == 2:
            trainer.model.core.q_head.bias.data += 0.5

    train(smoke(*FROZEN), tmp_path, on_step=nudge)
    span = json.loads((tmp_path / "frozen.json").read_text())
    assert span["total"] - span["matched"] == 1
    assert span["largest"] == pytest.approx(0.5, abs=1e-3)


def test_a_decoder_frozen_to_the_end_is_compared_at_the_end(tmp_path: Path, smoke: Smoke) -> None:
    train(smoke("train.steps=3", "train.freeze_decoder_steps=3"), tmp_path)
    span = json.loads((tmp_path / "frozen.json").read_text())
    assert (span["last_step"], span["largest"]) == (3, 0.0)


def test_a_cached_context_trains_a_frozen_run_through_the_rows_that_begin(
    smoke: Smoke, weights: Weights, moved: Moved
) -> None:
    """Between them no step has a gradient: nothing moves, and the run goes on."""
    trainer = Trainer(
        smoke(
            "model.variant=etrm_cached",
            "data.buckets=1",
            "train.freeze_decoder_steps=20",
            "train.warmup_steps=0",
        )
    )
    trainer.model.core.q_head.bias.data.fill_(-20)  # rows halt at the maximum of four steps alone
    for step in range(6):
        before = weights(trainer.model)
        begins = trainer.train_step()["reset_share"]
        assert begins == (1 if step in (0, 4) else 0)
        names = moved(before, weights(trainer.model))
        assert bool(names) == bool(begins)
        assert all(name.startswith("encoder.") for name in names)


def test_a_step_in_which_nothing_could_train_is_refused(smoke: Smoke) -> None:
    trainer = Trainer(smoke("train.freeze_decoder_steps=5", QUIET))
    trainer.model.encoder.requires_grad_(False)
    with raises_code(
        TrainingError, "train.nothing-requires-gradient", "train.freeze_decoder_steps"
    ) as caught:
        trainer.train_step()
    assert "freeze_decoder_steps" in caught.value.next_step


def test_the_update_goes_through_the_recipe(smoke: Smoke, weights: Weights, moved: Moved) -> None:
    trainer = Trainer(smoke("train.freeze_decoder_steps=1", "train.warmup_steps=0", QUIET))
    told: list[str | None] = []

    def record(optimizers: list[Optimizer], frozen: str | None) -> None:
        told.append(frozen)
        if len(told) < 3:
            update(optimizers, frozen)

    trainer.recipe = replace(trainer.recipe, update=record)
    for _ in range(2):
        trainer.train_step()
    before = weights(trainer.model)
    trainer.train_step()
    assert told == ["decoder", None, None]
    assert moved(before, weights(trainer.model)) == set()
