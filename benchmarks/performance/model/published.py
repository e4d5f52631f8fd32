"""The published mode (whole canvas, PAD attended): our layers against the same layers written plainly."""

from __future__ import annotations

from benchmarks.performance.model.plain import LADDER, plain_copy
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
from etrm.config import SIDE

BATCH = 2
"""Small, because the obvious attention keeps every matrix of scores: 20 pairs of 1,800 tokens each."""


def compare_published(conditions: Conditions) -> BenchmarkSection:
    """Compare plain layers with our modules, padded and not, replacing one kind of layer after another."""
    config = make_config(data=PUBLISHED, train={"batch_size": BATCH})
    device, tasks = conditions.device, load_real_tasks()
    steps: list[tuple[str, TrainingStep, bool]] = []
    for name, ways in LADDER:
        copy = plain_copy(build_model(config, device), SIDE, ways)
        steps.append((name, TrainingStep(config, copy, copy), True))
    padded = build_model(config, device)
    padded.context_policy = encode_padded
    steps.append(("our modules, on the same padded demos", TrainingStep(config, padded), True))
    steps.append(("+ real demos only: ours", TrainingStep(config, build_model(config, device)), False))

    def contender(name: str, step: TrainingStep, batches: Batches) -> Contender:
        def prepare() -> Work:
            batch: Batch = batches.next()
            return lambda: step(batch)

        return Contender(name, prepare)

    contenders = [
        contender(name, step, Batches(config, tasks, device, padded=pad)) for name, step, pad in steps
    ]
    timings = take_turns(contenders, conditions.repetitions, device)
    rows = tuple((t.name, *cells) for t, cells in zip(timings, format_columns(timings), strict=True))
    plain, code, same, ours = timings[0], timings[1], timings[-2], timings[-1]
    verdict = (
        f"On the same padded batch our layers train {_times(plain, same)} times as fast as the obvious way and "
        f"{_times(code, same)} times as fast as with torch's attention kernel, as the published code is written. "
        f"Skipping padded demos, which changes no output: {_times(plain, ours)} and {_times(code, ours)} times."
    )
    setting = (
        f"A step is forward, loss, backward and AdamW on {BATCH} samples of {len(tasks)} ARC-AGI-1 training "
        f"tasks, 900 query tokens and 10 pairs of 1,800 tokens each; D {config.model.hidden_size}, "
        f"{config.model.num_heads} heads, {config.model.H_cycles} H x {config.model.L_cycles} L cycles; "
        "float32, not compiled. All rows compute the same outputs, to rounding."
    )
    return BenchmarkSection((Table(("published mode", *HEADER), rows),), (verdict, setting))


def _times(slow: Timing, fast: Timing) -> str:
    return format_spread(compute_ratios(slow.seconds, fast.seconds))
