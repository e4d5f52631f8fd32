"""Tests an error of the toolkit by its code and its facts, never by its wording."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from diagnostics import ToolkitError


@contextmanager
def refused(kind: type[Exception], code: str, **facts: Any) -> Iterator[pytest.ExceptionInfo[Exception]]:
    """The block raises an error of the toolkit of this code, which states at least these facts.

    Args:
        kind: The built-in class that the error must derive from.
    """
    with pytest.raises(kind) as caught:
        yield caught
    error = caught.value
    assert isinstance(error, ToolkitError)
    assert error.code == code
    assert {name: error.facts[name] for name in facts} == facts
