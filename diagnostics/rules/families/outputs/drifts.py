"""Drifts of an output on a fixed probe batch, as findings."""

from __future__ import annotations

from diagnostics.causes import Cause
from diagnostics.findings import Evidence, Finding, Severity
from diagnostics.measures.series import DriftEvent
from diagnostics.rules.options import Option, Values
from diagnostics.rules.rule import WARNING, Family, Rule
from diagnostics.rules.run_history import RunHistory

OWN_WEIGHTS = Cause(
    "own-weights", "its weights or its internal state changed, because the probe batch is always the same"
)
UNDER_WAY = Cause(
    "under-way",
    "the drift had already begun when the reference ended, as in learning from random weights; start to probe later",
)


def find_drifts(run: RunHistory, options: Values) -> list[Finding]:
    """DRIFT001: one finding per drift of each module; SPIKE001, which sees every step, reports spikes.

    A drift that was under way when the reference ended is a note: nothing shows that the output was steady before,
    and learning from a random start looks the same. The probes were made with the options of the rule.
    """
    return [
        _finding(name, event)
        for name, probe in run.probes.items()
        for event in probe.events()
        if event.kind == "drift"
    ]


def _finding(name: str, event: DriftEvent) -> Finding:
    return DRIFT001.finding(
        name,
        f"{name}: its output on the probe batch drifts by {event.size:.3g} reference spreads"
        f" from step {event.first_step} to {event.last_step}",
        Evidence(DRIFT001.metric, event.size, event.threshold, event.first_step, event.last_step),
        UNDER_WAY if event.under_way else OWN_WEIGHTS,
        Severity.NOTE if event.under_way else None,
    )


DRIFT001 = Rule(
    "DRIFT001",
    WARNING,
    "The output on a fixed batch drifts",
    "wasserstein",
    "Check that the modules that read the output follow it; otherwise lower the learning rate of this module, or"
    " normalise its output.",
    None,
    {
        "min_size": Option(
            1.0,
            0.0,
            1e9,
            "reference spreads below which no departure counts",
            why="the average row then is where the edge of the reference was; small encoders that trained well"
            " for 600 steps ended 0.3 to 0.65 away",
        ),
        "noise": Option(
            12.0,
            0.0,
            1e9,
            "robust deviations that it must exceed too",
            why="a normal tail never reaches twelve, a Laplace tail once in 100,000 values",
        ),
        "reference": Option(
            5,
            1,
            1e6,
            "probes that make the reference",
            whole=True,
            why="averages out the jitter of single steps",
        ),
    },
    "min_size",
    source="probe",
    history_check=find_drifts,
    causes=(OWN_WEIGHTS, UNDER_WAY),
    what="The module's output on a fixed probe batch, given to `Monitor.probe`, leaves its reference by more than"
    " one reference spread and twelve robust deviations (sliced Wasserstein distance), for at least four of at"
    " least twelve probes. A note unless the pace triples somewhere in the drift.",
    why="The modules that read the output were tuned to its old place.",
    example="An encoder whose output gains an offset from step 30 to 70.",
    false_alarms="An output that begins to learn after a long warm-up: start to probe later, or give"
    ' `drift={"encoder": DriftProbe(min_size=...)}`. Dropout in the probe passes.',
    spreads="forward",
)
FAMILY = Family(120, "Outputs of modules", (DRIFT001,))
