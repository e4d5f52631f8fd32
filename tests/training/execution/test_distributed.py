"""One process and two real ones train the same runs; what they leave is compared."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from etrm.checkpoints import format as checkpoints
from etrm.checkpoints.run_folder import read_config, read_metrics
from etrm.checkpoints.saved_steps import list_saved
from etrm.errors import ConfigError
from etrm.training.execution.distributed import LaunchedWorld
from etrm.training.trainer import Trainer, train
from tests.errors import assert_holds, raises_code
from tests.forked import forking
from tests.training.execution.world_script import Scenarios, train_all, train_as, wait_as

ROOT = Path(__file__).parents[3]
HELD = "model.halt.exploration=0.5"
SLOW = "train.lr=1e-4"  # the first steps of these optimisers have the size of the rate, whatever the gradient
SCENARIOS: Scenarios = {
    "etrm": ((HELD,), 6),
    "adam_atan2 and no clipping": (("train.optimizer=adam_atan2", "train.clip_norm=none"), 3),
    "parts": ((HELD, "train.accumulate=2"), 6),
    "trm": (("model.variant=trm", "data.augmentations=2", HELD), 5),
    "cached, frozen decoder": (("model.variant=etrm_cached", "train.freeze_decoder_steps=3", HELD), 6),
    "cached, variational": (("model.variant=etrm_cached", "model.encoder.kind=lpn_variational", HELD), 5),
    "fixed time, frozen encoder": (("model.variant=etrm_fct", "train.freeze_encoder_steps=2"), 4),
    "lpn_variational in parts": (
        ("model.encoder.kind=lpn_variational", "train.kl_weight=0.1", "train.accumulate=2"),
        4,
    ),
    "hybrid_variational": (("model.encoder.kind=hybrid_variational", "train.kl_weight=0.1"), 4),
    "recurrent": (("model.encoder.kind=recurrent", HELD), 5),
    "curriculum": (
        (
            "data.source=rules:recolour",
            "data.max_tasks=40",
            "data.max_side=6",
            "data.augmentations=1",
            "evaluate.source=rules:recolour",
            "evaluate.max_tasks=2",
            "evaluate.augmentations=1",
            "data.curriculum=[[4, 2], [6, 4]]",
            "data.replay=0.5",
            "train.steps=6",
        ),
        6,
    ),
    "trm_style": (("model.encoder.kind=trm_style", HELD), 5),
}


def free_port() -> int:
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def start(command: list[str], size: int) -> list[subprocess.Popen[str]]:
    """The command in ``size`` processes that know of each other."""
    port = str(free_port())
    return [
        subprocess.Popen(
            command,
            cwd=ROOT,
            text=True,
            stderr=subprocess.PIPE,
            env=os.environ
            | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
            | {
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
                "OMP_NUM_THREADS": "1",
                "PYTHONPATH": str(ROOT),
            },
        )
        for rank in range(size)
    ]


Outcome = dict[str, Any]
Outcomes = Callable[[str], tuple[Outcome, ...]]
LONGER = (
    "adam_atan2 and no clipping",
    "cached, variational",
    "fixed time, frozen encoder",
    "hybrid_variational",
    "recurrent",
    "trm_style",
)
"""What differs little from another scenario, and is left to `make test-slow`."""
EACH = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if name in LONGER else []) for name in SCENARIOS],
)


@pytest.fixture(scope="module")
def outcomes(
    tmp_path_factory: pytest.TempPathFactory, settings_of_smoke: Callable[..., tuple[str, ...]]
) -> Outcomes:
    """Of each scenario: one process, then the two of the run in two. Those of ``LONGER`` run if one is asked for."""

    @cache
    def run(longer: bool) -> dict[str, tuple[Outcome, ...]]:
        scenarios = {
            name: (settings_of_smoke(SLOW, *settings), steps)
            for name, (settings, steps) in SCENARIOS.items()
            if (name in LONGER) == longer
        }
        return run_in_processes(tmp_path_factory.mktemp("world"), scenarios)

    return lambda name: run(name in LONGER)[name]


def run_in_processes(folder: Path, scenarios: Scenarios) -> dict[str, tuple[Outcome, ...]]:
    port = free_port()
    two = [forking().Process(target=train_as, args=(rank, 2, port, scenarios, folder)) for rank in range(2)]
    for process in two:
        process.start()
    train_all(scenarios, folder)
    for process in two:
        process.join()
        assert process.exitcode == 0
    found = [torch.load(folder / f"{name}.pt", weights_only=False) for name in ("1-0", "2-0", "2-1")]
    return {name: tuple(part[name] for part in found) for name in scenarios}


def assert_close(first: Any, second: Any, where: str, relative: float = 1e-3) -> None:
    """The same to the rounding of float32, whatever they are nested in; it grows from step to step."""
    if isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            assert_close(first[key], second[key], f"{where}.{key}", relative)
    elif isinstance(first, list):
        assert len(first) == len(second), where
        for place, (a, b) in enumerate(zip(first, second, strict=True)):
            assert_close(a, b, f"{where}[{place}]", relative)
    elif isinstance(first, torch.Tensor):
        torch.testing.assert_close(first, second, rtol=relative, atol=1e-5, msg=lambda m: f"{where}: {m}")
    elif isinstance(first, float):
        assert second == pytest.approx(first, rel=relative, abs=1e-6), where
    else:
        assert first == second, where


@EACH
def test_two_processes_give_the_numbers_of_one(outcomes: Outcomes, name: str) -> None:
    one, *two = outcomes(name)
    if "parts" in name:  # the output of a first call is that of a process's first part
        for metrics in (line for found in (one, *two) for line in found["metrics"]):
            for key in [key for key in metrics if ".output_" in key]:
                metrics.pop(key)
    for found in two:
        for what in ("metrics", "gradients", "weights", "average", "indices", "findings"):
            assert_close(one[what], found[what], what)
    # Gradients of one kind in the sum of all: a factor would be seen by no optimiser that divides by a norm.
    assert any(gradient.abs().max() > 1e-4 for gradient in one["gradients"][0].values())


@EACH
def test_replicas_are_bit_for_bit_the_same(outcomes: Outcomes, name: str) -> None:
    _, first, second = outcomes(name)
    for key, value in first["weights"].items():
        assert torch.equal(value, second["weights"][key]), key
    assert first["metrics"] == second["metrics"]


@EACH
def test_every_sample_is_drawn_once_by_the_process_that_has_its_row(outcomes: Outcomes, name: str) -> None:
    one, first, second = (found["drawn"] for found in outcomes(name))
    assert len(set(one)) == len(one)
    assert sorted([*first, *second]) == sorted(one)
    assert not set(first) & set(second)


OF_CALLS = ("calls", "calls_grad_enabled", "calls_with_gradient", "output_mean", "output_rms", "output_share")
"""What a module's calls are asked for: parts of a batch are calls of their own."""


