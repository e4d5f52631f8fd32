"""The rank of this process among the processes of a run, as set by the launcher (torchrun).

This module does not import torch, so that the command line can use it without the cost of that import.
"""

from __future__ import annotations

import os
from typing import Protocol


class ProcessCounter(Protocol):
    """A counter that all processes of a run share."""

    def add(self, key: str, amount: int) -> int:
        """Add ``amount`` to the counter ``key`` and return its new value."""


_store: ProcessCounter | None = None


def is_launched() -> bool:
    """Return whether a launcher started this process as one of several."""
    return {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()


def read_rank() -> int:
    """Return the rank of this process, from 0; 0 without a launcher."""
    return int(os.environ["RANK"]) if is_launched() else 0


def share_store(store: ProcessCounter | None) -> None:
    """Set the store that the processes of this run share; None for no store."""
    global _store
    _store = store


def reports_error() -> bool:
    """Return whether this process reports its error to the user. Only the first process that asks does.

    An error that occurs in all processes is therefore reported once, and the errors of processes that only lost
    contact with the failed one are not reported.
    """
    if _store is None:
        return read_rank() == 0
    try:
        return _store.add("errors told", 1) == 1
    except RuntimeError:  # the process that held the store has died
        return True
