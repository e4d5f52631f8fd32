"""Parameters of tests of which only some belong to the fast tests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def one_in(n: int, values: Iterable[Any]) -> list[Any]:
    """Every n-th value, the first among them, and the others for ``make test-slow``.

    Args:
        n: how many values there are for each fast test.
        values: the values of one parameter; a tuple has the values of several.
    """
    return [_parameter(value, slow=place % n != 0) for place, value in enumerate(values)]


def _parameter(value: Any, slow: bool) -> Any:
    values = value if isinstance(value, tuple) else (value,)
    return pytest.param(*values, marks=[pytest.mark.slow] if slow else [])
