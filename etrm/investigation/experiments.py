"""The named experiments: one change each against a baseline, decided over paired seeds.

E0-E11 and the phases are those of the encoder study (seed 002), A, O and X of the project briefing
(seed 003); S1-S6 are the questions of the former, which its own numbering calls H1-H6.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Literal

from etrm.config import Config, with_overrides
from etrm.errors import ConfigError
from etrm.evaluation import Decision, PairedInterval, decide, evaluate_baselines, paired_t_interval
from etrm.investigation.arms import Job, OnProgress, read_run, run_jobs
from etrm.investigation.contrast import LARGEST_P, of_runs
from etrm.investigation.launch import Launcher
from etrm.investigation.protocol import seeded
from etrm.investigation.result import Absent, Run
from etrm.training.gate import Gate, gate
from etrm.training.run_folder import read_metrics
from etrm.training.tasks import held_out_tasks

SMALLEST_EFFECT = 0.05
"""Smallest difference of the log of the loss that matters, about 5 %; fixed before any run."""
LONG = 5000
"""Steps for which training has to be stable by the second phase."""
BASELINE, GATE = "E0", "E1"

Settings = Callable[[Config], tuple[str, ...]]


@dataclass(frozen=True)
class Experiment:
    """A named change.

    Attributes:
        name: E7 and the like.
        suite: that it belongs to.
        what: the one difference from the baseline.
        settings: the change, given the baseline's config.
    """

    name: str
    suite: str
    what: str
    settings: Settings


def _fixed(*settings: str) -> Settings:
    return lambda config: settings


def _rate(factor: float) -> Settings:
    return lambda config: (f"train.lr={factor * config.train.lr:.6g}",)


def _scaled_encoder(config: Config) -> tuple[str, ...]:
    return (f"train.encoder_lr_scale={0.1 * config.train.encoder_lr_scale:.6g}",)


def _overfit(config: Config) -> tuple[str, ...]:
    """Ten tasks for 500 steps, the warm-up scaled to the run."""
    warmup = round(500 * config.train.warmup_steps / config.train.steps)
    return ("data.max_tasks=10", "train.steps=500", f"train.warmup_steps={warmup}")


def _doubled(key: str, now: Callable[[Config], int]) -> Settings:
    return lambda config: (f"{key}={2 * now(config)}",)


def _encoder(kind: str) -> Settings:
    return lambda config: (f"model.encoder.kind={kind}", "model.encoder.pooling=mean")


def _staged(config: Config) -> tuple[str, ...]:
    return (f"train.freeze_decoder_steps={config.train.steps // 2}",)


EXPERIMENTS = {
    experiment.name: experiment
    for experiment in (
        Experiment("E0", "baseline", "nothing: the config as given", _fixed()),
        Experiment("E1", "gate", "ten tasks, 500 steps: can it overfit?", _overfit),
        Experiment("E2", "stability", "all rates x 0.3", _rate(0.3)),
        Experiment("E3", "stability", "gradient norm clipped at 1", _fixed("train.clip_norm=1.0")),
        Experiment(
            "E4", "stability", "rates x 0.3 and clipping", lambda c: (*_rate(0.3)(c), "train.clip_norm=1.0")
        ),
        Experiment(
            "E5",
            "encoder",
            "twice the layers of the grid encoder",
            _doubled("model.encoder.layers", lambda c: c.model.encoder.layers),
        ),
        Experiment(
            "E6",
            "encoder",
            "twice the context tokens",
            _doubled("model.context_tokens", lambda c: c.model.context_tokens),
        ),
        Experiment("E7", "encoder", "attention pooling", _fixed("model.encoder.pooling=attention")),
        Experiment(
            "E8",
            "encoder",
            "twice the set layers",
            _doubled("model.encoder.set_layers", lambda c: c.model.encoder.set_layers),
        ),
        Experiment(
            "E9", "stability", "layer scale that begins at 1e-4", _fixed("model.encoder.layer_scale=1e-4")
        ),
        Experiment("E10", "stability", "norms before the layers", _fixed("model.encoder.norm=pre")),
        Experiment("E11", "stability", "rate of the encoder x 0.1, decay setting unchanged", _scaled_encoder),
        *(
            Experiment(f"A{n}", "halting", f"at most {n} ACT steps", _fixed(f"model.halt.max_steps={n}"))
            for n in (1, 4, 8, 16)
        ),
        *(
            Experiment(f"O{i}", "halting", f"exploration {share}", _fixed(f"model.halt.exploration={share}"))
            for i, share in enumerate((0.5, 0.3, 0.7), start=1)
        ),
        *(
            Experiment(f"X{i}", "kinds", f"encoder {kind}", _encoder(kind))
            for i, kind in enumerate(("hybrid_standard", "hybrid_variational", "lpn_variational"), start=1)
        ),
        Experiment("staged", "encoder", "decoder frozen for the first half of the steps", _staged),
    )
}
SUITES = tuple(
    dict.fromkeys(experiment.suite for experiment in EXPERIMENTS.values() if experiment.name != BASELINE)
)


@dataclass(frozen=True)
class Question:
    """One of S1-S6: held by what helps.

    Attributes:
        name, statement: as registered.
        by: experiments, any of which has to lower the loss by the smallest effect.
    """

    name: str
    statement: str
    by: tuple[str, ...]


QUESTIONS = (
    Question("S1", "the encoder is too shallow", ("E5", "E8")),
    Question("S2", "the rate makes the encoder's output shift", ("E2", "E11", "E4")),
    Question("S3", "gradient spikes upset it", ("E3", "E4")),
    Question("S4", "the context has too few tokens", ("E6",)),
    Question("S5", "mean pooling loses where things are", ("E7",)),
    Question("S6", "encoder and decoder co-adapt", ("staged",)),
)


@dataclass(frozen=True)
class Row:
    """One experiment as far as it was run.

    Attributes:
        experiment: it.
        runs: by seed; those that are not finished are missing.
        effects: how much lower the log of its loss is than the baseline's, for every seed of both.
        collapsed: seeds whose token accuracy fell to less than half of a peak.
    """

    experiment: Experiment
    runs: tuple[Run, ...]
    effects: tuple[float, ...]
    collapsed: int

    @property
    def interval(self) -> PairedInterval | None:
        """Of the mean effect, None without a pair."""
        return paired_t_interval(self.effects) if self.effects else None

    @property
    def decision(self) -> Decision | None:
        """Of the registered rule, None without a pair."""
        return decide(self.interval, SMALLEST_EFFECT) if self.interval else None

    def mean(self, key: str) -> float | None:
        """Mean over the seeds of what the runs measured, or None."""
        values = [run.final.get(key) for run in self.runs if run.state == "finished"]
        numbers = [value for value in values if isinstance(value, float) and isfinite(value)]
        return sum(numbers) / len(numbers) if numbers else None


@dataclass(frozen=True)
class Phase:
    """One of the three phases of success.

    Attributes:
        name: of it.
        wanted: in words.
        met: True, False, or None where nothing was measured.
        found: in words, with numbers.
    """

    name: str
    wanted: str
    met: bool | None
    found: str


@dataclass(frozen=True)
class Answer:
    """What the experiments say of a question.

    Attributes:
        question: it.
        verdict: of the registered rule over its experiments, Holm's step-down among them; NOT RUN without any.
        found: in words, with numbers.
    """

    question: Question
    verdict: Literal["VALIDATED", "INVALIDATED", "INCONCLUSIVE", "CANDIDATE", "NOT RUN"]
    found: str


def find(name: str) -> Experiment:
    """The experiment of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in EXPERIMENTS:
        raise ConfigError(
            f"unknown experiment {name!r}", allowed=", ".join(EXPERIMENTS), next_step="etrm experiment list"
        )
    return EXPERIMENTS[name]


