"""A training step on the published layout and on ours, cause by cause.

Both are batches of the same tasks for the same model; only the batch differs, and what the encoder
does with its padding. The published layout is the worst of a ladder whose every rung takes one
cause of waste away.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from benchmarks.performance.model.workload import (
    OURS,
    PUBLISHED,
    REGION,
    BatchLayout,
    LayoutRun,
    encode_padded,
    encode_ungrouped,
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
from etrm.config import Config, with_settings
from etrm.data import Episodes, TaskSet, collate
from etrm.model.act import explore, halts
from etrm.model.lengths import split_by_length
from etrm.model.recursive import encode_every_step
from etrm.training import recipe
from etrm.training.slots import Slots


@dataclass(frozen=True)
class Rung:
    """A layout of the ladder, and its number of steps in a turn, which is small if all steps cost the same."""

    name: str
    layout: BatchLayout
    steps: int


LADDER = (
    Rung("published: whole canvas, 10 padded demos", BatchLayout(PUBLISHED, encode_padded, padded=True), 1),
    Rung("+ real demos only", BatchLayout(PUBLISHED), 2),
    Rung("+ regions instead of the canvas", BatchLayout({**REGION, "buckets": 1}, encode_ungrouped), 8),
    Rung("+ batches of similar size (8 buckets)", BatchLayout(OURS, encode_ungrouped), 8),
    Rung("+ pairs grouped by length: ours", BatchLayout(OURS), 8),
)
"""The layouts from the published one to ours, which is the last."""
DESCRIBED = 64
"""The width whose part describes what is timed; the others refer to it."""


def compare_layouts(width: int, ladder: Sequence[Rung] = LADDER) -> Callable[[Conditions], BenchmarkSection]:
    """Build the benchmark for one width D."""

    def run(conditions: Conditions) -> BenchmarkSection:
        config = make_config(model={"hidden_size": width})
        tasks = load_real_tasks()
        timings, tokens = measure(config, tasks, conditions, ladder)
        steps = table(timings, tokens, config.train.batch_size)
        if width != DESCRIBED:
            return BenchmarkSection((steps,), (verdict(timings), f"Otherwise as `layout`, with D {width}."))
        drawn = count_draws(with_settings(config, model={"halt": {"max_steps": 16}}), tasks)
        paragraphs = (verdict(timings), drawn.sentence(config.train.batch_size), setting(config, tasks))
        return BenchmarkSection((steps,), paragraphs)

    return run


def measure(
    config: Config, tasks: TaskSet, conditions: Conditions, ladder: Sequence[Rung] = LADDER
) -> tuple[list[Timing], list[float]]:
    """Measure the training step of every rung: its times, and the mean number of its tokens."""
    arms = [LayoutRun(rung.layout, config, tasks, conditions.device) for rung in ladder]
    counted: list[list[int]] = [[] for _ in ladder]

    def contender(rung: Rung, arm: LayoutRun, counts: list[int]) -> Contender:
        def prepare() -> Work:
            batches = [arm.batches.next() for _ in range(rung.steps)]
            counts.extend(count_computed_tokens(rung.layout, batch) for batch in batches)

            def work() -> None:
                for batch in batches:
                    arm.step(batch)

            return work

        return Contender(rung.name, prepare, rung.steps)

    contenders = [contender(*each) for each in zip(ladder, arms, counted, strict=True)]
    timings = take_turns(contenders, conditions.repetitions, conditions.device)
    return timings, [float(np.mean(counts)) for counts in counted]


def count_computed_tokens(layout: BatchLayout, batch: Batch) -> int:
    """Count the tokens of one pass: those of the queries and of the pairs, with padding."""
    demos, queries = batch.demos, batch.inputs.numel()
    if demos.valid is None or layout.policy is not encode_every_step:
        return queries + demos.tokens.numel()
    groups = split_by_length(demos.valid.sum(1).tolist())
    return queries + sum((end - start) * length for start, end, length in groups)


@dataclass(frozen=True)
class Drawn:
    """Samples that a loader draws in some steps, and samples that rows begin with.

    Attributes:
        steps: the number of training steps.
        published: the number of samples that the published loader draws.
        ours: the number of samples that rows begin with.
        seconds: times of drawing and collating one sample.
    """

    steps: int
    published: int
    ours: int
    seconds: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """The number of samples that the published loader draws for one of ours."""
        return self.published / self.ours

    def sentence(self, batch_size: int) -> str:
        """Describe the data efficiency."""
        return (
            f"Not in the table: in {self.steps:,} steps of batch {batch_size} in which no row halts early, ours draws "
            f"{self.ours:,} samples and the published loader {self.published:,} ({self.ratio:.3g} times as many). "
            f"A sample of ours takes {format_spread([1e3 * s for s in self.seconds])} ms (n {len(self.seconds)})."
        )


def count_draws(config: Config, tasks: TaskSet, cycles: int = 100, timed: int = 200) -> Drawn:
    """Count the samples that are drawn while no row halts early, as at the start of training.

    The published loader hands a whole batch to every step, and only rows that begin take theirs.
    """
    rows, halt = config.train.batch_size, config.model.halt
    episodes = Episodes(tasks, config.data, config.model.variant, config.train.seed)
    slots = Slots(episodes, 0, rows, recipe.draw)
    generator = torch.Generator().manual_seed(config.train.seed)
    steps, halted = torch.zeros(rows, dtype=torch.long), torch.ones(rows, dtype=torch.bool)
    total = cycles * halt.max_steps
    for _ in range(total):
        slots.refill(halted.tolist())
        steps = steps.masked_fill(halted, 0) + 1
        halted = halts(steps, torch.full((rows,), -5.0), halt, explore(rows, halt, generator))
    seconds = []
    for index in range(timed):
        began = time.perf_counter()
        collate([episodes.sample(index % episodes.buckets, index)])
        seconds.append(time.perf_counter() - began)
    return Drawn(total, total * rows, slots.next_index, seconds)


# -- in words -------------------------------------------------------------------------------------


def table(timings: Sequence[Timing], tokens: Sequence[float], batch_size: int) -> Table:
    """Build a table with a row for each rung."""
    rows = tuple(
        (timing.name, *cells, f"{batch_size / np.median(timing.seconds):.3g}", f"{count:,.0f}")
        for timing, cells, count in zip(timings, format_columns(timings), tokens, strict=True)
    )
    return Table(("layout", *HEADER, "samples/s", "tokens a step"), rows)


def verdict(timings: Sequence[Timing]) -> str:
    """Describe the ratio in one sentence."""
    first, ours = timings[0], timings[-1]
    return (
        f"Ours trains {format_spread(compute_ratios(first.seconds, ours.seconds))} times as many samples a second "
        f"as the published layout (median [quartiles] of {len(first.seconds)} turns); in processor time "
        f"{format_spread(compute_ratios(first.cpu, ours.cpu))} times."
    )


def setting(config: Config, tasks: TaskSet) -> str:
    """Describe what was timed in one paragraph."""
    model, data = config.model, config.data
    return (
        "A step is forward, loss, backward and AdamW on new samples. "
        f"Variant {model.variant}, D {model.hidden_size}, {model.num_heads} heads, {model.layers} layers, "
        f"{model.H_cycles} H x {model.L_cycles} L cycles, P {model.context_tokens}, encoder "
        f"{model.encoder.layers} + {model.encoder.set_layers} layers, batch {config.train.batch_size}, float32, "
        f"no compilation, {len(tasks)} tasks of {data.source} {data.subset} (largest side {data.max_side}). Rows 1 "
        "and 2 compute the same function, and so do the others; between rows 2 and 3 PAD stops being attended."
    )
