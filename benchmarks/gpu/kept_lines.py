"""A section of the document of benchmarks from lines that were measured on another machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.performance.section import BenchmarkSection, Table

HEADER = (
    "run",
    "rows",
    "ms per step",
    "fastest and slowest round",
    "rows per second",
    "ms of kernels",
    "ms of the loader",
    "kernels",
    "graphs",
    "TFLOP",
    "% of peak",
    "GiB",
)


def build_section(lines: Sequence[Mapping[str, Any]], remarks: Sequence[str] = ()) -> BenchmarkSection:
    """Build the section from the lines that ``python -m benchmarks.gpu`` wrote.

    Args:
        lines: the lines; those of cases that failed are listed by name.
        remarks: sentences about the conditions.
    """
    found = {line["case"]: line["found"] for line in lines if "found" in line}
    peaks = found.get("peak", {})
    steps = [
        _step_row(name, {"tflop": found.get(name.split("-")[0], {}).get("tflop")} | each, peaks)
        for name, each in found.items()
        if "ms_per_step" in each
    ]
    tables = [Table(HEADER, tuple(steps))]
    paragraphs = []
    if peaks:
        products = ", ".join(f"{peaks[name]:.0f} ({name})" for name in ("bfloat16", "tf32", "float32"))
        paragraphs.append(
            f"Peaks: TFLOP/s of products of side 8192: {products}; {peaks['copy']:.2f} TB/s copied. The share is that "
            "of the bfloat16 peak. TFLOP are those of a step, as torch counts them in a round without compilation."
        )
    for size in ("paper", "small"):
        if base := found.get(f"{size}-earlier"):
            times = [
                f"`{name}` {each['rows_per_second'] / base['rows_per_second']:.2f}"
                for name, each in found.items()
                if name.split("-")[0] == size and each is not base
            ]
            if times:
                paragraphs.append(f"Rows per second, divided by those of commit aa7834e: {', '.join(times)}.")
    if "evaluation" in found:
        each = found["evaluation"]
        paragraphs.append(
            f"The evaluation of {each['tasks']} tasks at paper size took {each['seconds']:.1f} s: {each['samples']} "
            f"samples ({each['votes']} votes), {each['act_steps']} ACT steps, {each['precision']}"
            + (f", {each['gib']:.1f} GiB." if "gib" in each else ".")
        )
    if "plain" in found:
        tables.append(
            Table(
                ("paper size, whole canvas, bfloat16", "rows", "ms per step"),
                tuple(
                    (name, str(arm["rows"]), f"{1e3 * sorted(arm['seconds'])[len(arm['seconds']) // 2]:.1f}")
                    for name, arm in found["plain"].items()
                ),
            )
        )
    if "monitor" in found:
        rows = tuple(
            (name, f"{arm['ms_per_step']:.1f}", "{:.2f} [{:.2f}, {:.2f}]".format(*arm["ratio"]))
            for name, arm in found["monitor"].items()
        )
        tables.append(Table(("preset small, 64 rows", "ms per step", "x monitor off, read 1 of 5"), rows))
    if "waits" in found:
        tables.append(
            Table(("preset small, 64 rows", "steps", "waits per step at"), tuple(_wait_rows(found["waits"])))
        )
    failed = [f"{line['case']} ({line['failed']})" for line in lines if "failed" in line]
    paragraphs += [f"Not measured: {', '.join(failed)}."] if failed else []
    return BenchmarkSection(tuple(tables), (*paragraphs, *remarks))


def _step_row(name: str, found: Mapping[str, Any], peaks: Mapping[str, float]) -> tuple[str, ...]:
    rounds, tflop = found["ms_per_step_by_round"], found.get("tflop")
    share = 1e5 * tflop / found["ms_per_step"] / peaks["bfloat16"] if tflop and peaks else None
    return (
        name,
        str(found["rows"]),
        f"{found['ms_per_step']:.1f}",
        f"{min(rounds):.1f}, {max(rounds):.1f}",
        f"{found['rows_per_second']:.0f}",
        f"{found['busy_ms']:.1f}" if "busy_ms" in found else "",
        f"{found['loader_ms']:.1f}" if "loader_ms" in found else "",
        f"{found['kernels']:.0f}" if "kernels" in found else "",
        _count_graphs(found),
        f"{tflop:.3g}" if tflop else "",
        f"{share:.2g}" if share else "",
        f"{found['gib']:.1f}" if "gib" in found else "",
    )


def _count_graphs(found: Mapping[str, Any]) -> str:
    """The graphs that were compiled and captured, the timed steps included."""
    counts = {
        name: found.get(key, 0) + found.get(f"{key}_during", 0)
        for name, key in (("compiled", "graphs"), ("captured", "captured"))
    }
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


def _wait_rows(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name, arm in found.items():
        for kind in ("read", "unread"):
            count = arm[kind]["steps"]
            places = [
                f"`{place.partition(' ')[0]}` {times / count:.2g}"
                for place, times in arm[kind]["waits"].items()
                if not place.startswith("benchmarks/")  # what setting the mode up costs
            ]
            if count:
                rows.append((name, f"{count} {kind}", ", ".join(places) or "none"))
    return rows
