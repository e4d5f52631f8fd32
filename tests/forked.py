"""Processes that need torch: forked by a server that imports it once, for each imports it in seconds."""

from __future__ import annotations

import multiprocessing
from multiprocessing.context import ForkServerContext


def forking() -> ForkServerContext:
    """The context of such processes. Its targets are functions of modules; what they print is shown by pytest."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "torch._dynamo"])
    return context
