"""The named experiments: one change each against a baseline, decided over paired seeds.

E0-E11, the phases and S1-S6 (which the document calls H1-H6) are from the Encoder training analysis; A, O and X are
from the Project briefing. Both are cited by title.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

from etrm.config import NO_CURRICULUM, Config, with_settings
from etrm.config.tree import Changes
from etrm.errors import ConfigError
from etrm.evaluation import check_outputs
from etrm.extensions import ExtensionPoint
from etrm.investigation.comparison.interventions import round_rate
from etrm.investigation.runs.arms import ArmId
from etrm.investigation.runs.jobs import Job, OnProgress, run_jobs
from etrm.investigation.runs.launchers import Launcher
from etrm.investigation.runs.loaded_run import LoadedRun
from etrm.investigation.session import with_seed
from etrm.training.task_sets import OTHER_TASKS, list_stream_tasks, load_held_out_tasks

BASELINE = "E0"
GATE = "E1"

Settings = Callable[[Config], Changes]
"""Takes the config of the baseline, and returns the settings that change."""


@dataclass(frozen=True)
class Experiment:
    """A named change.

    Attributes:
        name: E7 and the like.
        suite: the suite to which it belongs.
        what: the one difference from the baseline.
        settings: the change, given the baseline's config.
    """

    name: str
    suite: str
    what: str
    settings: Settings


def _set_values(**settings: Unpack[Changes]) -> Settings:
    return lambda config: settings


def _scale_rates(factor: float) -> Settings:
    return lambda config: {"train": {"lr": round_rate(factor * config.train.lr)}}


def _scale_encoder_rate(config: Config) -> Changes:
    return {"train": {"encoder_lr_scale": round_rate(0.1 * config.train.encoder_lr_scale)}}


def _scale_rates_and_clip(config: Config) -> Changes:
    return {"train": {"lr": round_rate(0.3 * config.train.lr), "clip_norm": 1.0}}


def _shrink_to_ten_tasks(config: Config) -> Changes:
    """Ten tasks for 500 steps, the warm-up scaled to the run."""
    warmup = round(500 * config.train.warmup_steps / config.train.steps)
    data: dict[str, object] = {"max_tasks": 10}
    if config.data.stream is not None:
        data = list_stream_tasks(config, 10)
    if config.data.curriculum:
        data |= NO_CURRICULUM
    return {"data": data, "train": {"steps": 500, "warmup_steps": warmup}}


def _double_encoder(setting: str) -> Settings:
    return lambda config: {"model": {"encoder": {setting: 2 * getattr(config.model.encoder, setting)}}}


def _double_tokens(config: Config) -> Changes:
    return {"model": {"context_tokens": 2 * config.model.context_tokens}}


def _choose_encoder(kind: str) -> Settings:
    return _set_values(model={"encoder": {"kind": kind, "pooling": "mean"}})


def _freeze_decoder_first(config: Config) -> Changes:
    return {"train": {"freeze_decoder_steps": config.train.steps // 2}}


EXPERIMENTS = {
    experiment.name: experiment
    for experiment in (
        Experiment("E0", "baseline", "nothing: the unchanged config", _set_values()),
        Experiment("E1", "gate", "ten tasks, 500 steps: can it overfit?", _shrink_to_ten_tasks),
        Experiment("E2", "stability", "all rates x 0.3", _scale_rates(0.3)),
        Experiment("E3", "stability", "gradient norm clipped at 1", _set_values(train={"clip_norm": 1.0})),
        Experiment("E4", "stability", "rates x 0.3 and clipping", _scale_rates_and_clip),
        Experiment(
            "E5",
            "encoder",
            "twice the layers of the grid encoder",
            _double_encoder("layers"),
        ),
        Experiment(
            "E6",
            "encoder",
            "twice the context tokens",
            _double_tokens,
        ),
        Experiment(
            "E7", "encoder", "attention pooling", _set_values(model={"encoder": {"pooling": "attention"}})
        ),
        Experiment(
            "E8",
            "encoder",
            "twice the set layers",
            _double_encoder("set_layers"),
        ),
        Experiment(
            "E9",
            "stability",
            "layer scale that starts at 1e-4",
            _set_values(model={"encoder": {"layer_scale": 1e-4}}),
        ),
        Experiment(
            "E10", "stability", "norms before the layers", _set_values(model={"encoder": {"norm": "pre"}})
        ),
        Experiment(
            "E11", "stability", "rate of the encoder x 0.1, decay setting unchanged", _scale_encoder_rate
        ),
        *(
            Experiment(
                f"A{n}", "halting", f"at most {n} ACT steps", _set_values(model={"halt": {"max_steps": n}})
            )
            for n in (1, 4, 8, 16)
        ),
        *(
            Experiment(
                f"O{i}",
                "halting",
                f"exploration {share}",
                _set_values(model={"halt": {"exploration": share}}),
            )
            for i, share in enumerate((0.5, 0.3, 0.7), start=1)
        ),
        *(
            Experiment(f"X{i}", "kinds", f"encoder {kind}", _choose_encoder(kind))
            for i, kind in enumerate(("hybrid_standard", "hybrid_variational", "lpn_variational"), start=1)
        ),
        Experiment(
            "cached",
            "kinds",
            "context of a sample's first ACT step kept",
            _set_values(model={"variant": "etrm_cached"}),
        ),
        Experiment(
            "staged", "encoder", "decoder frozen for the first half of the steps", _freeze_decoder_first
        ),
    )
}
SUITES = tuple(
    dict.fromkeys(experiment.suite for experiment in EXPERIMENTS.values() if experiment.name != BASELINE)
)


@dataclass(frozen=True)
class Question:
    """One of S1 to S6: it holds if one of its experiments helps.

    Attributes:
        name: the name.
        statement: the statement, as registered.
        by: the names of the experiments, of which one has to lower the loss by the smallest effect.
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


