"""The command `etrm` in this process: its exit code, and what it printed."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest

import cli


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


def etrm(*words: object, cwd: Path | None = None, cache: Path | None = None) -> Ended:
    """Run a command as a user would whose output goes into a pipe.

    Args:
        words: the command line after `etrm`.
        cwd: the working directory; without one it is the current one.
        cache: the folder of cached runs; without one, none is written.
    """
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr("sys.argv", ["etrm", *map(str, words)])
        patch.setenv("COLUMNS", "120")
        patch.setenv("ETRM_CACHE", str(cache or "/nonexistent"))
        if cwd is not None:
            patch.chdir(cwd)
        with pytest.raises(SystemExit) as left:
            cli.main()
    assert isinstance(left.value.code, int)
    return Ended(left.value.code, out.getvalue(), err.getvalue())
