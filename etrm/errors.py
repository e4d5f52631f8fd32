"""Every error that a user can cause, as one small tree; each carries a stable code (docs/errors.md).

EtrmError                    exit code 2: message, what to do next, and the code
├── ConfigError              a setting is unknown, malformed or impossible
├── DataError                a task, grid or file of tasks cannot be used
│   └── LeakageError         a task stands on both sides of a split
├── CheckpointError          a checkpoint is missing, of other code, altered or does not fit
├── RunFolderError           a run folder is missing, in use or of another run
├── ExtensionError           code that a user adds from outside is missing, fails, may not run or is something else
├── InstallationError        a package of another distribution is found in place of one of ours
├── WriteError               a file cannot be written (a full disk, a folder without permission)
├── ProcessError             another process of the same run has ended, or cannot be met
└── TrainingError            training cannot continue
    └── NonFiniteError       a loss, a gradient or a weight is NaN or infinite

ArgumentError                a Python caller passed an impossible argument: a bug of the caller, with its traceback
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any


class EtrmError(Exception):
    """Base of all errors that are shown without a traceback.

    Args:
        code: which mistake this is, as ``area.kind``; it stays the same when the message is reworded.
        what: what is wrong, naming the file, task, key or tensor.
        got: what was found there.
        allowed: what would have been accepted.
        next_step: the command or edit that fixes it.
        codes: the code of each problem, where the error reports several of different kinds.
    """

    def __init__(
        self,
        code: str,
        what: str,
        *,
        got: str = "",
        allowed: str = "",
        next_step: str = "",
        codes: Sequence[str] = (),
    ) -> None:
        self.code, self.what, self.got, self.allowed, self.next_step = code, what, got, allowed, next_step
        self.codes = tuple(codes) or (code,)
        lines = [what]
        lines += [f"  got:     {got}"] if got else []
        lines += [f"  allowed: {allowed}"] if allowed else []
        lines += [f"  next:    {next_step}"] if next_step else []
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[Any, ...]:  # errors travel between processes
        rest = {"got": self.got, "allowed": self.allowed, "next_step": self.next_step}
        return partial(type(self), codes=self.codes, **rest), (self.code, self.what)

    @property
    def brief(self) -> str:
        """What is wrong in one line, for a list or another message."""
        return " ".join(": ".join(filter(None, (self.what, self.got))).split())


class ConfigError(EtrmError):
    """A setting is unknown, malformed, or impossible together with another."""


class DataError(EtrmError):
    """A task, a grid or a file of tasks cannot be used."""


class LeakageError(DataError):
    """A task, by id or by the hash of its grids, stands on both sides of a split."""


class CheckpointError(EtrmError):
    """A checkpoint is missing, of other code, altered, or does not fit the config."""


class RunFolderError(EtrmError):
    """A run folder is missing, in use, or belongs to another run."""


class FolderInUseError(RunFolderError):
    """Another process works in the folder."""


class ExtensionError(EtrmError):
    """Code that a user adds from outside is missing, fails, may not run, or is something else than was expected."""


class InstallationError(EtrmError, ImportError):
    """A package of another distribution, or another copy of one of ours, is found in place of ours."""


class WriteError(EtrmError):
    """A file cannot be written: the disk is full, or the folder may not be written to."""


class TrainingError(EtrmError):
    """Training cannot continue, for instance because nothing requires a gradient."""


class NonFiniteError(TrainingError):
    """A loss, a gradient or a weight is NaN or infinite."""


class ProcessError(EtrmError):
    """Another process of the same run has ended, or cannot be met."""


class Interrupted(Exception):
    """Ctrl-C: what is finished stays, and the same command resumes there."""


class ArgumentError(ValueError):
    """A function was called with an argument that it cannot take.

    Args:
        code: which mistake this is, as ``area.kind``.
        what: what is wrong, naming the value.
    """

    def __init__(self, code: str, what: str) -> None:
        self.code = code
        super().__init__(what)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.code, str(self))
