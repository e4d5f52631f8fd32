"""Errors of code that a user names: whose fault it is, and which lines of a traceback are the user's."""

from __future__ import annotations

import contextlib
import traceback
from pathlib import Path
from types import TracebackType

from diagnostics.errors import ToolkitError

_HERE = Path(__file__).parents[1]
_BETWEEN = {contextlib.__file__}
"""Files whose frames are between those of the toolkit: the step of a monitor is a context manager."""


class CaseError(ToolkitError):
    """The case or script cannot be audited; the message has the reason and what is allowed."""


class UserError(ToolkitError):
    """The user's code raised an exception; the message is its traceback, from the user's first line on."""


def users_lines(error: BaseException) -> str:
    """The traceback from the first line outside the toolkit and the import system on; "" if there is none."""
    theirs = _users_part(error)
    if theirs is None and not isinstance(error, SyntaxError):  # which names its line by itself
        return ""
    return "".join(traceback.format_exception(type(error), error, theirs))


def _users_part(error: BaseException) -> TracebackType | None:
    trace = error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith("<frozen") and file not in _BETWEEN and _HERE not in Path(file).parents:
            return trace
        trace = trace.tb_next
    return None
