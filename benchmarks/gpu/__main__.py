"""The command line: every case in a process of its own, so that one that fails or hangs costs only itself."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.cases import CASES
from benchmarks.gpu.kept_lines import build_section
from benchmarks.performance.document import describe_machine, keep
from benchmarks.performance.registry import PARTS
from benchmarks.performance.section import Benchmark
from benchmarks.performance.training.earlier import COMMIT, FOLDER
from etrm.checkpoints.run_folder import describe_environment

SHORTEST = 10.0
"""Seconds in which no case ends, because torch is imported and a run is set up first."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the chosen cases; a line of JSON for each."""
    names = [case.name for case in CASES]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description="What training costs on a GPU."
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--only", action="append", choices=names, help="a case; may be given again")
    parser.add_argument(
        "--seconds", type=float, default=570, help="time of all cases, after which none begins (570)"
    )
    parser.add_argument(
        "--earlier", type=Path, help=f"folder of the files of commit {COMMIT}, instead of git"
    )
    parser.add_argument("--out", type=Path, help="file to which the lines are added")
    parser.add_argument(
        "--keep", type=Path, help="measure nothing; put lines of such a file into docs/results"
    )
    parser.add_argument(
        "--remark", action="append", default=[], help="a sentence about the conditions, with --keep"
    )
    parser.add_argument("--case", choices=names, help="measure one case in this process")
    given = parser.parse_args(arguments)
    if given.keep:
        keep_lines(given.keep, given.remark)
        return
    if given.case:
        case = next(case for case in CASES if case.name == given.case)
        sys.stdout.write(json.dumps(case.measure(torch.device(given.device))) + "\n")
        return
    if given.earlier:
        os.environ[FOLDER] = str(given.earlier)  # for the processes of the cases
    end = time.monotonic() + given.seconds
    chosen = [case for case in CASES if (case.name in given.only if given.only else case.default)]
    for case in chosen:
        left = end - time.monotonic()
        if left < SHORTEST:
            record: dict[str, Any] = {"case": case.name, "failed": "the time was over"}
        else:
            record = run_case(case.name, min(case.limit, left), given.device)
        line = json.dumps(record)
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
        if given.out:
            with given.out.open("a", encoding="utf-8") as file:
                file.write(line + "\n")


def keep_lines(path: Path, remarks: Sequence[str]) -> None:
    """Put the lines of a file into the document of benchmarks."""
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    section = build_section(lines, remarks)
    part = Benchmark("training", "Training steps: rows, kernels, waits", lambda conditions: section)
    names = [benchmark.name for benchmark in PARTS]
    keep(part, section, "cuda", lines[0]["conditions"], names)


def run_case(name: str, limit: float, device: str) -> dict[str, Any]:
    """Measure a case in a process of its own.

    Returns:
        its numbers under ``found``, or under ``failed`` the end of what it printed.
    """
    command = [sys.executable, "-m", "benchmarks.gpu", "--case", name, "--device", device]
    began, load = time.perf_counter(), os.getloadavg()[0]
    # A session of its own: what it starts, such as compilers, must not load the machine of the next case.
    with subprocess.Popen(
        command, text=True, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            printed, problems = process.communicate(timeout=limit)
            failed = f"exit code {process.returncode}" if process.returncode else None
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            printed, problems = process.communicate()
            failed = f"stopped after {limit:g} s"
        except BaseException:  # Ctrl-C does not reach another session
            os.killpg(process.pid, signal.SIGKILL)
            raise
    record: dict[str, Any] = {"case": name, "conditions": describe_machine(describe_environment(), load)}
    record["seconds"] = time.perf_counter() - began
    if failed:
        # The first lines too: a long trace of frames at the end may hide the error.
        return record | {
            "failed": failed,
            "printed": f"{problems[:2000]}\n...\n{problems[-2000:]}",
            "out": printed[-4000:],
        }
    return record | {"found": json.loads(printed.splitlines()[-1])}


if __name__ == "__main__":
    main()
