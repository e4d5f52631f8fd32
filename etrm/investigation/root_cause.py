"""The root cause among decided hypotheses: the order, what explains what, and the correction over all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from etrm.evaluation.statistics import holm
from etrm.investigation.comparison.paired_contrast import LARGEST_P
from etrm.investigation.judgement import CommonReason
from etrm.investigation.records import Verdict
from etrm.investigation.result import CauseCode, HypothesisResult

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


def is_left_out(hypothesis: HypothesisResult) -> bool:
    """Whether the user did not select a hypothesis, so that it may hold and nobody knows."""
    return hypothesis.verdict is Verdict.NOT_RUN and CommonReason.NOT_SELECTED in hypothesis.codes


def explanation(hypothesis: HypothesisResult, hypotheses: Mapping[str, HypothesisResult]) -> str | None:
    """The hypothesis that explains this one, if it is VALIDATED, a candidate, not decided yet, or was not selected."""
    if hypothesis.explained_by is None:
        return None
    other = hypotheses.get(hypothesis.explained_by)
    stands = other is None or other.candidate or other.verdict is Verdict.VALIDATED or is_left_out(other)
    return hypothesis.explained_by if stands else None


def find_root_cause(hypotheses: Mapping[str, HypothesisResult]) -> RootCause:
    """The first hypothesis that is VALIDATED, else the first candidate, in the order of the mapping.

    One that another explains is skipped: an encoder whose context never reaches the decoder (H3) has no gradient (H2).
    An ERROR that nothing explains leaves the cause open, because later hypotheses depend on it. So does a hypothesis
    that holds, if the one that may explain it was not selected.
    """
    found = list(hypotheses.values())
    explained = {hypothesis.id: explanation(hypothesis, hypotheses) for hypothesis in found}
    for hypothesis in found:
        if explained[hypothesis.id] is not None:
            continue
        if hypothesis.verdict is Verdict.ERROR:
            name = f"{hypothesis.id} ({hypothesis.title})"
            words = f"No root cause can be named: {name} ended in an ERROR. {hypothesis.sentence}"
            return RootCause(None, None, CauseCode.ERROR, words)
        if hypothesis.verdict is Verdict.VALIDATED:
            return RootCause(hypothesis.id, "proven", CauseCode.PROVEN, hypothesis.sentence)
    for hypothesis in found:
        if hypothesis.candidate and explained[hypothesis.id] is None:
            return RootCause(hypothesis.id, "candidate", CauseCode.CANDIDATE, hypothesis.sentence)
    tested = [hypothesis.id for hypothesis in found if hypothesis.verdict is not Verdict.NOT_RUN]
    if not tested:
        return RootCause(None, None, CauseCode.NOT_TESTED, "No hypothesis was selected.")
    if unselected := find_unselected_causes(hypotheses):
        id, other = next(iter(unselected.items()))
        words = f"{id} is {hypotheses[id].verdict.value}, but {other}, which was not selected, may be the "
        words += f"reason. {hypotheses[id].sentence}"
        return RootCause(None, None, CauseCode.UNTESTED, words)
    left_open = [hypothesis.id for hypothesis in found if hypothesis.verdict is Verdict.INCONCLUSIVE]
    undecided = f"; undecided: {', '.join(left_open)}" if left_open else ""
    words = f"No root cause among the tested hypotheses ({', '.join(tested)}){undecided}."
    return RootCause(None, None, CauseCode.NONE, words)


def find_unselected_causes(hypotheses: Mapping[str, HypothesisResult]) -> dict[str, str]:
    """The hypotheses that may be the reason for others, but were not selected.

    Args:
        hypotheses: the results by id.

    Returns:
        By id of each hypothesis that holds or ended in an ERROR, the id of the one that may explain it.
    """
    found: dict[str, str] = {}
    for hypothesis in hypotheses.values():
        other = hypotheses.get(explanation(hypothesis, hypotheses) or "")
        holds = hypothesis.candidate or hypothesis.verdict in (Verdict.VALIDATED, Verdict.ERROR)
        if holds and other is not None and is_left_out(other):
            found[hypothesis.id] = other.id
    return found


def select_causes_too(hypotheses: Mapping[str, HypothesisResult]) -> str:
    """The next step where hypotheses that may be the reason were not selected, else nothing."""
    causes = set(find_unselected_causes(hypotheses).values())
    if not causes:
        return ""
    ids = [id for id, found in hypotheses.items() if found.verdict is not Verdict.NOT_RUN or id in causes]
    return f"Repeat the command with --hypotheses {','.join(ids)}."


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
