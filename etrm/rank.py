"""How many processes make this run, and which of them this one is, as the launcher (torchrun) says.

Nothing here imports torch, so that the command line can ask before it does anything.
"""

from __future__ import annotations

import os
from typing import Protocol


class ProcessCounter(Protocol):
    """The counter that the processes of a run share."""

    def add(self, key: str, amount: int) -> int:
        """Add to a counter; the new value is returned."""


_store: ProcessCounter | None = None


def launched() -> bool:
    """Whether a launcher started this process beside others."""
    return {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()


def rank() -> int:
    """Number of this process, from 0; 0 without a launcher."""
    return int(os.environ["RANK"]) if launched() else 0


def share_store(store: ProcessCounter | None) -> None:
    """Keep the store that the processes met at, or forget it."""
    global _store
    _store = store


def reports_error() -> bool:
    """Whether this process is the one that tells the user of an error; the first that asks is.

    An error that all processes meet is told once, and the others' loss of the one that failed not at all.
    """
    if _store is None:
        return rank() == 0
    try:
        return _store.add("errors told", 1) == 1
    except RuntimeError:  # the process that held the store has died
        return True
