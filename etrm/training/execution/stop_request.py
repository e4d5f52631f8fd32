"""A request to end a run soon, which a signal can make too."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Whether a run should end after the next step whose numbers are read."""

    def __init__(self) -> None:
        self.made = False

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Let Ctrl-C, SIGTERM and a closed terminal make the request; a second Ctrl-C ends the run at once.

        A signal that was ignored before (``nohup``, or a worker whose parent handles Ctrl-C) stays ignored.
        """

        def handle(number: int, frame: FrameType | None) -> None:
            if self.made and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.made = True

        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        heeded = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
        try:
            before = {number: signal.signal(number, handle) for number in heeded}
        except ValueError:  # not the main thread: the caller's own handlers stay
            yield
            return
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
