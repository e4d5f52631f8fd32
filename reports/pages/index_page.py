"""The index page of a report: the root cause first, then an overview of everything else."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence

from etrm.config.model import SYMBOLIC
from etrm.investigation.records import Run
from etrm.investigation.result import ExperimentResult, HypothesisResult, Result
from reports.markdown import (
    NOTHING,
    bullets,
    code,
    count,
    duration,
    escape,
    fenced,
    link,
    paragraph,
    sentence,
    table,
)
from reports.names import order_hypotheses
from reports.pages.difference import compare
from reports.pages.difference_page import changes
from reports.pages.experiment_page import scenario
from reports.pages.recorded_section import recorded_section
from reports.pages.reference_section import reference_section
from reports.pages.sections import baselines_table, cost, image, join, raw_data, reproduce, section
from reports.pages.standing import marks
from reports.plots.verdict_chain import caption, has_verdict
from reports.words import MEANINGS, name_cause_without_hypothesis, verdict_words

GLOSSARY = (
    "**Root cause**: the first VALIDATED hypothesis in the order of dependence that no other hypothesis explains. "
    "**Explained by** another hypothesis: the other fault alone produces the same measurements. "
    "**Candidate**: it would be VALIDATED with more seeds, or with an input that its sentence names. If nothing is "
    "proven, the first candidate is the *leading candidate*.",
    "**Screening**: an investigation with fewer than five seeds, in which no statistical hypothesis can be VALIDATED.",
    "**Mechanistic** hypothesis: decided by assertions on every step of every seed. **Statistical** hypothesis: "
    "decided by an interval over seeds, compared with the smallest effect that matters, which is fixed in advance.",
    "**Positive control**: a run with an injected fault, which must be found. **Negative control**: a healthy run, in "
    "which no fault may be found.",
    "**Coverage** of a module: the share of the batch's samples whose loss has a gradient through the module's output. "
    "1 is healthy.",
    "**Waste** of a module: the share of its computed rows on which no loss depends.",
    "**Evenness** of a module: how equally the samples of a batch contribute to its gradient. 1 means equally; a value "
    "near 0 means that one sample contributes almost all.",
    "**Pre-clip and post-clip norm**: the norm of the gradient before and after clipping. Only the first shows whether "
    "a gradient arrives, because clipping limits the second.",
    "**Share** of a representation: the part of its power that differs between tasks. 0 means that all tasks have the "
    "same context.",
    "**Carry**: the latent state that a sample keeps from one step to the next until it halts and is replaced.",
    "**Not measured**: a value that could not be measured, with the reason. It is never shown as 0.",
)
CHAIN = "figures/verdicts.png"
"""The figure with which the index begins."""
CHANGED = "Changes since the previous investigation"
SHARED_ONCE = "; runs that several parts share count once"


def index_page(
    result: Result, pages: Mapping[str, str], experiment_pages: Sequence[str], previous: Result | None = None
) -> str:
    """Markdown of the index.

    Args:
        result: the investigation.
        pages: the page file of each hypothesis, by its key.
        experiment_pages: the page file of each experiment, in their order.
        previous: the result of the previous investigation in the same folder, if there was one.
    """
    runs = [run for _, part in _parts(result) for run in part.runs]
    return join(
        [
            f"# Why does {escape(result.subject) or 'this run'} not learn?",
            image("Verdicts in the order of dependence", CHAIN, caption(result))
            if has_verdict(result)
            else "",
            root_cause(result, pages),
            recorded_section(result.recorded, pages),
            reference_section(result.reference, pages),
            section(
                "Verdicts", _explain_marks(result), _tabulate_controls(result, pages), _order(result, pages)
            ),
            section("Experiments", _experiments(result.experiments, experiment_pages)),
            section("Additional findings", _additional_findings(result)),
            section(CHANGED, _changes(previous, result)),
            section("Formulas", _formulas(result, runs)),
            section("Trivial baselines", baselines_table(result.baselines)),
            section("Cost", _tabulate_cost(result)),
            reproduce(result.reproduce),
            raw_data(runs, "in the table of runs on each page"),
            section("Glossary", bullets(GLOSSARY)),
        ]
    )


def _additional_findings(result: Result) -> str:
    rows = [
        [
            code(finding.rule),
            finding.severity,
            code(finding.module) if finding.module else "the model",
            f"{escape(sentence(finding.message))} Likely cause: {escape(sentence(finding.cause))}",
            escape(finding.n),
        ]
        for finding in result.additional_findings
    ]
    words = (
        "The toolkit's rules also found the following in the runs under test. "
        "The verdicts do not depend on these findings."
    )
    head = ["rule", "severity", "module", "finding", "found in"]
    return f"{paragraph(words)}\n\n{table(head, rows)}" if rows else ""


def _formulas(result: Result, runs: Sequence[Run]) -> str:
    """Return the command that shows the formulas of the longest finished run under test, if its answers have any."""
    if result.reproduce.config.get("model", {}).get("variant") != SYMBOLIC:
        return ""
    arms = {arm.name for _, part in _parts(result) for arm in part.arms if arm.role == "subject"}
    finished = [run for run in runs if run.arm in arms and run.state == "finished"]
    if not finished:
        return ""
    longest = max(finished, key=lambda run: run.steps)
    command = f"etrm symbolic report {shlex.quote(longest.folder)}"
    words = "In the folder of this report, this command shows the solved tasks with the formulas behind the answers:"
    return f"{paragraph(words)}\n\n{fenced(command, 'sh')}"


def _changes(previous: Result | None, result: Result) -> str:
    return changes(compare(previous, result, any_subject=True)) if previous is not None else ""


def root_cause(result: Result, pages: Mapping[str, str]) -> str:
    """Return the root cause, its sentence and the next step, with which the report begins."""
    lines = [f"**{cause_name(result)}**", escape(sentence(result.sentence))]
    cause = result.root_cause
    if cause is not None and cause in pages:
        title = f"{escape(cause)}: {escape(result.hypotheses[cause].title)}"
        lines[0] = f"**{cause_kind(result)}: {link(title, pages[cause])}**"
    lines.append(f"Next step: {escape(sentence(result.next_step)) or NOTHING}")
    return "\n>\n".join(paragraph(line, "> ") for line in lines if line)


def cause_kind(result: Result) -> str:
    """Return ``Root cause``, or ``Leading candidate`` if there are too few seeds for a proof."""
    return "Leading candidate (not proven)" if result.root_cause_confidence == "candidate" else "Root cause"


def cause_name(result: Result) -> str:
    """Return the root cause with its title, as markdown without a link."""
    if result.root_cause is None:
        return name_cause_without_hypothesis(result)
    hypothesis = result.hypotheses.get(result.root_cause)
    title = f": {escape(hypothesis.title)}" if hypothesis else ""
    return f"{cause_kind(result)}: {escape(result.root_cause)}{title}"


def _explain_marks(result: Result) -> str:
    """Return the explanation of the verdicts, for the place above their table."""
    if not result.hypotheses:
        return ""
    listed = bullets([f"{verdict_words(verdict)}: {meaning}." for verdict, meaning in MEANINGS.items()])
    return f"Each hypothesis states one possible fault. The verdicts are:\n\n{listed}"


def _tabulate_controls(result: Result, pages: Mapping[str, str]) -> str:
    rows = []
    for key in order_hypotheses(result):
        hypothesis = result.hypotheses[key]
        name = f"{escape(key)}: {escape(hypothesis.title)}"
        marked = f"{verdict_words(hypothesis.verdict)} {escape(marks(result, key))}".rstrip()
        rows.append([link(name, pages[key]), marked, escape(hypothesis.sentence)])
    return table(["hypothesis", "verdict", "in one sentence"], rows) if rows else ""


def _order(result: Result, pages: Mapping[str, str]) -> str:
    if not result.order:
        return ""
    chain = " → ".join(link(escape(key), pages[key]) if key in pages else escape(key) for key in result.order)
    return paragraph(
        f"Order of dependence: {chain}. A fault in one of them can make the later ones look at fault. The root cause "
        "is therefore the first VALIDATED hypothesis that no other hypothesis explains. Fix it first."
    )


def _experiments(experiments: Sequence[ExperimentResult], files: Sequence[str]) -> str:
    rows = [
        [
            link(escape(experiment.title), file),
            scenario(experiment) + (" (screening)" if experiment.screening else ""),
            escape(experiment.sentence),
        ]
        for experiment, file in zip(experiments, files, strict=True)
    ]
    return table(["experiment", "outcome", "in one sentence"], rows) if rows else ""


def _parts(result: Result) -> list[tuple[str, HypothesisResult | ExperimentResult]]:
    """Return the hypotheses and experiments with their names in tables."""
    parts: list[tuple[str, HypothesisResult | ExperimentResult]] = [
        (escape(key), result.hypotheses[key]) for key in order_hypotheses(result)
    ]
    return parts + [(escape(experiment.title), experiment) for experiment in result.experiments]


def _seconds(runs: Sequence[Run]) -> float:
    return math.fsum(run.wall_s for run in runs)


def _tabulate_cost(result: Result) -> str:
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
    named = "" if after is None else f" The root cause was found after {duration(after)}."
    tier = f"Tier: {escape(spent.tier)}, {count(len(spent.seeds), 'seed')}. " if spent.tier else ""
    whole = (
        f"{tier}Total: {together}{' in runs' if runs else ''}{shared}. The investigation took "
        f"{duration(spent.wall_s)} of wall time, with {count(spent.threads, 'thread')} per run.{named}"
    )
    return "\n\n".join(filter(None, [costs, paragraph(whole)]))
