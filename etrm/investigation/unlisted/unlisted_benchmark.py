"""The benchmark of random changes: draw one, apply it to a copy of the packages, and investigate the copy blind.

A change is in the code that every process of the investigation runs, its controls included, as a user's bug is. Whether
it is one is measured first: the same config and seed are trained and evaluated with and without it. Healthy configs
that are unusual are investigated with unchanged code.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from etrm.atomic_files import write_atomically
from etrm.config import Changes, Config, with_settings
from etrm.data import Episodes
from etrm.errors import Interrupted, RunFolderError, TrainingError
from etrm.installation import NAMES
from etrm.investigation.fault_benchmark import CASES, FAILED, NOTHING, Progress
from etrm.investigation.runs.budget import Tier
from etrm.investigation.runs.code_version import hash_files
from etrm.investigation.runs.pretrained_decoder import trm_config
from etrm.investigation.unlisted.changed_copy import change_copy, copy_packages, profile_copy, read_profile
from etrm.investigation.unlisted.effects import compare_runs
from etrm.investigation.unlisted.places import Place, list_places
from etrm.investigation.unlisted.program import REFUSED
from etrm.investigation.unlisted.random_change import Profile, RandomChange, draw_change
from etrm.investigation.unlisted.unusual_configs import draw_config
from etrm.training.faults import build_recipe

VARIATIONS: tuple[Changes, ...] = (
    {},
    {"data": {"buckets": 2}, "train": {"accumulate": 2}},
    {"train": {"freeze_decoder_steps": 6, "lr_min_ratio": 0.1}},
    {"train": {"freeze_encoder_steps": 5, "optimizer": "adam_atan2"}},
)
"""Settings of the config that is changed, so that more of the code is reached."""
FROM_DECODER = frozenset({2})
"""Variations that start from a pretrained decoder."""
DECODER_STEPS = 100
"""Training steps of this decoder, which unchanged code trains."""

Kind = Literal["change", "healthy"]
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
    """What became of a case.

    Attributes:
        case: the case.
        description: the change, or the settings of the healthy config.
        stages: the stages at which the changed run departs, most exact first; none of a healthy config.
        expected: the hypotheses that are right; none of a healthy config.
        status: whether the changed run crashed, or changed nothing but logged numbers; else it was investigated.
        weights: see :class:`etrm.investigation.unlisted.effects.Effect`; None of a run that crashed or is healthy.
        named: the hypothesis that is named root cause, none, or that the investigation failed.
        confidence: proven or candidate, empty where nothing is named.
        sentence: the sentence on the root cause, or the last line of what failed.
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
    confidence: str = ""
    sentence: str = ""
    verdicts: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def right(self) -> bool:
        """Whether a hypothesis of the change's stages is named, or none of a healthy config."""
        return self.named in self.expected if self.expected else self.named == NOTHING


