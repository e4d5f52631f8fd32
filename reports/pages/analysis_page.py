"""The page of `etrm analyse`: what a trained model gets out of its steps, votes, context and noise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from etrm.evaluation.learning_stage import SolvedCount
from etrm.investigation.evidence.figures import Figure, Series
from etrm.training.scoring.run_analysis import NamedScore, RunAnalysis
from reports.markdown import NOTHING, bullets, code, number, paragraph, table
from reports.pages.sections import join, section

READOUTS = {
    "last": "the last step",
    "best-fixed": "the best fixed step, chosen on the other half",
    "halting": "the first step with a positive halting logit",
    "any": "any step (a bound)",
}
ABLATIONS = {
    "blank": "context of zeros",
    "mean": "mean context of training tasks",
    "swapped": "demonstrations or table row of the next task",
    "reordered": "demonstrations in reverse order",
    "re-paired": "each input with the output of the next demonstration",
}
SELECTIONS = {
    "single": "one noisy answer",
    "agreement": "the commonest of five",
    "halting": "the highest halting logit of five",
    "any": "any of five (a bound)",
}
SCORE = ["right", "95 % interval", "gained", "lost", "tokens right", "change in points"]
"""The columns of a :class:`NamedScore`."""
FIGURES = (
    Figure(
        key="steps",
        title="Right answers after each ACT step",
        x_label="ACT step",
        y_label="share of right answers",
        caption="One answer per query, without augmentation.",
        y_range=(0.0, 1.0),
    ),
    Figure(
        key="change",
        title="Change in each ACT step",
        x_label="ACT step",
        y_label="relative change",
        caption="The share of tokens of the answer that differ from the step before (at first from the query input), "
        "and the norm of the change of the latent state divided by its norm.",
    ),
    Figure(
        key="votes",
        title="Solved tasks by number of votes",
        x_label="votes per query",
        y_label="share of solved tasks",
        caption="Each vote answers under another augmentation.",
        y_range=(0.0, 1.0),
    ),
)


def analysis_page(run: str, found: RunAnalysis, images: Mapping[str, str]) -> str:
    """Return the page as markdown.

    Args:
        run: the run folder.
        found: its analysis.
        images: the figures as markdown, by the keys of their figures.
    """
    tasks = "tasks that it was trained on" if found.seen else "held-out tasks"
    outputs = found.attempts[0].outputs.evaluated
    return join(
        [
            "# Analysis of a run",
            paragraph(
                f"{code(run)}, step {found.step}: {outputs} test outputs of {found.attempts[0].tasks.evaluated} "
                f"{tasks}. Intervals are exact 95 % binomial intervals. *Gained* and *lost* count the answers that "
                "only one of the two conditions has right; *change* is that of the share of right tokens, paired by "
                "answer, with its 95 % t interval."
            ),
            section("ACT steps", _tabulate_steps(found), images.get("steps", ""), images.get("change", "")),
            section("Which step is read", _tabulate_named(found.readouts, READOUTS)),
            section("Votes", _tabulate_votes(found), images.get("votes", "")),
            section("Attempts", _tabulate_attempts(found)),
            section(
                "Context and identity", _tabulate_named(found.ablations, ABLATIONS), _read_ablations(found)
            ),
            section("Noise in the recursion", _tabulate_noise(found.noise)),
        ]
    )


def make_series(found: RunAnalysis) -> list[Series]:
    """Return the curves of the figures."""

    def curve(figure: str, label: str, points: Sequence[tuple[float, float]]) -> Series:
        x, y = zip(*points, strict=True)
        return Series(figure=figure, arm=label, seed=0, label="", x=x, y=y)

    steps = [(float(one.step), one) for one in found.steps]
    moved = [(step, one.moved) for step, one in steps if not math.isnan(one.moved)]
    return [
        curve("steps", "right answers", [(step, one.right.share) for step, one in steps]),
        curve("steps", "halted so far", [(step, one.halted) for step, one in steps]),
        curve("change", "tokens of the answer", [(step, one.changed) for step, one in steps]),
        *([curve("change", "latent state", moved)] if moved else []),
        curve("votes", "pass@1", [(float(one.votes), one.first.share) for one in found.votes]),
        curve("votes", "pass@2", [(float(one.votes), one.second.share) for one in found.votes]),
    ]


def list_drawn(found: RunAnalysis) -> Iterator[Figure]:
    """Return the figures that have more than one point."""
    lengths = {"steps": len(found.steps), "change": len(found.steps), "votes": len(found.votes)}
    return (figure for figure in FIGURES if lengths[figure.key] > 1)


def format_count(count: SolvedCount) -> list[str]:
    """Return the number and the interval of a share as cells of a table."""
    low, high = count.interval
    return [f"{count.solved} of {count.evaluated}", f"{low:.1%} to {high:.1%}"]


def _tabulate_steps(found: RunAnalysis) -> str:
    rows = [
        [
            str(one.step),
            *format_count(one.right),
            f"{one.changed:.1%}",
            NOTHING if math.isnan(one.moved) else number(one.moved),
            f"{one.halted:.1%}",
        ]
        for one in found.steps
    ]
    return table(
        ["step", "right", "95 % interval", "tokens changed", "latent change", "halted so far"], rows, "rrrrrr"
    )


def _tabulate_named(scores: Sequence[NamedScore], words: Mapping[str, str]) -> str:
    rows = [[_name(one.code, words), *_format_score(one)] for one in scores]
    return table(["condition", *SCORE], rows, "lrrrrrr") if rows else ""


def _format_score(one: NamedScore) -> list[str]:
    change = f"{100 * one.change:+.1f}"
    if one.low is not None and one.high is not None:
        change += f" [{100 * one.low:+.1f}, {100 * one.high:+.1f}]"
    return [*format_count(one.right), str(one.gained), str(one.lost), f"{one.accuracy:.1%}", change]


def _name(code: str, words: Mapping[str, str]) -> str:
    count = code.removeprefix("demos-")
    return words.get(code) or (
        "the first demonstration alone" if count == "1" else f"the first {count} demonstrations"
    )


def _tabulate_votes(found: RunAnalysis) -> str:
    rows = [[str(one.votes), *format_count(one.first), *format_count(one.second)] for one in found.votes]
    return table(["votes", "pass@1", "95 % interval", "pass@2", "95 % interval"], rows, "rrrrr")


def _tabulate_attempts(found: RunAnalysis) -> str:
    rows = [[str(one.k), *format_count(one.outputs), *format_count(one.tasks)] for one in found.attempts]
    return table(["k", "test outputs", "95 % interval", "whole tasks", "95 % interval"], rows, "rrrrr")


def _tabulate_noise(scores: Sequence[NamedScore]) -> str:
    if not scores:
        return paragraph("The model takes one ACT step, so there is no state between steps to disturb.")
    rows = []
    for one in scores:
        size, _, selection = one.code.partition(":")
        rows.append([size, SELECTIONS[selection], *format_count(one.right), str(one.gained), str(one.lost)])
    return table(["noise", "answer", "right", "95 % interval", "gained", "lost"], rows, "rlrrrr")


def _read_ablations(found: RunAnalysis) -> str:
    """What the ablations say, by the interval of the change of right tokens."""
    lines = []
    for one in found.ablations:
        if one.code in ("blank", "swapped"):
            used = one.high is not None and one.high < 0
            says = "fewer tokens are right, so the model uses it" if used else "no loss beyond chance"
            lines.append(f"With {ABLATIONS[one.code]}: {says}.")
    return bullets(lines)
