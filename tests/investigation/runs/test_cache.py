"""What is kept is found again by all that its numbers depend on, and never on another device."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from etrm.checkpoints.run_folder import read_record
from etrm.config import load, with_settings
from etrm.device import pick_device
from etrm.errors import RunFolderError
from etrm.hardware import describe
from etrm.investigation.runs import cache
from etrm.investigation.runs import pretrained_decoder as pretrain
from etrm.investigation.runs.arms import ArmId
from etrm.investigation.runs.jobs import Job, is_finished, run_jobs
from etrm.investigation.runs.launchers import launcher
from etrm.investigation.runs.loaded_run import load_run
from tests.investigation.planted import inline

SMOKE = with_settings(load("smoke"), train={"threads": 1, "steps": 2, "warmup_steps": 1})
H100 = "cuda: NVIDIA H100"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETRM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes this machine's device another one, as far as anybody can tell."""
    return lambda name: monkeypatch.setattr("etrm.hardware.describe", lambda device: name)


def silent(done: int, total: int) -> None:
    """No progress."""


def test_the_device_is_resolved_and_named_by_its_hardware() -> None:
    assert SMOKE.train.device == "auto"
    found = cache.compute_of(with_settings(load("smoke"), train={"device": "cpu", "threads": 3}))
    assert found.device == describe(torch.device("cpu"))
    assert found.device.partition(": ")[0] == "cpu"
    assert found.device.partition(": ")[2]
    assert (found.precision, found.threads, found.torch) == ("float32", 3, torch.__version__)


