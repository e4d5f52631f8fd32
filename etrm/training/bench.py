"""`make bench`: one training step on the published layout, and on ours, cause by cause.

Both layouts are batches of the same tasks for the same model; only the batch differs, and what the
encoder does with its padding. The published layout is the worst of a ladder whose every rung takes
one cause of waste away. All rungs take turns in one run, so what slows the machine slows them all,
and what is reported are ratios.

    python -m etrm.training.bench [--repetitions 5] [--threads 2] [--write]
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from etrm.batch import Batch, Demos
from etrm.config import Config, load, with_overrides
from etrm.data import Episodes, TaskSet
from etrm.model.act import Carry, halts
from etrm.model.encoder import PAD, StandardEncoder, as_sets, by_length
from etrm.model.recursive import ContextPolicy, Given, RecursiveModel, encode_every_step
from etrm.training import recipe
from etrm.training.loss import act_loss
from etrm.training.run_folder import environment
from etrm.training.slots import Slots
from etrm.training.trainer import training_tasks

PADDED_DEMOS = 10
"""Demos that the published loader pads every sample to."""

BUCKETS = 8
"""``data.buckets``; the default of 2 suits small grids, and sizes of the whole set spread more."""

SETTINGS = (
    "data.max_side=30",
    'data.exclude=["40853293"]',  # the grids of evaluation task 070dd51e
    "data.augmentations=1",
    "model.context_tokens=16",
    "train.batch_size=8",
    "train.seed=0",
    'train.device="cpu"',
)
"""What is changed in preset ``small``: the whole training set, at the batch size of peers' numbers."""

DOCUMENT = Path(__file__).parents[2] / "docs" / "benchmarks.md"


# -- what a rung does differently -----------------------------------------------------------------


def pad_demos(batch: Batch, count: int = PADDED_DEMOS) -> Batch:
    """The batch with ``count`` demos per sample, all PAD where there is none, as published."""
    demos = batch.demos
    assert demos.valid is None, "padded pairs belong to the whole canvas"
    sets, _ = as_sets(torch.arange(1, len(demos.owner) + 1)[:, None], demos)
    places = torch.nn.functional.pad(sets.squeeze(-1), (0, count - sets.shape[1])).flatten()
    tokens = torch.cat((torch.full_like(demos.tokens[:1], PAD), demos.tokens))[places]
    padded = Demos(
        tokens=tokens,
        positions=demos.positions[:1].expand(len(tokens), -1),
        valid=None,
        owner=torch.arange(demos.rows).repeat_interleave(count),
        slots=demos.slots,
    )
    return replace(batch, demos=padded)


def encode_padded(model: RecursiveModel, carry: Carry, batch: Batch) -> Given:
    """The published way: padded pairs are encoded too, and only the set encoder passes over them."""
    assert isinstance(model.encoder, StandardEncoder)
    sets, _ = as_sets(model.encoder.grid_encoder.encode(batch.demos), batch.demos)
    real = (batch.demos.tokens != PAD).any(1).view(sets.shape[:2])
    return Given(model.encoder.set_encoder(sets, real))


def encode_ungrouped(model: RecursiveModel, carry: Carry, batch: Batch) -> Given:
    """All pairs at once, each as long as the longest of the batch."""
    assert isinstance(model.encoder, StandardEncoder)
    pairs = model.encoder.grid_encoder.encode(batch.demos)
    return Given(model.encoder.set_encoder(*as_sets(pairs, batch.demos)))


@dataclass(frozen=True)
class Rung:
    """One layout of the ladder.

    Attributes:
        name: in the table.
        settings: overrides of the config.
        steps: timed steps per repetition; few where all batches cost the same.
        policy: how the context is computed.
        padded: demos are padded to :data:`PADDED_DEMOS`.
    """

    name: str
    settings: tuple[str, ...]
    steps: int
    policy: ContextPolicy = encode_every_step
    padded: bool = False


PUBLISHED = ('data.canvas="published"',)
REGION = ('data.canvas="region"',)
OURS = (*REGION, f"data.buckets={BUCKETS}")
LADDER = (
    Rung("published: whole canvas, 10 padded demos", PUBLISHED, 1, encode_padded, padded=True),
    Rung("+ real demos only", PUBLISHED, 2),
    Rung("+ regions in place of the canvas", (*REGION, "data.buckets=1"), 8, encode_ungrouped),
    Rung(f"+ batches of similar size ({BUCKETS} buckets)", OURS, 8, encode_ungrouped),
    Rung("+ pairs grouped by length: ours", OURS, 8),
)


# -- measuring ------------------------------------------------------------------------------------


