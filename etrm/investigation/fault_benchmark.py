"""The benchmark of the investigation: inject a fault, investigate blind, and compare the root cause.

Every case is a whole investigation of a config that has a fault. Only this file knows which; the investigation receives
the config and has to find the fault by its effect.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from etrm.atomic_files import write_atomically
from etrm.config import Config, load, with_settings
from etrm.config.tree import Changes
from etrm.errors import OPERATING_ERRORS, ConfigError, EtrmError, Interrupted, ProcessError, RunFolderError
from etrm.evaluation import binomial_interval
from etrm.investigation.folder_claim import hold_folder, read_claim
from etrm.investigation.hypotheses.hypothesis_registry import all_hypotheses
from etrm.investigation.records import Verdict
from etrm.investigation.result import Result
from etrm.investigation.run import investigate
from etrm.investigation.runs.budget import Tier
from etrm.investigation.runs.cache import compute_of
from etrm.investigation.runs.code_version import judging_hash
from etrm.investigation.runs.jobs import ENDED_FROM_OUTSIDE
from etrm.investigation.runs.launchers import launcher
from etrm.investigation.session import Investigation
from etrm.process_pool import end_workers, start_workers
from etrm.training.faults import FAULTS

NOTHING = "none"
"""What is named of a healthy config, or of one whose fault belongs to no hypothesis."""
FAILED = "error"
"""What is named where the investigation itself failed."""
CASES = "cases.json"
TRAINED_AS_PUBLISHED: Changes = {
    "model": {
        "symbolic": {
            "selector": "demos",
            "pairwise": False,
            "cycle_grad": "last",
            "inject": "every_cycle",
        }
    }
}
"""Recursion as in the Tiny Recursive Model: early cycles have no gradient, and each one gets the encoding."""
HEALTHY: Mapping[str, Callable[[Config], Changes]] = {
    "healthy": lambda base: {},
    "healthy-frozen-decoder": lambda base: {
        "train": {"freeze_encoder_steps": 0, "freeze_decoder_steps": base.train.steps}
    },
    "healthy-trm": lambda base: {"model": {"variant": "trm"}, "data": {"augmentations": 1}},
}
"""Controls by name, with the changes that make them of the base config."""
HEALTHY_SYMBOLIC: Mapping[str, Changes] = {
    "healthy-symbolic": {},
    "healthy-symbolic-recursion": TRAINED_AS_PUBLISHED,
}
"""The same for the symbolic solver."""
SYMBOLIC_CASES: Changes = {
    "data": {"max_side": 4, "max_tasks": 2000},
    "model": {"symbolic": {"guards": 4}},
    "train": {"batch_size": 8},
}
"""Changes of the preset symbolic-rules with which a case takes seconds, also where a loop evaluates cell by cell."""

Progress = Callable[[str, int, int], None]
Key = TypeVar("Key")
Outcome = TypeVar("Outcome")


@dataclass(frozen=True)
class Case:
    """One injection.

    Attributes:
        fault: the name of the fault or of the control.
        seed: the first of the investigation's seeds.
        expected: the hypothesis that the fault belongs to, or none.
    """

    fault: str
    seed: int
    expected: str

    @property
    def folder(self) -> str:
        """Relative to the bench's folder."""
        return f"{self.fault}/seed{self.seed}"


@dataclass(frozen=True)
class CaseOutcome:
    """What an investigation named.

    Attributes:
        case: the injection.
        named: hypothesis, none, or that the investigation failed.
        confidence: proven or candidate, empty where nothing is named.
        sentence: the sentence on the root cause.
        seconds: the duration of the investigation on one worker.
        code: code of the error that ended the investigation (`etrm explain CODE`); empty where none did.
    """

    case: Case
    named: str
    confidence: str
    sentence: str
    seconds: float
    code: str = ""

    @property
    def right(self) -> bool:
        """Whether the root cause is the fault's."""
        return self.named == self.case.expected


@dataclass(frozen=True)
class Score:
    """Right of some cases, with the exact 95 % interval."""

    right: int
    cases: int

    @property
    def interval(self) -> tuple[float, float]:
        """Of the share."""
        return binomial_interval(self.right, self.cases)


