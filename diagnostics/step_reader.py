"""Reads the files of `StepLog`: as columns for a table, or step by step.

A file of 10,000 steps of 200 modules is 200 MB of text with 30 million numbers. If only some modules or quantities
are wanted, one pass of a regular expression finds the columns of a line, and the other numbers
are never parsed.
"""

from __future__ import annotations

import json
import math
import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diagnostics.errors import InvalidValue
from diagnostics.records import Absent, Number, StepScalars
from diagnostics.selection import check_list, check_patterns, named_by
from diagnostics.step_log import READABLE, SCHEMA

_META = ("step", "samples", "order", "absent")
_COLUMN = re.compile(rb'"([^"\\]+)":(\[[^][{}]*\]|[^][{},]+)')
_ABSENT = b',"absent":{'


def read_steps(
    path: str | Path, modules: Sequence[str] = (), quantities: Sequence[str] = ()
) -> dict[str, Any]:
    """Columns for `pandas.DataFrame(...)`: a row per step and module.

    `session`, `step`, `samples`, `module`, then a column per quantity: float64 tensors, the first three int64, and a
    list of the names. What is not known is NaN; `iter_steps` has the reasons. A last line that is still being written
    is left out. It takes 8 bytes per number and no more than one line of the file at a time.

    Args:
        modules: Names or patterns of the modules to read, by default all.

    Raises:
        ValueError: The file is not a log of this version or is damaged, or a module or quantity is not in it.
    """
    check_list("modules", modules)
    check_list("quantities", quantities)
    kept = _Columns(modules, quantities)
    parse = _scanned if modules or quantities else json.loads
    for session, header, line in _lines(Path(path), parse):
        kept.add(session, header, line)
    return kept.finish()


def iter_steps(path: str | Path) -> Iterator[StepScalars]:
    """The steps as they were appended, to six digits, with the reasons of what is not known.

    Raises:
        ValueError: As `read_steps`.
    """
    for _, header, line in _lines(Path(path), json.loads):
        names = header["modules"]
        quantities = [key for key in line if key not in _META]
        columns = {key: _column(line[key], len(names)) for key in quantities}
        absent = {key: _absences(line, key, len(names)) for key in quantities}
        scalars: dict[str, Mapping[str, Number]] = {
            name: {
                key: absent[key][place] if (value := columns[key][place]) is None else _number(value)
                for key in quantities
            }
            for place, name in enumerate(names)
        }
        yield StepScalars(line["step"], line["samples"], scalars, tuple(line.get("order", header["order"])))


class _Columns:
    """Gathers columns over lines; arrays of 8 bytes per number, because there may be millions."""

    def __init__(self, modules: Sequence[str], quantities: Sequence[str]) -> None:
        self._patterns, self._wanted = modules, quantities
        self._rows = {"session": array("q"), "step": array("q"), "samples": array("q")}
        self._names: list[str] = []
        self._numbers: dict[str, array[float]] = {}
        self._header: Mapping[str, Any] | None = None
        self._places: list[int] | None = None  # None for all
        self._chosen: list[str] = []
        self._modules: dict[str, None] = {}
        self._quantities: dict[str, None] = {}

    def add(self, session: int, header: Mapping[str, Any], line: Mapping[str, Any]) -> None:
        if header is not self._header:
            self._choose(header)
        count, before = len(self._chosen), len(self._names)
        self._names += self._chosen
        for key, value in (("session", session), ("step", line["step"]), ("samples", line["samples"])):
            self._rows[key].extend(array("q", [int(value)]) * count)
        for key in line:
            if key in _META:
                continue
            self._quantities.setdefault(key)
            if self._wanted and key not in self._wanted:
                continue
            if key not in self._numbers:
                self._numbers[key] = array("d", [math.nan]) * before
            self._numbers[key].extend(_numbers(line[key], self._places, count))
        for column in self._numbers.values():
            column.extend(array("d", [math.nan]) * (len(self._names) - len(column)))

    def _choose(self, header: Mapping[str, Any]) -> None:
        self._header = header
        names = header["modules"]
        self._modules |= dict.fromkeys(names)
        places = [
            place for place, name in enumerate(names) if not self._patterns or named_by(self._patterns, name)
        ]
        self._chosen = [names[place] for place in places]
        self._places = None if len(places) == len(names) else places

    def finish(self) -> dict[str, Any]:
        check_patterns("modules", [pattern.removesuffix(".*") for pattern in self._patterns], self._modules)
        check_patterns("quantities", self._wanted, self._quantities)
        return {
            **{key: _tensor(column, torch.int64) for key, column in self._rows.items()},
            "module": self._names,
            **{key: _tensor(column, torch.float64) for key, column in self._numbers.items()},
        }


