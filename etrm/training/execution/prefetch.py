"""Worker processes that draw samples ahead; the trainer gets exactly the same samples.

A sample is a function of bucket and index, and the indices of a bucket are requested in rising order, so that
the next ones are known in advance. Samples that were drawn ahead and are not requested are dropped.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future

from etrm.config import Config
from etrm.data import Episodes, Sample
from etrm.process_pool import LIMIT, PATIENCE, NotStarted, close_pool, end_workers, start_workers
from etrm.training.slots import Draw

CHUNK, LARGEST_CHUNK = 8, 32
"""Samples per message, at least and at most. Receiving takes this process .05 ms of CPU time per sample and .2 ms per
message; more samples delay the first one, and leave workers without a message if batches are small."""
MESSAGES = 4
"""Messages per worker that are drawn ahead."""


class Prefetch:
    """A loader whose samples come from worker processes.

    If a worker dies or does not answer nothing is lost: this process draws the samples itself, with a warning.

    Args:
        config: the config of the run, faults included.
        episodes: the training episodes, whose arrays all workers share.
        loader: a module-level function from a config to a loader, which every worker calls.
        depth: the number of indices that are drawn ahead in every bucket.
        limit: the number of seconds to wait for the first worker to start, and for samples.
    """

    def __init__(
        self,
        config: Config,
        episodes: Episodes,
        loader: Callable[[Config], Draw],
        depth: int,
        limit: float = LIMIT,
    ) -> None:
        self._episodes, self._draw = episodes, loader(config)
        self._pool = start_workers(config.data.workers, _prepare, (loader, config, episodes))
        self._pool.limit = limit
        self._ahead: list[dict[int, Future[list[Sample]]]] = [{} for _ in range(episodes.buckets)]
        self._arrived: list[tuple[int, list[Sample]]] = [(-1, [])] * episodes.buckets
        size = min(LARGEST_CHUNK, depth // (MESSAGES * config.data.workers))
        self._size = max(CHUNK, size, episodes.drawn_together)
        self._chunks = -(-depth // self._size)
        self._open, self._limit = True, limit

    def __call__(self, episodes: Episodes, bucket: int, index: int) -> Sample:
        """The sample at a position of the stream.

        Raises:
            EtrmError: what drawing it raises, in whichever process.
        """
        if not self._open or episodes is not self._episodes:
            return self._draw(episodes, bucket, index)
        chunk, place = divmod(index, self._size)
        number, samples = self._arrived[bucket]
        if chunk == number:  # nearly always, and so without asking the pool for anything
            return samples[place]
        try:
            future = self._request(bucket, chunk)
            if future is None:
                return self._draw(episodes, bucket, index)
            samples = future.result(self._limit)
            self._arrived[bucket] = chunk, samples
            return samples[place]
        except NotStarted:
            self._give_up(f"did not start within {self._limit:g} seconds.")
        except BrokenExecutor as error:
            self._give_up(f"died: {error} Was memory short?")
        except TimeoutError:
            self._give_up(f"gave no samples in {self._limit:g} seconds.")
        return self._draw(episodes, bucket, index)

    def _give_up(self, reason: str) -> None:
        end_workers(self._pool)
        self.close()
        warnings.warn(
            f"A process that draws samples ahead (data.workers) {reason} Training continues and draws the same samples "
            "in its own process.",
            RuntimeWarning,
            stacklevel=3,
        )

    def _request(self, bucket: int, chunk: int) -> Future[list[Sample]] | None:
        """Return the future of a chunk and request the following chunks; None for a chunk that was dropped."""
        ahead = self._ahead[bucket]
        if ahead and chunk < min(ahead):
            return None
        for passed in [number for number in ahead if number < chunk]:
            ahead.pop(passed).cancel()
        for number in range(chunk, chunk + self._chunks + 1):
            if number not in ahead:
                ahead[number] = self._pool.submit(_draw_chunk, bucket, number * self._size, self._size)
        return ahead[chunk]

    def close(self) -> None:
        """End the workers; later samples are drawn in this process."""
        self._open = False
        self._ahead.clear()
        if not close_pool(self._pool):
            warnings.warn(
                f"A process that draws samples ahead (data.workers) did not end within {PATIENCE:g} seconds, so it was "
                "killed.",
                RuntimeWarning,
                stacklevel=2,
            )


# A worker process serves one run: its loader and its episodes.
_worker: tuple[Draw, Episodes]


def _prepare(loader: Callable[[Config], Draw], config: Config, episodes: Episodes) -> None:
    global _worker
    _worker = loader(config), episodes


def _draw_chunk(bucket: int, first: int, size: int) -> list[Sample]:
    draw, episodes = _worker
    samples = [draw(episodes, bucket, index) for index in range(first, first + size)]
    for pair in (pair for sample in samples for pair in sample.demos):
        _ = pair.cells  # cached, and sent along
    return samples
