"""Plain text tables: of the modules in one step, and of findings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from diagnostics.findings import Finding, ordered
from diagnostics.records import Absent, ModuleRecord, Number, StepRecord, TermReach

_UNKNOWN = "?"


def text_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns aligned to the left, a rule under the headers."""
    lines = [list(headers), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headers))]
    padded = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines
    ]
    padded.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(line.rstrip() for line in padded) + "\n"


def module_table(record: StepRecord, width: int | None = None) -> str:
    """One line per watched module of a step, in the order of their first calls; `?` is not known.

    Args:
        width: Characters of a line, for which evenness is left out and long names are cut; None for no limit.
    """
    names = [*record.order, *(name for name in record.modules if name not in record.order)]
    headers = ("module", "gradient", "calls", "coverage", "waste", "evenness", "parameters", "moved")
    rows = [headers, *((name, *_cells(record.modules[name])) for name in names)]
    if width is not None:
        rows = _fitted(rows, width)
    return text_table(rows[0], rows[1:])


_SHORTEST = 12  # of a name that is cut: fewer characters do not tell modules apart
_LEAST = 5  # place of the column that a narrow table leaves out: evenness tells least


def _fitted(rows: list[tuple[str, ...]], width: int) -> list[tuple[str, ...]]:
    """The rows in so many characters: without the least column, then with long names cut at their beginning."""

    def room() -> int:
        return width - sum(2 + max(len(row[place]) for row in rows) for place in range(1, len(rows[0])))

    longest = max(len(row[0]) for row in rows)
    if longest > room():
        rows = [(*row[:_LEAST], *row[_LEAST + 1 :]) for row in rows]
    most = max(room(), _SHORTEST)
    return [(_elided(name, most), *cells) for name, *cells in rows]


def _elided(name: str, room: int) -> str:
    return name if len(name) <= room else f"…{name[len(name) - room + 1 :]}"


def term_table(record: StepRecord) -> str:
    """One line per watched module, one column per term: coverage, and the norm of the term's gradient in brackets.

    `none` and `zero` are modules whose parameters got no gradient of the term, and only zeros.
    """
    headers = [f"{name}{' (regulariser)' if term.regulariser else ''}" for name, term in record.terms.items()]
    rows = [
        (module, *(_reach_cell(term.modules.get(module)) for term in record.terms.values()))
        for module in record.modules
    ]
    return text_table(("module", *headers), rows)


def _reach_cell(reach: TermReach | None) -> str:
    if reach is None:
        return _UNKNOWN
    return f"{cell(reach.coverage)} ({cell(reach.norm)})" if reach.kind == "some" else reach.kind


def to_table(findings: Iterable[Finding]) -> str:
    """One line per finding, worst first, its consequences under it; the sentence comes last and may be long.

    `to_text` has cause and remedy too.
    """
    found = ordered(findings)
    if not found:
        return "No findings.\n"
    rows = [row for finding in found for row in _rows(finding)]
    return text_table(("severity", "rule", "module", "steps", "finding"), rows)


def _rows(finding: Finding) -> list[tuple[str, ...]]:
    seen = finding.evidence
    line = (finding.rule, finding.module or "model", f"{seen.first_step}-{seen.last_step}", finding.message)
    explained = [("  explains", *_rows(follows)[0][1:]) for follows in finding.consequences]
    return [(finding.severity.label, *line), *explained]


def cell(value: Number | None) -> str:
    """A number in three digits, `?` where it is not known."""
    return _UNKNOWN if value is None or isinstance(value, Absent) else f"{value:.3g}"


def _cells(module: ModuleRecord) -> tuple[str, ...]:
    return (
        module.state,
        f"{module.calls_with_gradient} of {module.calls_total}",
        cell(module.coverage),
        cell(module.waste),
        cell(module.evenness),
        _parameters(module),
        cell(module.moved),
    )


def _parameters(module: ModuleRecord) -> str:
    """How many of the trainable parameters receive gradient."""
    if not module.params_total:
        return "none"
    if not module.params_trainable:
        return "0 of 0 (frozen)"
    received = module.params_trainable - module.params_none - module.params_zero
    return f"{received} of {module.params_trainable}"