def _tensor(column: array[Any], dtype: torch.dtype) -> Tensor:
    """The same memory; numpy and pandas take it over at once, an array number by number."""
    return torch.frombuffer(column, dtype=dtype) if column else torch.empty(0, dtype=dtype)


def _numbers(values: Any, places: list[int] | None, count: int) -> array[float]:
    """The numbers of a column of one line, parsed or still text, at the wanted places."""
    if isinstance(values, bytes):
        if places is None or not values.startswith(b"["):
            values = json.loads(values)
        else:
            texts = values[1:-1].split(b",")
            return array("d", [_from_text(texts[place]) for place in places])
    if not isinstance(values, list):
        return array("d", [_float(values)]) * count
    if places is not None:
        values = [values[place] for place in places]
    try:
        return array("d", values)
    except TypeError:  # null and the names of what is not finite
        return array("d", map(_float, values))


def _from_text(text: bytes) -> float:
    return math.nan if text == b"null" else float(text.strip(b'"'))


def _column(values: Any, count: int) -> list[Any]:
    return values if isinstance(values, list) else [values] * count


def _absences(line: Mapping[str, Any], key: str, count: int) -> dict[int, Absent]:
    """Position -> why the value is not known."""
    entries = line.get("absent", {}).get(key, [])
    if isinstance(entries, dict):  # version 1: no codes
        entries = [["", reason, places] for reason, places in entries.items()]
    return {
        place: Absent(reason, code)
        for code, reason, places in entries
        for place in (range(count) if places == "all" else places)
    }


def _number(value: Any) -> float:
    return float(value) if isinstance(value, str) else value


def _float(value: Any) -> float:
    return math.nan if value is None else float(value)


def _scanned(text: bytes) -> Any:
    """The line with its columns left as text, or parsed if it is not a step in the form that `StepLog` writes.

    No text is ignored: if the expression does not match a part, the lengths differ, and the line is parsed instead.
    """
    body, absent, reasons = text.rstrip(b"\n").partition(_ABSENT)
    columns = _COLUMN.findall(body)
    end = b"" if absent else b"}"
    length = sum(len(key) + len(value) + len('"":,') for key, value in columns) + len(end)
    whole = body.endswith(end) and (not absent or reasons.endswith(b"}"))
    if length != len(body) or not whole or not body.startswith(b'{"step":'):
        return json.loads(text)
    if absent:
        json.loads(b"{" + reasons[:-1])  # the last part of a line, where one that was torn is torn
    return {key.decode(): value for key, value in columns}


def _lines(path: Path, parse: Any) -> Iterator[tuple[int, Mapping[str, Any], Mapping[str, Any]]]:
    """Yield (session, header, step) of every step. An incomplete line is skipped: its writer died or still writes."""
    header: Mapping[str, Any] | None = None
    session, torn = -1, 0
    with path.open("rb") as file:
        for number, text in enumerate(file, start=1):
            if not text.endswith(b"\n"):
                break
            try:
                line = parse(text)
            except ValueError:
                torn = number
                continue
            if "schema" in line:
                header, session, torn = _checked_header(line, path), session + 1, 0
            elif torn or header is None:
                raise _damaged(path, torn or number)
            else:
                yield session, header, line
    if torn:
        raise _damaged(path, torn)


def _damaged(path: Path, line: int) -> InvalidValue:
    return InvalidValue(
        "step-log.damaged", "{path}, line {line}: damaged, or no log of steps", path=str(path), line=line
    )


def _checked_header(line: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    if line["schema"] != SCHEMA or line["version"] not in READABLE:
        raise InvalidValue(
            "step-log.version",
            "{path} is of schema {schema!r} version {got!r}; this reads {expected!r} version {allowed}",
            path=str(path),
            schema=line["schema"],
            got=line["version"],
            expected=SCHEMA,
            allowed=" or ".join(map(str, READABLE)),
        )
    return line
