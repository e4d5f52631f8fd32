"""The toolkit's findings in a run, as evidence for the hypotheses that its rules belong to.

Only a critical finding that still held at the last recorded step accuses, and a collapse only if it lasted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from diagnostics import Severity
from etrm.config import Config
from etrm.investigation.evidence.table import Direction, Metric
from etrm.investigation.measurements.run_findings import group_serious
from etrm.investigation.recorded_run.context_collapse import LASTING, explain_collapse
from etrm.investigation.recorded_run.recorded_fact import RecordedFact
from etrm.investigation.recorded_run.run_under_test import RunUnderTest
from etrm.investigation.records import NotMeasured

FINDING = Metric("run.finding", "finding of the run: {item}", Direction.HOLDS)
NOTED = Metric("run.finding-noted", "finding of the run that decides nothing: {item}")

GRADIENTS = (
    *("COV001", "COV002", "GRAD001", "GRAD002", "GRAD003", "GRAD005", "TERM001", "CALL001", "CALL002"),
    *(
        "REACH001",
        "REACH002",
        "REACH004",
        "REACH005",
        "HIDDEN001",
        "MOVE001",
        "MOVE003",
        "MOVE004",
        "MOVE005",
        "MOVE006",
        "REACH006",
        "SHARE002",
        "STEP001",
    ),
    *("LOSS002", "RESPONSE001", "RESPONSE003"),
)
"""Rules about a gradient or a movement that is missing: H2 in the encoder or in learned predicates, H4 in the core."""
COLLAPSE = "COLLAPSE001"
RULES: Mapping[str, tuple[str, ...]] = {
    "FROZEN001": ("H1",),
    **dict.fromkeys(("CONTEXT001", "LEAK001", "RESPONSE002"), ("H3",)),
    **dict.fromkeys(
        ("GRAD004", "MOVE002", "REACH003", "SPIKE001", "DRIFT001", "MODE001", "TARGET001"), ("H4",)
    ),
    "ORIGIN001": ("H5",),
    "ORACLE001": ("H6",),
}
"""Hypotheses that a finding of a rule is evidence for, in order. Findings of other rules, about cost or halting, are
evidence for none."""
STANDS_STILL = frozenset(GRADIENTS)


def judge_findings(run: RunUnderTest) -> Iterator[RecordedFact]:
    """A row for each finding above a note, worst first."""
    if run.findings is None:
        absent = NotMeasured(absent="the run has not ended, so its findings are not written")
        yield RecordedFact(NOTED.row(absent, item="none", threshold="context", n="0 findings"))
        return
    for (rule, module), found in group_serious(dict(one) for one in run.findings).items():
        for number, finding in enumerate(found):
            seen = finding["evidence"]
            item = " ".join(filter(None, (rule, module, finding.get("code", "") if len(found) > 1 else "")))
            item += f" {number + 1}" if len({one.get("code", "") for one in found}) < len(found) else ""
            # A later number is of an earlier process, which ended, while the newest one was killed.
            held = seen["last_step"] == run.recorded_steps - 1
            expected = rule in STANDS_STILL and stands_still(run.used, module)
            serious = finding["severity"] == Severity.CRITICAL.label and held and not expected
            steps = (seen["last_step"] - seen["first_step"] + 1) * run.config.monitor.every
            early = rule == COLLAPSE and steps < LASTING
            decides = serious and not early
            value = seen["value"]
            words = f"{rule} in {module or 'the model'}: {finding['message']}"
            row = (FINDING if decides else NOTED).row(
                NotMeasured(absent="not finite") if value is None else value,
                item=item,
                item_words=f"{rule} in {module or 'the model'}, {seen['metric']}",
                threshold="none that is critical and holds to the end",
                passed=False if decides else None,
                n=f"steps {seen['first_step'] + 1} to {seen['last_step'] + 1} of {run.recorded_steps} recorded ones",
                note=f"{finding['message']}. Likely cause: {finding['cause']}. What to do: {finding['remedy']}",
            )
            about = find_hypotheses(rule, module, run)
            yield RecordedFact(row, about, words=words, undecided=serious and early)


def find_hypotheses(rule: str, module: str, run: RunUnderTest) -> tuple[str, ...]:
    """The hypotheses that a finding in a module is evidence for, in order."""
    used = run.used
    if rule == COLLAPSE:
        return explain_collapse(run)
    if rule in GRADIENTS:
        core = (module.split(".")[0] or "core") == "core" and used.model.has_encoder and module
        return ("H4",) if core and not used.model.learns_predicates else ("H2", "H4")
    return RULES.get(rule, ())


def stands_still(used: Config, module: str) -> bool:
    """Whether the settings keep a module from training until the end of the run."""
    train, part = used.train, module.split(".")[0]
    if part == "encoder":
        return train.freeze_encoder_steps >= train.steps or not train.lr * train.encoder_lr_scale
    return part == "core" and (train.freeze_decoder_steps >= train.steps or not train.lr)
