"""Sections that several pages share. Each function makes one section from typed records, or an empty text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from etrm.checkpoints.run_folder import UNKNOWN_COMMIT
from etrm.investigation.evidence.table import EvidenceRow
from etrm.investigation.records import Arm, ControlOutcome, InstrumentCheck, NotMeasured, Run, Verdict
from etrm.investigation.result import Reproduce
from reports.markdown import (
    NOTHING,
    bullets,
    code,
    count,
    duration,
    escape,
    fenced,
    folded,
    interval,
    link,
    number,
    paragraph,
    plain,
    table,
    value,
)
from reports.words import DIRECTIONS, ROLES, name_final_value

SCREENING = (
    "**SCREENING**: this investigation has fewer seeds than a statistical verdict needs. "
    "Its statistical results are a lead, not a proof."
)


def join(parts: Sequence[str]) -> str:
    """Join sections to the text of a file, with one blank line between them and one newline at the end."""
    return "\n\n".join(part for part in parts if part) + "\n"


def image(title: str, path: str, caption: str) -> str:
    """Return a figure with its caption, which is markdown."""
    shown = f"!{link(escape(title), path)}"
    return "\n\n".join(filter(None, [shown, paragraph(caption)]))


def section(title: str, *parts: str) -> str:
    """Return a section with a title, or an empty text if the section has no content."""
    body = [part for part in parts if part]
    return "\n\n".join([f"## {title}", *body]) if body else ""


def prose(title: str, text: str) -> str:
    """Return a section of one paragraph."""
    return section(title, paragraph(escape(text)))


def arms_table(arms: Sequence[Arm]) -> str:
    """Return a table of arms with what distinguishes each one."""
    rows = [
        [
            code(arm.name),
            ROLES.get(arm.role, arm.role),
            ", ".join(map(code, arm.settings)) or NOTHING,
            ", ".join(map(code, arm.faults)) or NOTHING,
            escape(arm.difference),
        ]
        for arm in arms
    ]
    return table(["arm", "role", "settings", "faults", "description"], rows) if rows else ""


def _in_words(outcome: bool | None) -> str:
    return NOTHING if outcome is None else "yes" if outcome else "**NO**"


def passed(row: EvidenceRow) -> str:
    """Return ``yes``, ``NO``, or a dash for a row that decides nothing."""
    return _in_words(row.passed)


def has_interval(row: EvidenceRow) -> bool:
    """Return whether an interval was computed."""
    return row.low is not None or row.high is not None


def difference(row: EvidenceRow) -> float | None:
    """Return treatment minus control, or None if one of the two was not measured."""
    if row.control is None or isinstance(row.control, NotMeasured) or isinstance(row.treatment, NotMeasured):
        return None
    return row.treatment - row.control


def change(row: EvidenceRow) -> str:
    """Return the interval if one was computed, else treatment minus control."""
    if has_interval(row):
        return interval(row.low, row.high)
    by = difference(row)
    return NOTHING if by is None else f"{'+' if by > 0 else ''}{number(by)}"


def evidence_table(rows: Sequence[EvidenceRow]) -> str:
    """Return a table of evidence, followed by a list of its notes."""
    if not rows:
        return ""
    headers = [
        "metric",
        "healthy value",
        "control",
        "measured",
        "difference or [interval]",
        "threshold",
        "pass",
        "measured on",
    ]
    cells = [
        [
            escape(row.metric),
            DIRECTIONS[row.direction],
            value(row.control),
            value(row.treatment),
            change(row),
            escape(row.threshold),
            passed(row),
            escape(row.n),
        ]
        for row in rows
    ]
    return "\n\n".join(filter(None, [table(headers, cells, "llrrr"), notes(rows)]))


def notes(rows: Sequence[EvidenceRow]) -> str:
    """Return a list of the notes of the rows, each note once."""
    by_note: dict[str, list[str]] = {}
    for row in rows:
        if plain(row.note):
            by_note.setdefault(plain(row.note), []).append(escape(row.metric))
    return bullets(
        [f"{'; '.join(dict.fromkeys(metrics))}: {escape(note)}" for note, metrics in by_note.items()]
    )


def controls_table(controls: Sequence[ControlOutcome]) -> str:
    """Return a table of the controls: what was expected of each, and what it gave."""
    rows = [
        [
            code(c.name),
            c.kind,
            escape(c.what),
            _expected(c),
            c.got.value + (" (candidate)" if c.candidate else ""),
            "yes" if c.behaved else "**NO**",
            escape(c.detail),
        ]
        for c in controls
    ]
    headers = ["control", "kind", "what was run", "expected", "result", "as expected", "detail"]
    return table(headers, rows) if rows else ""


def _expected(control: ControlOutcome) -> str:
    """Return the expected verdict. With few seeds a statistical control can only become a candidate."""
    if control.kind == "negative":
        return f"not {Verdict.VALIDATED.value}"
    return control.expected.value + (" or candidate" if control.candidate else "")


def instruments_table(checks: Sequence[InstrumentCheck]) -> str:
    """Return a table of the checks that show whether the instruments can be trusted in these runs."""
    rows = [[escape(c.name), _in_words(c.passed), escape(c.detail)] for c in checks]
    return table(["check", "pass", "detail"], rows) if rows else ""


def runs_tables(runs: Sequence[Run]) -> str:
    """Return a table of all runs with their metrics files, then a table of final values for each arm."""
    if not runs:
        return ""
    rows = [
        [
            code(run.arm),
            str(run.seed),
            str(run.steps),
            duration(run.wall_s),
            "finished" if run.state == "finished" else "**FAILED**",
            link("metrics.jsonl", metrics_path(run)),
            " ".join(filter(None, (escape(run.reason), run.code and code(run.code)))),
        ]
        for run in runs
    ]
    headers, numeric = ["arm", "seed", "steps", "wall time", "state", "raw data"], "lrrr"
    if any(run.reason for run in runs):
        headers.append("reason")
    else:
        rows = [row[:-1] for row in rows]
    names = dict.fromkeys(run.arm for run in runs)
    finals = [_final_values(name, [run for run in runs if run.arm == name]) for name in names]
    return "\n\n".join(filter(None, [table(headers, rows, numeric), *finals]))


def metrics_path(run: Run) -> str:
    """Return the path of a run's raw data, relative to the folder of the investigation."""
    return f"{run.folder.rstrip('/') or '.'}/metrics.jsonl"


