"""What a notebook shows of a monitor: findings and tables, and a view that is renewed while training runs."""

from __future__ import annotations

import base64
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from diagnostics.errors import UnknownName
from diagnostics.findings import Finding
from diagnostics.records import StepRecord, StepScalars
from diagnostics.report.figures import draw_steps
from diagnostics.report.sarif_and_html import to_fragment
from diagnostics.report.tables import module_table


def render_monitor(
    findings: Sequence[Finding], last: StepRecord | None, history: Sequence[StepScalars]
) -> str:
    """HTML with the findings, the table of the last step and, where matplotlib is installed, the pictures."""
    if last is None:
        return "<p>The monitor recorded no step.</p>"
    shown = to_fragment(findings, f"step {last.step}\n{module_table(last)}")
    if is_installed("matplotlib"):
        image = base64.b64encode(draw_steps(history, last)._repr_png_()).decode("ascii")
        shown += (
            f'<img alt="Gradient flow, coverage and samples by call" src="data:image/png;base64,{image}">\n'
        )
    return shown


class NotebookView:
    """An output of a notebook that is replaced while training runs, and at the end of the cell.

    Args:
        every: Number of recorded steps between two updates; the first step is shown at once.

    Raises:
        UnknownName: IPython is not installed, so that this is no notebook.
    """

    def __init__(self, every: int) -> None:
        self._display: Any = _import_display()
        self._handle: Any = None
        self._every, self._unseen = every, every - 1
        self._render: Callable[[], str] | None = None

    def advance(self, steps: int, render: Callable[[], str]) -> None:
        """Count newly recorded steps, and show what `render` returns if that is due."""
        self._unseen += steps
        if self._unseen >= self._every:
            self._unseen = 0
            self.update(render())
        elif self._render is None and (events := _find_events()) is not None:
            events.register("post_run_cell", self._end_cell)
            self._render = render

    def _end_cell(self, *_: Any) -> None:
        """Show the last steps of a cell."""
        render, self._render = self._render, None
        _find_events().unregister("post_run_cell", self._end_cell)
        if render is not None and self._unseen:
            self._unseen = 0
            self.update(render())

    def update(self, html: str) -> None:
        """Show new content in the same place."""
        content = self._display.HTML(html)
        if self._handle is None:
            self._handle = self._display.display(content, display_id=True)
        else:
            self._handle.update(content)


def is_installed(package: str) -> bool:
    """Whether a package can be imported; None in `sys.modules` says that it must not."""
    if package in sys.modules:
        return sys.modules[package] is not None
    return find_spec(package) is not None


def _find_events() -> Any:
    """The events of the running notebook, None where display works without one."""
    shell = import_module("IPython").get_ipython()
    return None if shell is None else shell.events


def _import_display() -> Any:
    try:
        return import_module("IPython.display")
    except ModuleNotFoundError as error:
        raise UnknownName(
            "notebook.no-ipython", "a live view needs a notebook; IPython is not installed"
        ) from error
