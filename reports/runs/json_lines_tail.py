"""A file of JSON lines that another process writes, read as far as it is whole."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Line = dict[str, Any]


@dataclass(frozen=True)
class News:
    """What has come since the last look.

    Attributes:
        lines: the new records, in the order of the file.
        restarted: what was read before no longer stands in the file; ``lines`` begins anew.
    """

    lines: list[Line]
    restarted: bool


class Tail:
    """Reads what has been added since the last look.

    A last line without its end is left for the next look. A file that was cut back, as a resumed run
    does with its metrics, or replaced is read from its beginning again: the last line that was read
    must still stand where it stood. A whole line that holds no record is passed over and counted.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._forget()

    def _forget(self) -> None:
        self._end = 0
        self._last = b""
        self._lines = 0
        self.broken: list[int] = []
        """Numbers, from 1, of the lines that hold no record."""

    def read(self) -> News:
        """The whole lines that are new; none while there is no file.

        Raises:
            OSError: the file is there and cannot be read.
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
