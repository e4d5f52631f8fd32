"""The line that calls a module is the user's."""

from __future__ import annotations

import inspect

from torch.utils.checkpoint import checkpoint

from diagnostics.recording.calls.callers import calling_line


def test_frames_of_torch_are_left_out() -> None:
    found = checkpoint(calling_line, use_reentrant=False)  # which torch calls in several frames
    _, first = inspect.getsourcelines(test_frames_of_torch_are_left_out)
    assert found == (__file__, first + 1)
