"""Runs all of the release test, and makes its tables."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import torch

from etrm.atomic_files import write_atomically
from tests.diagnostics.release.etrm_smoke import EtrmSubject
from tests.diagnostics.release.faults import FAULTS, Fault
from tests.diagnostics.release.kept import FOLDER, ROOT, Kept, Outcome, Task, code_hash
from tests.diagnostics.release.subject import Subject
from tests.diagnostics.release.toy import ToySubject
from tests.diagnostics.release.unlisted import UNLISTED

FAMILIES: dict[str, Callable[..., Subject]] = {"toy": ToySubject, "ETRM": EtrmSubject}
KNOWN = {fault.id: fault for fault in (*FAULTS, *UNLISTED)}
Cases = dict[str, list[tuple[str, int]]]
Judge = Callable[[Task], Outcome]
LISTED: Cases = {
    "toy, development": [("toy", seed) for seed in (0, 1, 2)],
    "toy, held out": [("toy", seed) for seed in (6, 7, 8)],
    "ETRM, development": [("ETRM", seed) for seed in (0, 1, 2, 3, 4, 8)],
    "ETRM, held out": [("ETRM", seed) for seed in (10, 11, 12, 13, 14)],
}
OTHERS: Cases = {"both families": [("toy", 0), ("toy", 6), ("ETRM", 0), ("ETRM", 10)]}


def judge(task: Task) -> Outcome:
    """One run, on one thread."""
    fault, family, seed = task
    torch.set_num_threads(1)
    verdict = KNOWN[fault].run(FAMILIES[family], seed)
    said = [
        f"{each.severity.label} {each.rule} {each.module} [{each.code}]: {each.message}"
        for each in verdict.findings
    ]
    return Outcome(verdict.named, verdict.others, tuple(said))


def run(
    faults: Iterable[Fault], columns: Cases, kept: Kept, pool: Executor, answer: Judge = judge
) -> dict[Task, Outcome]:
    """Every fault on every family and seed; what was kept is not run again."""
    cases = dict.fromkeys(case for column in columns.values() for case in column)
    tasks = [(fault.id, family, seed) for family, seed in cases for fault in faults]
    outcomes = {task: outcome for task in tasks if (outcome := kept.get(task)) is not None}
    running = {pool.submit(_kept, kept, answer, task): task for task in tasks if task not in outcomes}
    return outcomes | {running[done]: done.result() for done in as_completed(running)}


def _kept(kept: Kept, answer: Judge, task: Task) -> Outcome:
    """Where the run is: what it found outlives the process that asked for it."""
    outcome = answer(task)
    kept.put(task, outcome)
    print(*task, "named" if outcome.named else "MISSED", *outcome.others, flush=True, file=sys.stderr)  # noqa: T201
    return outcome


def table(faults: Sequence[Fault], columns: Cases, outcomes: dict[Task, Outcome]) -> str:
    """A line per fault: runs in which it was named, of how many, and what else was said."""
    heads = ("id", "fault", "expected", *columns, "also named")
    lines = [heads, ["---"] * len(heads)]
    for fault in faults:
        cells = []
        extra_counts: Counter[str] = Counter()
        for cases in columns.values():
            seen = [outcomes[fault.id, family, seed] for family, seed in cases]
            cells.append(f"{sum(outcome.named for outcome in seen)}/{len(seen)}")
            extra_counts.update(other for outcome in seen for other in outcome.others)
        extra = ", ".join(f"{what} ({times})" for what, times in extra_counts.most_common()) or "nothing"
        lines.append([fault.id, fault.what, _wanted(fault), *cells, extra])
    return "\n".join(f"|{'|'.join(line)}|" for line in lines) + "\n"


def exceptions(faults: Sequence[Fault], columns: Cases, outcomes: dict[Task, Outcome]) -> str:
    """The ids of the faults that were named, alone, in every run, and a table of the others."""
    clean, rest = [], []
    for fault in faults:
        seen = [outcomes[fault.id, *case] for cases in columns.values() for case in cases]
        (clean if all(each.named and not each.others for each in seen) else rest).append(fault)
    listed = ", ".join(fault.id for fault in clean)
    return f"As expected in every run: {listed}.\n\n{table(rest, columns, outcomes)}"


def _wanted(fault: Fault) -> str:
    if fault.said is None:
        return "nothing"
    where = f"{fault.said.rule} {fault.said.module or 'whole model'}"
    return f"{where}, {fault.said.code}" if fault.said.code else where


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
    return "\n".join(f"|{'|'.join(line)}|" for line in lines) + "\n"


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
    parser.add_argument(
        "--write", action="store_true", help="renew docs/results/release-test.md and the README"
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--case", type=_case, action="append", help="FAMILY:SEED, for a look at a single one")
    options = parser.parse_args()
    if options.write and options.case:
        parser.error("--write renews the tables of all cases; leave --case out")
    columns = {f"{family}, seed {seed}": [(family, seed)] for family, seed in options.case or ()}
    kept = Kept(FOLDER / code_hash())
    listed, others = columns or LISTED, columns or OTHERS
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        planted = run(FAULTS, listed, kept, pool)
        beyond = run(UNLISTED, others, kept, pool)
    page = ROOT / "docs" / "results" / "release-test.md"
    for path, part, text in (
        (page, "listed", table(FAULTS, listed, planted)),
        (ROOT / "README.md", "summary", summary(listed, planted)),
        (page, "others", exceptions(UNLISTED, others, beyond)),
    ):
        print(text)  # noqa: T201
        if options.write:
            renew(path, part, text)


def _case(text: str) -> tuple[str, int]:
    family, _, seed = text.partition(":")
    if family not in FAMILIES or not seed.isdecimal():
        raise argparse.ArgumentTypeError(f"FAMILY:SEED with one of {', '.join(FAMILIES)}, found {text!r}")
    return family, int(seed)
