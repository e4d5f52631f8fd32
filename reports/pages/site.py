"""The files of a report, pages and figures, as bytes by file name. Nothing is written here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from etrm.investigation.records import Arm, Verdict
from etrm.investigation.result import ExperimentResult, HypothesisResult, Result
from reports import html
from reports.html import VERDICT_CLASSES
from reports.markdown import escape, link, plain
from reports.names import make_unique, name_pages, order_hypotheses
from reports.pages.experiment_page import experiment_page
from reports.pages.hypothesis_page import hypothesis_page
from reports.pages.index_page import CHAIN, index_page
from reports.pages.recorded_section import CURVE
from reports.pages.reference_section import STAGES
from reports.pages.sections import image
from reports.plots import (
    evidence_overview,
    figures,
    heat_map,
    paired,
    shown_answers,
    stage_differences,
    verdict_chain,
)

LEGEND = 40
"""Characters of a name in a legend at most, so that two columns fit."""
HOW_TO_READ = "Thin lines are single seeds; the bold line is their mean where all seeds have a value."
HOW_TO_READ_LOG = (
    "Thin lines are single seeds; the bold line is their geometric mean where all seeds have a value."
)


def files(result: Result, previous: Result | None = None) -> dict[str, bytes]:
    """Return every file of the report. Figures come first and the index last, so that links never dangle.

    Args:
        result: the investigation.
        previous: the previous investigation in the same folder.
    """
    names, experiment_names = name_pages(result)
    drawn = _draw_index(result)
    index = index_page(result, names, experiment_names, previous)
    pages: dict[str, Callable[[str], str]] = {}  # a function per page, from its navigation to its markdown
    for key in order_hypotheses(result):
        images, found = _images(result.hypotheses[key], names[key])
        drawn |= found
        pages[names[key]] = partial(hypothesis_page, result, key, images)
    for experiment, name in zip(result.experiments, experiment_names, strict=True):
        images, found = _images(experiment, name)
        drawn |= found
        pages[name] = partial(experiment_page, result, experiment, images)
    whole = html.document(
        f"Why does {result.subject} not learn?",
        {"index.md": index} | {name: page("") for name, page in pages.items()},
        _navigation(result),
        drawn,
        {"index.md": _class_of_cause(result)}
        | {names[key]: VERDICT_CLASSES[result.hypotheses[key].verdict] for key in result.hypotheses},
    )
    markdown = {name: page(_navigation(result, name)) for name, page in reversed(pages.items())}
    texts = {"report.html": whole} | markdown | {"index.md": index}
    return drawn | {name: text.encode() for name, text in texts.items()}


def _draw_index(result: Result) -> dict[str, bytes]:
    """Return the figures of the index: the verdicts, and the stages that depart from the reference."""
    drawn = {}
    if verdict_chain.has_verdict(result):
        drawn[CHAIN] = verdict_chain.draw_chain(verdict_chain.make_boxes(result))
    if result.reference is not None and result.reference.departures:
        drawn[STAGES] = stage_differences.draw_stages(result.reference)
    if result.recorded is not None:
        for figure in result.recorded.figures[:1]:
            drawn[CURVE] = figures.draw(figure, result.recorded.series, ())
    return drawn


def _class_of_cause(result: Result) -> str:
    """Return the CSS class of the box with the cause: that of a fault only if the fault is proven."""
    if result.root_cause_confidence == "proven":
        return VERDICT_CLASSES[Verdict.VALIDATED]
    return VERDICT_CLASSES[Verdict.INCONCLUSIVE] if result.root_cause_confidence == "candidate" else ""


def _images(part: HypothesisResult | ExperimentResult, page: str) -> tuple[list[str], dict[str, bytes]]:
    """Return the markdown and the bytes of a page's figures."""
    arms = [arm.name for arm in part.arms]
    stem = page.removesuffix(".md")
    keys = [figure.key for figure in part.figures]
    prefixed = [key if key.startswith(stem) else f"{stem}-{key}" for key in keys]
    stems = make_unique([*prefixed, f"{stem}-paired", f"{stem}-evidence", f"{stem}-answers"])
    *names, paired_name, evidence_name, answers_name = (f"figures/{name}.png" for name in stems)
    shown, drawn = [], {}
    for figure, name in zip(part.figures, names, strict=True):
        if figure.kind == "heat map":
            drawn[name] = heat_map.draw_heat_map(figure, part.series)
            shown.append(image(figure.title, name, escape(figure.caption)))
            continue
        drawn[name] = figures.draw(figure, part.series, arms, name_arms(part.arms))
        several = len({series.seed for series in part.series if series.figure == figure.key}) > 1
        how = (HOW_TO_READ_LOG if figure.y_log else HOW_TO_READ) if several else ""
        shown.append(image(figure.title, name, f"{escape(figure.caption)} {how}".strip()))
    compared, panels = paired.panels(part.arms, part.runs, part.evidence)
    if panels:
        differences = {arm.name: plain(arm.difference) for arm in part.arms}
        drawn[paired_name] = paired.draw([differences[name] or name for name in compared], panels)
        shown.append(image("Final values by seed", paired_name, paired.CAPTION))
    if isinstance(part, ExperimentResult) and part.answers:
        drawn[answers_name] = shown_answers.draw_answers(part.answers)
        shown.append(image(shown_answers.TITLE, answers_name, shown_answers.CAPTION))
    rows = evidence_overview.select_rows(part.evidence)
    if not shown and rows:
        drawn[evidence_name] = evidence_overview.draw_evidence(rows)
        shown.append(image(evidence_overview.TITLE, evidence_name, evidence_overview.CAPTION))
    return shown, drawn


def name_arms(arms: Sequence[Arm]) -> dict[str, str]:
    """Return the words for each arm in a legend: its difference, or its name where that is long or not its own."""
    differences = Counter(plain(arm.difference) for arm in arms)
    return {
        arm.name: words if words and len(words) <= LEGEND and differences[words] == 1 else arm.name
        for arm in arms
        for words in [plain(arm.difference)]
    }


def _navigation(result: Result, current: str = "") -> str:
    pages, experiment_pages = name_pages(result)
    entries = [("Index", "index.md"), *((escape(key), pages[key]) for key in order_hypotheses(result))]
    entries += [(escape(e.title), page) for e, page in zip(result.experiments, experiment_pages, strict=True)]
    return " · ".join(f"**{name}**" if page == current else link(name, page) for name, page in entries)
