"""Runs all of the release test, and makes its tables."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch

from etrm.files import write_atomically
from tests.diagnostics.release.etrm_smoke import EtrmSubject
from tests.diagnostics.release.faults import FAULTS, Fault
from tests.diagnostics.release.subject import Subject
from tests.diagnostics.release.toy import ToySubject
from tests.diagnostics.release.unlisted import UNLISTED

ROOT = Path(__file__).parents[3]
FAMILIES: dict[str, Callable[..., Subject]] = {"toy": ToySubject, "ETRM": EtrmSubject}
KNOWN = {fault.id: fault for fault in (*FAULTS, *UNLISTED)}
Cases = dict[str, list[tuple[str, int]]]
LISTED: Cases = {
    "toy, development": [("toy", seed) for seed in (0, 1, 2)],
    "toy, held out": [("toy", seed) for seed in (3, 4, 5)],
    "ETRM, held out": [("ETRM", seed) for seed in (5, 6, 7, 8, 9)],
}
OTHERS: Cases = {
    "toy, development": [("toy", 0)],
    "toy, held out": [("toy", 3)],
    "ETRM, held out": [("ETRM", 5)],
}


@dataclass(frozen=True)
class Outcome:
    """What was said in one run: whether the right thing, and what else above a note."""

    named: bool
    others: tuple[str, ...]


Task = tuple[str, str, int]
"""Fault, family, seed."""


def judge(task: Task) -> Outcome:
    """One run, on one thread."""
    fault, family, seed = task
    torch.set_num_threads(1)
    verdict = KNOWN[fault].run(FAMILIES[family], seed)
    print(*task, "named" if verdict.named else "MISSED", *verdict.others, flush=True, file=sys.stderr)  # noqa: T201
    return Outcome(verdict.named, verdict.others)


def run(faults: Iterable[Fault], columns: Cases, processes: int) -> dict[Task, Outcome]:
    """Every fault on every family and seed."""
    cases = [case for column in columns.values() for case in column]
    tasks = [(fault.id, family, seed) for family, seed in cases for fault in faults]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        return dict(zip(tasks, pool.map(judge, tasks), strict=True))


def table(faults: Sequence[Fault], columns: Cases, outcomes: dict[Task, Outcome]) -> str:
    """A line per fault: runs in which it was named, of how many, and what else was said."""
    heads = ("id", "fault", "must say", *columns, "said beside it")
    lines = [heads, ["---"] * len(heads)]
    for fault in faults:
        cells = []
        beside: Counter[str] = Counter()
        for cases in columns.values():
            seen = [outcomes[fault.id, family, seed] for family, seed in cases]
            cells.append(f"{sum(outcome.named for outcome in seen)} of {len(seen)}")
            beside.update(other for outcome in seen for other in outcome.others)
        extra = ", ".join(f"{what} ({times})" for what, times in beside.most_common()) or "nothing"
        lines.append([fault.id, fault.what, _wanted(fault), *cells, extra])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _wanted(fault: Fault) -> str:
    if fault.said is None:
        return "nothing"
    where = f"{fault.said.rule} {fault.said.module or 'whole model'}"
    return f"{where}, {fault.said.cause}" if fault.said.cause else where


def summary(columns: Cases, outcomes: dict[Task, Outcome]) -> str:
    """The README's table: faults named and runs with anything else said, by column."""
    lines = [["", "faults named", "runs with another finding", "findings on healthy runs"], ["---"] * 4]
    planted = [fault.id for fault in FAULTS if fault.said]
    healthy = [fault.id for fault in FAULTS if not fault.said]
    for column, cases in columns.items():
        runs = [outcomes[fault, family, seed] for fault in planted for family, seed in cases]
        quiet = [outcomes[fault, family, seed] for fault in healthy for family, seed in cases]
        lines.append(
            [
                f"{column} ({len(cases)} seeds)",
                f"{sum(outcome.named for outcome in runs)} of {len(runs)}",
                f"{sum(bool(outcome.others) for outcome in runs)}",
                f"{sum(len(outcome.others) for outcome in quiet)}",
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def renew(path: Path, part: str, text: str) -> None:
    """Put a text between the markers of a part.

    Raises:
        ValueError: The file has no such markers.
    """
    start, end = f"<!-- release test: {part} -->", f"<!-- end of {part} -->"
    before, found, rest = path.read_text(encoding="utf-8").partition(start)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise ValueError(f"{path} has no {start} with {end} behind it")
    write_atomically(path, f"{before}{start}\n\n{text}\n{end}{after}")


def main() -> None:
    """Run everything, print the tables, and with --write renew the documents."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.diagnostics.release", description="The release test."
    )
    parser.add_argument("--write", action="store_true", help="renew docs/release-test.md and the README")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--part", choices=["listed", "others"], action="append", help="both by default")
    parser.add_argument("--seeds", type=int, default=9, help="at most so many of each column")
    options = parser.parse_args()
    listed, others = (
        {name: cases[: options.seeds] for name, cases in columns.items()} for columns in (LISTED, OTHERS)
    )
    parts = options.part or ["listed", "others"]
    page = ROOT / "docs" / "release-test.md"
    made = []
    if "listed" in parts:
        outcomes = run(FAULTS, listed, options.processes)
        made.append((page, "listed", table(FAULTS, listed, outcomes)))
        made.append((ROOT / "README.md", "summary", summary(listed, outcomes)))
    if "others" in parts:
        made.append((page, "others", table(UNLISTED, others, run(UNLISTED, others, options.processes))))
    for path, part, text in made:
        print(text)  # noqa: T201
        if options.write:
            renew(path, part, text)
