"""Write the metrics of a run as TensorBoard events while it trains."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from etrm.checkpoints.run_table import is_number
from etrm.errors import ConfigError
from reports.runs.followed_run import Followed
from reports.runs.json_lines_tail import Tail

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

INTERVAL_S = 2.0
"""Seconds between two looks at the runs: shorter than TensorBoard's own 5 seconds."""


class Exporter:
    """Writes every number of metrics.jsonl under its own name and step. TensorBoard stores float32.

    If an earlier export left events of the same steps in the folder, or if a resumed run repeats steps, the old events
    are purged with TensorBoard's own mechanism: a start event after which it ignores them.

    Raises:
        ConfigError: the package tensorboard is not installed.
    """

    def __init__(self, run: Path, out: Path) -> None:
        self._tail = Tail(run / "metrics.jsonl")
        self._out = out
        self._writer = _open(out)

    def update(self) -> int:
        """Write the new steps and return their number."""
        news = self._tail.read()
        if news.restarted:
            self.close()
            self._writer = _open(self._out)
        for line in news.lines:
            for key, value in line.items():
                if key != "step" and is_number(value):
                    # module.quantity becomes module/quantity, because TensorBoard groups by the part before the slash
                    self._writer.add_scalar(key.replace(".", "/"), value, line["step"])
        self._writer.flush()
        return len(news.lines)

    def close(self) -> None:
        """Flush and close the event files."""
        self._writer.close()


def export(run: Path, out: Path, *, once: bool = False) -> int:
    """Write the metrics of a run as events into ``out`` until the run ends.

    Args:
        run: the run folder.
        out: the folder of the event files.
        once: whether to write only what there is, as of an unfinished run that was copied from another machine.

    Returns:
        The number of steps written.

    Raises:
        EtrmError: the folder contains no run, or the package tensorboard is not installed.
    """
    followed = Followed(run)
    exporter = Exporter(run, out)
    try:
        written = exporter.update()
        while not (once or followed.status.ended):
            time.sleep(INTERVAL_S)
            followed.update()
            written += exporter.update()
        return written
    finally:
        exporter.close()


def _open(out: Path) -> SummaryWriter:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(
            "tensorboard.absent",
            "the package tensorboard is not installed",
            got=str(error),
            next_step="pip install 'tensorboard>=2.16'",
        ) from error
    return SummaryWriter(str(out), purge_step=0)