def cases(base: Config, names: Sequence[str], seeds: int, per_case: int) -> list[Case]:
    """Every fault and control with each of its first seeds.

    Args:
        base: the healthy subject. If it is the symbolic solver, faults that act on other models alone are left out.
        names: the names of faults and controls; all of them if it is empty.
        seeds: cases of each.
        per_case: seeds of one investigation, so that no two cases share one.

    Raises:
        ConfigError: a name that is not known, or a fault that does not act on the base config.
    """
    recursive = base.model.recursive
    known = {
        name: fault.root_cause for name, fault in FAULTS.items() if recursive or fault.models != "recursive"
    }
    known |= dict.fromkeys((*(HEALTHY if recursive else ()), *HEALTHY_SYMBOLIC), NOTHING)
    for name in names:
        if name in FAULTS and name not in known:
            FAULTS[name].check(base)
        if name not in known:
            raise ConfigError(
                "fault.unknown", f"unknown fault {name!r}", allowed=", ".join(known), next_step="etrm faults"
            )
    chosen = {name: known[name] for name in names} if names else known
    ids = all_hypotheses()
    return [
        Case(name, per_case * seed, cause if cause in ids else NOTHING)
        for seed in range(seeds)
        for name, cause in chosen.items()
    ]


def subject_of(case: Case, base: Config) -> Config:
    """The config that is investigated; that of a fault of the symbolic solver has this solver as its model."""
    if case.fault in HEALTHY:
        return with_settings(base, **HEALTHY[case.fault](base))
    if case.fault in HEALTHY_SYMBOLIC:
        return with_settings(_symbolic(base), **HEALTHY_SYMBOLIC[case.fault])
    symbolic = FAULTS[case.fault].models == "symbolic"
    return with_settings(_symbolic(base) if symbolic else base, faults=(case.fault,))


def _symbolic(base: Config) -> Config:
    """The base config if its model is the symbolic solver, else a small preset of one."""
    if not base.model.recursive:
        return base
    small = with_settings(load("symbolic-rules"), **SYMBOLIC_CASES)
    return with_settings(small, train={"threads": base.train.threads, "device": base.train.device})


def run(
    base: Config,
    chosen: Sequence[Case],
    root: Path,
    *,
    workers: int,
    tier: Tier,
    progress: Progress,
) -> list[CaseOutcome]:
    """Investigate every case that was not yet, and keep each outcome as it comes.

    Args:
        base: the healthy subject.
        chosen: the cases to run.
        root: the folder of the benchmark; finished cases in it are not run again.
        workers: investigations at a time, one process each.
        tier: seeds and steps of each.
        progress: called with a phase, cases done and cases in all.

    Raises:
        Interrupted: Ctrl-C; finished cases stay.
        RunFolderError: the folder contains cases of another config, tier or code, or another process works in it.
        EtrmError: one of OPERATING_ERRORS ended a case, which has no outcome. It is raised after the other cases.
    """
    with hold_folder(root):
        return _run_held(base, chosen, root, workers, tier, progress)


def _run_held(
    base: Config, chosen: Sequence[Case], root: Path, workers: int, tier: Tier, progress: Progress
) -> list[CaseOutcome]:
    identity = _identity(base, tier)
    done = _claim(root, identity)
    _prepare(base, root, workers, tier, progress)
    waiting = [case for case in chosen if case not in done]

    def keep(case: Case, outcome: CaseOutcome) -> None:
        done[case] = outcome
        _keep(root, identity, done)

    with start_workers(workers) as pool:
        attempts: dict[Future[CaseOutcome], Case] = {
            pool.submit(_investigate, case, subject_of(case, base), root / case.folder, tier): case
            for case in waiting
        }
        try:
            collect_outcomes(attempts, keep, progress, len(chosen))
        except KeyboardInterrupt:
            end_workers(pool)
            raise Interrupted from None
    return [done[case] for case in chosen]


def collect_outcomes(
    attempts: dict[Future[Outcome], Key], keep: Callable[[Key, Outcome], None], progress: Progress, total: int
) -> None:
    """Take the outcomes of attempts in the order in which they end.

    Args:
        attempts: the keys of the cases that are running or waiting, by attempt; empty afterwards.
        keep: the function that is called with the key and the outcome of each case.
        progress: the function that is called about once a second, with a phase, the done cases and all.
        total: the number of all cases.

    Raises:
        EtrmError: one of OPERATING_ERRORS ended a case, which has no outcome. It is raised after the other cases.
    """
    stopped: list[EtrmError] = []
    while attempts:
        finished, _ = wait(attempts, timeout=1.0, return_when=FIRST_COMPLETED)
        for future in finished:
            key = attempts.pop(future)
            try:
                outcome = future.result()
            except OPERATING_ERRORS as error:
                stopped.append(error)
            else:
                keep(key, outcome)
        progress("cases", total - len(attempts), total)
    if stopped:
        raise stopped[0]


