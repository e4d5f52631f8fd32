"""The result of an investigation for a terminal, readable without colour and in a pipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from etrm.investigation.evidence.words import capitalise
from etrm.investigation.records import Verdict
from etrm.investigation.result import HypothesisResult, RecordedRun, ReferenceResult, Result
from reports.markdown import duration, plain, sentence
from reports.names import order_hypotheses
from reports.pages.experiment_page import scenario
from reports.pages.standing import marks
from reports.text_table import make_table
from reports.words import MEANINGS, VERDICTS, name_cause_without_hypothesis

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

STYLES = {
    Verdict.VALIDATED: "bold red",
    Verdict.INVALIDATED: "green",
    Verdict.INCONCLUSIVE: "yellow",
    Verdict.ERROR: "bold magenta",
    Verdict.NOT_RUN: "dim",
}


def terminal(result: Result) -> RenderableType:
    """Return the root cause, then verdicts, findings and experiments, then the next step."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    parts: list[RenderableType] = []
    if _decided(result) or not result.experiments:
        parts.append(Text.assemble((_cause(result), "bold"), "\n", sentence(plain(result.sentence))))
    if result.recorded is not None:
        parts.append(
            Padding(Text.assemble(("Recorded run: ", "bold"), _say_recorded(result.recorded)), (1, 0, 0, 0))
        )
    if result.reference is not None and not _says_the_same(result, result.reference):
        words = sentence(plain(result.reference.sentence))
        parts.append(Padding(Text.assemble(("Reference: ", "bold"), words), (1, 0, 0, 0)))
    if _decided(result):
        parts.append(Padding(_verdicts(result), (1, 0, 0, 0)))
        parts.append(Padding(Text(_legend(result), "dim"), (1, 0, 0, 0)))
        parts += [Padding(Text(line), (1, 0, 0, 0)) for line in _not_run(result)]
    if result.additional_findings:
        said = [
            f"{finding.rule}, {sentence(plain(finding.message))}" for finding in result.additional_findings
        ]
        parts.append(Padding(Text.assemble(("Additional findings: ", "bold"), " ".join(said)), (1, 0, 0, 0)))
    for experiment in result.experiments:
        name = scenario(experiment)
        mark = " (screening)" if experiment.screening else ""
        text = Text.assemble(
            (f"{plain(experiment.title)}: ", "bold"), f"{name}{mark}. ", sentence(plain(experiment.sentence))
        )
        parts.append(Padding(text, (1, 0, 0, 0)))
    parts.append(Padding(Text.assemble(("Next step: ", "bold"), plain(result.next_step)), (1, 0)))
    return Group(*parts)


def _says_the_same(result: Result, reference: ReferenceResult) -> bool:
    """Return whether the root cause was decided by the comparison alone, so that both have one sentence."""
    cause = result.hypotheses.get(result.root_cause or "")
    return cause is not None and cause.id == reference.hypothesis and cause.codes == reference.codes


def _say_recorded(recorded: RecordedRun) -> str:
    """Return what did not pass in a recorded run, and the names of what differs since."""
    said = [capitalise(sentence(plain(accusation.words))) for accusation in recorded.accusations]
    names = dict.fromkeys(plain(difference.name) for difference in recorded.differences)
    differ = f" It was made with another {', '.join(names)}." if names else ""
    said += [f"Undecided: {sentence(plain(words))}" for words in recorded.undecided]
    return f"{' '.join(said) or 'Every check passed.'}{differ}"


def announcement(hypothesis: HypothesisResult) -> Text:
    """Return one line on a hypothesis that has just been decided while others are still running."""
    from rich.text import Text

    after = hypothesis.decided_after_s
    when = "" if after is None else f" after {duration(after)}"
    unless = f" (unless {plain(hypothesis.explained_by)} explains it)" if hypothesis.explained_by else ""
    name = f"{plain(hypothesis.id)} {plain(hypothesis.title)}: "
    verdict = f"{VERDICTS[hypothesis.verdict]} ({hypothesis.verdict.value})"
    found = f"{unless}{when}. {sentence(plain(hypothesis.sentence))}"
    return Text.assemble((name, "bold"), (verdict, STYLES[hypothesis.verdict]), found)


def _cause(result: Result) -> str:
    if result.root_cause is None:
        return name_cause_without_hypothesis(result)
    kind = "Leading candidate (not proven)" if result.root_cause_confidence == "candidate" else "Root cause"
    hypothesis = result.hypotheses.get(result.root_cause)
    title = f", {plain(hypothesis.title)}" if hypothesis else ""
    return f"{kind}: {plain(result.root_cause)}{title}"


def _decided(result: Result) -> list[str]:
    return [key for key in order_hypotheses(result) if result.hypotheses[key].verdict is not Verdict.NOT_RUN]


def _not_run(result: Result) -> list[str]:
    """Return one line per reason for hypotheses that were not run, so that they do not crowd the table."""
    by_reason: dict[str, list[str]] = {}
    for key in order_hypotheses(result):
        hypothesis = result.hypotheses[key]
        if hypothesis.verdict is Verdict.NOT_RUN:
            name = f"{plain(key)} {plain(hypothesis.title)}"
            by_reason.setdefault(sentence(plain(hypothesis.sentence)), []).append(name)
    return [f"{Verdict.NOT_RUN.value}: {', '.join(names)}. {reason}" for reason, names in by_reason.items()]


def _legend(result: Result) -> str:
    shown = dict.fromkeys(result.hypotheses[key].verdict for key in _decided(result))
    return "; ".join(f"{verdict.value}: {MEANINGS[verdict]}" for verdict in shown) + "."


def _verdicts(result: Result) -> Table:
    from rich.text import Text

    table = make_table(("", "hypothesis", "verdict", "in one sentence"))
    table.columns[1].max_width = 20
    table.columns[0].no_wrap = table.columns[2].no_wrap = True
    for key in _decided(result):
        hypothesis = result.hypotheses[key]
        verdict = Text(VERDICTS[hypothesis.verdict], style=STYLES[hypothesis.verdict])
        verdict.append(f"\n({hypothesis.verdict.value})")
        verdict.append(f"\n{marks(result, key)}".rstrip())
        table.add_row(
            Text(plain(key)), Text(plain(hypothesis.title)), verdict, Text(plain(hypothesis.sentence))
        )
    return table
