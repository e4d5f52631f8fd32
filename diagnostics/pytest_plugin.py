"""pytest plugin: failures of the toolkit's assertions print as tables, and monitors are cleaned up.

It is loaded in every pytest run of an environment in which the toolkit is installed, so it imports neither
torch nor the rest of the toolkit until a test uses a fixture.

- The fixture `gradient_monitor` makes a `diagnostics.Monitor`, takes its arguments, and detaches it when
  the test ends. If the test fails, its last step is printed as a table with its findings.
- A failed assertion of the toolkit is reported as one finding and one table under the line that called it,
  without frames of the toolkit, of pytest and of pluggy.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from diagnostics.monitor import Monitor

_MONITORS = pytest.StashKey[list[Any]]()


@pytest.fixture
def gradient_monitor(request: pytest.FixtureRequest) -> Generator[Callable[..., Monitor]]:
    """Makes monitors: `gradient_monitor(model, optimizer, ...)` as `diagnostics.Monitor(...)`."""
    from diagnostics.monitor import Monitor

    made: list[Monitor] = request.node.stash.setdefault(_MONITORS, [])

    def make(*args: Any, **options: Any) -> Monitor:
        monitor = Monitor(*args, **options)
        made.append(monitor)
        return monitor

    yield make
    for monitor in made:
        monitor.detach()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Shorten the report of a failed assertion of the toolkit; add the tables of the test's monitors."""
    report = yield
    if call.when == "call" and report.failed and call.excinfo is not None:
        if _is_ours(call.excinfo.value):
            shown = call.excinfo.traceback.filter(_is_of_test)
            call.excinfo.traceback = shown or call.excinfo.traceback
            report.longrepr = call.excinfo.getrepr(style="short", abspath=False)
        for monitor in item.stash.get(_MONITORS, []):
            report.sections.append(("diagnostics", _last_step(monitor)))
    return report


def _is_ours(error: BaseException) -> bool:
    """Recognised by its name: an import of the class would import torch."""
    return (type(error).__module__, type(error).__name__) == ("diagnostics", "CheckFailed")


_MACHINERY = ("diagnostics", "pluggy", "_pytest", "pytest")


def _is_of_test(entry: Any) -> bool:
    """Whether a frame is of the user's code. pytest 9 no longer drops its own frames before it calls this hook."""
    package = str(entry.frame.f_globals.get("__name__", "")).partition(".")[0]
    return package not in _MACHINERY


def _last_step(monitor: Monitor) -> str:
    from diagnostics.report.tables import module_table
    from diagnostics.report.text import to_text

    if not monitor.history:
        return "the monitor recorded no step\n"
    return f"step {monitor.last.step}\n{module_table(monitor.last)}\n{to_text(monitor.findings())}"
