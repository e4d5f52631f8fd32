"""Plant every defect in a commit and print which test catches it; about half an hour of one core.

python -m benchmarks.mutation --commit HEAD --out head.json
python -m benchmarks.mutation --table before.json after.json
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.mutation.defects import DEFECTS
from benchmarks.mutation.run import checkout, plant
from etrm.atomic_files import write_atomically
from tests.affected import Imports


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutation")
    parser.add_argument("--commit", default="HEAD", help="the commit whose tests are tried")
    parser.add_argument(
        "--out", type=Path, help="where the outcomes are kept; defects in it are not planted again"
    )
    parser.add_argument("--only", help="the defects whose name contains this text")
    parser.add_argument("--limit", type=float, default=300, help="seconds of tests for one defect")
    parser.add_argument(
        "--table", nargs=2, type=Path, help="print two files of outcomes as one table instead"
    )
    options = parser.parse_args()
    if options.table:
        print(table(*(json.loads(path.read_text("utf-8")) for path in options.table)))
        return
    found = json.loads(options.out.read_text("utf-8")) if options.out and options.out.exists() else []
    known = {outcome["defect"] for outcome in found}
    with checkout(options.commit) as root:
        imports = Imports(root)
        for defect in DEFECTS:
            if defect.name in known or (options.only and options.only not in defect.name):
                continue
            outcome = plant(defect, imports, options.limit)
            print(
                f"{outcome.state:15} {outcome.seconds:6.0f} s  {outcome.defect}  {outcome.test}", flush=True
            )
            found.append(asdict(outcome))
            if options.out:
                write_atomically(options.out, json.dumps(found, indent=1) + "\n")
    print(dict(Counter(outcome["state"] for outcome in found)))


def table(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> str:
    """Two lists of outcomes side by side, as markdown."""
    earlier = {outcome["defect"]: outcome["state"] for outcome in before}
    lines = ["| area | defect | before | after | caught by |", "|---|---|---|---|---|"]
    for outcome in after:
        test = f"`{outcome['test']}`" if outcome["test"] else ""
        states = f"{earlier.get(outcome['defect'], '')} | {outcome['state']}"
        lines.append(f"| {outcome['area']} | {outcome['defect']} | {states} | {test} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