def of_suite(name: str) -> list[Experiment]:
    """The experiments of a suite, the gate and the baseline first.

    Raises:
        ConfigError: there is none.
    """
    if name not in (*SUITES, "all"):
        raise ConfigError(f"unknown suite {name!r}", allowed=", ".join((*SUITES, "all")))
    first = [EXPERIMENTS[GATE], EXPERIMENTS[BASELINE]]
    return first + [e for e in EXPERIMENTS.values() if name in (e.suite, "all") and e not in first]


def job(experiment: Experiment, base: Config, seed: int) -> Job:
    """One run.

    Raises:
        ConfigError: the change is impossible for this baseline, such as a pooling that its encoder has not.
    """
    try:
        config = seeded(with_overrides(base, experiment.settings(base)), seed)
    except ConfigError as error:
        raise ConfigError(
            f"{experiment.name} ({experiment.what}) is impossible for this baseline: {error.what}",
            next_step="leave it out: etrm experiment run NAME ...",
        ) from error
    return Job(experiment.name, seed, config, measure=True)


def run(
    chosen: Sequence[Experiment],
    base: Config,
    root: Path,
    seeds: int,
    launcher: Launcher,
    progress: OnProgress,
) -> None:
    """Run experiments with every seed; what is finished is not run again.

    Raises:
        EtrmError: a change is impossible, or the folder holds runs of another baseline.
        Interrupted: Ctrl-C; the same command goes on.
    """
    for experiment in chosen:  # one at a time, so that the gate is known before the others begin
        run_jobs(root, [job(experiment, base, seed) for seed in range(seeds)], launcher, progress)


