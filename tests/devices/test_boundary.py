"""Tensors cross between host and device in :mod:`etrm.device` alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import etrm

PACKAGE = Path(etrm.__file__).parent


def crossings(source: str) -> Iterator[int]:
    """Lines that call ``.cpu()``, ``.cuda()``, or ``.to()`` with a device."""
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        given = [ast.unparse(item) for item in (*node.args, *(keyword.value for keyword in node.keywords))]
        names_a_device = any(
            "device" in text or text.strip("'\"") in ("cpu", "cuda", "mps") for text in given
        )
        if node.func.attr in ("cpu", "cuda") or (node.func.attr == "to" and names_a_device):
            yield node.lineno


def test_what_counts_as_a_crossing() -> None:
    text = (
        "x.cpu()\nx.cuda()\nx.to(model.device)\nx.to('cuda')\nx.to(device=d.device)\nx.to(y.dtype)\nx.float()"
    )
    assert list(crossings(text)) == [1, 2, 3, 4, 5]


def test_no_module_but_one_moves_tensors() -> None:
    allowed = {PACKAGE / "device.py"}
    found = [
        f"{path.relative_to(PACKAGE)}:{line}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path not in allowed
        for line in crossings(path.read_text("utf-8"))
    ]
    assert found == []
