"""The root cause among decided hypotheses: the order, what explains what, and the correction over all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from etrm.evaluation.statistics import holm
from etrm.investigation.comparison.paired_contrast import LARGEST_P
from etrm.investigation.judgement import CommonReason
from etrm.investigation.records import Verdict
from etrm.investigation.result import CauseCode, HypothesisResult, explanation

Confidence = Literal["proven", "candidate"]


class RootCause(NamedTuple):
    """The root cause, or the reason why none is named.

    Attributes:
        id: id of the hypothesis, None where none is named.
        confidence: whether it is proven, None where none is named.
        code: stable name of the outcome.
        sentence: the same in words.
    """

    id: str | None
    confidence: Confidence | None
    code: CauseCode
    sentence: str


def find_root_cause(hypotheses: Mapping[str, HypothesisResult]) -> RootCause:
    """The first hypothesis that is VALIDATED, else the first candidate, in the order of the mapping.

    One that another explains is skipped: an encoder whose context never reaches the decoder (H3) has no gradient (H2).
    An ERROR that nothing explains leaves the cause open, because later hypotheses depend on it.
    """
    found = list(hypotheses.values())
    for hypothesis in found:
        if explanation(hypothesis, hypotheses) is not None:
            continue
        if hypothesis.verdict is Verdict.ERROR:
            name = f"{hypothesis.id} ({hypothesis.title})"
            words = f"No root cause can be named: {name} ended in an ERROR. {hypothesis.sentence}"
            return RootCause(None, None, CauseCode.ERROR, words)
        if hypothesis.verdict is Verdict.VALIDATED:
            return RootCause(hypothesis.id, "proven", CauseCode.PROVEN, hypothesis.sentence)
    for hypothesis in found:
        if hypothesis.candidate:
            return RootCause(hypothesis.id, "candidate", CauseCode.CANDIDATE, hypothesis.sentence)
    tested = [hypothesis.id for hypothesis in found if hypothesis.verdict is not Verdict.NOT_RUN]
    if not tested:
        return RootCause(None, None, CauseCode.NOT_TESTED, "No hypothesis was selected.")
    left_open = [hypothesis.id for hypothesis in found if hypothesis.verdict is Verdict.INCONCLUSIVE]
    undecided = f"; undecided: {', '.join(left_open)}" if left_open else ""
    words = f"No root cause among the tested hypotheses ({', '.join(tested)}){undecided}."
    return RootCause(None, None, CauseCode.NONE, words)


def mark_downstream(decided: Mapping[str, HypothesisResult]) -> dict[str, HypothesisResult]:
    """The results; a statistical one after a proven cause gets the note that this may explain it.

    Args:
        decided: the hypotheses in order, with their final verdicts.
    """
    found: dict[str, HypothesisResult] = {}
    for id, hypothesis in decided.items():
        cause = find_root_cause(found)
        found[id] = hypothesis
        if (
            cause.confidence == "proven"
            and hypothesis.kind == "statistical"
            and hypothesis.verdict is not Verdict.NOT_RUN
        ):
            note = f"It is downstream of {cause.id}, which is proven and may be the reason."
            found[id] = hypothesis.replace(
                codes=(*hypothesis.codes, CommonReason.DOWNSTREAM), sentence=f"{hypothesis.sentence} {note}"
            )
    return found


def correct_over_all(decided: Mapping[str, HypothesisResult]) -> dict[str, HypothesisResult]:
    """Holm's correction over the statistical hypotheses: VALIDATED needs an adjusted p-value below .05."""
    corrected = dict(decided)
    tested = [h for h in decided.values() if h.p_value is not None]
    adjusted = holm([h.p_value for h in tested if h.p_value is not None])
    for hypothesis, p in zip(tested, adjusted, strict=True):
        if hypothesis.verdict is Verdict.VALIDATED and p >= LARGEST_P:
            words = f"Over all statistical hypotheses its p-value is {p:.2g}: undecided."
            corrected[hypothesis.id] = hypothesis.replace(
                verdict=Verdict.INCONCLUSIVE,
                codes=(*hypothesis.codes, CommonReason.NOT_SIGNIFICANT),
                sentence=f"{hypothesis.sentence} {words}",
            )
    return corrected
