"""The benchmark of random changes: draw one, apply it to a copy of the packages, and investigate the copy blind.

A change is in the code that every process of the investigation runs, its controls included, as a user's bug is. Its
effect is measured first: the same config and seed are trained and evaluated with and without it. Healthy configs
that are unusual are investigated with unchanged code: some start from the config of the benchmark, others from any
preset.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from etrm.config import Config, with_settings
from etrm.errors import ConfigError, Interrupted
from etrm.installation import NAMES
from etrm.investigation.fault_benchmark import (
    FAILED,
    NOTHING,
    Progress,
    claim_cases,
    collect_outcomes,
    keep_cases,
)
from etrm.investigation.folder_claim import hold_folder
from etrm.investigation.runs.budget import Tier
from etrm.investigation.runs.code_version import hash_files
from etrm.investigation.unlisted.changed_copy import change_copy, copy_packages
from etrm.investigation.unlisted.copy_process import INVESTIGATION, RUN, CopyProcess
from etrm.investigation.unlisted.effects import compare_runs
from etrm.investigation.unlisted.preparation import Preparation
from etrm.investigation.unlisted.unusual_configs import draw_config, draw_from_presets

BRIEF = Tier("brief", seeds=1, pretrain_steps=60, frozen_steps=20, short_steps=20, short_seeds=1)
"""The default budget. One seed decides nothing that is statistical, so what is named is found in the code's effects."""

