"""Evaluation: the time that is saved by encoding once, and by rows that stop early."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from benchmarks.performance.model.workload import REGION, build_model, make_config
from benchmarks.performance.section import BenchmarkSection, Conditions, Table
from benchmarks.performance.timing import (
    HEADER,
    Contender,
    Work,
    compute_ratios,
    format_columns,
    format_spread,
    synchronize,
    take_turns,
)
from etrm.batch import Batch
from etrm.config import Config
from etrm.data import build_evaluation_samples, collate
from etrm.device import to_device
from etrm.model.recursive import RecursiveModel
from etrm.model.solve import solve
from etrm.training.task_sets import load_held_out_tasks

SAMPLES, BATCH = 12, 6
SHARES = (0.0, 0.5, 0.9)
"""Shares of the rows that stop after their first step."""

Solve = Callable[[RecursiveModel, Batch], Any]


def measure_evaluation(conditions: Conditions) -> BenchmarkSection:
    """Measure both comparisons on the same samples."""
    config = make_config(data=REGION, model={"halt": {"max_steps": 16}})
    model, batches = (
        build_model(config, conditions.device).eval(),
        held_out_batches(config, conditions.device),
    )
    context_table, context_words = _context(model, batches, conditions)
    halting_table, halting_words = _halting(model, batches, conditions)
    setting = (
        f"{SAMPLES} queries of ARC-AGI-1 evaluation tasks, spread over all sizes, in batches of {BATCH} of similar "
        f"size, on their regions; forward passes of up to {config.model.halt.max_steps} ACT steps; D "
        f"{config.model.hidden_size}, {config.model.H_cycles} H x {config.model.L_cycles} L cycles, encoder "
        f"{config.model.encoder.layers} + {config.model.encoder.set_layers} layers."
    )
    return BenchmarkSection((context_table, halting_table), (context_words, halting_words, setting))


def held_out_batches(config: Config, device: torch.device) -> list[Batch]:
    """Build batches of queries of all sizes, with similar sizes in a batch."""
    samples = build_evaluation_samples(load_held_out_tasks(config), config.data, 1, 0)
    samples.sort(key=lambda sample: len(sample.tokens))
    chosen = [samples[i] for i in np.linspace(0, len(samples) - 1, SAMPLES).astype(int)]
    return [to_device(collate(chosen[start : start + BATCH]), device) for start in range(0, SAMPLES, BATCH)]


# -- the context once, or at every step -----------------------------------------------------------


@torch.no_grad()
def encode_again(model: RecursiveModel, batch: Batch) -> None:
    """Do all ACT steps and encode the demos at each, as in training."""
    carry = model.initial_carry(batch.size)
    for _ in range(model.config.halt.max_steps):
        carry, _ = model(carry, batch)


def solve_all(model: RecursiveModel, batch: Batch) -> None:
    """Do all ACT steps and encode the demos once, as our evaluation does."""
    solve(model, batch)


class EncoderClock:
    """The seconds inside the encoder of a model, for each turn."""

    def __init__(self, model: RecursiveModel, device: torch.device) -> None:
        assert model.encoder is not None
        self.turns: list[float] = []
        self._device, self._entered = device, 0.0
        self._hooks = [
            model.encoder.register_forward_pre_hook(self._enter),
            model.encoder.register_forward_hook(self._leave),
        ]

    def close(self) -> None:
        """Remove the hooks."""
        for hook in self._hooks:
            hook.remove()

    def _enter(self, *_: Any) -> None:
        synchronize(self._device)
        self._entered = time.perf_counter()

    def _leave(self, *_: Any) -> None:
        synchronize(self._device)
        self.turns[-1] += time.perf_counter() - self._entered


def _context(model: RecursiveModel, batches: Sequence[Batch], conditions: Conditions) -> tuple[Table, str]:
    clock = EncoderClock(model, conditions.device)
    ways: dict[str, Solve] = {"encoded at every step": encode_again, "encoded once": solve_all}

    def contender(name: str, solve: Solve) -> Contender:
        def prepare() -> Work:
            clock.turns.append(0.0)
            return lambda: _all(solve, model, batches)

        return Contender(name, prepare)

    timings = take_turns([contender(*way) for way in ways.items()], conditions.repetitions, conditions.device)
    clock.close()
    measured = clock.turns[len(ways) :]  # the untimed turns are the first
    again, once = measured[0 :: len(ways)], measured[1 :: len(ways)]
    rows = tuple(
        (timing.name, format_spread(inside), *cells)
        for timing, inside, cells in zip(timings, (again, once), format_columns(timings), strict=True)
    )
    words = (
        f"The encoder's share takes {format_spread(compute_ratios(again, once))} times less when the context is "
        "computed once per sample; the whole evaluation "
        f"{format_spread(compute_ratios(timings[0].seconds, timings[1].seconds))} times less."
    )
    return Table(("context", "seconds in the encoder", *HEADER), rows), words


def _all(solve: Solve, model: RecursiveModel, batches: Sequence[Batch]) -> None:
    for batch in batches:
        solve(model, batch)


# -- rows that leave early ------------------------------------------------------------------------


def solve_early(model: RecursiveModel, batch: Batch) -> None:
    """Stop each row when its halting logit is positive."""
    solve(model, batch, early=True)


@torch.no_grad()
def let_halt(model: RecursiveModel, batches: Sequence[Batch], share: float) -> float:
    """Set the halting head so that a share of the rows asks to halt at the first step.

    The head points in a random direction, the same every time; only its bias differs.

    Returns:
        the mean number of steps that a row then takes.
    """
    head, generator = model.core.q_head, torch.Generator().manual_seed(0)
    head.weight.copy_(torch.randn(head.weight.shape, generator=generator))
    head.bias.zero_()
    first = torch.cat([model(model.initial_carry(batch.size), batch)[1].q_halt for batch in batches])
    ordered = first.sort(descending=True).values.tolist()
    leaving = round(share * len(ordered))
    bars = [
        ordered[0] + 1.0,
        *((a + b) / 2 for a, b in pairwise(ordered)),
        ordered[-1] - 1.0,
    ]
    head.bias.fill_(-bars[leaving] if leaving else -1e9)
    steps = [solve(model, batch, early=True).steps for batch in batches]
    return float(torch.cat([taken for taken in steps if taken is not None]).float().mean())


def _halting(model: RecursiveModel, batches: Sequence[Batch], conditions: Conditions) -> tuple[Table, str]:
    def contender(name: str, share: float, solve: Solve) -> tuple[Contender, float]:
        steps, bias = let_halt(model, batches, share), model.core.q_head.bias.detach().clone()

        def prepare() -> Work:
            model.core.q_head.bias.data.copy_(bias)
            return lambda: _all(solve, model, batches)

        return Contender(name, prepare), steps

    cases = [contender("all_steps", 0.0, solve_all)]
    cases += [contender(f"early, {share:.0%} leave at once", share, solve_early) for share in SHARES]
    timings = take_turns([case for case, _ in cases], conditions.repetitions, conditions.device)
    rows = tuple(
        (timing.name, f"{steps:.1f}", *cells)
        for timing, (_, steps), cells in zip(timings, cases, format_columns(timings), strict=True)
    )
    words = (
        'With `evaluate.halting = "early"` a row leaves the batch when its halting logit turns positive, with the '
        "answer of that step; the tables have the saving at given shares of rows that leave after one step. The "
        "default is all_steps, as published."
    )
    return Table(("evaluate.halting", "mean steps", *HEADER), rows), words
