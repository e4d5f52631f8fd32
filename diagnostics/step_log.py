"""The steps of a run in a file: append-only JSONL, readable while it is written. `docs/step-log.md` has the schema.

with StepLog("steps.jsonl") as log:
    for batch in batches:
        with monitor.step(samples=len(batch)):
            ...
        log.append(monitor.history[-1])

table = pandas.DataFrame(read_steps("steps.jsonl"))
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from diagnostics.errors import InvalidType
from diagnostics.records import Absent, StepScalars

SCHEMA = "diagnostics.steps"
VERSION = 2  # of the lines; READABLE says what 1 lacked
READABLE = (1, 2)
"""Versions that are read; 1 had no codes of what is absent."""
_DIGITS = 6  # of a number: near the seven of single precision, in which it was measured


class StepLog:
    """Appends steps to a file, one whole line each, in one write.

    A line is in the file when `append` returns and survives the death of the process; a power cut may lose the
    latest ones. Numbers keep six significant digits. Each opening begins a session of its own, so that a run
    that was resumed from an earlier step stays apart from what it repeats.

    Raises:
        OSError: The file cannot be opened or written. A line that a full disk cut off is taken back.
    """

    def __init__(self, path: str | Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._modules: tuple[str, ...] | None = None
        self._order: tuple[str, ...] = ()
        self._last = -1
        size = os.fstat(self._file).st_size
        # a line that a power cut tore is ended by the next header; the reader passes over it
        self._torn = size > 0 and os.pread(self._file, 1, size - 1) != b"\n"

    def append(self, record: StepScalars) -> None:
        """Write one step. A step that is not after the last one is ignored; this happens if `every` skipped some.

        Raises:
            TypeError: It is something else, such as `monitor.last`.
        """
        check_scalars(record)
        if record.step <= self._last:
            return
        modules = tuple(record.modules)
        if modules != self._modules:
            header = {"schema": SCHEMA, "version": VERSION, "modules": modules, "order": record.order}
            self._write("\n" * self._torn + _dump(header))
            self._torn = False
            self._modules, self._order = modules, record.order
        self._write(_dump(_line(record, self._order)))
        self._last = record.step

    def close(self) -> None:
        """Done at the exit of the `with` block."""
        os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, line: str) -> None:
        data = f"{line}\n".encode()
        before = os.fstat(self._file).st_size
        try:
            written = os.write(self._file, data)
            while written < len(data):
                written += os.write(self._file, data[written:])
        except OSError:
            os.ftruncate(self._file, before)
            raise


def _line(record: StepScalars, order: Sequence[str]) -> dict[str, Any]:
    """A step as the object of its line; a column of equal values is written as one of them."""
    line: dict[str, Any] = {"step": record.step, "samples": record.samples}
    if record.order != order:
        line["order"] = record.order
    absent: dict[str, dict[Absent, list[int]]] = {}
    members = list(record.modules.values())
    for key in members[0] if members else ():
        values: list[float | int | str | None] = []
        for place, scalars in enumerate(members):
            value = scalars[key]
            if isinstance(value, Absent):
                absent.setdefault(key, {}).setdefault(value, []).append(place)
                values.append(None)
            else:
                values.append(_rounded(value))
        line[key] = values[0] if all(value == values[0] for value in values) else values
    if absent:
        line["absent"] = {
            key: [
                [why.code, why.reason, "all" if len(places) == len(members) else places]
                for why, places in reasons.items()
            ]
            for key, reasons in absent.items()
        }
    return line


def _rounded(value: float) -> float | int | str:
    if not math.isfinite(value):
        return str(float(value))  # JSON has no NaN and no infinity
    if value == int(value) and abs(value) < 10**_DIGITS:
        return int(value)
    return float(f"{value:.{_DIGITS}g}")


def check_scalars(record: Any) -> None:
    """Refuse what is not a step of a history.

    Raises:
        InvalidType: It is something else.
    """
    if not isinstance(record, StepScalars):
        raise InvalidType(
            "log.not-scalars",
            "append() takes the scalars of a step, such as monitor.history[-1], found {got}",
            got=type(record).__name__,
        )


def _dump(value: Mapping[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)