EXTENSION_POINT: ExtensionPoint[Experiment] = ExtensionPoint(
    "experiments",
    "experiment",
    "etrm.investigation.experiments.registry.Experiment(name, suite, what, settings), settings a function from Config "
    "to settings",
    lambda found: isinstance(found, Experiment) and callable(found.settings),
)


def find(name: str) -> Experiment:
    """The experiment of that name: a built-in one, or code from outside.

    Raises:
        ConfigError: there is none.
        ExtensionError: its code cannot be loaded, or is not an experiment.
    """
    if name not in EXPERIMENTS and EXTENSION_POINT.takes(name):
        found = EXTENSION_POINT.load(name)
        if found.name in EXPERIMENTS or not found.name.isidentifier():
            raise EXTENSION_POINT.wrong(
                name, f"the name {found.name!r}", "a name of letters and digits that is not taken"
            )
        return found
    if name not in EXPERIMENTS:
        raise ConfigError(
            "experiment.unknown",
            f"unknown experiment {name!r}",
            allowed=", ".join(EXPERIMENTS),
            next_step="etrm experiment list",
        )
    return EXPERIMENTS[name]


def of_suite(name: str) -> list[Experiment]:
    """The experiments of a suite, the gate and the baseline first.

    Raises:
        ConfigError: there is none.
    """
    if name not in (*SUITES, "all"):
        raise ConfigError(
            "experiment.unknown-suite",
            f"unknown suite {name!r}",
            allowed=", ".join((*SUITES, "all")),
            next_step="etrm experiment list prints all suites and experiments",
        )
    first = [EXPERIMENTS[GATE], EXPERIMENTS[BASELINE]]
    return first + [e for e in EXPERIMENTS.values() if name in (e.suite, "all") and e not in first]


def job(experiment: Experiment, base: Config, seed: int) -> Job:
    """The job of a run of an experiment with a seed.

    Raises:
        ConfigError: the change is impossible for this baseline, such as a pooling that its encoder does not have.
    """
    try:
        config = with_seed(with_settings(base, **experiment.settings(base)), seed)
    except ConfigError as error:
        raise ConfigError(
            "experiment.impossible",
            f"{experiment.name} ({experiment.what}) is impossible for this baseline: {error.what}",
            next_step="leave it out: etrm experiment run NAME ...",
            codes=("experiment.impossible", *error.codes),
        ) from error
    return Job(ArmId(experiment.name), seed, config, measure=True)


def run(
    chosen: Sequence[Experiment],
    base: Config,
    root: Path,
    seeds: int,
    launcher: Launcher,
    progress: OnProgress,
) -> list[LoadedRun]:
    """Run experiments with every seed; what is finished is not run again.

    Returns:
        The runs that have ended.

    Raises:
        EtrmError: a change is impossible, a held-out output is unknown, or the folder holds runs of another baseline.
        Interrupted: the user pressed Ctrl-C; the same command resumes.
    """
    check_outputs(load_held_out_tasks(base), OTHER_TASKS)
    found: list[LoadedRun] = []
    for experiment in chosen:  # one at a time, so that the gate is known before the others begin
        jobs = [job(experiment, base, seed) for seed in range(seeds)]
        found += run_jobs(root, jobs, launcher, progress).values()
    return found
