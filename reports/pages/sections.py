"""Parts that pages share: each function makes one section from typed records, or nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from etrm.investigation.result import (
    Absent,
    Arm,
    ControlOutcome,
    Evidence,
    InstrumentCheck,
    Reproduce,
    Run,
    Verdict,
)
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
from reports.words import DIRECTIONS, name_final_value

MEANING = {
    Verdict.VALIDATED: "VALIDATED means that the statement below holds: this fault is present.",
    Verdict.INVALIDATED: "INVALIDATED means that the statement below does not hold: this fault is not present.",
    Verdict.INCONCLUSIVE: "INCONCLUSIVE means that the runs do not decide the statement below either way.",
    Verdict.ERROR: "ERROR means that something a verdict would rest on did not work, so there is no verdict.",
    Verdict.NOT_RUN: "NOT RUN means that nothing was measured.",
}
SCREENING = (
    "**SCREENING**: fewer seeds than a verdict over seeds needs. "
    "What is statistical here is a lead, not a proof."
)


def join(parts: Sequence[str]) -> str:
    """Sections as a file: one blank line between them, one newline at the end."""
    return "\n\n".join(part for part in parts if part) + "\n"


def section(title: str, *parts: str) -> str:
    """A section, or nothing where it would be empty."""
    body = [part for part in parts if part]
    return "\n\n".join([f"## {title}", *body]) if body else ""


def prose(title: str, text: str) -> str:
    """A section of one paragraph."""
    return section(title, paragraph(escape(text)))


def arms_table(arms: Sequence[Arm]) -> str:
    """Arms with the one difference of each."""
    rows = [
        [
            code(arm.name),
            arm.role,
            ", ".join(map(code, arm.settings)) or NOTHING,
            ", ".join(map(code, arm.faults)) or NOTHING,
            escape(arm.difference),
        ]
        for arm in arms
    ]
    return table(["arm", "role", "settings", "faults", "the one difference"], rows) if rows else ""


def passed(row: Evidence) -> str:
    """``yes``, ``NO``, or a dash for context."""
    return NOTHING if row.passed is None else "yes" if row.passed else "**NO**"


def has_interval(row: Evidence) -> bool:
    """Whether an interval of the difference was computed."""
    return row.low is not None or row.high is not None


def difference(row: Evidence) -> float | None:
    """Treatment minus control, None where one of the two was not measured."""
    if row.control is None or isinstance(row.control, Absent) or isinstance(row.treatment, Absent):
        return None
    return row.treatment - row.control


def change(row: Evidence) -> str:
    """The interval where one was computed, otherwise treatment minus control."""
    if has_interval(row):
        return interval(row.low, row.high)
    by = difference(row)
    return NOTHING if by is None else f"{'+' if by > 0 else ''}{number(by)}"


def evidence_table(rows: Sequence[Evidence]) -> str:
    """Evidence, with the notes as a list below it."""
    if not rows:
        return ""
    headers = [
        "metric",
        "direction",
        "control",
        "treatment",
        "difference or [interval]",
        "threshold",
        "pass",
        "counted",
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


def notes(rows: Sequence[Evidence]) -> str:
    """What the rows' notes say, each note once."""
    by_note: dict[str, list[str]] = {}
    for row in rows:
        if plain(row.note):
            by_note.setdefault(plain(row.note), []).append(escape(row.metric))
    return bullets(
        [f"{'; '.join(dict.fromkeys(metrics))}: {escape(note)}" for note, metrics in by_note.items()]
    )


def controls_table(controls: Sequence[ControlOutcome]) -> str:
    """Did the controls fire?"""
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
    headers = ["control", "kind", "what was run", "must be", "was", "behaved", "detail"]
    return table(headers, rows) if rows else ""


def _expected(control: ControlOutcome) -> str:
    """A few seeds cannot validate what is statistical: there a candidate is as much as can be had."""
    if control.kind == "negative":
        return f"not {Verdict.VALIDATED.value}"
    return control.expected.value + (" or candidate" if control.candidate else "")


def instruments_table(checks: Sequence[InstrumentCheck]) -> str:
    """Can the instruments be trusted in these runs?"""
    rows = [[escape(c.name), "yes" if c.passed else "**NO**", escape(c.detail)] for c in checks]
    return table(["check", "pass", "detail"], rows) if rows else ""


def runs_tables(runs: Sequence[Run]) -> str:
    """Every run with its metrics file, then for each arm the final values by seed."""
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
    """Path of the run's raw data, relative to the investigation's folder."""
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


def baselines_table(rows: Sequence[Evidence]) -> str:
    """What needs no learning; every accuracy is read beside these."""
    if not rows:
        return ""
    cells = [
        [escape(r.metric), value(r.treatment), interval(r.low, r.high), escape(r.n), escape(r.note)]
        for r in rows
    ]
    return table(["baseline", "value", "interval", "counted", "beside it"], cells, "lrr")


def screening_note(screening: bool) -> str:
    """The mark of a screening result, or nothing."""
    return paragraph(SCREENING) if screening else ""


def cost(runs: Sequence[Run], wall_s: float) -> str:
    """Runs, steps and time."""
    if not runs:
        return f"no training run, {duration(wall_s)}"
    failed = sum(run.state == "failed" for run in runs)
    parts = [count(len(runs), "run") + (f" ({failed} failed)" if failed else "")]
    parts += [count(sum(run.steps for run in runs), "step"), duration(wall_s)]
    return ", ".join(parts)


def seeds(numbers: Sequence[int]) -> str:
    """Seeds as a list."""
    return ", ".join(map(str, sorted(set(numbers)))) or "none"


def reproduce(record: Reproduce, runs: Sequence[Run] = (), wall_s: float | None = None) -> str:
    """What it takes to get the same numbers; the resolved config is folded away."""
    state = "with changes that were not committed" if record.dirty else "clean"
    versions = ", ".join(
        f"{escape(name)} {escape(record.versions[name])}" for name in sorted(record.versions)
    )
    facts = [
        ["commit", f"{code(record.commit)} ({state})"],
        ["seeds", seeds(record.seeds)],
        ["data hash", code(record.data_hash)],
        ["versions", versions or NOTHING],
        ["hardware", escape(record.hardware) or NOTHING],
        *([["device", escape(record.device)]] if record.device else []),
        *([["precision", escape(record.precision)]] if record.precision else []),
        ["threads of a run", str(record.threads)],
        ["wall time, all", duration(record.wall_s)],
    ]
    if runs:
        facts.insert(2, ["seeds of this page", seeds([run.seed for run in runs])])
    if wall_s is not None:
        facts.append(["wall time, this page", duration(wall_s)])
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
    """Where the numbers come from."""
    truth = f"{link('result.json', 'result.json')}: everything that is shown here, figures' data included"
    listed = [f"each run's `metrics.jsonl`, one line for each logged step: linked {where}"] if runs else []
    return section("Raw data", bullets([truth, *listed]))