def score(outcomes: Sequence[CaseOutcome]) -> tuple[Score, Score]:
    """Count the faults whose hypothesis is named root cause, and the cases without a fault in which none is named."""
    of_hypothesis = [outcome for outcome in outcomes if outcome.case.expected != NOTHING]
    others = [outcome for outcome in outcomes if outcome.case.expected == NOTHING]
    return (
        Score(sum(outcome.right for outcome in of_hypothesis), len(of_hypothesis)),
        Score(sum(outcome.right for outcome in others), len(others)),
    )


def _investigate(case: Case, subject: Config, out: Path, tier: Tier) -> CaseOutcome:
    began = time.perf_counter()
    try:
        result = investigate(
            subject,
            out,
            name="subject",
            first_seed=case.seed,
            launcher=launcher("processes", 1),
            command="",
            progress=lambda phase, done, total: None,
            experiments=(),
            tier=tier,
            until_root_cause=True,
        )
    except OPERATING_ERRORS:
        raise
    except EtrmError as error:
        return CaseOutcome(case, FAILED, "", error.what, round(time.perf_counter() - began, 1), error.code)
    _refuse_ended_runs(result, out)
    failed = any(hypothesis.verdict is Verdict.ERROR for hypothesis in result.hypotheses.values())
    named = result.root_cause or (FAILED if failed else NOTHING)
    seconds = round(time.perf_counter() - began, 1)
    return CaseOutcome(case, named, result.root_cause_confidence or "", result.sentence, seconds)


def _refuse_ended_runs(result: Result, out: Path) -> None:
    """Raise ProcessError where something outside of a run ended it, so that the verdicts are not those of the case."""
    runs = [run for hypothesis in result.hypotheses.values() for run in hypothesis.runs]
    ended = next((run for run in runs if run.code in ENDED_FROM_OUTSIDE), None)
    if ended is not None:
        raise ProcessError(
            "bench.run-ended",
            f"a run of the case in {out} was ended from outside, so the case has no outcome",
            got=ended.reason,
            next_step="run the same command again, which continues it",
        )


def _prepare(base: Config, root: Path, workers: int, tier: Tier, progress: Progress) -> None:
    """Train the decoders before several processes want them at once; the symbolic solver starts from none."""
    investigation = Investigation(root, base, (0,), launcher("processes", workers), progress, tier)
    _ = investigation.control_decoder
    if base.model.recursive:
        _ = investigation.brief_decoder, investigation.decoder


def _claim(root: Path, identity: dict[str, Any]) -> dict[Case, CaseOutcome]:
    """The cases that the folder holds."""
    read = [CaseOutcome(**{**item, "case": Case(**item["case"])}) for item in claim_cases(root, identity)]
    return {outcome.case: outcome for outcome in read}


def _keep(root: Path, identity: dict[str, Any], done: dict[Case, CaseOutcome]) -> None:
    keep_cases(root, identity, [asdict(outcome) for outcome in done.values()])


def claim_cases(root: Path, identity: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the outcomes that the folder of a benchmark holds, as JSON values.

    Raises:
        RunFolderError: they are those of something else, or the file is damaged.
    """
    file = root / CASES
    if not file.exists():
        return []
    found = read_claim(file)
    differ = [name for name, value in identity.items() if found.get(name) != value]
    if differ:
        raise RunFolderError(
            "bench.other-subject",
            f"{root} contains another benchmark",
            got=f"another {' and '.join(differ)}",
            allowed="the same subject, tier, code and device, which continue it",
            next_step="give another --out, or remove that folder",
        )
    outcomes: list[dict[str, Any]] = found["outcomes"]
    return outcomes


def keep_cases(root: Path, identity: Mapping[str, Any], outcomes: Sequence[dict[str, Any]]) -> None:
    """Keep the outcomes of a benchmark in its folder."""
    record = {**identity, "outcomes": outcomes}
    write_atomically(root / CASES, json.dumps(record, indent=1, sort_keys=True) + "\n")


def _identity(base: Config, tier: Tier) -> dict[str, Any]:
    """What every outcome of a bench depends on, code of faults from outside the package included."""
    faulty = [subject_of(case, base) for case in cases(base, (), 1, 1) if case.fault in FAULTS]
    return {
        "subject": json.loads(base.to_json()),
        "tier": asdict(tier),
        "code": judging_hash(base, *faulty),
        "compute": asdict(replace(compute_of(base), threads=1)),  # see the launcher of _investigate
    }
