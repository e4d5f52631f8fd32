"""The registered healthy course of a preset: what runs without a fault logged, over several seeds.

A course is made of real run folders by `etrm bench course` and kept as package data. Its numbers are means over windows
of steps, one for each seed. A run of the same config is outside if its mean leaves the band of the seeds in two windows
in a row.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from statistics import fmean, variance
from typing import Any

from etrm.atomic_files import write_atomically
from etrm.checkpoints.run_folder import read_config, read_metrics, read_record
from etrm.config import Config, list_presets, load
from etrm.errors import ConfigError, RunFolderError
from etrm.investigation.runs.loaded_run import Metrics
from etrm.setting_texts import flatten

IGNORED = (
    "preset",
    "faults",
    "interventions",
    "monitor",
    "evaluate",
    "data.workers",
    "data.store",
    "train.seed",
    "train.device",
    "train.threads",
    "train.compile",
    "train.static_shapes",
    "train.cuda_graphs",
    "train.log_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
)
"""Settings that do not make another course: they change where a run is computed, what is kept of it, or, as faults do,
what the course is there to show."""
WINDOWS = 20
"""Windows of a course: enough to say when a run left it, few enough that a mean is over several batches."""
SHORTEST = 2
"""Steps of a window at least."""
WIDTH = 3.0
"""Margin of the band in standard deviations of a seed, beyond the lowest and the highest seed."""
SHIFT = 2
"""Windows by which a healthy run may be early or late. On preset `small`, seed 100 leaves its first plateau 40 steps
(two windows) later than seeds 0 to 2; with bands of single windows it was taken for unhealthy."""
FEWEST = 2
"""Seeds at least, for a deviation."""


def _log(value: float) -> float:
    return math.log(max(value, 1e-12))


def _same(value: float) -> float:
    return value


@dataclass(frozen=True)
class CourseMetric:
    """A logged quantity of a course.

    Attributes:
        key: its name in the log.
        scale: the function of its means that varies evenly over the course: the logarithm of what has a unit.
        smallest: the least deviation between seeds on that scale, so that a quantity that hardly varies gets a band.
    """

    key: str
    scale: Callable[[float], float]
    smallest: float


METRICS = (
    CourseMetric("loss", _log, 0.01),
    CourseMetric("accuracy_all", _same, 0.005),
    CourseMetric("grad_norm_before_clip", _log, 0.03),
    CourseMetric("encoder.moved", _log, 0.03),
    CourseMetric("core.moved", _log, 0.03),
    CourseMetric("probe.share", _log, 0.03),
)


@dataclass(frozen=True)
class CourseDeparture:
    """Where a run left the band of a quantity.

    Attributes:
        key: name of the quantity.
        step: first step of the window from which on it is outside.
        value: mean of the run in that window.
        low, high: ends of the band in that window.
        windows: number of windows outside, of those that were compared.
        compared: number of windows that were compared.
    """

    key: str
    step: int | None
    value: float
    low: float
    high: float
    windows: int
    compared: int


@dataclass(frozen=True)
class HealthyCourse:
    """A registered course.

    Attributes:
        preset: name of the preset.
        settings: its settings by dotted name, without those that make no other course.
        made: the origin of its runs: commit, dirty, versions, device, precision, data hash and seeds.
        steps: number of steps that it covers.
        window: number of steps of a window.
        means: the means of each quantity, by seed and window; None where no step of the window logged it.
    """

    preset: str
    settings: Mapping[str, Any]
    made: Mapping[str, Any]
    steps: int
    window: int
    means: Mapping[str, Sequence[Sequence[float | None]]]

    def compare(self, metrics: Metrics) -> list[CourseDeparture]:
        """How far a run follows the course, for each quantity that both have."""
        found = []
        for metric in METRICS:
            bands = self.list_bands(metric)
            values = take_means(metrics, metric.key, self.window, self.steps)
            compared = [
                (number, value, band)
                for number, (value, band) in enumerate(zip(values, bands, strict=False))
                if value is not None and band is not None
            ]
            if compared:
                found.append(_find_departure(metric.key, compared, self.window))
        return found

    def list_bands(self, metric: CourseMetric) -> list[tuple[float, float] | None]:
        """The band of a quantity in each window, in its own unit; None where no seed logged it.

        It reaches from the lowest to the highest seed in the windows around, and WIDTH deviations farther. A few seeds
        say little of the deviation in one window, so it is that over all windows, and at least the smallest.
        """
        columns = [
            [metric.scale(value) for value in column if value is not None]
            for column in zip(*self.means.get(metric.key, ()), strict=True)
        ]
        usual = [variance(column) for column in columns if len(column) >= FEWEST]
        if not usual:
            return [None for _ in columns]
        margin = WIDTH * max(math.sqrt(fmean(usual)), metric.smallest)
        bands: list[tuple[float, float] | None] = []
        for place, own in enumerate(columns):
            around = [
                value for column in columns[max(0, place - SHIFT) : place + SHIFT + 1] for value in column
            ]
            ends = (min(around) - margin, max(around) + margin) if own else None
            bands.append((math.exp(ends[0]), math.exp(ends[1])) if ends and metric.scale is _log else ends)
        return bands

    def to_json(self) -> str:
        """The course as its file holds it."""
        return json.dumps(vars(self), indent=1, sort_keys=True) + "\n"


def _find_departure(
    key: str, compared: Sequence[tuple[int, float, tuple[float, float]]], window: int
) -> CourseDeparture:
    """The first window of two in a row that lie on the same side of the band, or in a course of one window that one."""
    sides = [(value > high) - (value < low) for _, value, (low, high) in compared]
    outside = sum(map(bool, sides))
    at = next(
        (i for i, side in enumerate(sides) if side and (len(sides) == 1 or side in sides[i + 1 : i + 2])),
        None,
    )
    number, value, (low, high) = compared[-1 if at is None else at]
    step = None if at is None else number * window + 1
    return CourseDeparture(key, step, value, low, high, outside, len(compared))


def take_means(metrics: Metrics, key: str, window: int, steps: int) -> list[float | None]:
    """The means of a quantity over the windows that the run has reached the end of."""
    last = min(steps, metrics[-1]["step"] if metrics else 0)
    sums: list[list[float]] = [[] for _ in range(last // window)]
    for m in metrics:
        place = (m["step"] - 1) // window
        if place < len(sums) and m.get(key) is not None:
            sums[place].append(m[key])
    return [fmean(values) if values else None for values in sums]


def make_course(folders: Sequence[Path]) -> HealthyCourse:
    """The course of some runs of one preset that differ in the seed alone; as long as the shortest of them.

    Raises:
        ConfigError: they are not runs of a preset without faults, or have the same seed.
        RunFolderError: one of them is no run folder, or a file is damaged.
    """
    configs = [read_config(folder) for folder in folders]
    seeds = [config.train.seed for config in configs]
    identities = [identify(config) for config in configs]
    preset = configs[0].preset
    wrong = ""
    if any(identity != identities[0] for identity in identities):
        wrong = "their settings differ in more than the seed"
    elif any(config.faults or config.interventions for config in configs):
        wrong = "some of them have faults or interventions"
    elif not preset or identities[0] != identify(load(preset)):
        wrong = f"their settings are not those of a preset ({preset or 'none'})"
    elif len(set(seeds)) < max(FEWEST, len(seeds)):
        wrong = f"their seeds are {', '.join(map(str, seeds))}"
    if wrong:
        raise ConfigError(
            "course.not-one-preset",
            "a course cannot be made of these runs",
            got=wrong,
            allowed="runs of one preset without faults, each with another train.seed",
            next_step="etrm train --preset smoke --set train.seed=1 --out runs/course/1, and so on",
        )
    logs = [read_metrics(folder) for folder in folders]
    steps = min((log[-1]["step"] if log else 0) for log in logs)
    window = max(SHORTEST, math.ceil(steps / WINDOWS))
    if steps < window:
        raise RunFolderError(
            "course.too-short",
            "a course cannot be made of these runs",
            got=f"{steps} steps",
            allowed=f"{window}",
        )
    steps -= steps % window
    means = {m.key: [_rounded(take_means(log, m.key, window, steps)) for log in logs] for m in METRICS}
    return HealthyCourse(preset, identities[0], _describe_origin(folders, seeds), steps, window, means)


def _rounded(values: Sequence[float | None]) -> list[float | None]:
    """To six digits, which keeps the files small."""
    return [None if value is None else float(f"{value:.6g}") for value in values]


def _describe_origin(folders: Sequence[Path], seeds: Sequence[int]) -> dict[str, Any]:
    records = [read_record(folder) for folder in folders]
    origin = {
        name: records[0].get(name) for name in ("commit", "versions", "device", "precision", "data_hash")
    }
    for name, value in origin.items():
        if any(record.get(name) != value for record in records):
            raise RunFolderError(
                "course.mixed-origin",
                f"the runs of a course were made with another {name} each",
                got="; ".join(str(record.get(name)) for record in records),
                next_step="train all of them with the same code on the same machine",
            )
    return origin | {"dirty": any(record.get("dirty") for record in records), "seeds": list(seeds)}


def write_course(course: HealthyCourse, file: Path) -> None:
    """Write the file of a course, and create its folders if they are missing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, course.to_json())