STRUCTURAL = ("H5", "H6", "H1", "H2", "H3")
"""The hypotheses that this budget can decide."""
Kind = Literal["change", "healthy", "preset"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""A change, a healthy config that starts from that of the benchmark, and one that starts from any preset."""
Status = Literal["crashed", "without effect", "only logged", "investigated"]


@dataclass(frozen=True)
class UnlistedCase:
    """A random change or a healthy config, by its seed."""

    kind: Kind
    seed: int

    @property
    def folder(self) -> str:
        """Relative to the folder of the benchmark."""
        return f"{self.kind}/{self.seed}"


@dataclass(frozen=True)
class UnlistedOutcome:
    """The outcome of a case.

    Attributes:
        case: the case.
        description: the change, or the settings of the healthy config.
        stages: the stages at which the changed run departs, most exact first; none of a healthy config.
        expected: the hypotheses that are right; none of a healthy config.
        status: whether the changed run crashed, or changed nothing but logged numbers; else it was investigated.
        weights: the distance of :class:`etrm.investigation.unlisted.effects.ChangeEffect`; None of a run that crashed,
            diverged or is healthy.
        named: the hypothesis that is named root cause, none, or that the investigation failed.
        departed: the first stage at which the investigation saw the run depart from the reference, empty for none.
        confidence: proven or candidate, empty where nothing is named.
        sentence: the sentence on the root cause, or the last line of the errors.
        verdicts: the verdict of each hypothesis.
        seconds: the duration of the investigation.
    """

    case: UnlistedCase
    description: str
    stages: tuple[str, ...] = ()
    expected: tuple[str, ...] = ()
    status: Status = "investigated"
    weights: float | None = None
    named: str = NOTHING
    departed: str = ""
    confidence: str = ""
    sentence: str = ""
    verdicts: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def right(self) -> bool:
        """Whether a hypothesis of the change's stages is named, or none of a healthy config.

        No hypothesis is about halting: there it counts that the stage is reported. An update of one part alone is H2's.
        """
        if not self.expected:
            return self.named == NOTHING
        others = (NOTHING, "H2") if self.departed == "update" else (NOTHING,)
        return self.named in self.expected or (self.named in others and self.departed in self.stages)


def choose_kinds(names: Sequence[str]) -> list[Kind]:
    """Return the kinds of cases with some names, or all kinds for no name.

    Raises:
        ConfigError: a name is not known.
    """
    unknown = [name for name in names if name not in KINDS]
    if unknown:
        raise ConfigError(
            "bench.unknown-kind",
            f"unknown kind of case {unknown[0]!r}",
            allowed=", ".join(KINDS),
            next_step="leave the name out for all kinds; the names of injected faults need no --unlisted",
        )
    return [kind for kind in KINDS if kind in names or not names]


def list_cases(seeds: Iterable[int], kinds: Iterable[Kind]) -> list[UnlistedCase]:
    """List the cases of some seeds, one of each kind."""
    return [UnlistedCase(kind, seed) for seed in seeds for kind in kinds]


@dataclass
class UnlistedBenchmark:
    """The benchmark of a base config in a folder.

    Attributes:
        base: the config that is changed and investigated.
        root: the folder.
        tier: the budget of an investigation.
        hypotheses: the hypotheses that it decides.
        limit: the largest number of seconds of a process.
    """

    base: Config
    root: Path
    tier: Tier
    hypotheses: tuple[str, ...]
    limit: float

    def run(
        self, cases: Sequence[UnlistedCase], *, workers: int, progress: Progress
    ) -> list[UnlistedOutcome]:
        """Do every case that was not done yet, and keep each outcome as it comes.

        Raises:
            Interrupted: Ctrl-C; finished cases stay.
            RunFolderError: the folder contains cases of another config, tier or code, or another process works in it.
            TrainingError: the unchanged code cannot train the config.
            EtrmError: one of OPERATING_ERRORS ended a case, which has no outcome. It is raised after the other cases.
        """
        with hold_folder(self.root):
            return self._run_held(cases, workers, progress)

    def _run_held(
        self, cases: Sequence[UnlistedCase], workers: int, progress: Progress
    ) -> list[UnlistedOutcome]:
        read = [_outcome_of(item) for item in claim_cases(self.root, self._identity)]
        done = {outcome.case: outcome for outcome in read}
        waiting = [case for case in cases if case not in done]
        if any(case.kind == "change" for case in waiting):
            progress("places", 0, 1)
            _ = self._prepared.profiles, self._prepared.places  # before several workers want them

        def keep(case: UnlistedCase, outcome: UnlistedOutcome) -> None:
            done[case] = outcome
            keep_cases(self.root, self._identity, [asdict(each) for each in done.values()])

        with ThreadPoolExecutor(workers) as pool:
            attempts: dict[Future[UnlistedOutcome], UnlistedCase] = {
                pool.submit(self._do, case): case for case in waiting
            }
            try:
                collect_outcomes(attempts, keep, progress, len(cases))
            except KeyboardInterrupt:
                pool.shutdown(wait=False, cancel_futures=True)
                raise Interrupted from None
        return [done[case] for case in cases]

    @cached_property
    def _process(self) -> CopyProcess:
        return CopyProcess(self.tier, self.hypotheses, self.limit)

    @cached_property
    def _prepared(self) -> Preparation:
        return Preparation(self.base, self.root, self._process)

    @cached_property
    def _identity(self) -> dict[str, Any]:
        packages = self._prepared.packages
        return {
            "subject": json.loads(self.base.to_json()),
            "code": hash_files({name: packages / name for name in NAMES if name != "cli"}),
            "tier": asdict(self.tier),
            "hypotheses": list(self.hypotheses),
        }

    def _do(self, case: UnlistedCase) -> UnlistedOutcome:
        folder = self.root / case.folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        outcome = self._changed(case, folder) if case.kind == "change" else self._healthy(case, folder)
        for name in ("packages", "cache", RUN, f"{INVESTIGATION}/runs"):
            shutil.rmtree(folder / name, ignore_errors=True)
        return outcome

    def _healthy(self, case: UnlistedCase, folder: Path) -> UnlistedOutcome:
        from_base = case.kind == "healthy"
        config, settings = draw_config(case.seed, self.base) if from_base else draw_from_presets(case.seed)
        config = with_settings(config, train={"threads": 1, "seed": case.seed})
        words = ", ".join(f"{name}={value}" for name, value in settings.items())
        return self._investigate(UnlistedOutcome(case, words), self._prepared.packages, folder, config)

    def _changed(self, case: UnlistedCase, folder: Path) -> UnlistedOutcome:
        prepared = self._prepared
        change = prepared.draw(case.seed)
        copy = folder / "packages"
        copy_packages(copy, prepared.packages)
        diff = change_copy(copy, change.place, *change.texts, hooks=change.knows_step)
        (folder / "change.diff").write_text(diff, "utf-8")
        config = prepared.configs[change.variation]
        outcome = UnlistedOutcome(case, change.description, change.stages, change.expected)
        failure = self._process.train(copy, folder, config)
        if failure:
            return replace(outcome, status="crashed", sentence=failure)
        effect = compare_runs(prepared.unchanged(change.variation), folder / RUN)
        outcome = replace(outcome, weights=effect.weights if math.isfinite(effect.weights) else None)
        if not effect.alters_training:
            return replace(outcome, status="only logged" if effect.logged else "without effect")
        return self._investigate(outcome, copy, folder, config)

    def _investigate(
        self, outcome: UnlistedOutcome, copy: Path, folder: Path, config: Config
    ) -> UnlistedOutcome:
        began = time.monotonic()
        failure = self._process.investigate(copy, folder, config)
        outcome = replace(outcome, seconds=round(time.monotonic() - began, 1))
        if failure:
            return replace(outcome, named=FAILED, sentence=failure)
        result = json.loads((folder / INVESTIGATION / "result.json").read_text("utf-8"))
        verdicts = {
            id: f"{found['verdict']}{' (candidate)' if found['candidate'] else ''}"
            for id, found in result["hypotheses"].items()
        }
        failed = any(verdict.startswith("ERROR") for verdict in verdicts.values())
        return replace(
            outcome,
            named=result["root_cause"] or (FAILED if failed else NOTHING),
            departed=(result.get("reference") or {}).get("stage") or "",
            confidence=result["root_cause_confidence"] or "",
            sentence=result["sentence"],
            verdicts=verdicts,
        )


def _outcome_of(item: Mapping[str, Any]) -> UnlistedOutcome:
    tuples = {name: tuple(item[name]) for name in ("stages", "expected")}
    return UnlistedOutcome(**{**item, **tuples, "case": UnlistedCase(**item["case"])})
