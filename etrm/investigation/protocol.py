"""What every hypothesis has: a statement fixed before any run, and a way to be decided."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

from etrm.checkpoints.run_folder import read_metrics
from etrm.config import Config, load, with_overrides, with_settings
from etrm.errors import EtrmError
from etrm.investigation.measurements.context_path import Passage, passage
from etrm.investigation.result import Arm, Code, ControlOutcome, Hypothesis, Run, Series, Verdict
from etrm.investigation.runs.budget import LADDER, SCREENING, Tier
from etrm.investigation.runs.jobs import Job, OnProgress, run_jobs
from etrm.investigation.runs.launchers import Launcher
from etrm.investigation.runs.pretrained_decoder import finished, folder_of, pretrained, trm_config
from etrm.training.faults import apply_faults

ORDER = ("H5", "H6", "H1", "H2", "H3", "H4", "H7")
"""From the cheap and structural to the expensive; the first VALIDATED one is the root cause."""

CONTROL_PRESET = "smoke"
"""Controls run on a preset that is known, so that a broken subject cannot break them too."""


class CommonReason(StrEnum):
    """Reasons that any hypothesis can have for its verdict; its own stand in its module."""

    CONTROLS_MISBEHAVED = "any.controls-misbehaved"
    SUBJECT_NOT_BUILT = "any.subject-not-built"
    RUNS_FAILED = "any.runs-failed"
    NOT_SELECTED = "any.not-selected"
    NOT_APPLICABLE = "any.not-applicable"  # the subject has no such part, or does not use it
    STOPPED_AT_ROOT_CAUSE = "any.stopped-at-root-cause"
    DOWNSTREAM = "any.downstream-of-root-cause"
    NOT_SIGNIFICANT = "any.not-significant-over-all-hypotheses"


@dataclass(frozen=True)
class Judgement:
    """A verdict and why.

    Attributes:
        verdict: of the statement as worded.
        codes: stable names of the reasons, at least one.
        sentence: the same in words, with the numbers.
        candidate: only the number of seeds stands in the way of VALIDATED.
    """

    verdict: Verdict
    codes: tuple[Code, ...]
    sentence: str
    candidate: bool = False


@dataclass(frozen=True)
class Statement:
    """A hypothesis as registered: these words decide what a verdict means."""

    id: str
    title: str
    statement: str
    refuted_by: str
    mechanism: str
    kind: Literal["mechanistic", "statistical", "mixed"]
    would_change: str

    def decided(self, judgement: Judgement, **found: Any) -> Hypothesis:
        """The hypothesis with its verdict, why, and the other fields of what was found.

        Raises:
            ValidationError: a field that does not exist, or a value that it does not take.
        """
        return Hypothesis(**asdict(self), **vars(judgement), **found)


Looked = TypeVar("Looked")
BRIEF_STEPS = 10
"""Steps of a TRM that is good enough to see whether loading works."""


@dataclass
class Investigation:
    """What the deciding functions share.

    Attributes:
        root: the investigation's folder.
        subject: config of the subject as given, faults included.
        seeds: of every arm but the short ones.
        launcher: of training runs.
        progress: called with a phase, steps done and steps in all.
        tier: the budget.
        frozen_decoder: whether that experiment follows, so that its arms can be trained at once where H3 needs one.
        short_seeds: of the short runs of H4 and H7; those of every other arm by default.
        meanwhile: gives what will be needed in any case and can be trained beside the decoder, which is one long run.
    """

    root: Path
    subject: Config
    seeds: tuple[int, ...]
    launcher: Launcher
    progress: Callable[[str, int, int], None]
    tier: Tier = SCREENING
    frozen_decoder: bool = False
    short_seeds: tuple[int, ...] = ()
    meanwhile: Callable[[], Sequence[Job]] = tuple
    _done: dict[tuple[str, int], Run] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.short_seeds = self.short_seeds or self.seeds

    @property
    def ladder_seeds(self) -> tuple[int, ...]:
        """Of the ladder of H7, the short ones first."""
        first = self.short_seeds[0]
        return tuple(range(first, first + LADDER * len(self.short_seeds)))

    @cached_property
    def effective(self) -> Config:
        """The settings that the subject's runs really use, as their records say."""
        return apply_faults(self.subject)

    @cached_property
    def decoder(self) -> Path:
        """Run folder of the TRM that the subject starts from, trained now where it names none."""
        phase, steps, elsewhere = "TRM decoder", self.tier.pretrain_steps, self.launcher.elsewhere
        if self.subject.train.decoder is None:
            config = trm_config(self.subject, steps)
            if not finished(config, elsewhere):
                job = Job("trm-decoder", 0, config, place=folder_of(config, elsewhere))
                self.run(phase, [job, *self.meanwhile()])
        # found, or tried again, so that what is wrong is raised here
        return self._trm(phase, steps, elsewhere)

    @cached_property
    def brief_decoder(self) -> Path:
        """The same, after a few steps: it loads, or does not, like any other."""
        return self._trm("brief TRM decoder", min(BRIEF_STEPS, self.tier.pretrain_steps))

    @cached_property
    def first_passage(self) -> list[Passage]:
        """The way of the context in the subject of the first seed, if it has one."""
        return self.each_seed("context", self.subject, passage, self.seeds[:1])[0]

    @cached_property
    def passages(self) -> tuple[list[Passage], str]:
        """The same of each seed; and why a seed has none, if one has none."""
        return self.each_seed("context", self.subject, passage)

    def each_seed(
        self,
        phase: str,
        subject: Config,
        look: Callable[[Config], Looked],
        seeds: Sequence[int] | None = None,
    ) -> tuple[list[Looked], str]:
        """What ``look`` finds in a subject with each seed, or some; and why one could not be built, or nothing."""
        seeds = self.seeds if seeds is None else seeds
        found: list[Looked] = []
        problem = ""
        for done, seed in enumerate(seeds):
            self.progress(phase, done, len(seeds))
            try:
                found.append(look(seeded(subject, seed)))
            except EtrmError as error:
                problem = problem or error.what
        return found, problem

    def _trm(self, phase: str, steps: int, elsewhere: str = "") -> Path:
        if self.subject.train.decoder is not None:
            return self.subject.train.decoder
        config = trm_config(self.subject, steps)
        return pretrained(config, lambda done, total: self.progress(phase, done, total), elsewhere)

    @cached_property
    def control_decoder(self) -> Path:
        """The decoder of the control preset."""
        smoke = control_preset()
        config = trm_config(smoke, smoke.train.steps)
        return pretrained(config, lambda done, total: self.progress("control decoder", done, total))

    def starting_from(self, decoder: Path) -> Config:
        """The subject with a decoder to start from, which a TRM has no use for."""
        if self.subject.model.variant == "trm":
            return self.subject
        return with_settings(self.subject, train={"decoder": decoder})

    def run(self, phase: str, jobs: Sequence[Job]) -> list[Run]:
        """The runs of some jobs, made now or before."""
        report: OnProgress = lambda done, total: self.progress(phase, done, total)  # noqa: E731
        self._done |= run_jobs(self.root, jobs, self.launcher, report)
        return [self._done[job.arm, job.seed] for job in jobs]

    def control_config(self, faults: Sequence[str] = ()) -> Config:
        """The control preset with the control decoder and some faults."""
        return with_settings(control_preset(faults), train={"decoder": self.control_decoder})

    def finished(self, arm: str) -> list[Run]:
        """The runs of an arm that have finished in this investigation."""
        return [run for (name, _), run in self._done.items() if name == arm and run.state == "finished"]

    def metrics(self, run: Run) -> list[dict[str, Any]]:
        """What a run logged, step by step."""
        return read_metrics(self.root / run.folder)


