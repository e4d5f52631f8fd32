"""The console to which commands print."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def open_console(stderr: bool = False, pipe_width: int = 120, quiet: bool = False) -> Console:
    """Return a console for the output of a command. It prints texts as they are, because they may be names of files.

    Args:
        stderr: whether to print to standard error, for output that is not a result.
        pipe_width: the width in characters if the output is not a terminal.
        quiet: whether to print nothing.
    """
    from rich.console import Console

    make = partial(Console, stderr=stderr, quiet=quiet, markup=False, emoji=False, highlight=False)
    console = make()
    if not console.is_terminal:  # so that tables in pipes and logs keep their columns
        console = make(width=pipe_width)
    return console


def print_page(text: str) -> None:
    """Print a page of markdown: rendered in a terminal, and unchanged in a pipe."""
    from rich.markdown import Markdown

    console = open_console()
    if console.is_terminal:
        console.print(Markdown(text))
    else:
        console.out(text.rstrip("\n"))
