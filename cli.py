"""The entry point of `etrm`: runs a command, and turns what a user can cause into an exit code."""

from __future__ import annotations

import errno
import sys
from functools import partial
from typing import NoReturn

import typer

from etrm.commands import app
from etrm.errors import EtrmError
from etrm.extensions import explained
from etrm.rank import reports_error

_REFUSED_BY_THE_SYSTEM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)
"""A full or unwritable disk is no bug of ours, wherever it is met."""


def main() -> NoReturn:
    """Run the command line; what a user can cause ends with exit code 2 and no traceback."""
    try:
        code = app(standalone_mode=False)
    except EtrmError as error:
        if reports_error():
            _report(error)
        sys.exit(2)
    except typer.Exit as leave:
        sys.exit(leave.exit_code)
    except typer.Abort:
        sys.exit(130)
    except OSError as error:
        if error.errno not in _REFUSED_BY_THE_SYSTEM:
            raise
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
        _report(EtrmError("system.refused", "the system refused to continue", got=what))
        sys.exit(2)
    except Exception as error:
        usage = _usage_error(error)
        if usage is not None:
            sys.exit(usage)
        theirs = explained(error)
        if theirs is None:
            raise
        if reports_error():
            _report(theirs)
        sys.exit(2)
    sys.exit(code if isinstance(code, int) else 0)


def _report(error: EtrmError) -> None:
    """Print an error as a user meets it: the message, and its code in an unobtrusive last line."""
    from reports.terminal.console import open_console

    show = partial(open_console(stderr=True).print, markup=False, highlight=False, soft_wrap=True)
    show(f"error: {error}", style="red")
    show(f"  code:    {', '.join(dict.fromkeys(error.codes))}", style="dim")


def _usage_error(error: Exception) -> int | None:
    """Show a wrong option or argument as click does; anything else is a bug of ours and keeps its traceback."""
    show = getattr(error, "show", None)
    if show is None:
        return None
    show()
    return int(getattr(error, "exit_code", 2))


if __name__ == "__main__":
    from etrm.installation import exit_unless_installed

    exit_unless_installed()
    main()
