"""The page of the fault benchmark: injected faults compared with the root causes that were found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from etrm.investigation.fault_benchmark import NOTHING, CaseOutcome, Score, score
from etrm.investigation.hypotheses.hypothesis_registry import all_hypotheses
from etrm.investigation.runs.budget import Tier
from reports.markdown import count, escape, table


def page(outcomes: Sequence[CaseOutcome], tier: Tier) -> str:
    """Return the page as markdown: the tier, the score, the confusion matrix, and every fault with what was missed."""
    named, quiet = score(outcomes)
    seconds = sorted(outcome.seconds for outcome in outcomes)
    lines = [
        f"- tier of each investigation: {describe_tier(tier)}",
        f"- faults whose root cause was found: {_score(named)}",
        f"- healthy cases in which nothing was found: {_score(quiet)}",
        f"- seconds per investigation, on one worker: median {seconds[len(seconds) // 2]:.0f}, "
        f"longest {seconds[-1]:.0f}",
    ]
    return "\n\n".join(("\n".join(lines), _tabulate_matrix(outcomes), _list_cases(outcomes))) + "\n"


def describe_tier(tier: Tier) -> str:
    """Return the name of a tier, with what options can change of it."""
    return f"{tier.name}, {count(tier.seeds, 'seed')}, {tier.pretrain_steps} pretraining steps"


def _score(found: Score) -> str:
    if not found.cases:
        return "not measured"
    low, high = found.interval
    share = found.right / found.cases
    return f"{found.right} of {found.cases} ({share:.1%}, 95 % interval {low:.1%} to {high:.1%})"


def _tabulate_matrix(outcomes: Sequence[CaseOutcome]) -> str:
    counts = Counter((outcome.case.expected, outcome.named) for outcome in outcomes)
    named = {key for pair in counts for key in pair}
    hypotheses = tuple(key for key in all_hypotheses() if key in named)
    rows = [key for key in (*hypotheses, NOTHING) if any(expected == key for expected, _ in counts)]
    columns = [*hypotheses, NOTHING, "error"]
    return table(
        ["injected / found", *columns],
        [[key, *(str(counts[key, column] or "") for column in columns)] for key in rows],
        numeric="l" + "r" * len(columns),
    )


def _list_cases(outcomes: Sequence[CaseOutcome]) -> str:
    by_fault: dict[str, list[CaseOutcome]] = {}
    for outcome in outcomes:
        by_fault.setdefault(outcome.case.fault, []).append(outcome)
    rows = []
    for fault, found in by_fault.items():
        said = Counter(f"{o.named} ({o.confidence})" if o.confidence else o.named for o in found)
        missed = next((o.sentence for o in found if not o.right), found[0].sentence)
        rows.append(
            [
                escape(fault),
                found[0].case.expected,
                f"{sum(o.right for o in found)} of {len(found)}",
                ", ".join(said),
                f"{sorted(o.seconds for o in found)[len(found) // 2]:.0f}",
                escape(" ".join(missed.split())[:160]),
            ]
        )
    return table(["fault", "root cause", "correct", "found", "median seconds", "sentence"], rows)
