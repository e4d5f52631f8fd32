"""The page of the benchmark of random changes: recall by stage, false alarms, and every case."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from etrm.investigation.fault_benchmark import Score
from etrm.investigation.runs.budget import Tier
from etrm.investigation.unlisted.stages import HYPOTHESES
from etrm.investigation.unlisted.unlisted_benchmark import UnlistedOutcome
from reports.markdown import escape, table
from reports.pages.fault_benchmark_page import describe_tier

ALL_STAGES = "all"


def unlisted_page(outcomes: Sequence[UnlistedOutcome], tier: Tier) -> str:
    """Return the page as markdown: tier, scores, the table of stages, and every case, those that are wrong first."""
    changes = [outcome for outcome in outcomes if outcome.case.kind == "change"]
    from_base = [outcome for outcome in outcomes if outcome.case.kind == "healthy"]
    from_presets = [outcome for outcome in outcomes if outcome.case.kind == "preset"]
    altering = [outcome for outcome in changes if outcome.status == "investigated"]
    others = Counter(outcome.status for outcome in changes if outcome.status != "investigated")
    seconds = sorted(outcome.seconds for outcome in (*altering, *from_base, *from_presets)) or [0.0]
    lines = [
        f"- tier of each investigation: {describe_tier(tier)}",
        f"- changes that alter training, named at the right stage: {_score(altering)}",
        f"- healthy configs in which nothing is named: {_score(from_base)}",
        f"- healthy configs that start from any preset, in which nothing is named: {_score(from_presets)}",
        f"- changes drawn: {len(changes)}"
        + "".join(f"; {status}: {count}" for status, count in sorted(others.items())),
        f"- seconds per investigation: median {seconds[len(seconds) // 2]:.0f}, longest {seconds[-1]:.0f}",
    ]
    parts = [
        "\n".join(lines),
        _tabulate_stages(altering),
        *map(_list_cases, (altering, from_base, from_presets)),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _score(outcomes: Sequence[UnlistedOutcome]) -> str:
    if not outcomes:
        return "not measured"
    score = Score(sum(outcome.right for outcome in outcomes), len(outcomes))
    low, high = score.interval
    return f"{score.right} of {score.cases} ({score.right / score.cases:.0%}, 95 % interval {low:.1%} to {high:.1%})"


def _tabulate_stages(altering: Sequence[UnlistedOutcome]) -> str:
    rows = []
    for stage in (*HYPOTHESES, ALL_STAGES):
        found = [outcome for outcome in altering if stage in (outcome.stages[0], ALL_STAGES)]
        if found:
            named = Counter(outcome.named for outcome in found)
            words = ", ".join(f"{name} {count}" for name, count in sorted(named.items()))
            rows.append([stage, _score(found), words])
    return table(["stage", "named at the right stage", "named"], rows) if rows else ""


def _list_cases(outcomes: Sequence[UnlistedOutcome]) -> str:
    rows = [
        [
            str(outcome.case.seed),
            "right" if outcome.right else "WRONG",
            ", ".join(outcome.expected) or "none",
            f"{outcome.named} ({outcome.confidence})" if outcome.confidence else outcome.named,
            f"{outcome.seconds:.0f}",
            escape(outcome.description),
        ]
        for outcome in sorted(outcomes, key=lambda outcome: (outcome.right, outcome.case.seed))
    ]
    header = ["seed", "", "expected", "named", "seconds", "change or settings"]
    return table(header, rows, numeric="rllLrl".lower()) if rows else ""
