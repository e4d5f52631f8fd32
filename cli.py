"""The entry point of `etrm`: runs a command and turns errors into exit codes."""

from __future__ import annotations

import errno
import signal
import sys
from functools import partial
from typing import NoReturn

import typer

from etrm.commands import app
from etrm.errors import EtrmError
from etrm.extensions import explained
from etrm.rank import reports_error

_REFUSED_BY_THE_SYSTEM = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO),
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY),
    *(errno.ENAMETOOLONG, errno.ELOOP),
)
"""Errors of a full or damaged disk, of permissions, and of paths. They can occur anywhere and are no bugs of ours."""

INTERRUPTED = 130
"""Exit code of a command that Ctrl-C ends, as in shells: 128 and the number of the signal."""


def main() -> NoReturn:
    """Run the command line. Errors that a user can cause end with exit code 2 and no traceback.

    SIGTERM and a closed terminal interrupt a command as Ctrl-C does, which keeps what is finished.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores SIGHUP
            signal.signal(number, signal.default_int_handler)
    try:
        code = app(standalone_mode=False)
    except EtrmError as error:
        if reports_error():
            _report(error)
        sys.exit(2)
    except typer.Exit as leave:
        _end(leave.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        _end(INTERRUPTED)
    except Exception as error:
        usage = _usage_error(error)
        if usage is not None:
            sys.exit(usage)
        shown = explained(error) or _explain_refusal(error)
        if shown is None:
            raise
        if reports_error():
            _report(shown)
        sys.exit(2)
    _end(code if isinstance(code, int) else 0)


def _end(code: int) -> NoReturn:
    """Exit. After an interruption, one more Ctrl-C must not end in a traceback of the clean-up at exit."""
    if code == INTERRUPTED:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(code)


def _explain_refusal(error: Exception) -> EtrmError | None:
    """Return the error of an operation that the operating system refused; None for any other error."""
    if not isinstance(error, OSError) or error.errno not in _REFUSED_BY_THE_SYSTEM:
        return None
    return EtrmError(
        "system.refused",
        "the operating system refused an operation",
        got=f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror),
        next_step="make the path usable or use another one, then run the command again",
    )


def _report(error: EtrmError) -> None:
    """Print the message of an error, and its code in a dim last line."""
    from reports.terminal.console import open_console

    show = partial(open_console(stderr=True).print, soft_wrap=True)
    show(f"error: {error}", style="red")
    show(f"  code:    {', '.join(dict.fromkeys(error.codes))}", style="dim")


def _usage_error(error: Exception) -> int | None:
    """Show a wrong option or argument as click does and return its exit code; None for any other error."""
    show = getattr(error, "show", None)
    if show is None:
        return None
    show()
    return int(getattr(error, "exit_code", 2))


if __name__ == "__main__":
    from etrm.installation import exit_unless_installed

    exit_unless_installed()
    main()
