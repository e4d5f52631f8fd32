"""A run that moves to another device goes on from its checkpoint, and its record says what changed and when."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from etrm.checkpoints import format as checkpoints
from etrm.checkpoints.run_folder import RunFolder, read_metrics, read_record
from etrm.checkpoints.saved_steps import list_saved
from etrm.config import Config, TrainConfig
from etrm.hardware import RecordChange, compute, describe, find_changes
from etrm.training.trainer import Trainer, train

Smoke = Callable[..., Config]
STEPS = ("train.steps=8", "train.checkpoint_every=4")
LOSS, NORM = 0.02, 0.3
"""How far losses and gradient norms of preset smoke may differ between devices or threads; docs/scale.md has what was
measured."""


def stopped_at(config: Config, folder: Path, step: int) -> None:
    """Train, and stop as a signal does."""

    def stop(trainer: Trainer, metrics: dict[str, Any]) -> None:
        if metrics["step"] == step:
            trainer.stop()

    assert not train(config, folder, on_step=stop)


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Gives this machine's device another name."""
    return lambda name: monkeypatch.setattr("etrm.hardware.describe", lambda device: name)


def test_a_resumed_run_does_not_need_the_decoder_that_it_began_with(tmp_path: Path, smoke: Smoke) -> None:
    quiet = ("train.steps=2", "train.warmup_steps=0", "monitor.enabled=false")
    decoder = tmp_path / "decoder"
    assert train(smoke(*quiet, "model.variant=trm", "data.augmentations=2"), decoder)
    config = smoke(*quiet, f"train.decoder={decoder}")
    stopped_at(config, tmp_path / "run", 1)
    decoder.rename(tmp_path / "elsewhere")
    assert train(config, tmp_path / "run", resume=True)


def test_a_moved_run_records_what_changed_and_at_which_step(
    on: Callable[[str], None],
    tmp_path: Path,
    smoke: Smoke,
    caplog: pytest.LogCaptureFixture,
    run_bytes: Callable[[Path], dict[str, bytes]],
) -> None:
    config = smoke(*STEPS)
    here = describe(torch.device("cpu"))
    assert train(config, tmp_path / "whole")
    on("cuda: NVIDIA H100")
    stopped_at(config, tmp_path / "moved", 5)
    on(here)
    assert train(config, tmp_path / "moved", resume=True)
    record = read_record(tmp_path / "moved")
    change = {"step": 5, "name": "device", "before": "cuda: NVIDIA H100", "now": here}
    assert (record["device"], record["changes"]) == (here, [change])
    assert [earlier["device"] for earlier in record["earlier"]] == ["cuda: NVIDIA H100"]
    (message,) = [entry for entry in caplog.records if entry.name == "etrm.training.trainer"]
    assert message.args == ("device", 5, here, "cuda: NVIDIA H100")
    # The device has another name and is the same one, so nothing that was trained may differ.
    whole, moved = run_bytes(tmp_path / "whole"), run_bytes(tmp_path / "moved")
    assert whole["metrics.jsonl"] == moved["metrics.jsonl"]
    last = "checkpoints/step_00000008/model.safetensors"
    assert whole[last] == moved[last]


def test_changes_are_kept_over_further_resumes_and_nothing_is_added_without_one(
    on: Callable[[str], None], tmp_path: Path, smoke: Smoke
) -> None:
    config = smoke(*STEPS)
    for name, step in (("a", 2), ("b", 3), ("b", 5), ("a", 6)):
        on(name)
        with_folder = RunFolder(tmp_path, config, resume=True)
        trainer = Trainer(config, with_folder)
        trainer.resume()
        trainer.run(lambda trainer, metrics, step=step: trainer.stop() if metrics["step"] == step else None)
        with_folder.close()
    found = [(change["step"], change["before"], change["now"]) for change in read_record(tmp_path)["changes"]]
    assert found == [(2, "a", "b"), (5, "b", "a")]