# -- what was found -------------------------------------------------------------------------------


def table(root: Path, base: Config, seeds: int) -> list[Row]:
    """Every experiment as far as the folder holds its runs."""
    by_name = {name: _finished(root, name, seeds) for name in EXPERIMENTS}
    return [
        _row(root, experiment, by_name[name], by_name[BASELINE]) for name, experiment in EXPERIMENTS.items()
    ]


def _finished(root: Path, name: str, seeds: int) -> list[Run]:
    found = [read_run(root, name, seed) for seed in range(seeds)]
    return [run for run in found if run is not None]


def _row(root: Path, experiment: Experiment, runs: Sequence[Run], baseline: Sequence[Run]) -> Row:
    compared = experiment.name not in (BASELINE, GATE)
    found = of_runs(experiment.what, baseline if compared else (), runs, "loss_end", SMALLEST_EFFECT)
    collapsed = sum(_gate(root, run).collapsed for run in runs if _long_enough(run))
    return Row(experiment, tuple(runs), found.effects, collapsed)


def _long_enough(run: Run) -> bool:
    return run.state == "finished" and run.steps >= 25


def _gate(root: Path, run: Run) -> Gate:
    return gate([m["accuracy_all"] or 0.0 for m in read_metrics(root / run.folder)])


def phases(root: Path, base: Config, rows: Sequence[Row]) -> tuple[Phase, ...]:
    """The three phases of success, met or not."""
    by_name = {row.experiment.name: row for row in rows}
    return (
        _can_overfit(root, by_name[GATE]),
        _is_stable(root, [by_name[name] for name in ("E2", "E3", "E4")]),
        _generalises(base, rows),
    )


def _can_overfit(root: Path, row: Row) -> Phase:
    wanted = "E1: over 95 % token accuracy on ten training tasks, without a collapse"
    gates = [_gate(root, run) for run in row.runs if _long_enough(run)]
    if not gates:
        return Phase("1, can overfit", wanted, None, "E1 was not run")
    found = ", ".join(f"{found.accuracy:.3f}{' (collapsed)' if found.collapsed else ''}" for found in gates)
    return Phase(
        "1, can overfit", wanted, all(found.passed for found in gates), f"{found}, one number a seed"
    )


