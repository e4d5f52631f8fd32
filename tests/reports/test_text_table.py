"""The one style of tables: whole cells at every width, heads that are aligned like their cells."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from reports.text_table import make_table

CELLS = [("a" * 30, "1.25", "words " * 12), ("b", "100", "x" * 90)]


def lines(width: int, **options: object) -> list[str]:
    table = make_table(("name", "n", "about"), right=("n",), **options)  # type: ignore[arg-type]
    for cells in CELLS:
        table.add_row(*cells)
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_table_fits_its_terminal_and_loses_no_character(width: int) -> None:
    drawn = lines(width)
    assert max(map(len, drawn)) <= width
    for letter, count in (("a", 30 + 2), ("x", 90), ("w", 12)):  # two heads have an a
        assert sum(line.count(letter) for line in drawn) == count
    assert not any("…" in line for line in drawn)


def test_numbers_are_aligned_to_the_right_with_their_head() -> None:
    head, _, first, *_, last = lines(200)
    end = first.index("1.25") + 4
    assert head.index("n", 5) + 1 == end
    assert last.index("100") + 3 == end


def test_title_caption_and_head() -> None:
    drawn = lines(200, title="[red]title", caption="caption", header=False)
    assert drawn[0].startswith("[red]title")
    assert drawn[-1].startswith("caption")
    assert not any(line.startswith("name") for line in drawn)
