"""The one style of tables in the terminal. A cell is folded rather than cut, so that a table fits every width."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


def make_table(
    columns: Sequence[str],
    *,
    right: Collection[str] = (),
    title: str = "",
    caption: str = "",
    header: bool = True,
) -> Table:
    """Return an empty table for the terminal.

    Args:
        columns: the heads of the columns.
        right: the heads of the columns whose cells are aligned to the right, as numbers are.
        title: the text above the table.
        caption: the text below the table.
        header: whether to show the heads.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        show_header=header,
        title=Text(title, "bold") if title else None,
        title_justify="left",
        caption=Text(caption, "dim") if caption else None,
        caption_justify="left",
    )
    for name in columns:
        table.add_column(Text(name), justify="right" if name in right else "left", overflow="fold")
    return table