class Arm:
    """A rung at work: its own model and optimiser, and its own place in the episodes.

    Every step takes new samples into rows that begin, in the trainer's order within each bucket.
    """

    def __init__(self, rung: Rung, config: Config, tasks: TaskSet) -> None:
        self.rung, self.config = rung, with_overrides(config, rung.settings)
        self.episodes = Episodes(tasks, self.config.data, self.config.model.variant, config.train.seed)
        torch.manual_seed(config.train.seed)
        self.model = recipe.build_model(self.config, self.episodes).train()
        self.model.context_policy = rung.policy
        self.optimizers = recipe.Recipe().build_optimizers(self.model, self.config.train)
        self._slots = [
            Slots(self.episodes, bucket, config.train.batch_size, recipe.draw)
            for bucket in range(self.episodes.buckets)
        ]
        self._step = 0

    def next_batch(self) -> Batch:
        """A batch of new samples; buckets hold equally many queries, so they take turns."""
        rows = self.config.train.batch_size
        slots = self._slots[self._step % self.episodes.buckets]
        self._step += 1
        slots.refill([True] * rows)
        batch = slots.batch()
        return pad_demos(batch) if self.rung.padded else batch

    def loss(self, batch: Batch) -> Tensor:
        """The loss of one ACT step of rows that begin."""
        _, output = self.model(self.model.initial_carry(batch.size), batch)
        train = self.config.train
        return act_loss(output, batch.labels, train.loss).total(train.q_halt_weight, train.kl_weight)

    def train(self, batch: Batch) -> None:
        """Forward, loss, backward and update: what is timed."""
        torch.autograd.backward(self.loss(batch) / batch.size)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def tokens(self, batch: Batch) -> int:
        """Tokens that one pass computes: the queries' and the pairs', padding included."""
        demos, queries = batch.demos, batch.inputs.numel()
        if demos.valid is None or self.rung.policy is not encode_every_step:
            return queries + demos.tokens.numel()
        return queries + sum(len(rows) * length for rows, length in by_length(demos.valid))


@dataclass
class Timing:
    """What was measured of one rung, one value per repetition.

    Attributes:
        rung: the layout.
        seconds: mean wall time of a step.
        cpu: mean processor time of a step, all threads together.
        tokens: mean tokens of a step.
    """

    rung: Rung
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)

    def add(self, arm: Arm) -> None:
        """Time the steps of one repetition; drawing and collating are not timed."""
        batches = [arm.next_batch() for _ in range(self.rung.steps)]
        wall, cpu = time.perf_counter(), time.process_time()
        for batch in batches:
            arm.train(batch)
        self.seconds.append((time.perf_counter() - wall) / len(batches))
        self.cpu.append((time.process_time() - cpu) / len(batches))
        self.tokens.append(sum(arm.tokens(batch) for batch in batches) / len(batches))


def measure(
    config: Config, tasks: TaskSet, repetitions: int, ladder: Sequence[Rung] = LADDER
) -> list[Timing]:
    """Time every rung in turn, again and again, after one untimed step of each."""
    arms = [Arm(rung, config, tasks) for rung in ladder]
    for arm in arms:
        arm.train(arm.next_batch())
    timings = [Timing(rung) for rung in ladder]
    for _ in range(repetitions):
        for timing, arm in zip(timings, arms, strict=True):
            timing.add(arm)
    return timings


@dataclass(frozen=True)
class Drawn:
    """Samples that a loader hands out in some steps, and those that a row begins with."""

    steps: int
    published: int
    ours: int

    @property
    def ratio(self) -> float:
        """Samples drawn by the published loader for one of ours."""
        return self.published / self.ours


def count_draws(config: Config, tasks: TaskSet, cycles: int = 100) -> Drawn:
    """Samples drawn while no row asks to halt, as at the start of training.

    The published loader hands a whole batch to every step, and only rows that begin take theirs.
    """
    rows, halt = config.train.batch_size, config.model.halt
    slots = Slots(Episodes(tasks, config.data, config.model.variant, config.train.seed), 0, rows, recipe.draw)
    generator = torch.Generator().manual_seed(config.train.seed)
    steps, halted = torch.zeros(rows, dtype=torch.long), torch.ones(rows, dtype=torch.bool)
    total = cycles * halt.max_steps
    for _ in range(total):
        slots.refill(halted.tolist())
        steps = steps.masked_fill(halted, 0) + 1
        halted = halts(steps, torch.full((rows,), -5.0), halt, generator)
    return Drawn(steps=total, published=total * rows, ours=slots.next_index)


# -- reporting ------------------------------------------------------------------------------------

HEADER = ("layout", "s per step", "x published", "x row above", "tokens per step", "timed steps")


def spread(values: Sequence[float]) -> str:
    """Median and quartiles."""
    low, middle, high = np.percentile(values, (25, 50, 75))
    return f"{middle:.3g} [{low:.3g}, {high:.3g}]"


def ratios(slow: Sequence[float], fast: Sequence[float]) -> list[float]:
    """How many times faster, repetition by repetition."""
    return [a / b for a, b in zip(slow, fast, strict=True)]