def control_preset(faults: Sequence[str] = ()) -> Config:
    """The control preset with some faults, on one thread."""
    quoted = ", ".join(f'"{name}"' for name in faults)
    return load(CONTROL_PRESET, overrides=(f"faults=[{quoted}]", "train.threads=1"))


def seeded(config: Config, seed: int, *settings: str) -> Config:
    """The config with another seed, one thread, and some settings."""
    return with_overrides(config, (f"train.seed={seed}", "train.threads=1", *settings))


def control_arms(prefix: str, subject: Config, positive: Sequence[str]) -> tuple[Arm, ...]:
    """The subject, the healthy control, and a control for each fault that must be found."""
    faulty = (
        Arm(
            name=f"{prefix}-{name}",
            role="positive control",
            difference=f"preset {CONTROL_PRESET}, fault {name}",
            faults=(name,),
        )
        for name in positive
    )
    return (
        Arm(name=f"{prefix}-subject", role="subject", difference="as given", faults=subject.faults),
        Arm(
            name=f"{prefix}-healthy", role="negative control", difference=f"preset {CONTROL_PRESET}, no fault"
        ),
        *faulty,
    )


def control_outcome(name: str, positive: bool, judgement: Judgement) -> ControlOutcome:
    """A positive control must be VALIDATED, or with few seeds a candidate; a negative one must be neither."""
    fault = f"fault {name} on preset {CONTROL_PRESET}"
    got, candidate = judgement.verdict, judgement.candidate
    return ControlOutcome(
        name=name,
        kind="positive" if positive else "negative",
        what=fault if positive else f"preset {CONTROL_PRESET} without a fault",
        expected=Verdict.VALIDATED if positive else Verdict.INVALIDATED,
        got=got,
        behaved=(candidate or got is Verdict.VALIDATED) == positive and got is not Verdict.ERROR,
        codes=judgement.codes,
        detail=judgement.sentence,
        candidate=candidate,
    )


