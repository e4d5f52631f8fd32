"""Runs with planted losses, as the investigation reads them from disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from etrm.investigation.records import Run
from etrm.investigation.runs.arms import ArmId
from etrm.investigation.runs.launchers import Attempt, Launcher
from etrm.investigation.runs.loaded_run import LoadedRun

DIVERGED = float("inf")


def planted(arm: ArmId, losses: Sequence[float | None], key: str = "loss_end") -> list[LoadedRun]:
    """A run for each seed; infinite is one that diverged, None one that failed otherwise."""
    return [_run(arm, seed, loss, key) for seed, loss in enumerate(losses)]


def _run(arm: ArmId, seed: int, loss: float | None, key: str) -> LoadedRun:
    finished = loss is not None and loss != DIVERGED
    record = Run(
        arm=arm.name,
        seed=seed,
        folder=arm.folder(seed),
        steps=10,
        wall_s=1.0,
        state="finished" if finished else "failed",
        diverged=loss == DIVERGED,
        reason="" if finished else "planted",
        final={key: loss} if finished and loss is not None else {},
    )
    return LoadedRun(arm, record, Path(record.folder))


class _Inline:
    """Runs every call at once, in this process: a pool would import torch anew for each of its workers."""

    def submit(self, call: Callable[..., None], *arguments: Any) -> Attempt:
        future: Future[None] = Future()
        future.set_result(call(*arguments))
        return future

    def stop(self, attempts: Sequence[Any]) -> None:
        """Nothing is ever running."""


@contextmanager
def _opened(folder: Path) -> Iterator[_Inline]:
    yield _Inline()


def inline(threads: int = 1) -> Launcher:
    """A launcher without processes."""
    return Launcher(1, _opened, threads)
