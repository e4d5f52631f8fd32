"""Outputs that are the same for all samples."""

from __future__ import annotations

from collections.abc import Iterator

from diagnostics.causes import Cause
from diagnostics.records import Absent, OutputStats, StepRecord
from diagnostics.rules.options import Option, Values
from diagnostics.rules.rule import CRITICAL, Family, Observation, Rule, lasting

SWAMPED = Cause(
    "swamped", "a constant or a saturated unit dominates the input, or the loss rewards equal outputs"
)
EQUAL_INPUT = Cause(
    "equal-input",
    "its input is the same for all samples: the loader repeats one sample, or scaling or a cast made the"
    " samples equal",
    remedy="Print the batch as the model receives it.",
)
EQUAL_AT_START = Cause(
    "equal-at-start",
    "its outputs are equal at initialisation, but differ after a small change of the weights",
)
FIRST_EQUAL = Cause(
    "first-equal",
    "it is the first such module in order of execution, and its outputs stay equal after a small change of"
    " the weights with {seeds} further seeds",
)


def find_collapse(record: StepRecord, options: Values) -> Iterator[Observation]:
    """COLLAPSE001, for the first module in order of execution."""
    outputs = {name: record.modules[name].output for name in record.order}
    known = [stats for stats in outputs.values() if not isinstance(stats, Absent)]
    samples_differ = any(
        stats.inputs_differ or (not isinstance(stats.share, Absent) and stats.share >= options["below"])
        for stats in known
    )
    for name, stats in outputs.items():
        if isinstance(stats, Absent) or stats.elements < options["elements"] or stats.rows < options["rows"]:
            continue
        if samples_differ and stats.inputs_differ is False:
            continue  # a side input that is the same for all samples, as token types of single sentences
        if name in record.gates or name in record.constant:
            continue  # the other factor tells the samples apart, or a query that was learnt asks for them
        if _is_offset_of_head(record, name, stats):
            continue
        if not isinstance(stats.share, Absent) and stats.share < options["below"]:
            message = (
                f"{name}: its output is nearly the same for all samples, {{value}} of its mean square differs"
            )
            cause = EQUAL_INPUT if stats.inputs_differ is False else SWAMPED
            yield Observation(name, stats.share, message, cause)
            return  # modules after it inherit the collapse


_SMALL = 0.01
"""Deviation between samples, in an output that the loss alone reads: scores are of size 1."""


def _is_offset_of_head(record: StepRecord, name: str, stats: OutputStats) -> bool:
    """Whether the loss alone reads it, and it is constant only next to a large offset, as the bias of rare classes."""
    read = any(name in sources for other, sources in record.into.items() if other != name)
    fed = bool(record.into.get(name, frozenset()) - {name})
    return fed and not read and not isinstance(stats.share, Absent) and stats.rms * stats.share**0.5 > _SMALL


COLLAPSE001 = Rule(
    "COLLAPSE001",
    CRITICAL,
    "The output does not depend on the sample",
    "output_share",
    "Compare with its random start; check the input, saturated units, and the scale of the last bias and norm.",
    find_collapse,
    {
        "below": Option(
            1e-3,
            0.0,
            1.0,
            "share of the mean square that must differ",
            why="a random standard encoder at paper size has 0.1, and 1 % of noise on a constant output has 1e-4",
        ),
        "elements": Option(
            16,
            1,
            1e9,
            "elements of a row from which an output is judged",
            whole=True,
            why="fewer are the logits of a head, often constant at the start by design",
        ),
        "rows": Option(
            8,
            2,
            1e9,
            "rows from which an output is judged",
            whole=True,
            why="the variance of fewer samples is mostly chance",
        ),
        **lasting(5),
    },
    "below",
    causes=(SWAMPED, EQUAL_INPUT, EQUAL_AT_START, FIRST_EQUAL),
    what="Less than a thousandth of the mean square of the module's output differs between samples. Only the"
    " first such module is reported. A module whose raw input is the same for every sample is left out, and so is a"
    " gate of its own input.",
    why="The modules after it cannot distinguish the samples, but the loss may still fall.",
    example="`output.mean(0) + 1e-3 * output`.",
    false_alarms="A large constant offset on a healthy signal; batches of nearly equal inputs.",
    explains=frozenset({"SPIKE001", "DRIFT001", "REACH002"}),
    spreads="forward",
    rank=155,
)
FAMILY = Family(100, "Outputs of modules", (COLLAPSE001,))
