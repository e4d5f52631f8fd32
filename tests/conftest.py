"""One thread, so that numbers and run times depend on no neighbour; no deadline on shared cores."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import typer.main
from hypothesis import settings

from etrm.batch import Batch, Demos
from tests.devices.simulated import simulated_device
from tests.forked import preload_trainer

torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start
settings.register_profile("shared cores", deadline=None, max_examples=30)
settings.load_profile("shared cores")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts background jobs with Ctrl-C ignored, and the processes of the tests would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


if not torch.cuda.is_available():
    # `torch.manual_seed` keeps the caller's stack for an error that only a GPU can raise, which takes 2 ms.
    for backend in (torch.cuda, torch.xpu, torch.mtia):
        vars(backend)["traceback"] = SimpleNamespace(format_stack=list)

typer.main.get_command = cache(typer.main.get_command)  # else each command builds the tree of all, in 60 ms
os.fsync = os.fstat  # to wait for the disk matters where the power fails, and takes 5 ms
preload_trainer()
STARTED = time.monotonic()
gc.disable()  # until the tests are collected: what is imported and collected stays


def pytest_collection_finish() -> None:
    """Leave what stays out of every later garbage collection, and collect less often.

    Otherwise collections take a twentieth of the time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()


HANDLERS = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}


def pytest_runtest_teardown() -> None:
    """Undo what a command that ran in this process did to signals: processes of later tests would inherit it."""
    for number, handler in HANDLERS.items():
        signal.signal(number, handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seconds", type=float, help="start no test later than this; the rest is skipped")


def pytest_runtest_setup(item: pytest.Item) -> None:
    seconds = item.config.getoption("--seconds")
    if seconds is not None and time.monotonic() - STARTED > seconds:
        pytest.skip(f"not started within {seconds:g} seconds: `make test` runs it")
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a GPU with CUDA: run `make test-gpu` on a machine that has one")


@pytest.fixture(autouse=True)
def _simulated(request: pytest.FixtureRequest) -> Iterator[None]:
    """With ETRM_TEST_DEVICE=simulated every test meets a GPU, as on a machine that has one.

    Excepted are the tests of the simulation itself, and those marked ``processes``: this process would have a GPU, and
    its workers none. On a real GPU both have it.
    """
    wanted = os.environ.get("ETRM_TEST_DEVICE") == "simulated"
    if not wanted or "devices" in request.path.parts or request.node.get_closest_marker("processes"):
        yield
        return
    with simulated_device():
        yield


def _published_batch(arrays: dict[str, np.ndarray]) -> Batch:
    """Published arrays (whole canvas, padded demos) as a batch of real demos alone."""
    inputs = torch.from_numpy(arrays["inputs"]).long()
    size, area = inputs.shape
    if "demo_inputs" in arrays:
        owner, slot = np.nonzero(arrays["demo_mask"])
        pairs = np.concatenate((arrays["demo_inputs"], arrays["demo_labels"]), axis=-1)[owner, slot]
    else:
        owner, pairs = np.zeros(0, dtype=np.int64), np.zeros((0, 2 * area), dtype=np.int64)
    demos = Demos(
        tokens=torch.from_numpy(pairs).long(),
        positions=torch.arange(2 * area).expand(len(pairs), -1),
        valid=None,
        owner=torch.from_numpy(owner).long(),
        slots=torch.arange(size),
    )
    return Batch(
        inputs=inputs,
        labels=torch.from_numpy(arrays["labels"]).long(),
        positions=torch.arange(area).expand(size, -1),
        valid=None,
        puzzle_ids=torch.from_numpy(arrays["puzzle_identifiers"]).long(),
        sample_ids=torch.arange(size),
        demos=demos,
    )


@pytest.fixture(scope="session")
def published_batch() -> Callable[[dict[str, np.ndarray]], Batch]:
    """Makes a batch of one step's arrays of ``tests/parity``."""
    return _published_batch
