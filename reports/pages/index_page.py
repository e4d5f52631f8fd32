"""The index: root cause first, then everything else at a glance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from etrm.investigation.result import Experiment, Hypothesis, Result, Run
from reports.markdown import NOTHING, bullets, code, count, duration, escape, link, paragraph, sentence, table
from reports.names import order_hypotheses
from reports.pages.difference import compare
from reports.pages.difference_page import changes
from reports.pages.experiment_page import scenario
from reports.pages.sections import baselines_table, cost, join, raw_data, reproduce, section
from reports.pages.standing import marks

GLOSSARY = (
    "**VALIDATED**: the statement as worded holds, that is, the fault is present. **INVALIDATED**: it does not. "
    "**INCONCLUSIVE**: the runs do not decide it. **ERROR**: a control or an instrument did not work, so no verdict "
    "is given. **NOT RUN**: nothing was measured.",
    "**Root cause**: the first VALIDATED hypothesis in the order of dependence that no other one explains. "
    "**Explained by** another: that one's fault alone gives what is measured. **Candidate**: only the number of seeds "
    "stood in the way of VALIDATED; the first is called the *leading candidate* where nothing is proven.",
    "**Screening**: fewer than five seeds; a statistical hypothesis cannot be VALIDATED.",
    "**Mechanistic**: decided by assertion on every step of every seed. **Statistical**: decided by an interval over "
    "seeds against the smallest effect that matters, fixed before the run.",
    "**Positive control**: a fault is injected and must be found. **Negative control**: a healthy run, in which "
    "nothing may be found.",
    "**Coverage**: share of the batch's samples whose loss has a gradient through what a module computed. 1 is "
    "healthy.",
    "**Waste**: share of the rows that a module computed for nothing, because no loss depends on them.",
    "**Evenness**: how equally the samples of a batch share a module's gradient; 1 is equal, near 0 is one sample "
    "alone.",
    "**Pre-clip and post-clip norm**: length of the gradient before and after clipping. Only the first says whether "
    "a gradient arrives; the second reads the clipping limit whenever clipping acts.",
    "**Share**: part of a representation's power that differs between tasks; 0 means one context for all.",
    "**Carry**: latent state that a row of the batch keeps from one step to the next until it halts and resets.",
    "**Not measured**: a value that could not be had, with the reason; never 0.",
)
SHARED_ONCE = ", what parts share counted once"


def index_page(
    result: Result, pages: Mapping[str, str], experiment_pages: Sequence[str], previous: Result | None = None
) -> str:
    """Markdown of the index.

    Args:
        result: the investigation.
        pages: file of each hypothesis, by its key.
        experiment_pages: file of each experiment, in their order.
        previous: what the run before this one found, where there was one.
    """
    runs = [run for _, part in _parts(result) for run in part.runs]
    return join(
        [
            f"# Why does {escape(result.subject) or 'the subject'} not learn?",
            root_cause(result, pages),
            section("Verdicts", _matrix(result, pages), _order(result, pages)),
            section("Experiments", _experiments(result.experiments, experiment_pages)),
            section("Beside the hypotheses", _beside(result)),
            section("What changed since the last run", _changes(previous, result)),
            section("Trivial baselines", baselines_table(result.baselines)),
            section("Cost", _cost(result)),
            reproduce(result.reproduce),
            raw_data(runs, "on each page, in the table of runs"),
            section("Glossary", bullets(GLOSSARY)),
        ]
    )


def _beside(result: Result) -> str:
    rows = [
        [
            code(finding.rule),
            finding.severity,
            code(finding.module) if finding.module else "the model",
            f"{escape(sentence(finding.message))} Likely cause: {escape(sentence(finding.cause))}",
            escape(finding.n),
        ]
        for finding in result.beside
    ]
    words = "What the toolkit found in the subject's own runs. Cost and halting are no hypothesis."
    head = ["rule", "severity", "module", "finding", "counted"]
    return f"{paragraph(words)}\n\n{table(head, rows)}" if rows else ""


def _changes(previous: Result | None, result: Result) -> str:
    return changes(compare(previous, result, any_subject=True)) if previous is not None else ""


def root_cause(result: Result, pages: Mapping[str, str]) -> str:
    """Root cause, sentence and next step as the report's first words."""
    lines = [f"**{cause_name(result)}**", escape(sentence(result.sentence))]
    cause = result.root_cause
    if cause is not None and cause in pages:
        title = f"{escape(cause)}: {escape(result.hypotheses[cause].title)}"
        lines[0] = f"**{cause_kind(result)}: {link(title, pages[cause])}**"
    lines.append(f"Next step: {escape(sentence(result.next_step)) or NOTHING}")
    return "\n>\n".join(paragraph(line, "> ") for line in lines if line)


