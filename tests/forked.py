"""Processes that need torch: forked by a server that imports it once, for each imports it in seconds.

Workers of the trainer come from the same server. In tests it imports the trainer too, and what torch imports for an
optimizer.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext

set_preload = forkserver.set_forkserver_preload


def preload_trainer() -> None:
    """Let the server of this process import the trainer, whoever starts it."""
    forkserver.set_forkserver_preload = lambda names: set_preload(  # type: ignore[assignment]
        [*names, "torch._dynamo", "etrm.training.trainer"]
    )


def forking() -> ForkServerContext:
    """The context of such processes. Its targets are functions of modules; what they print is shown by pytest."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch"])
    return context