def _final_values(arm: str, runs: Sequence[Run]) -> str:
    metrics = sorted({metric for run in runs for metric in run.final})
    if not metrics:
        return ""
    rows = [
        [escape(name_final_value(metric)), *(value(run.final.get(metric)) for run in runs)]
        for metric in metrics
    ]
    headers = ["final value", *(f"seed {run.seed}" for run in runs)]
    return f"Arm {code(arm)}:\n\n{table(headers, rows, 'l' + 'r' * len(runs))}"


def baselines_table(rows: Sequence[EvidenceRow]) -> str:
    """Return a table of the baselines that need no learning, against which accuracies are compared."""
    if not rows:
        return ""
    cells = [
        [escape(r.metric), value(r.treatment), interval(r.low, r.high), escape(r.n), escape(r.note)]
        for r in rows
    ]
    return table(
        ["baseline", "value", "95 % interval of the share solved", "measured on", "also measured"],
        cells,
        "lrr",
    )


def screening_note(screening: bool) -> str:
    """Return the note of a screening result, or an empty text."""
    return paragraph(SCREENING) if screening else ""


def cost(runs: Sequence[Run], wall_s: float) -> str:
    """Return the numbers of runs and steps, and the time."""
    if not runs:
        return f"no training run, {duration(wall_s)}"
    failed = sum(run.state == "failed" for run in runs)
    parts = [count(len(runs), "run") + (f" ({failed} failed)" if failed else "")]
    parts += [count(sum(run.steps for run in runs), "step"), duration(wall_s)]
    return ", ".join(parts)


def seeds(numbers: Sequence[int]) -> str:
    """Return the distinct seeds as text, sorted."""
    return ", ".join(map(str, sorted(set(numbers)))) or "none"


def reproduce(record: Reproduce, runs: Sequence[Run] = (), wall_s: float | None = None) -> str:
    """Return the section on how to reproduce the numbers; the resolved config is folded."""
    state = "with uncommitted changes" if record.dirty else "clean"
    commit = "not known: the code is not in a git checkout" if record.commit == UNKNOWN_COMMIT else None
    versions = ", ".join(
        f"{escape(name)} {escape(record.versions[name])}" for name in sorted(record.versions)
    )
    facts = [
        ["commit", commit or f"{code(record.commit)} ({state})"],
        ["seeds", seeds(record.seeds)],
        ["data hash", code(record.data_hash)],
        ["versions", versions or NOTHING],
        ["hardware", escape(record.hardware) or NOTHING],
        *([["device", escape(record.device)]] if record.device else []),
        *([["precision", escape(record.precision)]] if record.precision else []),
        ["threads per run", str(record.threads)],
        ["wall time of the investigation", duration(record.wall_s)],
    ]
    if runs:
        facts.insert(2, ["seeds on this page", seeds([run.seed for run in runs])])
    if wall_s is not None:
        facts.append(["wall time of the runs on this page", duration(wall_s)])
    return section(
        "Reproduce",
        fenced(record.command.strip() or "(unknown)", "sh"),
        table(["what", "value"], facts),
        _config(record),
    )


def _config(record: Reproduce) -> str:
    config: Any = record.model_dump(mode="json")["config"]
    text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False)
    return folded("Resolved config", fenced(text, "json"))


def raw_data(runs: Sequence[Run], where: str = "in the table of runs") -> str:
    """Return the section that says where the raw data is."""
    truth = f"{link('result.json', 'result.json')} contains everything on these pages, also the data of the figures"
    listed = (
        [f"`metrics.jsonl` of each run has one line per logged step; it is linked {where}"] if runs else []
    )
    return section("Raw data", bullets([truth, *listed]))
