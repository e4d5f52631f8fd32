"""Samples drawn ahead of need by other processes; the trainer is handed the very same ones.

A sample is a function of bucket and index, and a bucket's indices are asked for in rising order, so the next
ones are known before they are asked for. What was drawn ahead and is not asked for is dropped.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future

from etrm.config import Config
from etrm.data import Episodes, Sample
from etrm.process_pool import start_workers
from etrm.training.slots import Draw

CHUNK = 8
"""Samples per message: fewer cost more messages, more keep the first of them waiting."""


class Prefetch:
    """A loader whose samples come from worker processes.

    A worker that dies takes nothing along: this process draws on by itself, and says so.

    Args:
        config: of the run; its faults are those of the loader too.
        episodes: copied to every worker.
        loader: from a config to a loader, a function of a module; every worker calls it.
        depth: indices drawn ahead in every bucket.
    """

    def __init__(
        self, config: Config, episodes: Episodes, loader: Callable[[Config], Draw], depth: int
    ) -> None:
        self._episodes, self._draw = episodes, loader(config)
        self._pool = start_workers(config.data.workers, _prepare, (loader, config, episodes))
        self._ahead: list[dict[int, Future[list[Sample]]]] = [{} for _ in range(episodes.buckets)]
        self._chunks = -(-depth // CHUNK)
        self._open = True

    def __call__(self, episodes: Episodes, bucket: int, index: int) -> Sample:
        """The sample at a position of the stream.

        Raises:
            EtrmError: what drawing it raises, in whichever process.
        """
        if not self._open or episodes is not self._episodes:
            return self._draw(episodes, bucket, index)
        try:
            future = self._asked(bucket, index // CHUNK)
            return future.result()[index % CHUNK] if future else self._draw(episodes, bucket, index)
        except BrokenExecutor as error:
            self.close()
            warnings.warn(
                f"a process that draws samples ahead (data.workers) died: {error} "
                "Training goes on, with the same samples drawn in its own process. Was memory short?",
                RuntimeWarning,
                stacklevel=2,
            )
            return self._draw(episodes, bucket, index)

    def _asked(self, bucket: int, chunk: int) -> Future[list[Sample]] | None:
        """The future of a chunk, those behind it asked for too; None for one that was passed already."""
        ahead = self._ahead[bucket]
        if ahead and chunk < min(ahead):
            return None
        for passed in [number for number in ahead if number < chunk]:
            ahead.pop(passed).cancel()
        for number in range(chunk, chunk + self._chunks + 1):
            if number not in ahead:
                ahead[number] = self._pool.submit(_draw_chunk, bucket, number * CHUNK)
        return ahead[chunk]

    def close(self) -> None:
        """End the workers; what is asked for afterwards is drawn in this process."""
        self._open = False
        self._ahead.clear()
        self._pool.shutdown(wait=False, cancel_futures=True)


# A worker process serves one run: its loader and its episodes.
_worker: tuple[Draw, Episodes]


def _prepare(loader: Callable[[Config], Draw], config: Config, episodes: Episodes) -> None:
    global _worker
    _worker = loader(config), episodes


def _draw_chunk(bucket: int, first: int) -> list[Sample]:
    draw, episodes = _worker
    return [draw(episodes, bucket, index) for index in range(first, first + CHUNK)]
