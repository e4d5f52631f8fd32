"""Finds the non-finite numbers behind an exception of the user's code, as when a distribution refuses its argument.

The variables of the functions that run are looked at, and the graph behind the first one that holds NaN: a node keeps
what it was given, or what it made.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from traceback import walk_tb
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from diagnostics.auditing.tracing.recorded_calls import Operation
from diagnostics.auditing.tracing.recorders.first_nonfinite import count_bad
from diagnostics.findings import Evidence, Finding
from diagnostics.recording.calls.callers import is_users
from diagnostics.recording.tensors import tensors_in
from diagnostics.report.text import to_text
from diagnostics.rules.families.gradients.not_finite import OVERFLOW, OVERFLOW_IN_OPERATION, REACH003

_MOST_NODES = 5_000  # of a graph, a few milliseconds
_SAVED = "_saved_"
"""How the names of what a node keeps begin."""


def find_broken_number(error: BaseException) -> Finding | None:
    """REACH003 with the operation that made the first number that is not finite, if a variable holds NaN.

    Args:
        error: An exception with its traceback.
    """
    for frame, line in reversed([*walk_tb(error.__traceback__)]):
        if is_users(frame.f_code.co_filename):
            for name, tensor in _variables(frame):
                if bool(tensor.detach().isnan().any()):
                    return _describe(name, tensor, f"{Path(frame.f_code.co_filename).name}:{line}")
    return None


def introduce(error: BaseException) -> str:
    """That finding as text, for above the traceback; "" if there is none."""
    found = find_broken_number(error)
    return "" if found is None else f"{to_text([found])}\n"


def _variables(frame: FrameType) -> Iterator[tuple[str, Tensor]]:
    """The tensors of floating point that a function holds, and those in its tuples, lists and dictionaries."""
    for name, value in [*frame.f_locals.items()]:
        if not isinstance(value, (Tensor, tuple, list, dict)) or isinstance(value, nn.Parameter):
            continue
        for each in tensors_in(value):
            if each.is_floating_point() and count_bad(each):
                yield name, each


@torch.no_grad()
def _describe(name: str, tensor: Tensor, place: str) -> Finding:
    made = _first_function(tensor)
    known = made and OVERFLOW_IN_OPERATION.of(phase="forward", operation=Operation(made, "", ""))
    count = count_bad(tensor)
    message = (
        f"model: the exception follows {count} numbers that are not finite, in {name} of shape {tuple(tensor.shape)},"
        f" which {place} reads"
    )
    return REACH003.finding("", message, Evidence("parameters", float(count), None, 0, 0), known or OVERFLOW)


def _first_function(tensor: Tensor) -> str:
    """The name of the first function in the graph of a tensor that made a number that is not finite, "" if none shows.

    Of the nodes that keep such a number, the oldest: it made the number, or was given it by the one before.
    """
    waiting, oldest = [tensor.grad_fn], None
    seen: set[Any] = set()
    while waiting and len(seen) < _MOST_NODES:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting += [before for before, _ in node.next_functions]
        if _keeps_broken(node) and (oldest is None or _age(node) < _age(oldest)):
            oldest = node
    if oldest is None:
        return ""
    return _plain(oldest if not _is_given_broken(oldest) else _before(oldest))


def _age(node: Any) -> int:
    return int(node._sequence_nr())


def _saved(node: Any) -> Iterator[tuple[str, Tensor]]:
    for name in (each for each in dir(node) if each.startswith(_SAVED)):
        try:
            value = getattr(node, name)
        except RuntimeError:  # a backward pass has freed it, or it was changed since
            continue
        yield from ((name, each) for each in tensors_in(value))


def _keeps_broken(node: Any) -> bool:
    return any(count_bad(each) for _, each in _saved(node))


def _is_given_broken(node: Any) -> bool:
    return any(count_bad(each) for name, each in _saved(node) if not name.startswith(f"{_SAVED}result"))


def _before(node: Any) -> Any:
    """The youngest of the nodes whose results a node was given; itself if it was given leaves alone."""
    known = [before for before, _ in node.next_functions if before is not None]
    made = [each for each in known if not each.name().endswith("AccumulateGrad")]
    return max(made, key=_age, default=node)


def _plain(node: Any) -> str:
    """The name of the function of a node: exp of ExpBackward0."""
    name = str(node.name()).rpartition("::")[2].partition("Backward")[0]
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).strip("_")
