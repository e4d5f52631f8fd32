"""Train several arms at once on one device, and then only the best: ``python -m benchmarks.family --out FOLDER``."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.family.curve import draw_curve
from benchmarks.family.device_episodes import NAMES, HeldOut, find_held_out
from benchmarks.family.learner import FamilyArm
from benchmarks.family.training import Budget, finish, load_evaluation, train_arm
from etrm.atomic_files import write_atomically

BASE = FamilyArm(tokens=True, absolute=True, cells=True)
ARMS = {
    "base": BASE,
    "pooled": replace(BASE, tokens=False),
    "sequence": replace(BASE, cells=False),
    "relative": replace(BASE, absolute=False),
    "easy": replace(BASE, easy_first=True),
    "labelled": replace(BASE, labelled=True),
    "tiny": FamilyArm(hidden=32, layers=1, context=2, labelled=True),
    "small": replace(BASE, hidden=64, layers=2, context=8, lr=2e-3),
}
"""The arms by name; ``tiny`` is for tests, ``small`` for a processor."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Train one arm, or let several compete."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.family", description="Train on the whole rule family."
    )
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--arm", action="append", choices=ARMS)
    task.add_argument("--draw", type=Path, help="train nothing; draw the lines of an arm as the PNG --out")
    parser.add_argument("--out", type=Path, required=True, help="folder of the lines and the weights")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--seconds", type=float, default=420.0, help="of the arm that is trained to the end")
    parser.add_argument(
        "--first", type=float, default=120.0, help="seconds after which only the best arm continues"
    )
    parser.add_argument("--rows", type=int, default=128, help="tasks per side and step")
    parser.add_argument("--candidates", type=int, default=32_768)
    parser.add_argument("--every", type=float, default=15.0, help="seconds between evaluations")
    parser.add_argument("--tasks", type=int, default=2000, help="held-out tasks")
    parser.add_argument("--kinds", default=",".join(NAMES), help="combinations of parts that are trained on")
    parser.add_argument(
        "--held", type=Path, help="what find_held_out returned, as npz; computed if it is not given"
    )
    given = parser.parse_args(arguments)
    if given.draw:
        write_atomically(given.out, draw_curve(read_lines(given.draw)))
        return
    if unknown := sorted(set(given.kinds.split(",")) - set(NAMES)):
        parser.error(f"--kinds: no combination {', '.join(map(repr, unknown))}; there are {', '.join(NAMES)}")
    if earlier := [name for name in given.arm if (given.out / f"{name}.jsonl").exists()]:
        parser.error(f"--out: {given.out} has lines of {', '.join(earlier)} already; give another folder")
    given.out.mkdir(parents=True, exist_ok=True)
    if len(given.arm) == 1:
        run_one(given)
    else:
        compete(given, list(arguments if arguments is not None else sys.argv[1:]))


def run_one(given: argparse.Namespace) -> None:
    """Train one arm in this process."""
    (name,) = given.arm
    device = torch.device(given.device)
    arrays = dict(np.load(given.held)) if given.held else find_held_out()
    tasks = load_evaluation(given.tasks, device)
    chosen = given.kinds.split(",")
    wanted = torch.tensor([1.0 if kind in chosen else 1e-9 for kind in NAMES], device=device)
    budget = Budget(given.seconds, given.rows, given.candidates, given.every)
    out, stop = given.out / f"{name}.jsonl", given.out / f"{name}.stop"
    step = train_arm(name, ARMS[name], budget, HeldOut.load(arrays, device), tasks, out, wanted, stop.exists)
    if not stop.exists():
        finish(name, step, tasks, out)


def compete(given: argparse.Namespace, arguments: list[str]) -> None:
    """Train every arm in a process of its own, and after some time only that with the lowest held-out loss.

    Raises:
        SystemExit: the process of an arm failed.
    """
    if given.held is None:
        given.held = given.out / "held.npz"
        found = find_held_out()
        np.savez(given.held, keys=found["keys"], bits=found["bits"])
        arguments = [*arguments, "--held", str(given.held)]
    shared = [text for i, text in enumerate(arguments) if text != "--arm" and arguments[i - 1] != "--arm"]
    running = {
        name: subprocess.Popen([sys.executable, "-m", "benchmarks.family", *shared, "--arm", name])
        for name in given.arm
    }
    while True:
        time.sleep(0.5)
        lines = {name: read_lines(given.out / f"{name}.jsonl") for name in running}
        alive = [name for name, process in running.items() if process.poll() is None]
        if not alive or all(lines[name] and lines[name][-1].get("t", 0) >= given.first for name in alive):
            break
    best = min(alive, key=lambda name: lines[name][-1]["raw"]["loss"], default=None)
    for name in alive:
        if name != best:
            write_atomically(given.out / f"{name}.stop", b"")
    sys.stdout.write(json.dumps({"best": best, "of": {n: lines[n][-1]["raw"]["loss"] for n in alive}}) + "\n")
    if failed := [name for name, process in running.items() if process.wait()]:
        raise SystemExit(f"failed: {', '.join(failed)}")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read the whole lines of a file that another process writes."""
    if not path.exists():
        return []
    return [
        json.loads(line) for line in path.read_text("utf-8").splitlines(keepends=True) if line.endswith("\n")
    ]


if __name__ == "__main__":
    main()
