"""The training runs that an investigation is going to need, and the time that is left for them.

The time is estimated from what the finished steps took. Runs of one study have the same size, so each study has its own
pace; a study without a finished step is given the mean of the others.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from etrm.investigation.comparison.frozen_arms import BLIND, TRAINED
from etrm.investigation.comparison.screening import jobs_of
from etrm.investigation.hypotheses import h2_encoder_gradients, unseen_rules
from etrm.investigation.hypotheses.hypothesis_registry import all_hypotheses
from etrm.investigation.reference_verdict import course_job
from etrm.investigation.runs import cache
from etrm.investigation.runs.jobs import Job
from etrm.investigation.runs.loaded_run import SUMMARY
from etrm.investigation.runs.pretrained_decoder import finished, folder_of, trm_config
from etrm.investigation.session import DECODER_ARM, Investigation


@dataclass(frozen=True)
class PlannedRun:
    """A run that an investigation is going to need.

    Attributes:
        study: the study to which it belongs.
        folder: its folder.
        steps: the number of its steps.
    """

    study: str
    folder: Path
    steps: int


@dataclass(frozen=True)
class WorkState:
    """How far the planned runs have come.

    Attributes:
        done: the number of finished steps.
        total: the number of planned steps.
        seconds_left: the estimated time until the last step, in seconds; None if no step has been finished yet.
    """

    done: int
    total: int
    seconds_left: float | None


OnPlan = Callable[["PlannedWork"], None]
"""Function that takes the planned runs, before the first of them starts."""


class PlannedWork:
    """The planned runs of an investigation.

    Args:
        runs: the planned runs.
        jobs: the number of runs at a time.
    """

    def __init__(self, runs: Sequence[PlannedRun], jobs: int) -> None:
        self._runs = runs
        self._jobs = jobs
        self._ended: dict[Path, tuple[int, float]] = {}

    def look(self) -> WorkState:
        """Return how far the runs have come, read from their folders."""
        found = [(run, *self._read(run)) for run in self._runs]
        paces = _measure_paces(found)
        known = sum(done for _, done, _ in found), sum(run.steps for run in self._runs)
        if not paces:
            return WorkState(*known, None if known[0] < known[1] else 0.0)
        other = sum(paces.values()) / len(paces)
        left = [(run.steps - done) * paces.get(run.study, other) for run, done, _ in found]
        return WorkState(*known, max(sum(left) / self._jobs, *left))

    def _read(self, run: PlannedRun) -> tuple[int, float]:
        """Return the finished steps of a run and the seconds that they took."""
        if run.folder in self._ended:
            return self._ended[run.folder]
        summary = _read_summary(run.folder / SUMMARY)
        if summary is not None:  # a failed run is not continued
            self._ended[run.folder] = run.steps, summary
            return self._ended[run.folder]
        return _count_seconds(run.folder / "timing.jsonl", run.steps)


def _measure_paces(found: Sequence[tuple[PlannedRun, int, float]]) -> dict[str, float]:
    """Return the seconds per step of each study that has finished a step."""
    done: dict[str, list[float]] = {}
    for run, steps, seconds in found:
        if steps and seconds:
            total = done.setdefault(run.study, [0.0, 0.0])
            total[0], total[1] = total[0] + steps, total[1] + seconds
    return {study: seconds / steps for study, (steps, seconds) in done.items()}


def _read_summary(file: Path) -> float | None:
    try:
        return float(json.loads(file.read_text("utf-8"))["wall_s"])
    except (OSError, ValueError, KeyError):  # not there yet, or just being written
        return None


def _count_seconds(file: Path, most: int) -> tuple[int, float]:
    try:
        lines = file.read_text("utf-8").splitlines()[:most]
        return len(lines), sum(float(json.loads(line)["seconds"]) for line in lines)
    except (OSError, ValueError, KeyError):
        return 0, 0.0


def is_whole(investigation: Investigation, chosen: Sequence[str]) -> bool:
    """Whether all hypotheses that apply are chosen."""
    return all(
        id in chosen or not one.applies_to(investigation.subject) for id, one in all_hypotheses().items()
    )


def plan_short_runs(investigation: Investigation, chosen: Sequence[str]) -> list[Job]:
    """The short runs of the chosen hypotheses, which depend on nothing that is found before."""
    every, subject = all_hypotheses(), investigation.subject
    applying = [every[id] for id in chosen if every[id].applies_to(subject)]
    screens = [screen for hypothesis in applying for screen in hypothesis.screens(investigation)]
    return jobs_of(screens)


def plan_course(investigation: Investigation, chosen: Sequence[str]) -> list[Job]:
    """The whole run whose steps are compared with the reference, if all hypotheses that apply are chosen."""
    return [course_job(investigation)] if is_whole(investigation, chosen) else []


def plan_work(investigation: Investigation, chosen: Sequence[str]) -> PlannedWork:
    """The runs that the chosen hypotheses and the frozen-decoder experiment need, if nothing ends them early.

    Runs that only some outcomes need are left out, such as the stronger encoders of H7; so are runs that are in the
    cache. Where the runs cannot be planned the work is empty: the hypothesis that needs them reports the error.
    """
    try:
        runs = _plan_runs(investigation, chosen)
    except Exception:  # noqa: BLE001  (a hypothesis from outside may raise anything)
        runs = []
    return PlannedWork(runs, investigation.launcher.jobs)


def _plan_runs(investigation: Investigation, chosen: Sequence[str]) -> list[PlannedRun]:
    jobs = plan_course(investigation, chosen) + plan_short_runs(investigation, chosen)
    jobs += h2_encoder_gradients.plan_jobs(investigation) if "H2" in chosen else []
    jobs += unseen_rules.plan_jobs(investigation) if "H7" in chosen else []
    root, elsewhere = investigation.root, investigation.launcher.elsewhere
    runs = [
        PlannedRun(job.arm.study, root / job.folder, job.config.train.steps)
        for job in jobs
        if not (job.shared and cache.is_kept(job.config, elsewhere))
    ]
    return [*runs, *_plan_frozen(investigation)]


def _plan_frozen(investigation: Investigation) -> Iterator[PlannedRun]:
    """The runs of the frozen-decoder experiment, and the decoder that it needs."""
    subject, tier = investigation.subject, investigation.tier
    if not (investigation.frozen_decoder and investigation.takes_decoder):
        return
    steps = min(tier.frozen_steps, subject.train.steps)
    for arm in (TRAINED, BLIND):
        for seed in investigation.seeds:
            yield PlannedRun(arm.study, investigation.root / arm.folder(seed), steps)
    elsewhere = investigation.launcher.elsewhere
    config = trm_config(subject, tier.pretrain_steps)
    if subject.train.decoder is None and not finished(config, elsewhere):
        yield PlannedRun(DECODER_ARM.study, folder_of(config, elsewhere), tier.pretrain_steps)
