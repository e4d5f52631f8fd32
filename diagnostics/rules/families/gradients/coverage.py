"""Coverage: the share of the samples in the loss that train a module."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from diagnostics.causes import UNKNOWN, ZERO_AT_START, Cause
from diagnostics.recording.calls import unknown_rows
from diagnostics.records import Absent, ModuleRecord, StepRecord
from diagnostics.rules.families.forward.calls import NOT_USED
from diagnostics.rules.families.gradients.module_gradients import (
    CUT_INSIDE,
    DETACHED,
    NO_GRAD,
    ZERO_FACTOR,
    is_faded_out,
    is_target,
)
from diagnostics.rules.options import Option, Values
from diagnostics.rules.rule import (
    CRITICAL,
    LITTLE_USED,
    NOTE,
    WARNING,
    Family,
    Observation,
    Rule,
    lasting,
    learners,
)

LOSS_WITHOUT_GRADIENT = Cause(
    "loss-without-gradient",
    "all watched modules have this coverage: the loss has no gradient for the other samples",
    remedy="Find why the loss ignores the other samples: a mask, ignore_index, clamp(), or a margin that they satisfy.",
)
PART_OF_BATCH = Cause(
    "part-of-batch",
    "it computes only part of the batch in a step; the other samples use a carry or a cache of earlier steps,"
    " which has no gradient",
    remedy="Compute it for all samples of the loss in each step, not only for new samples.",
)
SAMPLES_CUT = Cause(
    "samples-cut",
    "the other samples are detached between its output and the loss: detach(), where() with a detached"
    " branch, a cache",
    remedy="Remove what detaches the other samples on the way to the loss: detach(), where(), a cache.",
)
SKIPPED = Cause(
    "skipped",
    "it is called at irregular intervals: stochastic depth, a branch, or a cache of an earlier step",
    remedy="Nothing, if steps skip it on purpose. If they use its results from an earlier step, call it in each step.",
)
RELATED = Cause(
    "related-rows",
    "the rows are related, like the nodes of a graph: rows without a label train through their neighbours",
)
OTHER_TERM = Cause(
    "other-term",
    "for some samples only the loss reads its result; the modules before it are trained by all samples,"
    " through other terms",
)
ONE_OF_SEVERAL = Cause(
    "one-of-several",
    "each sample trains as many modules of this list as every other sample: each chooses from them, as from experts",
)
_CAUSES = (
    LOSS_WITHOUT_GRADIENT,
    PART_OF_BATCH,
    SAMPLES_CUT,
    NOT_USED,
    ZERO_FACTOR,
    NO_GRAD,
    DETACHED,
    CUT_INSIDE,
    ZERO_AT_START,
    SKIPPED,
    RELATED,
    OTHER_TERM,
    ONE_OF_SEVERAL,
    UNKNOWN,
)
"""Includes those that an assertion can name, which judges a single step."""


def find_low_coverage(record: StepRecord, options: Values) -> Iterator[Observation]:
    """COV001; healthy steps too, since it may hold on a share of the steps."""
    for name, module in learners(record):
        if not isinstance(module.coverage, Absent):
            seen = _observe(record, name, module, module.coverage)
            low = module.coverage < options["below"] and not _is_set_aside(record, name)
            meant, skipped = _meant(record, seen), name in record.left_out
            yield replace(seen, holds=low and meant is None and not skipped)
            if low and meant is not None and not skipped:
                yield meant
            yield replace(seen, holds=low and skipped, key="skipped", severity=NOTE, cause=SKIPPED)


def find_partial_coverage(record: StepRecord, options: Values) -> Iterator[Observation]:
    """COV002."""
    for name, module in learners(record):
        if not isinstance(module.coverage, Absent) and module.coverage < options["below"]:
            seen = _observe(record, name, module, module.coverage)
            if not _is_set_aside(record, name) and name not in record.left_out:
                yield _meant(record, seen) or seen


_SAME_POSITIONS = 0.9
"""Share of the samples without gradient whose positions never had any, from which the loss drops positions. Samples
that a margin or a random mask leaves out change: of coverage c, (1 - c)^n of the positions are never met in n steps,
which in the five steps that it takes to be reported is more than this for c below 0.03 alone."""


def _is_met(record: StepRecord, seen: Observation) -> bool:
    """Whether the loss has no gradient for some samples now, and has it for their positions in other steps."""
    alone = seen.cause is SAMPLES_CUT and [name for name, _ in learners(record)] == [seen.module]
    whole = alone or seen.cause is LOSS_WITHOUT_GRADIENT
    return whole and record.never < _SAME_POSITIONS * (1.0 - seen.value)


def _meant(record: StepRecord, seen: Observation) -> Observation | None:
    """The observation as a note, where the loss leaves samples out on purpose; None where nothing says so."""
    if record.related and seen.cause in (LOSS_WITHOUT_GRADIENT, SAMPLES_CUT):
        return replace(seen, key="related", severity=NOTE, cause=RELATED)
    if _is_met(record, seen):
        return replace(seen, key="met", severity=NOTE)
    if seen.cause is SAMPLES_CUT and record.is_head_of_some(seen.module):
        return replace(seen, key="other-term", severity=NOTE, cause=OTHER_TERM)
    if seen.cause is SAMPLES_CUT and record.is_one_of_several(seen.module):
        return replace(seen, key="one-of-several", severity=NOTE, cause=ONE_OF_SEVERAL)
    return None


def _is_set_aside(record: StepRecord, name: str) -> bool:
    """Whether a step does without the module: a target or one faded out; one whose readers or optimiser wait too.

    Or without gradients in all modules.
    """
    if record.changed_by_hand() or is_target(record, name) or is_faded_out(record, name):
        return True
    state = record.modules[name].state
    if state == "arrived":
        return False
    places = [each.place for each in record.held_by(name)]
    waits = any(not isinstance(place, Absent) and not place.stepped for place in places) and any(
        record.optimizers
    )
    if waits or state != "not called":
        return waits
    readers = [other for other, sources in record.into.items() if name in sources and other != name]
    return not any(record.modules[other].state != "not called" for other in readers)


def _observe(record: StepRecord, name: str, module: ModuleRecord, coverage: float) -> Observation:
    waste = "unknown" if isinstance(module.waste, Absent) else f"{module.waste:.2f}"
    known = [other.coverage for key, other in learners(record) if key != name]
    others = [each for each in known if not isinstance(each, Absent)]
    processed = 0.0 if isinstance(module.waste, Absent) else coverage / max(1.0 - module.waste, 1e-12)
    if others and all(other == coverage for other in others):
        cause = LOSS_WITHOUT_GRADIENT
    elif 0.0 < processed < 0.999:  # 1 but for rounding: it computed the whole batch
        cause = PART_OF_BATCH
    else:
        cause = SAMPLES_CUT
    message = (
        f"{name}: a share of {{value}} of the {record.samples} samples in the loss sends gradient through it"
        f" (last step: {coverage:.3g}, waste {waste})"
    )
    return Observation(name, coverage, message, cause)


def find_unknown_coverage(record: StepRecord, options: Values) -> Iterator[Observation]:
    """COV003."""
    for name, module in learners(record):
        if isinstance(module.coverage, Absent):
            yield Observation(name, 1.0, f"{name}: coverage is not known", module.coverage.cause)


COV001 = Rule(
    "COV001",
    CRITICAL,
    "Few samples train the module",
    "coverage",
    "Run the module with gradient on all samples of the loss, in the step that supervises them.",
    find_low_coverage,
    {
        "below": Option(
            0.5,
            0.0,
            1.0,
            "coverage below which a step counts",
            why="beyond that, samples that train it are the exception; masks, dropout and saturated units remove"
            " far less",
        ),
        **lasting(
            5,
            0.6,
            why_share="a cache refilled every third step leaves two steps in three low; one in two must not count",
        ),
    },
    "below",
    causes=_CAUSES,
    what="Less than half of the samples in the loss have a non-zero gradient through the module, on 60 % of the"
    " recorded steps since it first ran. A note for nodes of a graph, for a head whose other samples train"
    " the modules before it, for modules that samples choose from, and if each step leaves out other samples.",
    why="The decoder lowers the loss without the module, so the loss curve looks healthy.",
    example="`context = torch.where(reset, encoder(x), cache)`: one row of 50 resets and trains the encoder,"
    " coverage 0.02.",
    false_alarms='Experts that take equally many tokens, each a part of the samples: `ignore=["COV001:experts.*"]`.',
    explains=LITTLE_USED | {"DRIFT001"},
    spreads="backward",
    rank=80,
)
COV002 = Rule(
    "COV002",
    WARNING,
    "Some samples never train the module",
    "coverage",
    "If these samples should train it, look for masks and detach() between its output and the loss.",
    find_partial_coverage,
    {
        "below": Option(1.0, 0.0, 1.0, "coverage below which a step counts", why="every sample should count"),
        **lasting(
            10,
            why="samples that lack gradient by chance do not do so in ten batches in a row",
        ),
    },
    "below",
    causes=(
        LOSS_WITHOUT_GRADIENT,
        PART_OF_BATCH,
        SAMPLES_CUT,
        RELATED,
        OTHER_TERM,
        ONE_OF_SEVERAL,
        ZERO_AT_START,
        UNKNOWN,
    ),
    what="Coverage stays between one half and one. A note in the same cases as COV001.",
    why="It may always be the same samples that are left out.",
    example="A mask that drops one sample in four before the loss reads the module's output.",
    false_alarms="Samples whose gradient is exactly zero: saturated units, satisfied hinge losses, rows that are all"
    " padding.",
    explains=frozenset({"WASTE001", "CALL001"}),
    spreads="backward",
    rank=90,
)
COV003 = Rule(
    "COV003",
    NOTE,
    "Coverage is not known",
    "steps",
    "Declare which sample each row belongs to: Monitor(rows={...}) or `with monitor.rows(index)`.",
    find_unknown_coverage,
    lasting(5),
    causes=unknown_rows.ALL,
    what="The rows of the module's output cannot be matched to samples.",
    why="A guess would be a wrong number, so no number is given.",
    example="A module that runs on (B * K, D).",
    false_alarms="None: it is a statement about the tool. Modules that do not matter need not be watched.",
)
FAMILY = Family(10, "Samples that train a module", (COV001, COV002, COV003))
