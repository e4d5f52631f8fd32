"""Finds steps on which a module's output or gradient is far above its neighbourhood, and where it starts.

The yardstick is the median of the surrounding steps and its median absolute deviation, on logarithms:
a mean and a deviation would be lifted by the spikes themselves. An output spikes first where it arises,
so the first module in execution order is named; a gradient comes from the loss, so the last one is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from diagnostics.findings import Evidence, Finding
from diagnostics.records import Absent, StepScalars
from diagnostics.rules import causes
from diagnostics.rules.options import Values
from diagnostics.rules.registry import find_rule

_RULE = find_rule("SPIKE001")
_METRICS = {"output_rms": "output", "gradient_max": "gradient"}
_CAUSES = {"output": causes.OUTPUT_SPIKES, "gradient": causes.GRADIENT_SPIKES}
_HALF_WINDOW = 10
_WARM_UP = 5  # the first steps of a training fall steeply


def spikes(history: Sequence[StepScalars], options: Values) -> list[Finding]:
    """One finding per metric and module in which spikes arise; two spikes at least, not side by side.

    Args:
        options: Those of SPIKE001.
    """
    findings = []
    explained: set[int] = set()
    for metric, what in _METRICS.items():
        ratio = options[what]
        origin: dict[str, dict[int, float]] = {}
        for step, sizes in _by_step(history, metric, options).items():
            if step in explained:
                continue
            explained.add(step)
            rank = {name: place for place, name in enumerate(history[0].order)}
            ordered = sorted(sizes, key=lambda name: rank.get(name, len(rank)))
            name = ordered[0] if metric == "output_rms" else ordered[-1]
            origin.setdefault(name, {})[step] = sizes[name]
        findings += [_finding(name, metric, ratio, found) for name, found in origin.items() if _apart(found)]
    return findings


def _by_step(history: Sequence[StepScalars], metric: str, options: Values) -> dict[int, dict[str, float]]:
    """Step -> module -> how many times its neighbourhood."""
    found: dict[int, dict[str, float]] = {}
    for name in history[0].modules if history else ():
        points = [
            (record.step, float(value))
            for record in history
            if not isinstance(value := record.modules[name][metric], Absent)
            and value > 0
            and math.isfinite(value)
        ]
        spiking = _outliers(points, options[_METRICS[metric]], options)
        if len(spiking) <= options["at_most"] * len(points):
            for step, size in spiking.items():
                found.setdefault(step, {})[name] = size
    return dict(sorted(found.items()))


def _outliers(points: Sequence[tuple[int, float]], ratio: float, options: Values) -> dict[int, float]:
    if len(points) < options["min_steps"]:
        return {}
    logs = [math.log(value) for _, value in points]
    found = {}
    for place in range(_WARM_UP, len(points)):
        low = max(0, min(place - _HALF_WINDOW, len(points) - 2 * _HALF_WINDOW - 1))
        window = logs[low : low + 2 * _HALF_WINDOW + 1]
        middle = median(window)
        spread = 1.4826 * median(abs(value - middle) for value in window)
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
    return _RULE.finding(
        name,
        f"{name}: its {what} spikes to {size:.3g} times its neighbourhood on {len(steps)} steps ({listed})",
        Evidence(f"{what}_ratio", size, ratio, steps[0], steps[-1]),
        _CAUSES[what],
    )
