"""Read a file of JSON lines while another process writes it, up to the last complete line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Line = dict[str, Any]


@dataclass(frozen=True)
class News:
    """The lines that are new since the last read.

    Attributes:
        lines: the new records, in the order of the file.
        restarted: whether earlier lines are no longer in the file, so that ``lines`` starts from its beginning.
    """

    lines: list[Line]
    restarted: bool


class Tail:
    """Reads the lines that were added since the last read.

    An incomplete last line is left for the next read. A file that was truncated (as a resumed run does with its
    metrics) or replaced is read from its beginning again. This is detected by the last line that was read, which must
    still be at its position. A complete line that is not a record is skipped and counted.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._forget()

    def _forget(self) -> None:
        self._end = 0
        self._last = b""
        self._lines = 0
        self.broken: list[int] = []
        """The numbers, from 1, of the lines that are not records."""

    def read(self) -> News:
        """Return the new complete lines; none if there is no file yet.

        Raises:
            OSError: the file exists but cannot be read.
        """
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return self._restart_if(self._end > 0)
        with file:
            file.seek(self._end - len(self._last))
            restarted = file.read(len(self._last)) != self._last
            if restarted:
                self._forget()
                file.seek(0)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._end += len(whole)
        return News(
            [line for raw in whole.splitlines(keepends=True) for line in self._record(raw)], restarted
        )

    def _restart_if(self, restarted: bool) -> News:
        if restarted:
            self._forget()
        return News([], restarted)

    def _record(self, raw: bytes) -> list[Line]:
        self._last = raw
        self._lines += 1
        try:
            record = json.loads(raw)
        except (ValueError, RecursionError):
            record = None
        if isinstance(record, dict) and type(record.get("step")) is int:
            return [record]
        self.broken.append(self._lines)
        return []