def test_parts_of_a_batch_give_the_numbers_of_the_whole(
    outcomes: Outcomes,
) -> None:
    whole, parts = outcomes("etrm")[0], outcomes("parts")[0]
    for metrics in (*whole["metrics"], *parts["metrics"]):
        for name in OF_CALLS:
            for module in ("encoder", "core"):
                metrics.pop(f"{module}.{name}", None)
    for what in ("metrics", "gradients", "weights", "average", "drawn"):
        assert_close(whole[what], parts[what], what)


def test_a_batch_that_cannot_be_split_evenly_is_refused() -> None:
    with raises_code(ConfigError, "train.indivisible-batch", 5, 2):
        LaunchedWorld(0, 2).share(5)
    assert [LaunchedWorld(rank, 3).share(6) for rank in range(3)] == [range(2), range(2, 4), range(4, 6)]


@pytest.mark.slow
def test_the_others_wait_for_work_of_one_process_longer_than_for_silence() -> None:
    port = free_port()
    two = [forking().Process(target=wait_as, args=(rank, 2, port, 3.0)) for rank in range(2)]
    for process in two:
        process.start()
    for process in two:
        process.join()
        assert process.exitcode == 0


# -- one run on changing numbers of processes, and processes that end --------------------------------


def train_in(folder: Path, settings: tuple[str, ...], size: int, last: int) -> None:
    """Train, or go on, until the processes die right after a step (0: never)."""
    script = str(Path(__file__).with_name("dying_script.py"))
    for process in start([sys.executable, script, str(folder), json.dumps(settings), str(last)], size):
        _, errors = process.communicate()
        assert process.returncode == 0, errors


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["standard", "trm_style", "lpn_variational"])
def test_a_run_goes_on_on_another_number_of_processes(
    tmp_path: Path, settings_of_smoke: Callable[..., tuple[str, ...]], kind: str
) -> None:
    settings = settings_of_smoke(
        HELD, SLOW, "train.steps=14", "train.checkpoint_every=3", f"model.encoder.kind={kind}"
    )
    train_in(tmp_path / "whole", settings, 2, 0)
    for size, last in ((2, 4), (1, 8), (2, 0)):
        train_in(tmp_path / "moved", settings, size, last)
    whole, moved = (list_saved(tmp_path / name / "checkpoints")[-1] for name in ("whole", "moved"))
    uninterrupted, resumed = read_metrics(tmp_path / "whole"), read_metrics(tmp_path / "moved")
    assert uninterrupted[:3] == resumed[:3]  # until the first change of the number
    assert [m["loss"] for m in resumed] == pytest.approx([m["loss"] for m in uninterrupted], rel=1e-4)
    assert_close(uninterrupted, resumed, "metrics", 1e-2)
    first, second = checkpoints.read(whole), checkpoints.read(moved)
    assert first.step == second.step == 14
    assert first.state["slots"] == second.state["slots"]
    assert_close(first.model, second.model, "model")
    assert first.tensors.keys() == second.tensors.keys()
    for name, value in first.tensors.items():  # of size 1; the cycles of the core amplify rounding
        torch.testing.assert_close(value, second.tensors[name], rtol=1e-2, atol=2e-2, msg=name)