def _is_stable(root: Path, rows: Sequence[Row]) -> Phase:
    wanted = f"E2 to E4: no collapse in {LONG:,} steps, and an accuracy that rises"
    runs = [run for row in rows for run in row.runs if _long_enough(run)]
    if not runs:
        return Phase("2, stable training", wanted, None, "none of E2 to E4 was run")
    collapsed = sum(row.collapsed for row in rows)
    rising = sum(_rises(root, run) for run in runs)
    shortest = min(run.steps for run in runs)
    found = f"{collapsed} of {len(runs)} runs collapsed, {rising} rise, {shortest} steps"
    short = shortest < LONG
    met = False if collapsed or rising < len(runs) else None if short else True
    return Phase(
        "2, stable training", wanted, met, f"{found}{': too short to say' if short and not collapsed else ''}"
    )


def _rises(root: Path, run: Run) -> bool:
    """Whether the last quarter of the steps is more accurate than the first."""
    seen = [m["accuracy_all"] or 0.0 for m in read_metrics(root / run.folder)]
    quarter = max(1, len(seen) // 4)
    return sum(seen[-quarter:]) > sum(seen[:quarter])


def _generalises(base: Config, rows: Sequence[Row]) -> Phase:
    wanted = "held-out tasks solved by more than the best trivial baseline, by the lower end of the interval"
    best: tuple[float, str] | None = None
    for row in rows:
        lows = [run.final.get("held_out_low") for run in row.runs if run.state == "finished"]
        numbers = [low for low in lows if isinstance(low, float)]
        if numbers and (best is None or min(numbers) > best[0]):
            best = (min(numbers), row.experiment.name)
    if best is None:
        return Phase("3, generalisation", wanted, None, "nothing was run")
    reports = evaluate_baselines(held_out_tasks(base), base.data)
    trivial = max(report.pass_at[1].score for report in reports.values())
    found = f"best lower end {best[0]:.3f} ({best[1]}), best trivial baseline {trivial:.3f}"
    return Phase("3, generalisation", wanted, best[0] > trivial, found)


def answers(rows: Sequence[Row]) -> tuple[Answer, ...]:
    """S1 to S6 from their experiments."""
    by_name = {row.experiment.name: row for row in rows}
    return tuple(_answer(question, [by_name[name] for name in question.by]) for question in QUESTIONS)


def _answer(question: Question, rows: Sequence[Row]) -> Answer:
    decided = [(row, row.decision, row.interval) for row in rows if row.decision is not None and row.interval]
    if not decided:
        return Answer(question, "NOT RUN", f"none of {', '.join(question.by)} was run beside {BASELINE}")
    found = "; ".join(
        f"{row.experiment.name} lowers the log of the loss by {i.mean:.3f} [{i.low:.3f}, {i.high:.3f}], {i.seeds} seeds"
        for row, _, i in decided
    )
    verdicts = [decision.verdict for _, decision, _ in decided]
    # The best of several is flattered: Bonferroni, the first step of Holm's, on one-sided p-values.
    helped = any(
        i.p_value <= LARGEST_P / len(decided)
        for _, d, i in decided
        if d.verdict == "VALIDATED" or d.candidate
    )
    if helped and "VALIDATED" in verdicts:
        return Answer(question, "VALIDATED", found)
    if helped:
        return Answer(question, "CANDIDATE", f"{found}; five seeds can validate")
    if all(verdict == "INVALIDATED" for verdict in verdicts):
        return Answer(question, "INVALIDATED", found)
    return Answer(question, "INCONCLUSIVE", found)


def final(run: Run, key: str) -> str:
    """A number that a run measured, or why there is none."""
    value = run.final.get(key, Absent(absent="not measured"))
    return value.absent if isinstance(value, Absent) else f"{value:.3f}"
