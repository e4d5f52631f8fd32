"""The words of a report for the stable names in a result: verdicts, roles of arms, directions and final values."""

from __future__ import annotations

from etrm.investigation.evidence.table import Direction
from etrm.investigation.records import Verdict
from etrm.investigation.result import CauseCode, Result

VERDICTS = {
    Verdict.VALIDATED: "at fault",
    Verdict.INVALIDATED: "not at fault",
    Verdict.INCONCLUSIVE: "undecided",
    Verdict.ERROR: "no verdict",
    Verdict.NOT_RUN: "not measured",
}
MEANINGS = {
    Verdict.VALIDATED: "the fault is present",
    Verdict.INVALIDATED: "the fault is not present",
    Verdict.INCONCLUSIVE: "the measurements do not show whether the fault is present",
    Verdict.ERROR: "a control, an instrument check or a run failed, so the verdict is unknown",
    Verdict.NOT_RUN: "nothing was measured",
}
"""The meaning of each verdict, as the end of the sentence "VALIDATED means that ..."."""

ROLES = {"subject": "run under test"}
"""The words for the roles of arms whose stored name is not a word for readers."""

DIRECTIONS = {
    Direction.HIGHER: "higher",
    Direction.LOWER: "lower",
    Direction.EQUAL: "equals the control",
    Direction.HOLDS: "meets the threshold",
    Direction.CONTEXT: "(decides nothing)",
}
_FINALS = {
    "loss_start": "loss before the run",
    "loss_end": "loss after the run",
    "loss_start_foreign_demos": "loss before the run, mismatched demonstrations",
    "loss_end_foreign_demos": "loss after the run, mismatched demonstrations",
    "retrieval_start": "task retrieval before the run",
    "retrieval_end": "task retrieval after the run",
    "retrieval_chance": "task retrieval by chance",
    "accuracy_all": "token accuracy, last 25 steps",
    "exact_all": "exact answers, last 25 steps",
    "held_out_pass_at_1": "held-out pass@1",
    "held_out_token_accuracy": "held-out token accuracy",
    "encoder_coverage_lowest": "lowest encoder coverage",
    "steps_without_encoder_movement": "steps without encoder movement",
    "frozen_matched": "decoder tensors unchanged while frozen",
    "frozen_total": "decoder tensors that were frozen",
    "held_out_solved": "held-out tasks solved",
    "held_out_asked": "held-out tasks evaluated",
    "loss": "training loss, last 25 steps",
}


def name_final_value(key: str) -> str:
    """Return the words for a final value of a run. A key without its own words is shown with spaces."""
    return _FINALS.get(key, key.replace("_", " "))


def name_cause_without_hypothesis(result: Result) -> str:
    """Return the headline of a result that names no hypothesis: the stage of the code that departs, or none."""
    reference = result.reference
    if result.cause_code is CauseCode.DEPARTS and reference is not None and reference.stage is not None:
        return f"Root cause: the code of the stage {reference.stage.value}"
    return "Root cause: none found"


def verdict_words(verdict: Verdict) -> str:
    """Return a verdict in words with its name in bold, for instance ``not at fault (**INVALIDATED**)``."""
    return f"{VERDICTS[verdict]} (**{verdict.value}**)"
