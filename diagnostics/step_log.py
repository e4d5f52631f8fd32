"""The steps of a run in a file: append-only JSONL, readable while it is written. `docs/storage.md` has the schema.

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
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from diagnostics.records import Absent, Number, StepScalars
from diagnostics.selection import check_patterns, named_by

SCHEMA = "diagnostics.steps"
VERSION = 1
_DIGITS = 6
_META = ("step", "samples", "order", "absent")


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
        """Write one step; a step that is not after the last one is passed over, as where `every` skipped some."""
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


def read_steps(
    path: str | Path, modules: Sequence[str] = (), quantities: Sequence[str] = ()
) -> dict[str, Any]:
    """Columns for `pandas.DataFrame(...)`: a row per step and module.

    `session`, `step`, `samples`, `module`, then a column per quantity. What is not known is NaN; `iter_steps`
    has the reasons. A last line that is still being written is left out.

    Args:
        modules: Names or patterns of those to read, quantities by name; all by default.

    Raises:
        ValueError: The file is no log of this version or is damaged, or a module or quantity is not in it.
    """
    kept = _Columns(modules, quantities)
    for session, header, line in _lines(Path(path)):
        kept.add(session, header, line)
    return kept.finish()


def iter_steps(path: str | Path) -> Iterator[StepScalars]:
    """The steps as they were appended, to six digits, with the reasons of what is not known.

    Raises:
        ValueError: As `read_steps`.
    """
    for _, header, line in _lines(Path(path)):
        names = header["modules"]
        quantities = [key for key in line if key not in _META]
        columns = {key: _column(line[key], len(names)) for key in quantities}
        absent = {key: _reasons(line, key, len(names)) for key in quantities}
        scalars: dict[str, Mapping[str, Number]] = {
            name: {
                key: Absent(absent[key][place]) if (value := columns[key][place]) is None else _number(value)
                for key in quantities
            }
            for place, name in enumerate(names)
        }
        yield StepScalars(line["step"], line["samples"], scalars, tuple(line.get("order", header["order"])))


class _Columns:
    """Gathers columns over lines; arrays of 8 bytes per number, for there may be millions."""

    def __init__(self, modules: Sequence[str], quantities: Sequence[str]) -> None:
        self._patterns, self._wanted = modules, quantities
        self._rows: dict[str, Any] = {"session": array("q"), "step": array("q"), "samples": array("q")}
        self._names: list[str] = []
        self._numbers: dict[str, array[float]] = {}
        self._header: Mapping[str, Any] | None = None
        self._places: list[int] = []
        self._chosen: list[str] = []
        self._modules: dict[str, None] = {}
        self._quantities: dict[str, None] = {}

    def add(self, session: int, header: Mapping[str, Any], line: Mapping[str, Any]) -> None:
        if header is not self._header:
            self._header = header
            self._modules |= dict.fromkeys(header["modules"])
            named = [
                (place, name)
                for place, name in enumerate(header["modules"])
                if not self._patterns or named_by(self._patterns, name)
            ]
            self._places, self._chosen = [place for place, _ in named], [name for _, name in named]
        count = len(self._chosen)
        before = len(self._names)
        self._names += self._chosen
        for key, value in (("session", session), ("step", line["step"]), ("samples", line["samples"])):
            self._rows[key].extend([value] * count)
        for key in line:
            if key in _META:
                continue
            self._quantities.setdefault(key)
            if self._wanted and key not in self._wanted:
                continue
            column = self._numbers.setdefault(key, array("d", [math.nan]) * before)
            column.extend(_float(value) for value in self._picked(line[key]))
        for column in self._numbers.values():
            column.extend([math.nan] * (len(self._names) - len(column)))

    def _picked(self, values: Any) -> Iterable[Any]:
        return (
            [values[place] for place in self._places]
            if isinstance(values, list)
            else [values] * len(self._places)
        )

    def finish(self) -> dict[str, Any]:
        check_patterns("modules", [pattern.removesuffix(".*") for pattern in self._patterns], self._modules)
        check_patterns("quantities", self._wanted, self._quantities)
        return {**self._rows, "module": self._names, **self._numbers}


def _line(record: StepScalars, order: Sequence[str]) -> dict[str, Any]:
    """A step as the object of its line; a column of equal values is written as one of them."""
    line: dict[str, Any] = {"step": record.step, "samples": record.samples}
    if record.order != order:
        line["order"] = record.order
    absent: dict[str, dict[str, list[int]]] = {}
    members = list(record.modules.values())
    for key in members[0] if members else ():
        values: list[float | int | str | None] = []
        for place, scalars in enumerate(members):
            value = scalars[key]
            if isinstance(value, Absent):
                absent.setdefault(key, {}).setdefault(value.reason, []).append(place)
                values.append(None)
            else:
                values.append(_rounded(value))
        line[key] = values[0] if all(value == values[0] for value in values) else values
    if absent:
        line["absent"] = {
            key: {
                reason: "all" if len(places) == len(members) else places for reason, places in reasons.items()
            }
            for key, reasons in absent.items()
        }
    return line


def _rounded(value: float) -> float | int | str:
    if not math.isfinite(value):
        return str(float(value))  # JSON has no NaN and no infinity
    if value == int(value) and abs(value) < 10**_DIGITS:
        return int(value)
    return float(f"{value:.{_DIGITS}g}")


def _dump(value: Mapping[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _column(values: Any, count: int) -> list[Any]:
    return values if isinstance(values, list) else [values] * count


def _reasons(line: Mapping[str, Any], key: str, count: int) -> dict[int, str]:
    return {
        place: reason
        for reason, places in line.get("absent", {}).get(key, {}).items()
        for place in (range(count) if places == "all" else places)
    }


def _number(value: Any) -> float:
    return float(value) if isinstance(value, str) else value


def _float(value: Any) -> float:
    return math.nan if value is None else float(value)


def _lines(path: Path) -> Iterator[tuple[int, Mapping[str, Any], Mapping[str, Any]]]:
    """(session, header, step) of every step; a torn line is passed over where a writer died or still writes."""
    header: Mapping[str, Any] | None = None
    session, torn = -1, 0
    with path.open("rb") as file:
        for number, text in enumerate(file, start=1):
            if not text.endswith(b"\n"):
                break
            try:
                line = json.loads(text)
            except ValueError:
                torn = number
                continue
            if "schema" in line:
                header, session, torn = _checked_header(line, path), session + 1, 0
            elif torn or header is None:
                raise ValueError(f"{path}, line {torn or number}: damaged, or no log of steps")
            else:
                yield session, header, line
    if torn:
        raise ValueError(f"{path}, line {torn}: damaged, or no log of steps")


def _checked_header(line: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    if line["schema"] != SCHEMA or line["version"] != VERSION:
        raise ValueError(
            f"{path} is of schema {line['schema']!r} version {line['version']!r};"
            f" this reads {SCHEMA!r} version {VERSION}"
        )
    return line