@dataclass
class UnlistedBenchmark:
    """The benchmark of a base config in a folder.

    Attributes:
        base: the config that is changed and investigated.
        root: the folder.
        tier: the budget of an investigation.
        limit: the largest number of seconds of a process.
    """

    base: Config
    root: Path
    tier: Tier
    limit: float

    def run(self, cases: Sequence[UnlistedCase], workers: int, progress: Progress) -> list[UnlistedOutcome]:
        """Do every case that was not done yet, and keep each outcome as it comes.

        Raises:
            Interrupted: Ctrl-C; finished cases stay.
            RunFolderError: the folder contains cases of another config or of other code.
            TrainingError: the unchanged code cannot train the config.
        """
        done = self._claim()
        waiting = [case for case in cases if case not in done]
        if any(case.kind == "change" for case in waiting):
            _ = self.places, self.profiles  # before several workers want them
        with ThreadPoolExecutor(workers) as pool:
            attempts: dict[Future[UnlistedOutcome], UnlistedCase] = {
                pool.submit(self._do, case): case for case in waiting
            }
            try:
                while attempts:
                    finished, _ = wait(attempts, timeout=1.0, return_when=FIRST_COMPLETED)
                    for future in finished:
                        done[attempts.pop(future)] = future.result()
                        self._keep(done)
                    progress("cases", len(cases) - len(attempts), len(cases))
            except KeyboardInterrupt:
                pool.shutdown(wait=False, cancel_futures=True)
                raise Interrupted from None
        return [done[case] for case in cases]

    # -- what all cases share ---------------------------------------------------------------------

    @cached_property
    def packages(self) -> Path:
        """The unchanged copy."""
        path = self.root / "packages"
        if not path.exists():
            copy_packages(path.with_name("packages.new"))
            path.with_name("packages.new").rename(path)
        return path

    @cached_property
    def places(self) -> list[Place]:
        """The places that can be changed."""
        return list_places(self.packages)

    @cached_property
    def configs(self) -> list[Config]:
        """The config with each of the variations; every checkpoint is kept, to measure how far training moves weights."""
        return [
            with_settings(
                with_settings(self.base, **variation),
                train={
                    "threads": 1,
                    "keep_checkpoints": self.base.train.steps + 1,
                    **({"decoder": self._decoder} if number in FROM_DECODER else {}),
                },
            )
            for number, variation in enumerate(VARIATIONS)
        ]

    @cached_property
    def profiles(self) -> list[Profile]:
        """The profile of each variation."""
        return [self._profile(number) for number in range(len(VARIATIONS))]

    @cached_property
    def _decoder(self) -> Path:
        steps = min(DECODER_STEPS, self.tier.pretrain_steps)
        self._train(trm_config(with_settings(self.base, train={"threads": 1}), steps), self.root / "decoder")
        return self.root / "decoder" / "run"

    def unchanged(self, variation: int) -> Path:
        """The run of a variation with unchanged code."""
        return self._train(self.configs[variation], self.root / "unchanged" / str(variation))

    def draw(self, seed: int) -> RandomChange:
        """The change of a seed."""
        buckets = []
        for config in self.configs:
            tasks = build_recipe(config).tasks(config)
            buckets.append(Episodes(tasks, config.data, config.model.variant, config.train.seed).buckets)
        return draw_change(seed, self.places, self.profiles, self.base, buckets)

    def _train(self, config: Config, folder: Path) -> Path:
        """Train and evaluate a config with unchanged code, if that is not done yet, and return the run folder."""
        if not (folder / "done").exists():
            status, text = self._call(self.packages, folder, "train", config)
            if status:
                raise TrainingError("bench.cannot-train", "the unchanged code cannot train the config", got=text)
            (folder / "done").touch()
        return folder / "run"

    def _profile(self, variation: int) -> Profile:
        folder = self.root / "profile" / str(variation)
        file = folder / "profile.json"
        self.unchanged(variation)
        copy = folder / "packages"
        if not file.exists():
            shutil.rmtree(folder, ignore_errors=True)
            copy_packages(copy, self.packages)
            profile_copy(copy)
            status, text = self._call(
                copy, folder, "train", self.configs[variation], ETRM_PROFILE_OF_PLACES=str(folder / "new.json")
            )
            if status:
                raise TrainingError("bench.cannot-train", "the profiled code cannot train the config", got=text)
            (folder / "new.json").rename(file)
            shutil.rmtree(copy)
            shutil.rmtree(folder / "run")
        return read_profile(file, self.places)

    # -- a case -----------------------------------------------------------------------------------

    def _do(self, case: UnlistedCase) -> UnlistedOutcome:
        folder = self.root / case.folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        outcome = self._healthy(case, folder) if case.kind == "healthy" else self._changed(case, folder)
        for name in ("packages", "cache", "run", "investigation/runs"):
            shutil.rmtree(folder / name, ignore_errors=True)
        return outcome

    def _healthy(self, case: UnlistedCase, folder: Path) -> UnlistedOutcome:
        config, settings = draw_config(case.seed, self.base)
        config = with_settings(config, train={"threads": 1, "seed": case.seed})
        words = ", ".join(f"{name}={value}" for name, value in settings.items())
        return self._investigate(UnlistedOutcome(case, words), self.packages, folder, config)

    def _changed(self, case: UnlistedCase, folder: Path) -> UnlistedOutcome:
        change = self.draw(case.seed)
        copy = folder / "packages"
        copy_packages(copy, self.packages)
        diff = change_copy(copy, change.place, *change.texts, hooks=change.knows_step)
        (folder / "change.diff").write_text(diff, "utf-8")
        config = self.configs[change.variation]
        outcome = UnlistedOutcome(case, change.description, change.stages, change.expected)
        status, text = self._call(copy, folder, "train", config)
        if status:
            return replace(outcome, status="crashed", sentence=text)
        effect = compare_runs(self.unchanged(change.variation), folder / "run")
        outcome = replace(outcome, weights=effect.weights)
        if not effect.alters_training:
            return replace(outcome, status="only logged" if effect.logged else "without effect")
        return self._investigate(outcome, copy, folder, config)

    def _investigate(self, outcome: UnlistedOutcome, copy: Path, folder: Path, config: Config) -> UnlistedOutcome:
        began = time.monotonic()
        status, text = self._call(copy, folder, "investigate", config)
        outcome = replace(outcome, seconds=round(time.monotonic() - began, 1))
        file = folder / "investigation" / "result.json"
        if status or not file.exists():
            return replace(outcome, named=FAILED, sentence=text)
        result = json.loads(file.read_text("utf-8"))
        verdicts = {
            id: f"{found['verdict']}{' (candidate)' if found.get('candidate') else ''}"
            for id, found in result["hypotheses"].items()
        }
        failed = any(verdict.startswith("ERROR") for verdict in verdicts.values())
        return replace(
            outcome,
            named=result["root_cause"] or (FAILED if failed else NOTHING),
            confidence=result["root_cause_confidence"] or "",
            sentence=result["sentence"],
            verdicts=verdicts,
        )

    def _call(
        self, copy: Path, folder: Path, command: str, config: Config, **environment: str
    ) -> tuple[int, str]:
        """Run the program of a copy, and return its exit status and the last line of its errors."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(config.to_json(), "utf-8")
        out = folder / ("run" if command == "train" else "investigation")
        arguments = [command, folder / "config.json", out, json.dumps(asdict(self.tier))]
        environment = {
            **os.environ,
            "PYTHONPATH": str(copy),
            "OMP_NUM_THREADS": "1",
            "ETRM_CACHE": str(folder / "cache"),
            **environment,
        }
        with (folder / f"{command}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "etrm.investigation.unlisted.program", *map(str, arguments)],
                cwd=copy,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            try:
                status = process.wait(self.limit)
            except subprocess.TimeoutExpired:
                return -1, f"it took longer than {self.limit:.0f} seconds"
            finally:
                _end(process)
        lines = (folder / f"{command}.log").read_text("utf-8", "replace").split("\n")
        texts = [line.strip() for line in lines if line.strip()]
        return status, texts[-1] if status and texts else ("REFUSED" if status == REFUSED else "")

    # -- what the folder keeps --------------------------------------------------------------------

    def _claim(self) -> dict[UnlistedCase, UnlistedOutcome]:
        self.root.mkdir(parents=True, exist_ok=True)
        file = self.root / CASES
        if not file.exists():
            return {}
        found = json.loads(file.read_text("utf-8"))
        differ = [name for name, value in self._identity.items() if found.get(name) != value]
        if differ:
            raise RunFolderError(
                "bench.other-subject",
                f"{self.root} contains another benchmark",
                got=f"another {' and '.join(differ)}",
                allowed="the same subject, code and budget, which continue it",
                next_step="give another --out, or remove that folder",
            )
        read = [_outcome_of(item) for item in found["outcomes"]]
        return {outcome.case: outcome for outcome in read}

    def _keep(self, done: Mapping[UnlistedCase, UnlistedOutcome]) -> None:
        record = self._identity | {"outcomes": [asdict(outcome) for outcome in done.values()]}
        write_atomically(self.root / CASES, json.dumps(record, indent=1, sort_keys=True) + "\n")

    @cached_property
    def _identity(self) -> dict[str, Any]:
        return {
            "subject": json.loads(self.base.to_json()),
            "code": hash_files({name: self.packages / name for name in NAMES if name != "cli"}),
            "tier": asdict(self.tier),
        }


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process that still runs, with the workers that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def _outcome_of(item: Mapping[str, Any]) -> UnlistedOutcome:
    tuples = {name: tuple(item[name]) for name in ("stages", "expected")}
    return UnlistedOutcome(**{**item, **tuples, "case": UnlistedCase(**item["case"])})
