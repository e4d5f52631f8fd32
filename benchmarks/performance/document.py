"""Print sections, keep them as JSON, and render the document from the JSON alone."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from benchmarks.performance.section import Benchmark, BenchmarkSection, Table
from etrm.atomic_files import write_atomically

DOCS = Path(__file__).parents[2] / "docs" / "results"
PREFACE = """Speed, memory, and the cost of monitoring. `make bench` measures all parts and prints them;
`.venv/bin/python -m benchmarks.performance --only NAME` measures one. `--write` also renews this page. The variants of
a comparison run in turns. A ratio is that of two times of one turn, given as median [quartiles] over the turns. The
column "turns" has repetitions x units of work. `--kept` prints all tables, also those left out here."""
DEVICES = {"cpu": "On a processor", "cuda": "On a GPU"}


def describe_machine(record: Mapping[str, Any], load_before: float) -> str:
    """Describe hardware, versions, commit, and the load of the machine."""
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    dirty = " with uncommitted changes" if record["dirty"] else ""
    return (
        f"{record['hardware']}; torch on {record['threads']} of them; load average {load_before:.1f} before and "
        f"{os.getloadavg()[0]:.1f} after; {versions}; commit {record['commit'][:12]}{dirty}."
    )


def show(console: Console, question: str, section: BenchmarkSection, conditions: str) -> None:
    """Print a section."""
    console.rule(question)
    for table in section.tables:
        drawn = RichTable(*(escape(cell) for cell in table.header))
        for cells in table.rows:
            drawn.add_row(*(escape(cell) for cell in cells))
        console.print(drawn)
    for paragraph in (*section.paragraphs, conditions):
        console.print(paragraph, markup=False, highlight=False)


def show_kept(console: Console, docs: Path = DOCS) -> None:
    """Print every section that was kept, in full."""
    for sections in json.loads((docs / "benchmarks.json").read_text("utf-8")).values():
        for entry in sections.values():
            tables = tuple(Table(tuple(t["header"]), tuple(map(tuple, t["rows"]))) for t in entry["tables"])
            show(
                console,
                entry["question"],
                BenchmarkSection(tables, tuple(entry["paragraphs"])),
                entry["conditions"],
            )


def keep(
    part: Benchmark,
    section: BenchmarkSection,
    device: str,
    conditions: str,
    order: Sequence[str],
    docs: Path = DOCS,
) -> None:
    """Replace a section and render the document again, with the parts in their order."""
    path = docs / "benchmarks.json"
    record: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    entry = asdict(section) | {"question": part.question, "conditions": conditions, "in_full": part.in_full}
    entry["figures"] = [_figure(name, device) for name in section.figures]
    record.setdefault(device, {})[part.name] = entry
    (docs / "figures").mkdir(exist_ok=True)
    for name, png in section.figures.items():
        write_atomically(docs / _figure(name, device), png)
    write_atomically(path, json.dumps(record, indent=1, sort_keys=True) + "\n")
    write_atomically(docs / "benchmarks.md", render(record, order))


def _figure(name: str, device: str) -> str:
    return f"figures/{name}.png" if device == "cpu" else f"figures/{name}-{device}.png"


def render(record: Mapping[str, Any], order: Sequence[str]) -> str:
    """Render the document from the kept sections, in the order of the benchmarks."""
    blocks = ["# Benchmarks", PREFACE]
    for device, heading in DEVICES.items():
        blocks.append(f"## {heading}")
        sections = record.get(device, {})
        if not sections:
            blocks.append(
                "Not measured: there was none. "
                f"`.venv/bin/python -m benchmarks.performance --device {device} --write` measures every part on it."
            )
            continue
        shared = _shared([entry["conditions"] for entry in sections.values()])
        if shared:
            blocks.append(f"All parts: {'; '.join(shared)}.")
        for name in (*(n for n in order if n in sections), *sorted(set(sections) - set(order))):
            blocks += _section(name, sections[name], shared)
    return "\n\n".join(blocks) + "\n"


def _shared(conditions: Sequence[str]) -> list[str]:
    """Return the conditions, such as the hardware, that several benchmarks share."""
    first, *others = (text.removesuffix(".").split("; ") for text in conditions)
    return [each for each in first if others and all(each in other for other in others)]


def _section(name: str, entry: Mapping[str, Any], shared: Sequence[str]) -> list[str]:
    blocks = [f"### {entry['question']} (`{name}`)"]
    for table in entry["tables"] if entry["in_full"] else ():
        lines = [table["header"], ["---"] * len(table["header"]), *table["rows"]]
        blocks.append("\n".join(f"|{'|'.join(cells)}|" for cells in lines))
    blocks += [f"![{entry['question']}]({figure})" for figure in entry["figures"]]
    own = [each for each in entry["conditions"].removesuffix(".").split("; ") if each not in shared]
    return [*blocks, *entry["paragraphs"], *([f"*{'; '.join(own)}.*"] if own else [])]
