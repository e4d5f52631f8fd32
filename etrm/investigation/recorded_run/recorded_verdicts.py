"""Facts about a recorded run as evidence in the hypotheses that they belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from etrm.investigation.judgement import CommonReason
from etrm.investigation.recorded_run.recorded_fact import RecordedFact
from etrm.investigation.records import Verdict
from etrm.investigation.result import Accusation, CauseCode, HypothesisResult, RecordedRun

REPEATS = ("run.steps-repeat", "run.weights-repeat")
"""Codes of rows that do not pass where other code made the run, or processes that exchanged something wrong."""
OPEN = (Verdict.INVALIDATED, Verdict.INCONCLUSIVE, Verdict.ERROR)
"""Verdicts that new runs leave open as to the recorded one."""
SHOWN = 3
"""Descriptions of rows in a sentence; the table of the recorded run has all of them."""
TRAIN_AGAIN = (
    "Train again with the current code, in one process: the fault is in the recorded run but not in new runs of its "
    "config, so it is in other code, in other weights, or in what several processes exchanged."
)
READ_RECORDS = 'Read the rows of the recorded run that did not pass, under "What the run recorded".'
TRAIN_LONGER = "Train longer, and investigate that run."
"""Next steps where the recorded run, and nothing that was run anew, shows a fault."""


def add_recorded(hypothesis: HypothesisResult, facts: Sequence[RecordedFact]) -> HypothesisResult:
    """The hypothesis with facts of the recorded run that are evidence for it.

    A fact that proves it VALIDATES it for this run, whatever new runs of the config show. Others make it a candidate.
    """
    if hypothesis.verdict is Verdict.NOT_RUN or not facts:
        return hypothesis
    evidence = (*hypothesis.evidence, *(fact.row for fact in facts))
    failed = [fact for fact in facts if fact.row.passed is False]
    if not failed or hypothesis.verdict not in OPEN:
        return hypothesis.replace(evidence=evidence)
    proven = any(fact.proves for fact in failed)
    if not proven and hypothesis.verdict is Verdict.ERROR:
        return hypothesis.replace(evidence=evidence)
    said = list_words([fact.words for fact in sorted(failed, key=lambda fact: not fact.proves)])
    return hypothesis.replace(
        evidence=evidence,
        verdict=Verdict.VALIDATED if proven else Verdict.INCONCLUSIVE,
        candidate=not proven,
        codes=(*hypothesis.codes, CommonReason.RECORDED),
        sentence=f"In the recorded run {said}. In new runs of its config: {hypothesis.sentence}",
    )


def list_words(words: Sequence[str]) -> str:
    """The first few of some descriptions, and the number of the others."""
    rest = len(words) - SHOWN
    return "; ".join(words[:SHOWN]) + (f"; and {rest} more" if rest > 0 else "")


def select_facts(facts: Sequence[RecordedFact], id: str) -> list[RecordedFact]:
    """The facts that are evidence for a hypothesis before any other."""
    return [fact for fact in facts if fact.hypotheses[:1] == (id,)]


def add_to_others(
    decided: Mapping[str, HypothesisResult], facts: Sequence[RecordedFact]
) -> dict[str, HypothesisResult]:
    """The hypotheses with the facts whose first hypothesis does not apply to the model, each in the next that does."""
    found = dict(decided)
    for fact in facts:
        id = find_hypothesis(fact, decided)
        if id and id != fact.hypotheses[0]:
            found[id] = add_recorded(found[id], [fact])
    return found


def find_hypothesis(fact: RecordedFact, decided: Mapping[str, HypothesisResult]) -> str:
    """The first hypothesis that applies to the model among those that a fact is evidence for; empty if none does."""
    return next((id for id in fact.hypotheses if id in decided and _applies(decided[id])), "")


def _applies(hypothesis: HypothesisResult) -> bool:
    return CommonReason.NOT_APPLICABLE not in hypothesis.codes


def accuse(
    recorded: RecordedRun, facts: Sequence[RecordedFact], decided: Mapping[str, HypothesisResult]
) -> RecordedRun:
    """The recorded run with its rows that did not pass, each with the hypothesis that it is evidence for."""
    failed = [(find_hypothesis(fact, decided), fact) for fact in facts if fact.row.passed is False]
    return recorded.replace(
        accusations=tuple(
            Accusation(
                hypothesis=id,
                code=fact.row.code,
                item=fact.row.item,
                proves=fact.proves and bool(id),
                words=fact.words,
            )
            for id, fact in failed
        )
    )


def made_by_other_code(recorded: RecordedRun) -> bool:
    """Whether the current code does not repeat the recorded run."""
    return any(accusation.code in REPEATS for accusation in recorded.accusations)


def explain_unnamed(recorded: RecordedRun) -> tuple[CauseCode, str, str] | None:
    """Code, sentence and next step where no hypothesis is the cause, but the recorded run shows or suggests a fault."""
    if recorded.accusations:
        other = made_by_other_code(recorded)
        said = list_words([accusation.words for accusation in recorded.accusations])
        what = (
            "the current code does not repeat the recorded run in one process"
            if other
            else "the recorded run itself shows a fault"
        )
        code = CauseCode.OTHER_CODE if other else CauseCode.RECORDED
        step = TRAIN_AGAIN if other else READ_RECORDS
        return code, f"No tested hypothesis explains it in new runs, but {what}: {said}.", step
    if recorded.undecided:
        words = f"The recorded run is too short to decide: {list_words(recorded.undecided)}."
        return CauseCode.NONE, f"No root cause among the tested hypotheses. {words}", TRAIN_LONGER
    return None
