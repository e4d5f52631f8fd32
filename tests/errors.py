"""What the tests of errors share: an error is recognised by its code and its values, never by its wording."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from etrm.errors import ArgumentError, EtrmError


@contextmanager
def raises_code(
    kind: type[EtrmError] | type[ArgumentError], code: str, *values: object, got: object = None
) -> Iterator[pytest.ExceptionInfo[EtrmError]]:
    """Expect an error of a class and a code, whose message holds each value as a word of its own.

    ``got`` is all of what the error says it found.
    """
    with pytest.raises(kind) as caught:
        yield caught
    assert caught.value.code == code
    assert got is None or caught.value.got == str(got)
    assert_holds(str(caught.value), *values)


def assert_holds(text: str, *values: object) -> None:
    """Fail unless each value is in the text, not as a part of a longer word or number."""
    for value in values:
        assert re.search(rf"(?<!\w){re.escape(str(value))}(?!\w)", text), f"{value!r} is not in {text!r}"
