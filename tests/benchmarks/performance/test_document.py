from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from benchmarks.performance import __main__ as command
from benchmarks.performance import document
from benchmarks.performance.registry import PARTS
from benchmarks.performance.section import Benchmark, BenchmarkSection, Conditions, Table


def section(number: str) -> BenchmarkSection:
    table = Table(("what", "seconds"), (("slow [sic]", number), ("fast", "1 [1, 1]")))
    return BenchmarkSection((table,), (f"It took {number}.",), {"curve": b"png"})


@pytest.fixture
def part() -> Benchmark:
    return Benchmark(
        "speed", "How fast?", lambda conditions: section(str(conditions.repetitions)), repetitions=7
    )


def test_a_section_takes_the_place_of_its_predecessor_and_leaves_the_others(
    part: Benchmark, tmp_path: Path
) -> None:
    other = Benchmark("size", "How large?", part.run)
    order = ["size", "speed"]
    document.keep(part, section("3 s"), "cpu", "machine A.", order, tmp_path)
    document.keep(other, section("9 MB"), "cpu", "machine A.", order, tmp_path)
    document.keep(part, section("2 s"), "cpu", "machine B.", order, tmp_path)
    text = (tmp_path / "benchmarks.md").read_text()
    assert "3 s" not in text
    assert text.index("How large? (`size`)") < text.index("How fast? (`speed`)")
    assert "|slow [sic]|2 s|\n|fast|1 [1, 1]|" in text
    assert text.index("It took 2 s.") < text.index("*machine B.*")
    assert "## On a GPU\n\nNot measured" in text
    assert "--device cuda --write" in text
    assert (tmp_path / "figures" / "curve.png").read_bytes() == b"png"
    assert "![How fast?](figures/curve.png)" in text


def test_a_gpu_stands_next_to_the_processor(part: Benchmark, tmp_path: Path) -> None:
    for device in ("cpu", "cuda"):
        document.keep(part, section(device), device, "a machine.", ["speed"], tmp_path)
    text = (tmp_path / "benchmarks.md").read_text()
    assert "Not measured" not in text
    assert "It took cpu." in text
    assert "It took cuda." in text
    assert "figures/curve-cuda.png" in text
    assert (tmp_path / "figures" / "curve-cuda.png").exists()


def test_what_is_printed_holds_every_cell_and_paragraph(part: Benchmark) -> None:
    out = io.StringIO()
    document.show(Console(file=out, width=100), part.question, section("3 s"), "a machine.")
    for words in ("How fast?", "slow [sic]", "3 s", "1 [1, 1]", "It took 3 s.", "a machine."):
        assert words in out.getvalue()


def test_the_command_measures_what_is_asked_as_often_as_asked(
    part: Benchmark, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[tuple[str, Conditions]] = []

    def recorded(name: str) -> Benchmark:
        def run(conditions: Conditions) -> BenchmarkSection:
            seen.append((name, conditions))
            return section("1 s")

        return Benchmark(name, f"{name}?", run, repetitions=7)

    monkeypatch.setattr(command, "PARTS", tuple(recorded(name) for name in "abc"))
    cpu = torch.device("cpu")
    command.main(["--device", "cpu", "--only", "a", "--only", "c"])
    command.main(["--device", "cpu", "--only", "b", "--repetitions", "2"])
    assert seen == [("a", Conditions(cpu, 7)), ("c", Conditions(cpu, 7)), ("b", Conditions(cpu, 2))]
    assert "load average" in capsys.readouterr().out
    with pytest.raises(SystemExit) as left:
        command.main(["--only", "d"])
    assert left.value.code == 2


def test_the_names_of_parts_are_unique() -> None:
    names = [part.name for part in PARTS]
    assert len(set(names)) == len(names) > 5


def test_the_document_in_the_repository_is_what_was_kept() -> None:
    record = json.loads((document.DOCS / "benchmarks.json").read_text("utf-8"))
    rendered = document.render(record, [part.name for part in PARTS])
    assert (document.DOCS / "benchmarks.md").read_text("utf-8") == rendered
    for figure in re.findall(r"\((figures/.*?)\)", rendered):
        assert (document.DOCS / figure).exists()


def test_conditions_that_all_parts_share_are_given_once(part: Benchmark, tmp_path: Path) -> None:
    other = Benchmark("size", "How large?", part.run)
    for each, load in ((part, "load 1"), (other, "load 2")):
        document.keep(each, section("3 s"), "cpu", f"a machine; {load}.", ["speed", "size"], tmp_path)
    text = (tmp_path / "benchmarks.md").read_text()
    assert text.count("a machine") == 1
    assert "All parts: a machine." in text
    assert text.index("*load 1.*") < text.index("How large?") < text.index("*load 2.*")


def test_a_part_may_leave_its_tables_out_of_the_document(part: Benchmark, tmp_path: Path) -> None:
    short = replace(part, in_full=False)
    document.keep(short, section("2 s"), "cpu", "a machine.", ["speed"], tmp_path)
    assert "slow [sic]" not in (tmp_path / "benchmarks.md").read_text()
    out = io.StringIO()
    document.show_kept(Console(file=out, width=100), tmp_path)
    assert all(words in out.getvalue() for words in ("How fast?", "slow [sic]", "It took 2 s.", "a machine."))