def cause_kind(result: Result) -> str:
    """``Root cause`` or, from too few seeds, ``Leading candidate``."""
    return "Leading candidate (not proven)" if result.root_cause_confidence == "candidate" else "Root cause"


def cause_name(result: Result) -> str:
    """The root cause with its title, as markdown without a link."""
    if result.root_cause is None:
        return "Root cause: none found"
    hypothesis = result.hypotheses.get(result.root_cause)
    title = f": {escape(hypothesis.title)}" if hypothesis else ""
    return f"{cause_kind(result)}: {escape(result.root_cause)}{title}"


def _matrix(result: Result, pages: Mapping[str, str]) -> str:
    rows = []
    for key in order_hypotheses(result):
        hypothesis = result.hypotheses[key]
        name = f"{escape(key)}: {escape(hypothesis.title)}"
        marked = f"**{hypothesis.verdict.value}** {escape(marks(result, key))}".rstrip()
        rows.append([link(name, pages[key]), marked, escape(hypothesis.sentence)])
    return table(["hypothesis", "verdict", "in one sentence"], rows) if rows else ""


def _order(result: Result, pages: Mapping[str, str]) -> str:
    if not result.order:
        return ""
    chain = " → ".join(link(escape(key), pages[key]) if key in pages else escape(key) for key in result.order)
    return paragraph(
        f"Order of dependence: {chain}. Each can make those after it look at fault, so the first VALIDATED one that "
        "no other explains is the root cause and is mended first."
    )


def _experiments(experiments: Sequence[Experiment], files: Sequence[str]) -> str:
    rows = [
        [
            link(escape(experiment.title), file),
            scenario(experiment) + (" (screening)" if experiment.screening else ""),
            escape(experiment.sentence),
        ]
        for experiment, file in zip(experiments, files, strict=True)
    ]
    return table(["experiment", "outcome", "in one sentence"], rows) if rows else ""


def _parts(result: Result) -> list[tuple[str, Hypothesis | Experiment]]:
    """What was run, with the name that tables give it."""
    parts: list[tuple[str, Hypothesis | Experiment]] = [
        (escape(key), result.hypotheses[key]) for key in order_hypotheses(result)
    ]
    return parts + [(escape(experiment.title), experiment) for experiment in result.experiments]


def _seconds(runs: Sequence[Run]) -> float:
    return math.fsum(run.wall_s for run in runs)


def _cost(result: Result) -> str:
    parts = [(name, part) for name, part in _parts(result) if part.runs]
    rows = [
        [name, str(len(part.runs)), str(sum(run.steps for run in part.runs)), duration(_seconds(part.runs))]
        for name, part in parts
    ]
    costs = table(["part", "runs", "steps", "time in runs"], rows, "lrrr") if rows else ""
    runs = list({run.folder: run for _, part in parts for run in part.runs}.values())
    together = cost(runs, _seconds(runs))
    shared = SHARED_ONCE if len(runs) < sum(len(part.runs) for _, part in parts) else ""
    spent = result.reproduce
    cause = result.hypotheses.get(result.root_cause or "")
    after = cause.decided_after_s if cause and result.root_cause_confidence == "proven" else None
    named = "" if after is None else f" The root cause was named after {duration(after)}."
    tier = f"Tier: {escape(spent.tier)}, {count(len(spent.seeds), 'seed')}. " if spent.tier else ""
    whole = (
        f"{tier}Together: {together}{' in runs' if runs else ''}{shared}. The investigation took "
        f"{duration(spent.wall_s)} of wall time, {count(spent.threads, 'thread')} for each run.{named}"
    )
    return "\n\n".join(filter(None, [costs, paragraph(whole)]))
