"""Chooses among findings: by rule, by module, and by a baseline of findings that are known.

A pattern names rules (`REACH*`), modules (`pooler.*`, which also names `pooler`), or both at once as
`REACH*:pooler`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from diagnostics.errors import InvalidType
from diagnostics.findings import Finding
from diagnostics.selection import check_list, check_patterns, named_by


def choose(
    findings: Iterable[Finding],
    rules: Iterable[str],
    modules: Iterable[str],
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
    baseline: Collection[str] = (),
) -> list[Finding]:
    """The findings that `select` names, all if it is empty, without those of `ignore` and the baseline.

    The consequences of a finding are kept or left out with it, unless `select` names the consequence alone.

    Args:
        findings: Findings to choose from.
        rules: Ids of rules that a pattern may match, so that a misspelt one is an error.
        modules: Names of modules that a pattern may match.
        select: Patterns of findings to keep, empty for all.
        ignore: Patterns of findings to leave out.
        baseline: Fingerprints of known findings, which are left out.

    Raises:
        TypeError: A string is given instead of patterns or fingerprints.
        ValueError: A pattern names no rule and no module.
    """
    if isinstance(baseline, str):
        raise InvalidType(
            "baseline.not-read",
            "baseline must be the fingerprints of known findings, found the string {got!r}:"
            " write baseline=read_baseline({got!r})",
            got=baseline,
        )
    known = [*rules], [*modules]
    _check("select", select, *known)
    _check("ignore", ignore, *known)
    chosen: list[Finding] = []
    for finding in findings:
        if finding.fingerprint in baseline or _named(ignore, finding):
            continue  # and with it what it explains
        kept = [
            follows
            for follows in finding.consequences
            if follows.fingerprint not in baseline and not _named(ignore, follows)
        ]
        if not select or _named(select, finding):
            chosen.append(replace(finding, consequences=tuple(kept)))
        else:
            chosen += [follows for follows in kept if _named(select, follows)]
    return chosen


def _named(patterns: Iterable[str], finding: Finding) -> bool:
    return any(_matches(pattern, finding) for pattern in patterns)


def _matches(pattern: str, finding: Finding) -> bool:
    rule, colon, module = pattern.partition(":")
    if colon:
        return named_by([rule], finding.rule) and named_by([module], finding.module)
    return named_by([pattern], finding.rule) or named_by([pattern], finding.module)


def _check(argument: str, patterns: Sequence[str], rules: Sequence[str], modules: Sequence[str]) -> None:
    check_list(argument, patterns)
    for pattern in patterns:
        rule, colon, module = pattern.partition(":")
        if colon:
            check_patterns(argument, [rule], rules)
            check_patterns(argument, [module.removesuffix(".*")], modules)
        else:
            check_patterns(argument, [pattern.removesuffix(".*")], [*rules, *modules])
