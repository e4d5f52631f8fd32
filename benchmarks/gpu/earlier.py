"""The same runs with the code of an earlier commit, and the model written in the obvious way, as bases of ratios."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import earlier_steps
from benchmarks.gpu.runs import PAPER, TINY
from benchmarks.performance.model.plain import LADDER, plain_copy
from benchmarks.performance.model.workload import (
    PUBLISHED,
    Batches,
    TrainingStep,
    build_model,
    encode_padded,
    load_real_tasks,
    make_config,
)
from benchmarks.performance.timing import Contender, Work, take_turns
from etrm.config import SIDE, Config

COMMIT = "aa7834e"
"""The first state that was measured on a GPU."""
FOLDER = "ETRM_EARLIER_CODE"
"""The environment variable with a folder of its files, for a machine without the repository."""
ROOT = Path(__file__).parents[2]


def measure_earlier(config: Config, seconds: float) -> dict[str, Any]:
    """Time the steps of a config with the earlier code.

    Returns:
        numbers by the names of :func:`benchmarks.gpu.stepping.measure_steps`, as far as they are measured.
    """
    with tempfile.TemporaryDirectory() as made:
        folder = Path(os.environ.get(FOLDER) or extract_commit(Path(made)))
        return run_steps(config, seconds, folder)


def run_steps(config: Config, seconds: float, folder: Path) -> dict[str, Any]:
    """Time the steps of a config with the code of a folder, in a process of its own."""
    given = {"settings": config.model_dump(mode="json"), "seconds": seconds}
    environment = os.environ | {"PYTHONPATH": str(folder.absolute())}
    printed = subprocess.run(
        [sys.executable, "-P", earlier_steps.__file__],
        input=json.dumps(given),
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    found: dict[str, Any] = json.loads(printed.splitlines()[-1])
    if Path(found["code"]).resolve() != folder.resolve():
        raise RuntimeError(f"the code of {found['code']} was measured, not that of {folder}")
    return found


def extract_commit(folder: Path, commit: str = COMMIT) -> Path:
    """Write the packages of a commit of this repository into a folder, and return it."""
    archive = subprocess.run(
        ["git", "archive", commit, "etrm", "diagnostics"], cwd=ROOT, check=True, stdout=subprocess.PIPE
    ).stdout
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True)
    return folder


def compare_plain(device: torch.device, rows: int = 4, turns: int = 5) -> dict[str, Any]:
    """Time steps of plain layers and of ours at paper size in bfloat16, on the whole canvas with ten padded pairs.

    Returns:
        by name the ``seconds`` of a step in each turn; the names after the first two are ours.
    """
    tiny = device.type == "cpu"
    changes: Mapping[str, Any] = TINY if tiny else PAPER
    config = make_config(data=PUBLISHED, model=changes["model"], train={"batch_size": 1 if tiny else rows})
    tasks = load_real_tasks()
    plain = [
        (name, plain_copy(build_model(config, device), SIDE, ways), True)
        for name, ways in (LADDER[1:2] if tiny else LADDER[:2])
    ]
    padded = build_model(config, device)
    padded.context_policy = encode_padded
    models = [*plain, ("ours, padded pairs", padded, True), ("ours", build_model(config, device), False)]

    def contender(name: str, model: Any, pad: bool) -> Contender:
        step = TrainingStep(config, model, None if name.startswith("ours") else model)
        batches = Batches(config, tasks, device, padded=pad)

        def prepare() -> Work:
            batch = batches.next()

            def work() -> None:
                with torch.autocast(device.type, torch.bfloat16, enabled=not tiny):
                    step(batch)

            return work

        return Contender(name, prepare)

    timings = take_turns([contender(*each) for each in models], 1 if tiny else turns, device)
    return {timing.name: {"rows": config.train.batch_size, "seconds": timing.seconds} for timing in timings}