def rows(timings: Sequence[Timing]) -> list[tuple[str, ...]]:
    """The table's cells."""
    first = timings[0]
    table: list[tuple[str, ...]] = []
    for above, timing in zip((None, *timings), timings, strict=False):
        table.append(
            (
                timing.rung.name,
                spread(timing.seconds),
                "1" if above is None else spread(ratios(first.seconds, timing.seconds)),
                "" if above is None else spread(ratios(above.seconds, timing.seconds)),
                f"{np.mean(timing.tokens):,.0f}",
                f"{len(timing.seconds)} x {timing.rung.steps}",
            )
        )
    return table


def verdict(timings: Sequence[Timing]) -> str:
    """The ratio in one sentence."""
    first, last = timings[0], timings[-1]
    return (
        f"Ours takes a training step {spread(ratios(first.seconds, last.seconds))} times faster than the "
        f"published layout (median [quartiles] of {len(first.seconds)} interleaved repetitions); "
        f"in processor time {spread(ratios(first.cpu, last.cpu))} times."
    )


def data_verdict(drawn: Drawn, batch_size: int) -> str:
    """Data efficiency in one sentence."""
    return (
        f"Data, a count and not a time: in {drawn.steps:,} steps of batch {batch_size} in which no row asks to "
        f"halt, as at the start of training, the published loader draws {drawn.published:,} samples and rows "
        f"begin with {drawn.ours:,} of them; ours draws those {drawn.ours:,} alone, "
        f"{drawn.ratio:.3g} times fewer."
    )


def setting(config: Config, tasks: TaskSet) -> str:
    """What was timed, in one paragraph."""
    model, data = config.model, config.data
    return (
        f"One training step is forward, loss, backward and optimiser ({config.train.optimizer}); drawing and "
        f"collating are not timed. Variant {model.variant}, D {model.hidden_size}, {model.num_heads} heads, "
        f"{model.layers} layers, {model.H_cycles} H x {model.L_cycles} L cycles (preset {config.preset}), "
        f"P {model.context_tokens}, encoder {model.encoder.layers} + {model.encoder.set_layers} layers, "
        f"batch {config.train.batch_size}, float32, no compilation. Data: {len(tasks)} tasks of {data.source} "
        f"{data.subset} (largest side {data.max_side}), for every layout the same, no shift. Every step takes "
        "new samples; a repetition times each layout in turn and its value is the mean of its timed steps."
    )


def machine() -> str:
    """Hardware, versions and commit."""
    record = environment()
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    dirty = " with uncommitted changes" if record["dirty"] else ""
    return (
        f"{record['hardware']}; torch on {record['threads']} of them; load average at the end "
        f"{os.getloadavg()[0]:.1f}; {versions}; commit {record['commit'][:12]}{dirty}."
    )


def show(console: Console, timings: Sequence[Timing], paragraphs: Sequence[str]) -> None:
    """Print table and text."""
    table = Table(*HEADER, title="A training step: median and quartiles over repetitions")
    for cells in rows(timings):
        table.add_row(*(escape(cell) for cell in cells))
    console.print(table)
    for paragraph in paragraphs:
        console.print(paragraph, markup=False, highlight=False)


def markdown(timings: Sequence[Timing], paragraphs: Sequence[str]) -> str:
    """The same as a document."""
    lines = [HEADER, tuple("---" for _ in HEADER), *rows(timings)]
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    return "\n\n".join(("# Benchmarks", PREFACE, table, *paragraphs)) + "\n"


PREFACE = """Printed by `make bench` and kept by `.venv/bin/python -m etrm.training.bench --write`; no number
here is written by hand. The published layout (every grid on 900 tokens, PAD attended, ten demos of which the
padded ones go through the grid encoder too) is built from our own model classes, which compute what the
published code computes (`tests/model/test_parity.py`): the layout alone is compared, and the published code
itself was not timed. Rows 1 and 2 compute the same function, and so do rows 3 to 5
(`tests/training/test_bench.py`); between rows 2 and 3 PAD stops being attended, which changes the function.
Samples are counted at the published maximum of 16 ACT steps."""


def bench(config: Config, repetitions: int) -> tuple[list[Timing], list[str]]:
    """Measure everything; the timings and the paragraphs that go with them."""
    tasks = training_tasks(config)
    timings = measure(config, tasks, repetitions)
    published_halt = with_overrides(config, ("model.halt.max_steps=16",))
    drawn = count_draws(published_halt, tasks)
    size = config.train.batch_size
    return timings, [verdict(timings), data_verdict(drawn, size), setting(config, tasks), machine()]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m etrm.training.bench", description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, help="threads of torch; its own choice by default")
    parser.add_argument("--write", action="store_true", help="keep the result in docs/benchmarks.md")
    given = parser.parse_args(arguments)
    if given.threads is not None:
        torch.set_num_threads(given.threads)
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    timings, paragraphs = bench(load("small", overrides=SETTINGS), given.repetitions)
    show(console, timings, paragraphs)
    if given.write:
        DOCUMENT.write_text(markdown(timings, paragraphs), encoding="utf-8")


if __name__ == "__main__":
    main()