@pytest.mark.slow
def test_a_run_in_two_processes_that_died_and_was_resumed_leaves_the_same_bytes(
    tmp_path: Path,
    settings_of_smoke: Callable[..., tuple[str, ...]],
    run_bytes: Callable[[Path], dict[str, bytes]],
) -> None:
    settings = settings_of_smoke(HELD, "train.steps=12", "train.checkpoint_every=3")
    train_in(tmp_path / "whole", settings, 2, 0)
    for last in (1, 5, 6, 0):
        train_in(tmp_path / "resumed", settings, 2, last)
    assert run_bytes(tmp_path / "whole") == run_bytes(tmp_path / "resumed")


def torchrun(folder: Path, *more: str) -> subprocess.Popen[str]:
    """The command line on two processes, as docs/scale.md has it."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port"]
    return subprocess.Popen(
        [*launcher, str(free_port()), "-m", "cli", "train", "--out", str(folder), *more],
        cwd=ROOT,
        text=True,
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )


def new_run(settings: tuple[str, ...]) -> list[str]:
    return ["--preset", "smoke", *(word for setting in settings for word in ("--set", setting))]


def wait_for_steps(process: subprocess.Popen[str], folder: Path, steps: int) -> None:
    metrics = folder / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_bytes().count(b"\n") >= steps):
        if process.poll() is not None:
            raise AssertionError(f"ended before step {steps}: {process.communicate()[1]}")
        time.sleep(0.01)


def children(process: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


ENDLESS = ("train.steps=100000", "train.checkpoint_every=20")


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_killed_ends_the_others_with_a_message_and_the_run_goes_on_in_one(
    tmp_path: Path, settings_of_smoke: Callable[..., tuple[str, ...]], rank: int
) -> None:
    folder = tmp_path / "run"
    process = torchrun(folder, *new_run(settings_of_smoke(*ENDLESS)))
    wait_for_steps(process, folder, 25)
    os.kill(sorted(children(process.pid))[rank], signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert errors.count("process.ended") == 1
    assert_holds(errors, "process.ended", "--resume")

    def stop(trainer: Trainer, metrics: dict[str, Any]) -> None:
        if metrics["step"] >= 30:
            os.kill(os.getpid(), signal.SIGTERM)

    assert train(read_config(folder), folder, resume=True, on_step=stop) is False
    steps = [line["step"] for line in read_metrics(folder)]
    assert steps == list(range(1, len(steps) + 1))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_launcher_stops_all_after_the_same_step_and_keeps_a_checkpoint(
    tmp_path: Path, settings_of_smoke: Callable[..., tuple[str, ...]], number: signal.Signals
) -> None:
    folder = tmp_path / "run"
    process = torchrun(folder, *new_run(settings_of_smoke(*ENDLESS)))
    wait_for_steps(process, folder, 3)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert errors.count("stopped early") == 1
    newest = checkpoints.read(list_saved(folder / "checkpoints")[-1])
    assert newest.step == len(read_metrics(folder)) >= 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "code"),
    [
        ("train.batch_size=5", "train.indivisible-batch"),
        ("data.subset=evaluation", "data.leakage"),
        ("train.stepz=5", "config.unknown-setting"),
    ],
)
def test_an_error_that_all_processes_meet_is_told_once(
    tmp_path: Path, settings_of_smoke: Callable[..., tuple[str, ...]], setting: str, code: str
) -> None:
    command = [sys.executable, "-m", "cli", "train", "--out", str(tmp_path / "run")]
    ended = start([*command, *new_run(settings_of_smoke(setting))], 2)
    told = [process.communicate()[1] for process in ended]
    assert [process.returncode for process in ended] == [2, 2]
    assert "".join(told).count(code) == 1
    assert "Traceback" not in "".join(told)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("what", ["forward", "backward"])
def test_what_is_not_finite_on_one_process_stops_all_in_the_same_step(
    tmp_path: Path, settings_of_smoke: Callable[..., tuple[str, ...]], rank: int, what: str
) -> None:
    script = str(Path(__file__).with_name("spoiling_script.py"))
    folder = tmp_path / "run"
    settings = json.dumps(settings_of_smoke("train.steps=6", "train.checkpoint_every=2"))
    ended = start([sys.executable, script, str(folder), settings, str(rank), what], 2)
    kind = "loss" if what == "forward" else "gradient"
    for process in ended:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 2, errors
        assert_holds(errors, f"train.nonfinite-{kind}", "step 3", "core.lm_head")
    assert [line["step"] for line in read_metrics(folder)] == [1, 2]

    kept = folder / "nonfinite" / "step_00000003"
    report = json.loads((kept / "report.json").read_text())
    assert (report["step"], report["weights"]) == (3, [])
    origin = report["replay"]["origin"]
    assert (origin["phase"], origin["module"]) == (what, "core.lm_head")
    assert report["replay"]["rows"] == ([2 * rank, 2 * rank + 1] if what == "forward" else [])
    assert len(json.loads((kept / "samples.json").read_text())) == 4  # of both
    assert len(load_file(kept / "batch.safetensors")["inputs"]) == 4

    before = checkpoints.read(folder / "checkpoints" / "step_00000002").model
    for name in ("run-0.pt", "run-1.pt"):  # neither has applied anything
        now = torch.load(tmp_path / name)
        assert all(torch.equal(value, before[key]) for key, value in now.items())
    assert all(
        torch.equal(value, before[key])
        for key, value in checkpoints.read(kept / report["state_before"]).model.items()
    )


# -- SLURM --------------------------------------------------------------------------------------------

FAKES = {
    "srun": 'shift; echo $$ > "$FAKE/step"; exec "$@"',
    "scancel": 'echo "$@" > "$FAKE/cancelled"; kill -TERM "$(cat "$FAKE/step")"',
    "scontrol": 'if [ "$1" = show ]; then echo localhost; else echo "$@" > "$FAKE/requeued"; fi',
}


@pytest.mark.slow
def test_the_slurm_script_stops_in_time_asks_to_be_queued_again_and_goes_on(
    tmp_path: Path, settings_of_smoke: Callable[..., tuple[str, ...]]
) -> None:
    """The script as it is, with the commands of SLURM replaced by the least that they do."""
    script = ROOT / "docs" / "slurm" / "train.sbatch"
    for name, body in FAKES.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    folder = tmp_path / "run"
    path = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    variables = {"SLURM_JOB_ID": str(free_port()), "SLURM_JOB_NODELIST": "localhost", "SLURM_NNODES": "1"}
    variables |= {"PATH": path, "FAKE": str(tmp_path), "RUN": str(folder), "PROCESSES_PER_NODE": "2"}
    variables |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def submit() -> subprocess.Popen[str]:
        words = new_run(settings_of_smoke("train.steps=150", "train.checkpoint_every=75", "monitor.every=50"))
        return subprocess.Popen(
            ["bash", str(script), *words],
            cwd=ROOT,
            text=True,
            stderr=subprocess.PIPE,
            env=os.environ | variables,
        )

    first = submit()
    wait_for_steps(first, folder, 3)
    first.send_signal(signal.SIGUSR1)
    _, errors = first.communicate(timeout=300)
    assert first.returncode == 0, errors
    assert (tmp_path / "cancelled").read_text().split() == [
        "--signal=TERM",
        f"{variables['SLURM_JOB_ID']}.0",
    ]
    assert (tmp_path / "requeued").read_text().split() == ["requeue", variables["SLURM_JOB_ID"]]
    done = len(read_metrics(folder))
    assert 3 <= done < 150
    (tmp_path / "requeued").unlink()
    second = submit()
    _, errors = second.communicate(timeout=300)
    assert second.returncode == 0, errors
    assert [line["step"] for line in read_metrics(folder)] == list(range(1, 151))
    assert not (tmp_path / "requeued").exists()
