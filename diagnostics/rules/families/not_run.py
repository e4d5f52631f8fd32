"""Rules that could not run, as a note: that they found nothing means nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from diagnostics.causes import Cause
from diagnostics.findings import Evidence, Finding
from diagnostics.measures.drift import FEW_PROBES, REFERENCE_INCOMPLETE, REFERENCE_WITHOUT_SPREAD
from diagnostics.recording.terms.loss_terms import NOT_DIFFERENTIABLE, REENTRANT_CHECKPOINT, SEVERAL_PROCESSES
from diagnostics.rules.families.outputs.constant_loss import seen_again
from diagnostics.rules.options import Values
from diagnostics.rules.rule import NOTE, Family, Rule
from diagnostics.rules.run_history import RunHistory

FEW_STEPS = Cause("few-steps", "fewer steps were recorded than the rules need")
STEPS_LEFT_OUT = Cause("steps-left-out", "one step in {every} is recorded, and the rules need every step")
NO_OPTIMIZER = Cause("no-optimizer", "the monitor was given no optimiser")
NO_PROBE = Cause("no-probe", "no output on a fixed batch was given to Monitor.probe")

NO_REPETITION = Cause("no-repetition", "no batch is known to have been repeated")
UNKNOWN_REGULARISER = Cause(
    "unknown-regulariser", "no term of the loss was called {names}, which is declared a regulariser"
)


NO_STEP_FUNCTION = Cause(
    "no-step-function",
    "they repeat the step, and an audited script has no function that does a step",
)
STEP_LOST = Cause("step-lost", "a step is not recorded: {reason}")
RULE_FAILED = Cause("rule-failed", "an exception in the rule itself: {reason}")
COMPILED_CODE = Cause("compiled-code", "they read single operations, and some of the code is compiled")
TRANSFORMED_CODE = Cause(
    "transformed-code", "they read single operations, and some are in torch.func or a graph of a GPU"
)
ON_ACCELERATOR = Cause(
    "on-accelerator",
    "they read values of single operations, which would make the host wait for the accelerator",
    remedy="Pass Monitor(operations=True), or run ten steps on the CPU.",
)
STEP_TOO_LARGE = Cause(
    "step-too-large", "they read single operations, and a step has too many or too large ones"
)
STEP_RAISED = Cause(
    "step-raised", "they read single operations, and a step that recorded them raised an exception"
)
SAMPLES_VARY = Cause(
    "samples-vary",
    "they compare the operations of several steps, which have different numbers of samples",
)
RECORDING_FAILED = Cause("recording-failed", "they read single operations, and the recording raised {error}")


@dataclass(frozen=True)
class MissingData:
    """What a monitor was not given, or could not record.

    Attributes:
        optimizers: Whether it was given no optimiser.
        every: It records one step in so many.
        regularisers: Declared names that no term of the loss had.
        unmeasured: Terms of the loss whose gradient could not be measured, and why.
        lost: Why steps could not be recorded, with the first and the last of them.
        failed: What a rule raised, by its id.
        operations: Why the operations of the first steps could not be judged, None where they were.
    """

    optimizers: bool
    every: int
    regularisers: Sequence[str]
    unmeasured: Mapping[str, Cause]
    lost: Mapping[str, tuple[int, int]]
    failed: Mapping[str, str]
    operations: Cause | None


def find_not_run(
    rules: Sequence[Rule], options: Mapping[str, Values], run: RunHistory, missing: MissingData
) -> list[Finding]:
    """One note per reason."""
    steps = [record.step for record in run.steps]
    watching = [rule for rule in rules if rule.source in ("step", "history")]
    every_rule = [rule.id for rule in watching]
    drift = [rule.id for rule in rules if rule.source == "probe"]
    early = [rule.id for rule in watching if options[rule.id].get("min_steps", 1.0) > len(steps)]
    found = [_note("", early, FEW_STEPS, steps)]
    if missing.every > 1:
        sampled = [rule.id for rule in watching if rule.needs_every_step]
        found.append(_note("", sampled, STEPS_LEFT_OUT.of(every=missing.every), steps))
    if missing.optimizers:
        blind = [rule.id for rule in watching if rule.needs_optimizer]
        found.append(_note("", blind, NO_OPTIMIZER, steps))
    if not run.probes:
        found.append(_note("", drift, NO_PROBE, steps))
    if missing.regularisers:
        names = ", ".join(missing.regularisers)
        found.append(_note("", ["TERM001"], UNKNOWN_REGULARISER.of(names=names), steps))
    if run.steps and run.steps[-1].losses and not seen_again(run.steps):
        found.append(_note("", ["LOSS002"], NO_REPETITION, steps))
    found += [_note("", ["TERM001"], cause, steps) for cause in dict.fromkeys(missing.unmeasured.values())]
    found += [
        _note("", every_rule, STEP_LOST.of(reason=reason), span) for reason, span in missing.lost.items()
    ]
    found += [
        _note("", [rule], RULE_FAILED.of(reason=reason), steps) for rule, reason in missing.failed.items()
    ]
    if missing.operations is not None:
        unseen = [rule.id for rule in rules if rule.by_operations]
        found.append(_note("", unseen, missing.operations, steps))
    for name, probe in run.probes.items():
        if probe.blocked is not None:
            found.append(_note(name, drift, probe.blocked, steps))
    return [finding for finding in found if finding.evidence.value]


def _note(module: str, rules: Sequence[str], cause: Cause, steps: Sequence[int]) -> Finding:
    first, last = (steps[0], steps[-1]) if steps else (0, 0)
    message = f"these rules did not run: {', '.join(rules)}"
    return RULE001.finding(
        module, message, Evidence(RULE001.metric, float(len(rules)), None, first, last), cause
    )


RULE001 = Rule(
    "RULE001",
    NOTE,
    "Rules did not run",
    "rules",
    "Give the monitor what the rules need.",
    source="monitor",
    causes=(
        STEP_LOST,
        RULE_FAILED,
        FEW_STEPS,
        STEPS_LEFT_OUT,
        NO_OPTIMIZER,
        NO_PROBE,
        NO_REPETITION,
        UNKNOWN_REGULARISER,
        NOT_DIFFERENTIABLE,
        REENTRANT_CHECKPOINT,
        SEVERAL_PROCESSES,
        REFERENCE_INCOMPLETE,
        REFERENCE_WITHOUT_SPREAD,
        FEW_PROBES,
        NO_STEP_FUNCTION,
        ON_ACCELERATOR,
        COMPILED_CODE,
        TRANSFORMED_CODE,
        STEP_TOO_LARGE,
        STEP_RAISED,
        SAMPLES_VARY,
        RECORDING_FAILED,
    ),
    what="Some rules could not run: too few recorded steps, no optimiser, no probe.",
    why="If a rule did not run, the absence of its finding means nothing.",
    example="A monitor without optimiser: MOVE001 and MOVE003 did not run.",
    false_alarms='None. `findings(ignore=["RULE001"])` if you know.',
)
FAMILY = Family(130, "Rules that did not run", (RULE001,))
