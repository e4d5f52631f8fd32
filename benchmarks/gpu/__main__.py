"""The command line: every case in a process of its own, so that one that fails or hangs costs only itself."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.cases import CASES
from benchmarks.performance.document import describe_machine
from etrm.checkpoints.run_folder import describe_environment


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the chosen cases; a line of JSON for each."""
    names = [case.name for case in CASES]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description="What training costs on a GPU."
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--only", action="append", choices=names, help="a case; may be given again")
    parser.add_argument("--out", type=Path, help="file to which the lines are added")
    parser.add_argument("--case", choices=names, help="measure one case in this process")
    given = parser.parse_args(arguments)
    if given.case:
        case = next(case for case in CASES if case.name == given.case)
        sys.stdout.write(json.dumps(case.measure(torch.device(given.device))) + "\n")
        return
    chosen = [case for case in CASES if (case.name in given.only if given.only else case.default)]
    for case in chosen:
        line = json.dumps(run_case(case.name, case.limit, given.device))
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
        if given.out:
            with given.out.open("a", encoding="utf-8") as file:
                file.write(line + "\n")


def run_case(name: str, limit: float, device: str) -> dict[str, Any]:
    """Measure a case in a process of its own.

    Returns:
        its numbers under ``found``, or under ``failed`` the end of what it printed.
    """
    command = [sys.executable, "-m", "benchmarks.gpu", "--case", name, "--device", device]
    began = time.perf_counter()
    record: dict[str, Any] = {"case": name, "conditions": describe_machine(describe_environment(), 0.0)}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired as stopped:
        printed = stopped.stderr.decode(errors="replace") if isinstance(stopped.stderr, bytes) else ""
        return record | {"failed": f"stopped after {limit:g} s", "printed": printed[-2000:]}
    record["seconds"] = time.perf_counter() - began
    if done.returncode:
        return record | {"failed": f"exit code {done.returncode}", "printed": done.stderr[-3000:]}
    return record | {"found": json.loads(done.stdout.splitlines()[-1])}


if __name__ == "__main__":
    main()
