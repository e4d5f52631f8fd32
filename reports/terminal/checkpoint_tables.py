"""The output of `etrm checkpoint`: tables, or JSON with --json."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

from etrm.checkpoints.import_published import Imported
from etrm.checkpoints.inspect_tensors import Inspection, TensorComparison, TensorSummary, WeightsComparison
from etrm.setting_texts import flatten
from reports.terminal.console import open_console
from reports.text_table import make_table

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table

Found = TypeVar("Found", Inspection, WeightsComparison, Imported)


def print_result(found: Found, render: Callable[[Found], RenderableType], as_json: bool) -> None:
    """Print the result of a command as tables or as JSON."""
    console = open_console()
    if as_json:
        text = json.dumps(asdict(found), indent=1, allow_nan=False)
        console.print(text, soft_wrap=True)
    else:
        console.print(render(found))


def inspection(found: Inspection) -> Group:
    """Return the origin, settings and totals of a checkpoint, then every tensor."""
    origin = {
        "file": found.path,
        "weights": found.weights,
        "step": _or_unknown(found.step),
        "digest": "verified" if found.verified else "none in the file",
        "data hash": _or_unknown(found.data_hash),
    }
    settings = "unknown" if found.settings is None else _words(flatten(found.settings))
    totals = _table("part", "tensors", "values", "bytes", "not finite")
    for part, total in found.totals.items():
        totals.add_row(
            part, *(f"{n:,}" for n in (total.tensors, total.values, total.bytes, total.non_finite))
        )
    return _group(_words(origin, "\n"), f"settings: {settings}", totals, _summaries(found.tensors))


def _summaries(tensors: tuple[TensorSummary, ...]) -> Table:
    """Return a table with a row per tensor, and a column for non-finite values if there are any."""
    some_odd = any(t.non_finite for t in tensors)
    odd = ("not finite",) if some_odd else ()
    table = _table("tensor", "shape", "dtype", "mean", "std", "min", "max", "norm", *odd)
    for t in tensors:
        numbers = [_number(value) for value in (t.mean, t.std, t.min, t.max, t.norm)]
        numbers += [f"{t.non_finite:,}"] if some_odd else []
        table.add_row(t.name, _shape(t.shape), t.dtype, *numbers)
    return table


def comparison(found: WeightsComparison) -> Group:
    """Return the verdict, the settings that differ, then every tensor that differs."""
    verdict = "equal" if found.equal else "different"
    parts: list[Any] = [
        f"first:  {found.first}\nsecond: {found.second}",
        f"{verdict}: {found.matched}/{found.total} tensors are equal bit for bit",
    ]
    if found.settings is None:
        parts.append("settings: not compared, because a file does not contain its settings")
    elif found.settings:
        pairs = (f"{name} {first} and {second}" for name, (first, second) in found.settings.items())
        parts.append("settings that differ: " + ", ".join(pairs))
    unequal = [tensor for tensor in found.tensors if tensor.status != "equal"]
    if unequal:
        table = _table("tensor", "status", "largest difference", "mean difference", "not finite")
        for t in unequal:
            table.add_row(t.name, _what(t), _number(t.largest), _number(t.mean), f"{t.non_finite:,}")
        parts.append(table)
    for side, names in (("first", found.only_first), ("second", found.only_second)):
        if names:
            parts.append(f"only in the {side}: " + ", ".join(names))
    return _group(*parts)


def imported(found: Imported) -> Group:
    """Return the folder, and the value and origin of every setting."""
    values = flatten(found.config.model.model_dump(mode="json"))
    table = _table("setting", "value", "origin")
    for name, source in found.sources.items():
        table.add_row(name, str(values[name]), source)
    count = sum(tensor.numel() for tensor in found.tensors.values())
    head = f"{found.folder}: {len(found.tensors)} tensors, {count:,} values"
    return _group(head, table)


def _what(tensor: TensorComparison) -> str:
    if tensor.status == "other shape":
        return f"shape {_shape(tensor.shapes[0])} and {_shape(tensor.shapes[1])}"
    return " and ".join(tensor.dtypes) if tensor.status == "other dtype" else tensor.status


def _table(first: str, *others: str) -> Table:
    return make_table((first, *others), right=others)


def _group(*parts: Any) -> Group:
    from rich.console import Group
    from rich.text import Text

    return Group(*(Text(part) if isinstance(part, str) else part for part in parts))


def _words(values: dict[str, Any], between: str = ", ") -> str:
    return between.join(f"{name}: {value}" for name, value in values.items())


def _or_unknown(value: Any) -> str:
    return "unknown" if value is None else str(value)


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) if shape else "scalar"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
