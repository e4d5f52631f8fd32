"""A step that is not finite: what is named is what was planted, what is kept is what it needs."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from etrm.checkpoints import format as checkpoints
from etrm.checkpoints.run_folder import read_metrics
from etrm.checkpoints.saved_steps import list_saved
from etrm.config import Config
from etrm.data import collate
from etrm.errors import NonFiniteError
from etrm.training.monitoring import nonfinite
from etrm.training.trainer import Trainer, train
from tests.errors import assert_holds, raises_code
from tests.sampled import one_in

Smoke = Callable[..., Config]
Spoil = Callable[[Trainer], None]
NAN, INF = float("nan"), float("inf")


class NanBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient * NAN


def spoil_weight(name: str, value: float) -> Spoil:
    def spoil(trainer: Trainer) -> None:
        trainer.model.get_parameter(name).data.view(-1)[0] = value

    return spoil


def spoil_module(name: str, change: Callable[[Tensor], Tensor]) -> Spoil:
    """Change the first input of a module, as an operation of its own would."""

    def spoil(trainer: Trainer) -> None:
        module = trainer.model.get_submodule(name)
        forward = module.forward
        module.forward = lambda x, *others: forward(change(x), *others)

    return spoil


def spoil_carry(trainer: Trainer) -> None:
    for carry in trainer.carries.values():
        if carry.z_H.shape[1] and not carry.halted[2]:
            carry.z_H[2] = INF


def spoil_rate(trainer: Trainer) -> None:
    """Weight decay alone makes the weights overflow: (1 - lr wd) = -1e38."""
    for group in trainer.optimizers[0].param_groups:
        group["initial_lr"], group["weight_decay"] = 1e30, 1e8


def failed_run(config: Config, folder: Path, spoil: Spoil, after: int = 3) -> NonFiniteError:
    """Train, spoil the run after a step, and hand back the error that ends it."""

    def on_step(trainer: Trainer, metrics: dict[str, Any]) -> None:
        if trainer.step == after:
            spoil(trainer)

    with pytest.raises(NonFiniteError) as caught:
        train(config, folder, on_step=on_step)
    return caught.value


def report_of(folder: Path) -> dict[str, Any]:
    (path,) = (folder / nonfinite.FOLDER).iterdir()
    found: dict[str, Any] = json.loads((path / "report.json").read_text())
    return found | {"path": path}


MLP = "encoder.grid_encoder.layers.0.mlp"
CASES = {
    "a NaN in a weight of the core": (
        spoil_weight("core.L_level.layers.0.mlp.down_proj.weight", NAN),
        "train.nonfinite-loss",
        ("parameters", "core.L_level.layers.0.mlp.down_proj", "value", "weight"),
    ),
    "an infinity in a weight of the encoder": (
        spoil_weight("encoder.set_encoder.layers.0.q_proj.weight", INF),
        "train.nonfinite-loss",
        ("parameters", "encoder.set_encoder.layers.0.q_proj", "value", "weight"),
    ),
    "an overflow in a block": (
        spoil_module("core.L_level.layers.0.mlp", lambda x: x * 1e38 * 1e38),
        "train.nonfinite-loss",
        ("forward", "core.L_level.layers.0.mlp", "handed-on", "core.L_level.layers.0.mlp.down_proj"),
    ),
    "a gradient alone": (
        spoil_module(MLP, NanBackward.apply),
        "train.nonfinite-gradient",
        ("backward", MLP, "input-gradient", ""),
    ),
    "a carried state": (spoil_carry, "train.nonfinite-loss", ("forward", "", "input", "")),
}


@pytest.mark.parametrize(("spoil", "code", "origin"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("clip", one_in(2, ["1.0", "none"]))
def test_what_was_planted_is_named_and_kept(
    tmp_path: Path, smoke: Smoke, spoil: Spoil, code: str, origin: tuple[str, str, str, str], clip: str
) -> None:
    config = smoke("train.steps=8", "train.checkpoint_every=2", "data.buckets=1", f"train.clip_norm={clip}")
    error = failed_run(config, tmp_path, spoil)
    assert error.code == code
    assert_holds(error.what, "step 4")
    assert origin[1] in error.got
    assert_holds(error.next_step, tmp_path / "nonfinite" / "step_00000004", "step_00000002")

    report = report_of(tmp_path)
    found = report["replay"]["origin"]
    assert (found["phase"], found["module"], found["place"], found["name"]) == origin
    assert report["replay"]["failed"]
    assert (report["step"], report["code"], report["newest_checkpoint"]) == (4, code, "step_00000002")
    assert bool(report["weights"]) == (origin[0] == "parameters")
    assert len(read_metrics(tmp_path)) == 3
    kept = list_saved(tmp_path / "checkpoints")
    assert [path.name for path in kept] == ["step_00000000", "step_00000002"]
    assert all(t.isfinite().all() for t in checkpoints.read(kept[-1]).model.values())


def test_the_rows_at_fault_are_named_with_their_tasks(tmp_path: Path, smoke: Smoke) -> None:
    (tmp_path / "nonfinite" / ".step_00000004.tmp").mkdir(parents=True)  # of a process that was killed here
    error = failed_run(smoke("train.steps=8", "data.buckets=1"), tmp_path, spoil_carry)
    report = report_of(tmp_path)
    assert report["replay"]["rows"] == report["replay"]["origin"]["rows"] == [2]
    sample = json.loads((report["path"] / "samples.json").read_text())[2]
    assert (sample["row"], sample["act_steps"]) == (2, 3)
    assert_holds(error.got, "[2] of 4", sample["task_id"])


def test_an_update_that_overflows_is_found_at_once_and_never_saved(tmp_path: Path, smoke: Smoke) -> None:
    config = smoke("train.steps=8", "train.checkpoint_every=1", "train.warmup_steps=0")
    error = failed_run(config, tmp_path, spoil_rate)
    assert error.code == "train.nonfinite-weights"
    assert_holds(error.what, "step 4")
    report = report_of(tmp_path)
    assert (report["replay"], report["state_before"]) == (None, None)
    assert report["weights"][0] in error.got
    assert list_saved(tmp_path / "checkpoints")[-1].name == "step_00000003"
    assert not list(report["path"].glob("step_*"))
    assert (report["path"] / "batch.safetensors").exists()


def test_the_batch_can_be_drawn_again_from_its_serial_numbers(tmp_path: Path, smoke: Smoke) -> None:
    config = smoke("train.steps=8", "data.augmentations=fresh", "data.translate=3")
    failed_run(config, tmp_path, spoil_weight("core.lm_head.weight", NAN))
    path = report_of(tmp_path)["path"]
    samples, batch = json.loads((path / "samples.json").read_text()), load_file(path / "batch.safetensors")
    episodes = Trainer(config).episodes
    again = collate([episodes.rebuild(sample["serial"]) for sample in samples])
    assert torch.equal(again.inputs, batch["inputs"])
    assert torch.equal(again.labels, batch["labels"])
    assert torch.equal(again.demos.tokens, batch["demos.tokens"])
    assert [sample["serial"] for sample in samples] == batch["sample_ids"].tolist()
    assert [sample["name"].partition("|")[0] for sample in samples] == [s["task_id"] for s in samples]


VARIANTS = {
    "etrm": (),
    "trm": ("model.variant=trm", "data.augmentations=2"),
    "etrm_cached": ("model.variant=etrm_cached",),
    "etrm_fct": ("model.variant=etrm_fct",),
    "stateful": ("model.encoder.kind=recurrent",),
    "variational": ("model.encoder.kind=lpn_variational", "train.kl_weight=0.1"),
}


@pytest.mark.parametrize("name", one_in(2, VARIANTS))
def test_the_state_before_the_step_is_the_state_before_the_step(
    tmp_path: Path, smoke: Smoke, name: str
) -> None:
    """It continues as a run does that never failed, random numbers and samples included."""
    config = smoke("train.steps=8", "model.halt.exploration=0.5", "data.augmentations=2", *VARIANTS[name])
    failed_run(config, tmp_path, spoil_module("core.lm_head", NanBackward.apply))
    report = report_of(tmp_path)
    assert report["state_before"] == "step_00000003"
    resumed, whole = Trainer(config), Trainer(config)
    expected = [whole.train_step() for _ in range(6)]
    resumed.state.restore(checkpoints.read(report["path"] / report["state_before"]))
    assert [resumed.train_step() for _ in range(3)] == expected[3:]
    for weight, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[weight]), weight


def test_a_step_that_does_not_fail_again_is_reported_as_such(tmp_path: Path, smoke: Smoke) -> None:
    calls = []

    def once(x: Tensor) -> Tensor:
        calls.append(1)
        return x * NAN if len(calls) == 1 else x

    error = failed_run(smoke("train.steps=8"), tmp_path, spoil_module("core.lm_head", once))
    report = report_of(tmp_path)
    assert report["replay"] == {"failed": False, "origin": None, "rows": []}
    assert (error.code, report["code"]) == ("train.nonfinite-loss", "train.nonfinite-loss")


def test_a_resumed_run_that_meets_the_step_again_writes_the_folder_again(
    tmp_path: Path, smoke: Smoke
) -> None:
    config, spoil = smoke("train.steps=8"), spoil_weight("core.lm_head.weight", NAN)
    failed_run(config, tmp_path, spoil)
    first = sorted(path.name for path in report_of(tmp_path)["path"].iterdir())

    def on_step(trainer: Trainer, metrics: dict[str, Any]) -> None:
        if trainer.step == 3:
            spoil(trainer)

    with pytest.raises(NonFiniteError):
        train(config, tmp_path, resume=True, on_step=on_step)
    assert sorted(path.name for path in report_of(tmp_path)["path"].iterdir()) == first


def test_a_batch_that_cannot_be_kept_does_not_hide_the_error(tmp_path: Path, smoke: Smoke) -> None:
    def spoil(trainer: Trainer) -> None:
        (tmp_path / nonfinite.FOLDER).write_text("a file in its place")
        spoil_weight("core.lm_head.weight", NAN)(trainer)

    error = failed_run(smoke("train.steps=8"), tmp_path, spoil)
    assert error.code == "train.nonfinite-loss"
    assert_holds(error.next_step, tmp_path / nonfinite.FOLDER / "step_00000004", os.strerror(errno.ENOTDIR))


def test_a_run_in_memory_is_explained_too(smoke: Smoke) -> None:
    trainer = Trainer(smoke("monitor.enabled=false"))
    trainer.train_step()
    spoil_weight("core.lm_head.weight", NAN)(trainer)
    with raises_code(NonFiniteError, "train.nonfinite-loss", "step 2", "core.lm_head") as caught:
        trainer.run()
    assert nonfinite.FOLDER not in caught.value.next_step


def test_large_but_finite_weights_are_no_fault() -> None:
    model = nn.Linear(4, 4)
    model.weight.data.fill_(1e38)
    nonfinite.check_weights(model, 1)
    model.weight.grad = torch.full((4, 4), 1e38)
    nonfinite.check_gradients(model, None, 1)
    with raises_code(NonFiniteError, "train.nonfinite-gradient", "step 1"):
        nonfinite.check_gradients(model, INF, 1)


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_one_bad_element_of_a_gradient_is_enough(value: float) -> None:
    table = nn.Embedding(5, 2, sparse=True)
    (table(torch.tensor([1, 3])) * torch.tensor([[1.0], [value]])).sum().backward()
    for norm in (None, 1.0):  # the norm is of the dense ones
        with raises_code(NonFiniteError, "train.nonfinite-gradient", "step 7"):
            nonfinite.check_gradients(table, norm, 7)
