"""The section on what the run under test recorded, with which a report begins."""

from __future__ import annotations

from collections.abc import Mapping

from etrm.investigation.evidence.words import capitalise
from etrm.investigation.result import RecordedRun
from reports.markdown import NOTHING, bullets, code, count, escape, folded, link, paragraph, sentence, table
from reports.pages.sections import evidence_table, image, section

TITLE = "What the run recorded"
CURVE = "figures/recorded-curve.png"
"""The figure of the recorded run."""


def recorded_section(recorded: RecordedRun | None, pages: Mapping[str, str]) -> str:
    """Return the section, or an empty text if no run folder was investigated.

    Args:
        recorded: the records of the run under test, as the result holds them.
        pages: the page file of each hypothesis, by its key.
    """
    if recorded is None:
        return ""
    rows = evidence_table(recorded.evidence)
    return section(
        TITLE,
        paragraph(_summarise(recorded)),
        *(image(figure.title, CURVE, escape(figure.caption)) for figure in recorded.figures[:1]),
        _tabulate_accusations(recorded, pages),
        bullets([f"Undecided, because the run is too short: {escape(one)}" for one in recorded.undecided]),
        _tabulate_differences(recorded),
        folded("All rows", rows) if rows else "",
    )


def _summarise(recorded: RecordedRun) -> str:
    decided = [row for row in recorded.evidence if row.passed is not None]
    failed = sum(row.passed is False for row in decided)
    kept = ", ".join(map(str, recorded.checkpoints)) or "none"
    steps = count(recorded.steps, "logged step")
    checks = count(len(decided), "check")
    return (
        f"{code(recorded.folder)}, {steps}, checkpoints of steps {kept}: {failed} of {checks} did not pass."
    )


def _tabulate_accusations(recorded: RecordedRun, pages: Mapping[str, str]) -> str:
    rows = [
        [
            escape(sentence(capitalise(accusation.words))),
            link(escape(accusation.hypothesis), pages[accusation.hypothesis])
            if accusation.hypothesis in pages
            else escape(accusation.hypothesis) or NOTHING,
            "proves it" if accusation.proves else "suggests it" if accusation.hypothesis else NOTHING,
            code(accusation.code),
        ]
        for accusation in recorded.accusations
    ]
    return table(["did not pass", "hypothesis", "weight", "code"], rows) if rows else ""


def _tabulate_differences(recorded: RecordedRun) -> str:
    rows = [
        [code(one.code), escape(one.name), escape(one.before), escape(one.now)]
        for one in recorded.differences
    ]
    words = "The run was made with other settings, tasks, code or machines than this investigation:"
    return f"{paragraph(words)}\n\n{table(['code', 'name', 'then', 'now'], rows)}" if rows else ""
