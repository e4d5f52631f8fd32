"""One training on the rule family for a number of seconds, with its held-out curve."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.family.device_episodes import NAMES, DeviceEpisodes, DrawnTasks, HeldOut
from benchmarks.family.learner import CLASSES, FamilyArm, FamilyModel, FamilyStep, is_solved, lay_out
from benchmarks.family.search_context import search_contexts
from etrm.batch import IGNORE
from etrm.data.rules import SIDES, draw_rule_tasks, parse_rule_id
from etrm.errors import ArgumentError

ALL_SIDES = range(SIDES[0], SIDES[1] + 1)
WARM_UP = 300
"""Steps in which the rate rises."""
REST = 0.3
"""The last share of the time, in which the rate falls to zero."""
EASY = 0.5
"""Training tasks solved, above which an easy-first training draws rules of two parts as often as the others."""


@dataclass(frozen=True)
class Budget:
    """The time and the sizes of a training.

    Attributes:
        seconds: wall-clock seconds of training, without compiling.
        rows: tasks per side and step.
        candidates: tasks that are drawn at a time.
        every: seconds between two evaluations.
    """

    seconds: float
    rows: int = 128
    candidates: int = 32_768
    every: float = 15.0


def load_evaluation(count: int, device: torch.device) -> dict[int, DrawnTasks]:
    """Load the first held-out tasks of the family, by side."""
    found: dict[int, list[tuple[np.ndarray, np.ndarray, int]]] = {side: [] for side in ALL_SIDES}
    for task in draw_rule_tasks("rules", "evaluation", SIDES[1], count):
        pairs = (*task.demos, *task.tests)
        inputs = np.stack([pair.input for pair in pairs])
        outputs = np.stack([pair.output for pair in pairs if pair.output is not None])
        name = "+".join(part.partition("-")[0] for part in parse_rule_id(task.id).split("+"))
        found[inputs.shape[-1]].append((inputs, outputs, NAMES.index(name)))
    return {
        side: DrawnTasks(
            torch.from_numpy(np.stack([row[0] for row in rows]).astype(np.int64)).to(device),
            torch.from_numpy(np.stack([row[1] for row in rows]).astype(np.int64)).to(device),
            torch.tensor([row[2] for row in rows], device=device),
            torch.zeros(len(rows), len(CLASSES), dtype=torch.long, device=device),
        )
        for side, rows in found.items()
        if rows
    }


class Feed:
    """Training tasks of every side, kept in stock and drawn again when they run out."""

    def __init__(self, episodes: DeviceEpisodes, budget: Budget, wanted: Tensor) -> None:
        self.episodes, self.budget = episodes, budget
        self.wanted = wanted  # (10,) how often each combination of parts should come
        self.shares = torch.full_like(wanted, 0.5)
        self.drawn = 0
        self._stock: dict[int, tuple[DrawnTasks, int]] = {}

    def take(self, side: int) -> DrawnTasks:
        """Return the next tasks of a side, which were never returned before.

        Raises:
            ArgumentError: too few candidates are tasks to fill a batch.
        """
        rows = self.budget.rows
        stock, first = self._stock.get(side, (None, 0))
        if stock is None or first + rows > len(stock):
            stock, shares = self.episodes.draw(self.budget.candidates, side, self.wanted / self.shares)
            self.shares = torch.where(shares > 0, 0.5 * self.shares + 0.5 * shares, self.shares).clamp(
                min=0.05
            )
            if len(stock) < rows:
                raise ArgumentError(
                    "family.too-few-candidates",
                    f"{self.budget.candidates} candidates gave {len(stock)} tasks, and a batch has {rows}",
                )
            order = torch.randperm(len(stock), device=stock.kinds.device, generator=self.episodes.generator)
            stock = stock.rows(order)
            first = 0
        self._stock[side] = (stock, first + rows)
        self.drawn += rows
        return stock.rows(slice(first, first + rows))


def evaluate(model: FamilyModel, tasks: dict[int, DrawnTasks]) -> dict[str, Any]:
    """Answer held-out tasks by the encoder alone.

    Returns:
        the share of solved tasks, in all, by combination of parts and by side, the loss in nats per scored token, and
        the accuracy of tokens.
    """
    solved, losses, right, scored, kinds, sides = [], [], 0, 0, [], []
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        for side, some in tasks.items():
            laid = lay_out(some)
            logits = model.answer(
                model.encode(laid.pairs, laid.pair_positions), laid.inputs, laid.positions
            ).float()
            solved.append(is_solved(logits, laid.labels))
            counts = laid.labels != IGNORE
            each = F.cross_entropy(logits.transpose(1, 2), laid.labels, ignore_index=IGNORE, reduction="none")
            losses.append(each.sum(1) / counts.sum(1))
            right += int(((logits.argmax(-1) == laid.labels) & counts).sum())
            scored += int(counts.sum())
            kinds.append(some.kinds)
            sides += [side] * len(some)
    done, kind = torch.cat(solved).float().tolist(), torch.cat(kinds).tolist()
    return {
        "solved": float(np.mean(done)),
        "loss": float(torch.cat(losses).mean()),
        "tokens": right / scored,
        "by_kind": _by([NAMES[k] for k in kind], done),
        "by_side": _by([str(side) for side in sides], done),
    }


def _by(names: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    return {
        name: round(float(np.mean([v for n, v in zip(names, values, strict=True) if n == name])), 4)
        for name in sorted(set(names))
    }


def search_all(model: FamilyModel, tasks: dict[int, DrawnTasks], most: int, **options: Any) -> dict[str, Any]:
    """Search the contexts of the first tasks of every side."""
    solved, shown, kinds = [], [], []
    with torch.compiler.set_stance("force_eager"):
        for some in tasks.values():
            few = some.rows(slice(most))
            found = search_contexts(model, few, **options)
            solved.append(found[0])
            shown.append(found[1])
            kinds.append(few.kinds)
    done = torch.cat(solved).float().tolist()
    return {
        "tasks": len(done),
        "solved": float(np.mean(done)),
        "demonstrations": float(torch.cat(shown).float().mean()),
        "by_kind": _by([NAMES[k] for k in torch.cat(kinds).tolist()], done),
    }


def train_arm(
    name: str,
    arm: FamilyArm,
    budget: Budget,
    held: HeldOut,
    tasks: dict[int, DrawnTasks],
    out: Path,
    wanted: Tensor,
    stopped: Callable[[], bool] = lambda: False,
) -> FamilyStep:
    """Train an arm, and write a line of JSON to ``out`` at every evaluation.

    Args:
        name: its name in the lines.
        arm: its settings.
        budget: its time and the sizes of its batches.
        held: the rules that are never trained on.
        tasks: the held-out tasks.
        out: the file of the lines.
        wanted: (10,) float32, how often each combination of parts should come.
        stopped: whether the training ends now.

    Returns:
        the step, with its model.
    """
    device = wanted.device
    began = time.perf_counter()

    def write(**values: Any) -> None:
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"arm": name, **values}) + "\n")

    torch.manual_seed(0)
    model = FamilyModel(arm).to(device)
    step = FamilyStep(model, budget.rows, ALL_SIDES)
    feed = Feed(DeviceEpisodes(held, torch.Generator(device).manual_seed(1)), budget, wanted.clone())
    for side in ALL_SIDES:
        step.load(side, feed.take(side))
    if device.type == "cuda":
        model.compile_blocks()
    try:
        step.capture()
        problem = None
    except RuntimeError as error:  # the curve matters more than the speed: it goes without a graph
        problem = str(error)[:500]
    size = sum(p.numel() for p in step.masters)
    write(arguments=asdict(arm), parameters=size, start_seconds=time.perf_counter() - began, problem=problem)

    began = seen = time.perf_counter()
    parts = torch.tensor([1.0 + name.count("+") for name in NAMES], device=device)
    steps, solved = 0, 0.0
    while True:
        elapsed = time.perf_counter() - began
        ended = elapsed >= budget.seconds or stopped()
        if ended or time.perf_counter() - seen >= budget.every or steps == WARM_UP:
            loss, solved = step.read()
            raw = evaluate(model, tasks)
            step.use(step.averages)
            averaged = evaluate(model, tasks)
            step.use(step.masters)
            rows = steps * budget.rows * len(step.sides)
            write(
                t=round(elapsed, 1),
                step=steps,
                episodes=rows,
                train_loss=loss,
                train_solved=solved,
                raw=raw,
                ema=averaged,
            )
            seen = time.perf_counter()
        if ended:
            return step
        if arm.easy_first:
            often = min(1.0, max(0.1, solved / EASY))
            feed.wanted = torch.where(parts > 1, often * wanted, wanted)
        for side in step.sides:
            step.load(side, feed.take(side))
        left = (1 - elapsed / budget.seconds) / REST
        step(arm.lr * min(1.0, (steps + 1) / WARM_UP, max(left, 0.0)))
        steps += 1
        if steps % 8 == 0 and device.type == "cuda":
            torch.cuda.current_stream().synchronize()  # the clock is that of the device


def finish(name: str, step: FamilyStep, tasks: dict[int, DrawnTasks], out: Path, most: int = 150) -> None:
    """Evaluate the averaged weights with and without search, and keep them next to ``out``."""
    step.use(step.averages)
    final: dict[str, Any] = {"arm": name, "final": True, "encoder": evaluate(step.model, tasks)}
    few = {side: some.rows(slice(most)) for side, some in tasks.items()}
    final["encoder on the searched"] = evaluate(step.model, few)["solved"]
    torch.manual_seed(0)
    for label, options in (
        ("search from encoder", {"start": "encoder"}),
        ("search from noise", {"start": "noise"}),
        ("control: mismatched demonstrations", {"start": "encoder", "shuffled": True}),
    ):
        began = time.perf_counter()
        final[label] = search_all(step.model, tasks, most, **options)
        final[label]["seconds"] = time.perf_counter() - began
    with out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(final) + "\n")
    names = [key for key, _ in step.model.named_parameters()]
    buffers = {key: value for key, value in step.model.named_buffers() if key.endswith("_init")}
    weights = {key: value.float() for key, value in zip(names, step.averages, strict=True)} | buffers
    torch.save({"arm": asdict(step.model.arm), "weights": weights}, out.with_suffix(f".{name}.pt"))