def test_what_differs_between_two_records() -> None:
    before = {
        "device": "cuda: NVIDIA H100",
        "precision": "float32",
        "threads": 8,
        "versions": {"torch": "2.6.0", "numpy": "2.0"},
        "commit": "a",
        "host": "one",
        "queries": 3,
    }
    now = before | {
        "versions": {"torch": "2.7.0", "numpy": "2.0"},
        "threads": 1,
        "host": "two",
        "commit": "b",
    }
    assert find_changes(before, now, 7) == [
        RecordChange(7, "threads", "8", "1"),
        RecordChange(7, "versions.torch", "2.6.0", "2.7.0"),
        RecordChange(7, "commit", "a", "b"),
    ]
    assert (
        find_changes({}, now, 7)
        == find_changes({"imported": "weights"}, now, 7)
        == find_changes(now, now, 7)
        == []
    )


def test_a_device_is_called_by_its_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: f"GPU number {device.index}")
    assert describe(torch.device("cuda", 3)) == "cuda: GPU number 3"
    assert compute(TrainConfig(threads=5, precision="bfloat16"), torch.device("cpu")).threads == 5
    assert compute(TrainConfig(), torch.device("cpu")).threads == torch.get_num_threads()


def test_the_files_of_a_checkpoint_name_no_device(tmp_path: Path, smoke: Smoke) -> None:
    """safetensors has names, types and shapes alone, so that every checkpoint is read on the CPU first."""
    assert train(smoke(*STEPS), tmp_path)
    (*_, path) = list_saved(tmp_path / "checkpoints")
    found = checkpoints.read(path)
    tensors = [*found.model.values(), *found.ema.values(), *found.tensors.values()]
    assert {tensor.device.type for tensor in tensors} == {"cpu"}
    assert not [name for name in path.iterdir() if b"cuda" in name.read_bytes()[:100_000]]


def apart(first: list[dict[str, Any]], second: list[dict[str, Any]], key: str) -> float:
    return max(abs(a[key] - b[key]) for a, b in zip(first, second, strict=True))


@pytest.fixture
def steps_of(smoke: Smoke) -> Iterator[Callable[..., list[dict[str, Any]]]]:
    """The first steps of a run; torch has its threads back afterwards."""
    threads = torch.get_num_threads()

    def steps(*settings: str) -> list[dict[str, Any]]:
        trainer = Trainer(smoke(*settings))
        return [trainer.train_step() for _ in range(5)]  # few: two threads on busy cores wait for each other

    yield steps
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_two_threads_give_the_numbers_of_one_within_the_documented_bounds(
    steps_of: Callable[..., list[dict[str, Any]]],
) -> None:
    one, two, again = (steps_of("train.device=cpu", f"train.threads={threads}") for threads in (1, 2, 1))
    assert one == again
    assert apart(one, two, "loss") <= LOSS
    assert apart(one, two, "grad_norm_before_clip") <= NORM
    # The bounds are narrow enough to tell a run from another one.
    other = steps_of("train.device=cpu", "train.threads=1", "train.seed=1")
    assert apart(one, other, "loss") > LOSS
    assert apart(one, other, "grad_norm_before_clip") > NORM


@pytest.mark.gpu
def test_a_run_goes_from_a_gpu_to_the_cpu(
    tmp_path: Path, smoke: Smoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = smoke(*STEPS)
    stopped_at(config, tmp_path / "moved", 4)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)  # `auto` takes the CPU now
    assert train(config, tmp_path / "moved", resume=True)
    assert train(config, tmp_path / "stayed")
    (change,) = read_record(tmp_path / "moved")["changes"]
    assert (change["step"], change["name"]) == (4, "device")
    assert (change["before"][:4], change["now"][:3]) == ("cuda", "cpu")
    moved, stayed = read_metrics(tmp_path / "moved"), read_metrics(tmp_path / "stayed")
    assert apart(moved, stayed, "loss") <= LOSS
    assert apart(moved, stayed, "grad_norm_before_clip") <= NORM


@pytest.mark.gpu
def test_a_gpu_gives_its_own_bits_again_and_the_cpu_s_numbers_within_the_documented_bounds(
    steps_of: Callable[..., list[dict[str, Any]]],
) -> None:
    first, again, cpu = (steps_of(f"train.device={name}") for name in ("cuda", "cuda", "cpu"))
    assert first == again
    assert apart(first, cpu, "loss") <= LOSS
    assert apart(first, cpu, "grad_norm_before_clip") <= NORM
