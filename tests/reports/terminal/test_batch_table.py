"""The table of batch sizes: sorted, one line for each, and the setting that it leads to."""

from __future__ import annotations

from rich.console import Console

from etrm.training.batch_size import BatchSearch, BatchTrial
from reports.terminal.batch_table import batch_line, batch_table
from tests.errors import assert_holds

MIB = 2**20
FOUND = BatchSearch(
    (
        BatchTrial(1, 5.5, 0.2, 300 * MIB),
        BatchTrial(4, None, 0.0, None),
        BatchTrial(2, 11.0, 0.2, 350 * MIB),
        BatchTrial(3, None, 0.0, 410 * MIB),
    ),
    400 * MIB,
)


def test_a_line_for_each_size_ascending() -> None:
    console = Console(width=120)
    with console.capture() as shown:
        console.print(batch_table(FOUND))
    lines = [line.split() for line in shown.get().splitlines()]
    assert lines[2:6] == [
        ["1", "5.5", "300", "yes"],
        ["2", "11", "350", "yes"],
        ["3", "-", "410", "no"],
        ["4", "-", "-", "no"],
    ]


def test_the_setting_is_the_largest_that_fits() -> None:
    assert_holds(batch_line(FOUND), "largest that fits", "train.batch_size=2")
    unbounded = BatchSearch(FOUND.trials[:1], FOUND.limit)
    assert_holds(batch_line(unbounded), "largest that was tried", "train.batch_size=1")