def broken_controls(controls: Sequence[ControlOutcome]) -> str:
    """CommonReason a verdict would mean nothing, or nothing."""
    names = [control.name for control in controls if not control.behaved]
    return f"Controls did not behave: {', '.join(names)}. The verdict would mean nothing." if names else ""


def seeds_in_words(seeds: int) -> str:
    """``1 seed``, ``3 seeds``."""
    return f"{seeds} seed{'' if seeds == 1 else 's'}"


def not_run(statement: Statement, code: Code, reason: str) -> Hypothesis:
    """A row of the matrix that says why it was not decided."""
    return statement.decided(Judgement(Verdict.NOT_RUN, (code,), reason))


def series(
    figure: str, run: Run, metrics: Iterable[dict[str, Any]], key: str, label: str = "", scale: float = 1.0
) -> Series:
    """One logged quantity of a run as a curve; steps without a value are left out."""
    points = [(m["step"], m[key] * scale) for m in metrics if m.get(key) is not None]
    return Series(
        figure=figure,
        arm=run.arm,
        seed=run.seed,
        label=label or key,
        x=tuple(float(x) for x, _ in points),
        y=tuple(round(float(y), 6) for _, y in points),
    )


def smoothed(curve: Series, window: int) -> Series:
    """Means over ``window`` points, fewer in a short run, so that losses of single batches can be read."""
    window = max(1, min(window, len(curve.x) // 10))
    n = len(curve.x) // window
    y = [sum(curve.y[i * window : (i + 1) * window]) / window for i in range(n)]
    x = [curve.x[(i + 1) * window - 1] for i in range(n)]
    return curve.replace(x=tuple(x), y=tuple(round(v, 6) for v in y))


def so_far(curve: Series) -> Series:
    """At each point the mean of all points up to it."""
    means, total = [], 0.0
    for n, value in enumerate(curve.y, start=1):
        total += value
        means.append(round(total / n, 6))
    return curve.replace(y=tuple(means))
