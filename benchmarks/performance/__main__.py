"""The command line of the bench."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

import torch
from rich.console import Console

from benchmarks.performance import document
from benchmarks.performance.registry import PARTS
from benchmarks.performance.section import Conditions
from etrm.checkpoints.run_folder import describe_environment


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the chosen parts."""
    names = [part.name for part in PARTS]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.performance", description="How fast, and why."
    )
    parser.add_argument("--only", action="append", choices=names, help="a part; may be given again")
    parser.add_argument("--repetitions", type=int, help="turns of everything; each part's own by default")
    parser.add_argument("--threads", type=int, help="threads of torch; its own choice by default")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--write", action="store_true", help="keep the results in docs/results/benchmarks.md")
    parser.add_argument(
        "--kept", action="store_true", help="measure nothing; print the results that were kept"
    )
    given = parser.parse_args(arguments)
    for name, count in (("repetitions", given.repetitions), ("threads", given.threads)):
        if count is not None and count < 1:
            parser.error(f"--{name}: {count} is below 1")
    if given.threads is not None:
        torch.set_num_threads(given.threads)
    found = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(found if given.device == "auto" else given.device)
    record = describe_environment()  # before the first result is written into the tree
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    if given.kept:
        document.show_kept(console)
        return
    for part in PARTS:
        if given.only and part.name not in given.only:
            continue
        load = os.getloadavg()[0]
        section = part.run(Conditions(device, given.repetitions or part.repetitions))
        conditions = document.describe_machine(record, load)
        document.show(console, part.question, section, conditions)
        if given.write:
            document.keep(part, section, device.type, conditions, names)


if __name__ == "__main__":
    main()
