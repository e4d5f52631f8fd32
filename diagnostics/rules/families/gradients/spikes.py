"""Steps on which a module's output or gradient is far above its neighbourhood, and the module where that starts.

The neighbourhood is described by the median of the surrounding steps and its median absolute deviation, on
logarithms: spikes would lift a mean and a standard deviation. An output spikes first where it arises, so the first
module in execution order is reported; a gradient comes from the loss, so the last one is.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from statistics import median

from diagnostics.causes import Cause
from diagnostics.findings import Evidence, Finding
from diagnostics.records import Absent, StepRecord, StepScalars
from diagnostics.rules.options import Option, Values
from diagnostics.rules.rule import WARNING, Family, Rule
from diagnostics.rules.run_history import RunHistory

OUTPUT_SPIKES = Cause("output-spikes", "it arises here: modules before it do not spike on these steps")
GRADIENT_SPIKES = Cause("gradient-spikes", "it arises here: modules after it do not spike on these steps")

_METRICS = {"output_rms": "output", "gradient_max": "gradient"}
_CAUSES = {"output": OUTPUT_SPIKES, "gradient": GRADIENT_SPIKES}
_HALF_WINDOW = 10
"""Steps on each side of the neighbourhood: a median of 21 is not moved by the few spikes that a window may hold."""
_WARM_UP = 5
"""First steps that are left out: losses and gradients fall steeply there."""
_OF_A_KIND = 3
"""Steps that make a kind: of fewer, a median is one of the spikes."""
_MAD_TO_STD = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""


def find_spikes(run: RunHistory, options: Values) -> list[Finding]:
    """SPIKE001: one finding per metric and module in which spikes arise; two spikes at least, not side by side.

    A gradient that a mean loss gives one sample is no spike of the modules whose outputs only the loss reads: a head
    for something rare has one when it happens, and hardly any else.
    """
    history, findings = run.steps, []
    of_one_sample = dict.fromkeys(_find_heads(run.last), 1.0 / run.last.samples) if run.last else {}
    explained: set[int] = set()
    for metric, what in _METRICS.items():
        ratio = options[what]
        origin: dict[str, dict[int, float]] = {}
        small = of_one_sample if metric == "gradient_max" else {}
        for step, sizes in _by_step(history, metric, options, small).items():
            if step in explained:
                continue
            explained.add(step)
            rank = {name: place for place, name in enumerate(history[0].order)}
            ordered = sorted(sizes, key=lambda name: rank.get(name, len(rank)))
            name = ordered[0] if metric == "output_rms" else ordered[-1]
            origin.setdefault(name, {})[step] = sizes[name]
        findings += [_finding(name, metric, ratio, found) for name, found in origin.items() if _apart(found)]
    return findings


def _find_heads(record: StepRecord) -> frozenset[str]:
    """The watched modules whose outputs no other one reads."""
    read = {source for name, sources in record.into.items() for source in sources if source != name}
    return frozenset(record.modules.keys() - read)


def _by_step(
    history: Sequence[StepScalars], metric: str, options: Values, small: Mapping[str, float]
) -> dict[int, dict[str, float]]:
    """Size of the spikes, as a multiple of the neighbourhood, by step and module; none up to the small values."""
    found: dict[int, dict[str, float]] = {}
    kinds = {record.step: _kind(record) for record in history}
    for name in history[0].modules if history else ():
        points = [
            (record.step, float(value))
            for record in history
            if not isinstance(value := record.modules[name][metric], Absent)
            and value > 0
            and math.isfinite(value)
        ]
        spiking = _outliers(points, options[_METRICS[metric]], options)
        spiking = _without_usual(spiking, dict(points), kinds, options[_METRICS[metric]])
        values = dict(points) if name in small else {}
        spiking = {
            step: size for step, size in spiking.items() if values.get(step, math.inf) > small.get(name, 0)
        }
        if len(spiking) <= options["at_most"] * len(points):
            for step, size in spiking.items():
                found.setdefault(step, {})[name] = size
    return dict(sorted(found.items()))


def _kind(record: StepScalars) -> Hashable:
    """The calls of a step: one that applies a penalty calls modules in another way than the others."""
    return tuple((each.get("calls"), each.get("calls_with_gradient")) for each in record.modules.values())


def _without_usual(
    spiking: Mapping[int, float], values: Mapping[int, float], kinds: Mapping[int, Hashable], ratio: float
) -> dict[int, float]:
    """Those spikes that are far above the other steps of their kind too, where these are three at least."""
    alike: dict[Hashable, list[float]] = {}
    for step, value in values.items():
        alike.setdefault(kinds[step], []).append(value)
    return {
        step: size
        for step, size in spiking.items()
        if len(same := alike[kinds[step]]) < _OF_A_KIND or values[step] > ratio * median(same)
    }


def _outliers(points: Sequence[tuple[int, float]], ratio: float, options: Values) -> dict[int, float]:
    if len(points) < options["min_steps"]:
        return {}
    logs = [math.log(value) for _, value in points]
    found = {}
    for place in range(_WARM_UP, len(points)):
        low = max(0, min(place - _HALF_WINDOW, len(points) - 2 * _HALF_WINDOW - 1))
        window = logs[low : low + 2 * _HALF_WINDOW + 1]
        middle = median(window)
        spread = _MAD_TO_STD * median(abs(value - middle) for value in window)
        excess = logs[place] - middle
        if excess > max(math.log(ratio), options["deviations"] * spread):
            found[points[place][0]] = math.exp(excess)
    return found


def _apart(steps: dict[int, float]) -> bool:
    return len(steps) >= 2 and max(steps) - min(steps) > 1


def _finding(name: str, metric: str, ratio: float, found: dict[int, float]) -> Finding:
    steps = sorted(found)
    listed = ", ".join(str(step) for step in steps[:6]) + (", ..." if len(steps) > 6 else "")
    size = median(found.values())
    what = _METRICS[metric]
    return SPIKE001.finding(
        name,
        f"{name}: its {what} spikes to {size:.3g} times its neighbourhood on {len(steps)} steps ({listed})",
        Evidence(f"{what}_ratio", size, ratio, steps[0], steps[-1]),
        _CAUSES[what],
    )


SPIKE001 = Rule(
    "SPIKE001",
    WARNING,
    "Spikes",
    "spike_ratio",
    "Look at the batches of these steps and at operations that can amplify: divisions, exponentials, norms of small"
    " vectors.",
    None,
    {
        "output": Option(
            8.0,
            1.0,
            1e9,
            "ratio of an output to the median of its neighbourhood",
            why="under the same weights batches change an output by a factor of 2 or 3",
        ),
        "gradient": Option(
            20.0,
            1.0,
            1e9,
            "the same ratio of a gradient",
            why="gradients have heavy tails late in a healthy training",
        ),
        "deviations": Option(
            6.0,
            0.0,
            1e9,
            "robust deviations that it must exceed too",
            why="a normal tail reaches six once in 10^9 steps",
        ),
        "at_most": Option(
            0.25,
            0.0,
            1.0,
            "share of the steps above which it is not a spike",
            why="more often, it is the normal course",
        ),
        "min_steps": Option(
            20,
            8,
            1e6,
            "recorded steps that make a neighbourhood",
            whole=True,
            why="one window of the running median",
        ),
    },
    source="history",
    history_check=find_spikes,
    causes=(OUTPUT_SPIKES, GRADIENT_SPIKES),
    what="On at least two steps, not side by side, the root mean square of the output is 8 times, or the largest"
    " gradient at it 20 times, the median of the 21 steps around, and six robust deviations away. An output is"
    " reported at the first module that spikes, a gradient at the last. Steps that call modules in another way than"
    " their neighbours, as every fourth that applies a penalty, are compared with each other.",
    why="Spikes undo training, and a mean or z-score hides them.",
    example="Outputs times 40 on 4 % of the steps.",
    false_alarms="Batches of very different kinds in turn.",
)
FAMILY = Family(110, "Outputs of modules", (SPIKE001,))