def identify(config: Config) -> dict[str, Any]:
    """The settings of a config that make its course, by dotted name."""
    flat = flatten(config.model_dump(mode="json"))
    return {
        name: value
        for name, value in flat.items()
        if not any(name == left or name.startswith(f"{left}.") for left in IGNORED)
    }


def list_courses() -> Iterator[HealthyCourse]:
    """The registered courses, by preset."""
    folder = resources.files("etrm.investigation.recorded_run") / "courses"
    for file in sorted(folder.iterdir(), key=lambda one: one.name):
        if file.name.endswith(".json"):
            yield HealthyCourse(**json.loads(file.read_text("utf-8")))


def find_course(config: Config) -> HealthyCourse | None:
    """The registered course of a config; None if there is none.

    A setting that is newer than a course must have its default value.
    """
    wanted, default = (json.loads(json.dumps(identify(one))) for one in (config, Config()))
    return next((course for course in list_courses() if default | course.settings == wanted), None)


def find_nearest_preset(config: Config) -> tuple[str, tuple[str, ...]]:
    """The preset that differs from a config in the fewest settings, and the names of these settings."""
    wanted = identify(config)
    apart = {}
    for preset in list_presets():
        other = identify(load(preset))
        apart[preset] = tuple(name for name in wanted if wanted[name] != other.get(name))
    nearest = min(apart, key=lambda preset: len(apart[preset]))
    return nearest, apart[nearest]
