"""The published mode (whole canvas, PAD attended): our layers against the same layers written plainly."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from benchmarks.performance.model.plain import LADDER, Ways, plain_copy
from benchmarks.performance.model.workload import (
    PUBLISHED,
    Batches,
    TrainingStep,
    build_model,
    encode_padded,
    load_real_tasks,
    make_config,
)
from benchmarks.performance.section import BenchmarkSection, Conditions, Table
from benchmarks.performance.timing import (
    HEADER,
    Contender,
    Timing,
    Work,
    compute_ratios,
    format_columns,
    format_spread,
    take_turns,
)
from etrm.batch import Batch
from etrm.config import SIDE, Changes, Config, with_settings
from etrm.data import TaskSet

BATCH = 2
"""Small, because the obvious attention keeps every matrix of scores: 20 pairs of 1,800 tokens each."""


def compare_published(
    changes: Changes | None = None, rows: int = BATCH, ladder: Sequence[tuple[str, Ways]] = LADDER
) -> Callable[[Conditions], BenchmarkSection]:
    """Build the benchmark of plain layers and our modules, padded and not.

    Args:
        changes: more settings of the model.
        rows: the number of samples of a step.
        ladder: the rungs, each of which replaces one more kind of layer; the first two are the plain ways.
    """

    def run(conditions: Conditions) -> BenchmarkSection:
        config = with_settings(make_config(data=PUBLISHED, train={"batch_size": rows}), **(changes or {}))
        tasks = load_real_tasks()
        timings = time_published(config, tasks, conditions, ladder)
        table = tuple((t.name, *cells) for t, cells in zip(timings, format_columns(timings), strict=True))
        return BenchmarkSection(
            (Table(("published mode", *HEADER), table),), (_verdict(timings), _setting(config, len(tasks)))
        )

    return run


def time_published(
    config: Config, tasks: TaskSet, conditions: Conditions, ladder: Sequence[tuple[str, Ways]] = LADDER
) -> list[Timing]:
    """Time steps of the rungs, then of our modules on the same padded demos, and on real demos only.

    All compute in the precision of the config, on the same samples.
    """
    device = conditions.device
    steps: list[tuple[str, TrainingStep, bool]] = []
    for name, ways in ladder:
        copy = plain_copy(build_model(config, device), SIDE, ways)
        steps.append((name, TrainingStep(config, copy, copy), True))
    padded = build_model(config, device)
    padded.context_policy = encode_padded
    steps.append(("our modules, on the same padded demos", TrainingStep(config, padded), True))
    steps.append(("+ real demos only: ours", TrainingStep(config, build_model(config, device)), False))
    low = config.train.precision == "bfloat16"

    def contender(name: str, step: TrainingStep, batches: Batches) -> Contender:
        def prepare() -> Work:
            batch: Batch = batches.next()

            def work() -> None:
                with torch.autocast(device.type, torch.bfloat16, enabled=low):
                    step(batch)

            return work

        return Contender(name, prepare)

    contenders = [
        contender(name, step, Batches(config, tasks, device, padded=pad)) for name, step, pad in steps
    ]
    return take_turns(contenders, conditions.repetitions, device)


def _verdict(timings: Sequence[Timing]) -> str:
    plain, code, same, ours = timings[0], timings[1], timings[-2], timings[-1]
    return (
        f"On the same padded batch our layers train {_times(plain, same)} times as fast as the obvious way and "
        f"{_times(code, same)} times as fast as with torch's attention kernel, as the published code is written. "
        f"Skipping padded demos, which changes no output: {_times(plain, ours)} and {_times(code, ours)} times."
    )


def _setting(config: Config, tasks: int) -> str:
    model, rows = config.model, config.train.batch_size
    samples = "one sample" if rows == 1 else f"{rows} samples"
    return (
        f"A step is forward, loss, backward and AdamW on {samples} of {tasks} ARC-AGI-1 "
        f"training tasks, 900 query tokens and 10 pairs of 1,800 tokens each; D {model.hidden_size}, "
        f"{model.num_heads} heads, {model.H_cycles} H x {model.L_cycles} L cycles; "
        f"{config.train.precision}, not compiled. All rows compute the same outputs, to rounding."
    )


def _times(slow: Timing, fast: Timing) -> str:
    return format_spread(compute_ratios(slow.seconds, fast.seconds))
