"""Compare two investigations, usually of the same config. The result is plain text cells; nothing is written here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from etrm.errors import ConfigError
from etrm.investigation.evidence.table import Direction, EvidenceRow
from etrm.investigation.records import NotMeasured, Value
from etrm.investigation.result import ExperimentResult, Result
from etrm.setting_texts import flatten
from reports.markdown import NOTHING, interval, number, plain
from reports.names import order_hypotheses
from reports.pages.sections import cost, seeds
from reports.pages.standing import marks


@dataclass(frozen=True)
class ResultChange:
    """One thing that changed, as plain text."""

    part: str
    what: str
    before: str
    after: str


@dataclass(frozen=True)
class Difference:
    """The differences between two investigations.

    Attributes:
        found: the root cause, verdicts and scenarios that changed.
        evidence: the rows that changed by more than their interval or threshold allows.
        within: the number of rows that changed by less, or that decide nothing.
        circumstances: the settings, code, data, seeds and hardware that differ.
        cost: the costs of the earlier and of the later investigation.
    """

    found: tuple[ResultChange, ...]
    evidence: tuple[ResultChange, ...]
    within: int
    circumstances: tuple[ResultChange, ...]
    cost: tuple[str, str]

    @property
    def same(self) -> bool:
        """Whether both investigations found the same. Circumstances and cost do not count."""
        return not self.found and not self.evidence


def compare(before: Result, after: Result, *, any_subject: bool = False) -> Difference:
    """Return what changed between two investigations.

    Args:
        before: the earlier result.
        after: the later result.
        any_subject: whether to compare investigations of different configs too, such as before and after a fix.

    Raises:
        ConfigError: the investigations are of different configs, and ``any_subject`` is False.
    """
    if before.subject != after.subject and not any_subject:
        raise ConfigError(
            "diff.other-subject",
            "these investigations are of different configs",
            got=f"{plain(before.subject)!r} and {plain(after.subject)!r}",
            allowed="two investigations of the same config",
            next_step="add --any-subject to compare them anyway, for instance before and after a fix",
        )
    within, evidence = 0, []
    for part, old, new in _rows(before, after):
        if _listed(old, new):
            shown = [_shown(row, other) for row, other in ((old, new), (new, old))]
            evidence.append(ResultChange(part, plain((new or old).metric), *shown))  # type: ignore[union-attr]  # one is a row
        else:
            within += _key(old) != _key(new)
    return Difference(
        found=tuple(_found(before, after)),
        evidence=tuple(evidence),
        within=within,
        circumstances=tuple(_circumstances(before, after)),
        cost=(_cost(before), _cost(after)),
    )


def _found(before: Result, after: Result) -> Iterator[ResultChange]:
    pairs = [("run under test", "", *(plain(result.subject) for result in (before, after)))]
    pairs.append(("root cause", "", _cause(before), _cause(after)))
    pairs += [(key, "verdict", *(_verdict(r, key) for r in (before, after))) for key in _keys(before, after)]
    experiments = [{e.id: e for e in result.experiments} for result in (before, after)]
    titles = {e.id: plain(e.title) for found in experiments for e in found.values()}
    pairs += [
        (title, "scenario", *(_scenario(found.get(id)) for found in experiments))
        for id, title in titles.items()
    ]
    return (ResultChange(*pair) for pair in pairs if pair[2] != pair[3])


def _keys(before: Result, after: Result) -> list[str]:
    return list(dict.fromkeys((*order_hypotheses(after), *order_hypotheses(before))))


def _cause(result: Result) -> str:
    return (
        f"{plain(result.root_cause)} ({result.root_cause_confidence})" if result.root_cause else "none found"
    )


def _scenario(experiment: ExperimentResult | None) -> str:
    return "not run" if experiment is None else experiment.scenario.value


def _verdict(result: Result, key: str) -> str:
    if key not in result.hypotheses:
        return NOTHING
    return f"{result.hypotheses[key].verdict.value} {marks(result, key)}".rstrip()


Row = tuple[str, EvidenceRow | None, EvidenceRow | None]


def _rows(before: Result, after: Result) -> Iterator[Row]:
    """Yield every row of evidence of either result with its part. Rows are matched by their code and item."""
    for part, old, new in _parts(before, after):
        rows = [_named(found) for found in (old, new)]
        for name in dict.fromkeys((*rows[1], *rows[0])):
            yield part, rows[0].get(name), rows[1].get(name)


def _parts(
    before: Result, after: Result
) -> Iterator[tuple[str, Sequence[EvidenceRow], Sequence[EvidenceRow]]]:
    for key in _keys(before, after):
        if key in before.hypotheses and key in after.hypotheses:
            yield plain(key), before.hypotheses[key].evidence, after.hypotheses[key].evidence
    later = {experiment.id: experiment for experiment in after.experiments}
    for old in before.experiments:
        if old.id in later:
            yield plain(old.title), old.evidence, later[old.id].evidence
    yield "baselines", before.baselines, after.baselines


def _named(rows: Sequence[EvidenceRow]) -> Mapping[tuple[str, str], EvidenceRow]:
    return {(row.code, row.item): row for row in rows}


def _listed(old: EvidenceRow | None, new: EvidenceRow | None) -> bool:
    """Return whether a change is listed: another outcome, another threshold, or a value outside its interval."""
    if old is None or new is None:
        row = old or new
        return row is not None and row.passed is not None
    if old.passed != new.passed or (old.passed is not None and old.threshold != new.threshold):
        return True
    if old.low is None or old.high is None or new.low is None or new.high is None:
        return old.passed is False and _measure(old) != _measure(new)
    return old.high < new.low or new.high < old.low


def _measure(row: EvidenceRow) -> Any:
    """Return the value that must not change: the difference if two values are compared, else the treatment."""
    if row.direction is Direction.EQUAL and not isinstance(row.control, NotMeasured | None):
        return (
            row.treatment if isinstance(row.treatment, NotMeasured) else number(row.treatment - row.control)
        )
    return _text(row.treatment)


def _key(row: EvidenceRow | None) -> Any:
    return None if row is None else (_text(row.treatment), interval(row.low, row.high))


def _shown(row: EvidenceRow | None, other: EvidenceRow | None) -> str:
    if row is None:
        return "no such row"
    against = "" if row.control is None else f", control {_text(row.control)}"
    bounds = "" if row.low is None and row.high is None else f" {interval(row.low, row.high)}"
    outcome = {True: ", passes", False: ", FAILS", None: ""}[row.passed]
    rule = (
        f" (threshold: {plain(row.threshold)})" if other is None or other.threshold != row.threshold else ""
    )
    return f"{_text(row.treatment)}{bounds}{against}{outcome}{rule}"


def _text(found: Value | None) -> str:
    if found is None:
        return NOTHING
    return f"not measured ({plain(found.absent)})" if isinstance(found, NotMeasured) else number(found)


def _circumstances(before: Result, after: Result) -> Iterator[ResultChange]:
    old, new = before.reproduce, after.reproduce
    facts = [
        (
            "code",
            "commit",
            *(f"{r.commit}{', with uncommitted changes' if r.dirty else ''}" for r in (old, new)),
        ),
        ("runs", "seeds", seeds(old.seeds), seeds(new.seeds)),
        ("data", "hash", old.data_hash, new.data_hash),
        ("machine", "hardware", plain(old.hardware), plain(new.hardware)),
        ("machine", "threads per run", str(old.threads), str(new.threads)),
    ]
    facts += [("versions", *change) for change in _changed(old.versions, new.versions)]
    facts += [("settings", *change) for change in _changed(flatten(old.config), flatten(new.config))]
    return (ResultChange(*map(plain, fact)) for fact in facts if fact[2] != fact[3])


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    keys = sorted({*old, *new})
    return [(key, str(old.get(key, NOTHING)), str(new.get(key, NOTHING))) for key in keys]


def _cost(result: Result) -> str:
    runs = [run for hypothesis in result.hypotheses.values() for run in hypothesis.runs]
    runs += [run for experiment in result.experiments for run in experiment.runs]
    return cost(runs, result.reproduce.wall_s)
