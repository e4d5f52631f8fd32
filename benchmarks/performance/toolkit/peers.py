"""The cost of watching the same training steps with other packages, as far as they are installed."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib.util import find_spec

from benchmarks.performance.section import BenchmarkSection, Conditions, Table
from benchmarks.performance.timing import Contender, Timing, compute_ratios, format_spread, take_turns
from benchmarks.performance.toolkit.floor import floor
from benchmarks.performance.toolkit.subjects import Subject, Training, toy
from benchmarks.performance.toolkit.watching import monitor, watch_steps

Step = Callable[[int], None]
"""A training step, by its number, while a package watches."""


@contextmanager
def torchmortem(training: Training) -> Iterator[Step]:
    """Watch as its README begins, with its default sampling."""
    from torchmortem import Autopsy

    with Autopsy(training.model, optimizer=training.optimizer) as autopsy:
        yield lambda number: autopsy.step(loss=training.step(number).item())


@contextmanager
def torch_audit(training: Training) -> Iterator[Step]:
    """Watch in its zero-touch mode, at every step."""
    from torch_audit import autopatch

    auditor = autopatch(training.model, optimizer=training.optimizer, every_n_steps=1)
    try:
        yield lambda number: (training.step(number), None)[1]
    finally:
        auditor.unpatch()


@contextmanager
def neural_observatory(training: Training) -> Iterator[Step]:
    """Watch as its README begins."""
    from neural_observatory import Observatory

    observatory = Observatory(training.model)
    observatory.watch()

    def step(number: int) -> None:
        observatory.step(step=number)
        training.step(number)

    try:
        yield step
    finally:
        observatory.stop()


@contextmanager
def wandb_watch(training: Training) -> Iterator[Step]:
    """Watch gradients at every step, offline, in a temporary folder."""
    import wandb

    with tempfile.TemporaryDirectory() as folder:
        settings = wandb.Settings(console="off", silent=True)
        with wandb.init(project="bench", mode="offline", dir=folder, settings=settings) as run:
            run.watch(training.model, log="gradients", log_freq=1)
            yield lambda number: run.log({"loss": training.step(number).item()})


@contextmanager
def ormas_monitor(training: Training) -> Iterator[Step]:
    """Check every layer at every step, where its default is one step in 50."""
    from ormas_monitor import Monitor

    with tempfile.TemporaryDirectory() as folder:
        watcher = Monitor(
            training.model, training.optimizer, out=f"{folder}/run", check_every=1, verbose=False
        )
        try:
            yield lambda number: (training.step(number, watcher.step), None)[1]
        finally:
            watcher.close()


PEERS: dict[str, tuple[str, Callable[[Training], AbstractContextManager[Step]]]] = {
    "torchmortem": ("torchmortem", torchmortem),
    "torch-audit": ("torch_audit", torch_audit),
    "neural-observatory": ("neural_observatory", neural_observatory),
    "wandb.watch": ("wandb", wandb_watch),
    "ormas-monitor": ("ormas_monitor", ormas_monitor),
}
"""The module to import and the function that watches, by name."""
SUBJECTS = (toy(16, 50), toy(256, 256), toy(1024, 256))


def compare_peers(conditions: Conditions) -> BenchmarkSection:
    """Compare our toolkit, at boundaries and at leaf level, and every installed package with plain steps."""
    installed = {name: enter for name, (module, enter) in PEERS.items() if find_spec(module) is not None}
    missing = [name for name in PEERS if name not in installed]
    lines = [_row(subject, installed, conditions) for subject in SUBJECTS]
    header = (
        "training step",
        "seconds, plain",
        "x ours, boundaries",
        "x ours, leaves",
        "x least, boundaries",
        "x least, leaves",
        *installed,
        "turns",
    )
    words = (
        "All record every step, as their documentation begins; what each records differs. Least is straight-line code "
        "for this one model that computes the same numbers as ours, without records and rules. On a processor the "
        "ratios are of processor time. "
        + (
            f"Not installed, so left out: {', '.join(missing)} (`pip install -e '.[peers]'` in a checkout)."
            if missing
            else ""
        ),
    )
    return BenchmarkSection((Table(header, tuple(lines)),), words)


def _row(
    subject: Subject,
    installed: dict[str, Callable[[Training], AbstractContextManager[Step]]],
    conditions: Conditions,
) -> tuple[str, ...]:
    def make() -> Training:
        return subject.make(conditions.device)

    with ExitStack() as stack:
        plain, boundaries, leaves = make(), make(), make()
        contenders = [
            watch_steps("plain", plain, None),
            watch_steps("boundaries", boundaries, monitor(boundaries, boundaries.boundaries)),
            watch_steps("leaves", leaves, monitor(leaves, leaves.leaves)),
            *(
                _contender(f"least, {level}", stack.enter_context(floor(training, watch)).step)
                for level, training in (("boundaries", make()), ("leaves", make()))
                for watch in [training.boundaries if level == "boundaries" else training.leaves]
            ),
            *(_contender(name, stack.enter_context(enter(make()))) for name, enter in installed.items()),
        ]
        first, *others = take_turns(contenders, conditions.repetitions, conditions.device)
    cells = [format_spread(compute_ratios(*_times(timing, first, conditions))) for timing in others]
    return (subject.name, format_spread(first.seconds), *cells, str(conditions.repetitions))


def _times(one: Timing, other: Timing, conditions: Conditions) -> tuple[list[float], list[float]]:
    """Processor times, which other programs change less; on an accelerator wall times."""
    cpu = conditions.device.type == "cpu"
    return (one.cpu, other.cpu) if cpu else (one.seconds, other.seconds)


def _contender(name: str, step: Step) -> Contender:
    numbers = itertools.count()

    def prepare() -> Callable[[], None]:
        number = next(numbers)
        return lambda: step(number)

    return Contender(name, prepare)
