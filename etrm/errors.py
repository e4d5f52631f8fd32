"""The errors that a user can cause. Each has a stable code, which `etrm explain CODE` explains.

EtrmError                    exit code 2; has a message, a next step and a code
├── ConfigError              a setting is unknown, malformed or impossible
├── DataError                a task, grid or file of tasks cannot be used
│   └── LeakageError         a task is in both sides of a split
├── FormulaError             a formula or rule cannot be read, or its parts do not fit together
├── CheckpointError          a checkpoint is missing, changed, made by other code, or does not fit the config
├── RunFolderError           a run folder is missing, in use, or belongs to another run
├── ExtensionError           code from outside is missing, fails, may not run, or is not what was expected
├── InstallationError        Python finds a package of another distribution instead of ours
├── WriteError               a file cannot be written (full disk, missing permission)
│   ├── FolderWriteError     the same in a run folder: a RunFolderError too
│   └── CheckpointWriteError the same of a checkpoint: a CheckpointError too
├── ProcessError             another process of the same run has ended, or cannot be reached
└── TrainingError            training cannot continue
    └── NonFiniteError       a loss, a gradient or a weight is NaN or infinite

ArgumentError                a Python caller passed an invalid argument: a bug in the caller, so the traceback is shown
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any


class EtrmError(Exception):
    """Base class of all errors that are shown without a traceback.

    Args:
        code: the identity of the error, as ``area.kind``; it does not change when the message is reworded.
        what: a description of the problem, with the name of the file, task, key or tensor.
        got: the value that was found.
        allowed: the values that are accepted.
        next_step: the command or edit that fixes the problem.
        codes: the codes of all problems, if the error reports several of different kinds.
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
        """The problem in one line, for use in a list or in another message."""
        return " ".join(": ".join(filter(None, (self.what, self.got))).split())


class ConfigError(EtrmError):
    """A setting is unknown, malformed, or incompatible with another."""


class DataError(EtrmError):
    """A task, a grid or a file of tasks cannot be used."""


class LeakageError(DataError):
    """A task, identified by its id or the hash of its grids, is in both sides of a split."""


class FormulaError(EtrmError):
    """A formula or rule of the symbolic solver cannot be read, or its parts do not fit together."""


class CheckpointError(EtrmError):
    """A checkpoint is missing, changed, made by other code, or does not fit the config."""


class RunFolderError(EtrmError):
    """A run folder is missing, in use, or belongs to another run."""


class FolderInUseError(RunFolderError):
    """Another process is working in the folder."""


class ExtensionError(EtrmError):
    """Code from outside is missing, fails, may not run, or is not what was expected."""


class InstallationError(EtrmError, ImportError):
    """Python finds a package of another distribution, or another copy of one of ours, instead of ours."""


class WriteError(EtrmError):
    """A file cannot be written: the disk is full, or permission is missing."""


class FolderWriteError(RunFolderError, WriteError):
    """A file of a run folder cannot be written: the disk is full, or permission is missing."""


class CheckpointWriteError(CheckpointError, WriteError):
    """A checkpoint cannot be written: the disk is full, or permission is missing."""


class TrainingError(EtrmError):
    """Training cannot continue, for instance because nothing requires a gradient."""


class NonFiniteError(TrainingError):
    """A loss, a gradient or a weight is NaN or infinite."""


class ProcessError(EtrmError):
    """Another process of the same run has ended, or cannot be reached."""


OPERATING_ERRORS: tuple[type[EtrmError], ...] = (FolderInUseError, WriteError, ProcessError)
"""Errors of the machine at that moment: with the same config and code, the same command can succeed later."""


class Interrupted(KeyboardInterrupt):
    """The user pressed Ctrl-C. Finished work is kept, and the same command resumes it.

    As a KeyboardInterrupt it passes every ``except Exception`` around code under test.
    """


class ArgumentError(ValueError):
    """A function was called with an invalid argument.

    Args:
        code: the identity of the error, as ``area.kind``.
        what: a description of the problem, with the name of the value.
    """

    def __init__(self, code: str, what: str) -> None:
        self.code = code
        super().__init__(what)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.code, str(self))