def test_all_that_computes_a_run_is_in_its_key(
    on: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [cache.key(SMOKE)]
    assert cache.key(SMOKE) == keys[0]
    keys += [cache.key(with_settings(load("smoke"), train={"threads": 2}))]
    keys += [cache.key(SMOKE, "slurm slurm_partition=a"), cache.key(SMOKE, "slurm slurm_partition=b")]
    monkeypatch.setattr("torch.__version__", "0.0.1")
    keys += [cache.key(SMOKE)]
    on(H100)
    keys += [cache.key(SMOKE)]
    on("cuda: NVIDIA A100")
    keys += [cache.key(SMOKE)]
    assert len(set(keys)) == len(keys)


def test_settings_that_only_a_fault_changes_are_those_of_the_key() -> None:
    config = with_settings(load("smoke"), train={"threads": 1}, interventions=("train.threads=2",))
    assert cache.compute_of(config).threads == 2


def test_tasks_in_files_of_a_user_are_in_the_key(tmp_path: Path) -> None:
    config = with_settings(load("smoke"), data={"source": str(tmp_path)}, evaluate={"source": str(tmp_path)})

    def write(subset: str, colour: int) -> None:
        (tmp_path / subset).mkdir(exist_ok=True)
        pair = {"input": [[colour]], "output": [[0]]}
        (tmp_path / subset / f"{subset}.json").write_text(json.dumps({"train": [pair, pair], "test": [pair]}))

    write("training", 1)
    write("evaluation", 2)
    keys = [cache.key(config)]
    for subset, colour in (("training", 3), ("evaluation", 4)):
        write(subset, colour)
        keys.append(cache.key(config))
    assert len(set(keys)) == 3


def test_a_decoder_of_one_device_is_not_used_on_another(on: Callable[[str], None]) -> None:
    config = pretrain.trm_config(SMOKE, 2)
    on(H100)
    there = pretrain.pretrained(config, silent)
    assert pretrain.finished(config)
    on("cpu: a laptop")
    assert not pretrain.finished(config)
    here = pretrain.pretrained(config, silent)
    assert here != there
    assert [read_record(folder)["device"] for folder in (there, here)] == [H100, "cpu: a laptop"]
    assert not [folder for folder in (there, here) if "earlier" in read_record(folder)]


def test_a_kept_control_of_one_device_is_not_used_on_another(
    on: Callable[[str], None], tmp_path: Path
) -> None:
    devices = [H100, "cpu: a laptop", H100]
    for number, device in enumerate(devices):
        on(device)
        run_jobs(tmp_path / str(number), [Job(ArmId("arm"), 0, SMOKE, shared=True)], inline(), silent)
    runs = [load_run(tmp_path / str(number), ArmId("arm"), 0) for number in range(3)]
    assert [run and run.record.device for run in runs] == devices
    first, second, third = (
        (tmp_path / str(number) / "runs/arm/seed0/timing.jsonl").read_bytes() for number in range(3)
    )
    assert first == third != second  # seconds: the third is the first, taken from the cache


def test_a_kept_run_is_restored_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(ArmId("arm"), 0, SMOKE, shared=True)
    (first,) = run_jobs(tmp_path / "first", [job], inline(), silent).values()
    folder = tmp_path / "second" / job.folder
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("an earlier attempt")
    copy_whole = shutil.copytree

    def stop_halfway(source: Path, target: Path) -> None:
        target.mkdir()
        shutil.copy(source / "summary.json", target)
        raise KeyboardInterrupt

    monkeypatch.setattr("shutil.copytree", stop_halfway)
    with pytest.raises(KeyboardInterrupt):
        run_jobs(tmp_path / "second", [job], inline(), silent)
    assert not is_finished(tmp_path / "second", job)
    monkeypatch.setattr("shutil.copytree", copy_whole)
    (again,) = run_jobs(tmp_path / "second", [job], inline(), silent).values()
    assert (again.steps, again.metrics) == (2, first.metrics)
    assert [path.name for path in folder.parent.iterdir()] == ["seed0"]


def test_the_record_of_a_run_says_what_computed_it(tmp_path: Path) -> None:
    (run,) = run_jobs(tmp_path, [Job(ArmId("arm"), 0, SMOKE)], inline(), silent).values()
    here = describe(pick_device("auto"))
    assert (run.record.device, run.record.precision, run.record.threads) == (here, "float32", 1)
    assert run.record.changes == ()


def test_a_run_that_failed_before_it_began_says_nothing_of_a_device(tmp_path: Path) -> None:
    broken = with_settings(load("smoke"), train={"threads": 1, "decoder": "/nowhere/at/all"})
    (run,) = run_jobs(tmp_path, [Job(ArmId("arm"), 0, broken)], inline(), silent).values()
    assert (run.failed, run.record.device, run.record.precision, run.record.threads) == (
        True,
        None,
        None,
        None,
    )


def test_runs_of_another_device_are_refused_before_anything_runs(
    on: Callable[[str], None], tmp_path: Path
) -> None:
    on(H100)
    run_jobs(tmp_path, [Job(ArmId("arm"), 0, SMOKE)], inline(), silent)
    on("cpu: a laptop")
    with pytest.raises(RunFolderError) as caught:
        run_jobs(tmp_path, [Job(ArmId("new"), 0, SMOKE), Job(ArmId("arm"), 0, SMOKE)], inline(), silent)
    assert (caught.value.got, caught.value.allowed) == ("cpu: a laptop", H100)
    assert not (tmp_path / "runs" / "new").exists()


def test_a_cluster_is_another_place_and_its_nodes_are_not_compared_with_this_machine(
    on: Callable[[str], None], tmp_path: Path
) -> None:
    settings = ["timeout_min=60", "slurm_partition=gpu"]
    cluster = launcher("slurm", 1, settings)
    assert cluster.elsewhere == "slurm slurm_partition=gpu timeout_min=60"
    assert launcher("local", 1, settings).elsewhere == launcher("processes", 1).elsewhere == ""
    on(H100)
    run_jobs(tmp_path, [Job(ArmId("arm"), 0, SMOKE)], inline(), silent)
    on("cpu: a login node")
    nodes = replace(inline(), elsewhere=cluster.elsewhere)
    (run,) = run_jobs(tmp_path, [Job(ArmId("arm"), 0, SMOKE)], nodes, silent).values()
    assert run.record.device == H100
