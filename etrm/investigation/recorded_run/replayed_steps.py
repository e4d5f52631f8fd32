"""The steps after each kept checkpoint, computed again by the current code, against what the run logged there.

Resuming is exact, so on the same machine each number must be the same. A departure shows that the run was made by other
code, or that its checkpoint was altered, wherever in the run that is. One process repeats the steps, so those of a run
in several processes also show whether these exchanged what they should.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from etrm.checkpoints.format import Checkpoint
from etrm.device import to_host
from etrm.errors import EtrmError
from etrm.hardware import compute, find_changes
from etrm.investigation.evidence.table import Direction, Metric
from etrm.investigation.recorded_run.recorded_fact import RecordedFact
from etrm.investigation.recorded_run.run_under_test import RunUnderTest
from etrm.investigation.records import NotMeasured

REPLAYED = Metric(
    "run.steps-repeat",
    "largest relative difference of a logged number, steps after checkpoint {item}",
    Direction.EQUAL,
)
WEIGHTS_REPEAT = Metric(
    "run.weights-repeat", "largest relative difference of a weight at checkpoint {item}", Direction.EQUAL
)
STEPS = 5
"""Steps that are computed again after a checkpoint, so that a step of each usual bucket is among them."""
WHOLE = 20
"""Steps between two checkpoints up to which all are computed again, and the weights at their end are compared."""
EXACT = 1e-4
"""Largest relative difference of a run in one process on the same device, precision, number of threads and version of
torch: the same code gives the same bits."""
SUMMED = 1e-3
"""The same for a run in several processes, whose sums are rounded otherwise. The steps amplify this: in healthy runs of
two processes the difference is up to 1e-4 in five steps, and up to .08 in twenty."""
SAME_WEIGHTS = 1e-3
"""The same for a weight, relative to the largest of its tensor: Adam turns a rounding of a gradient near zero into a
step of the learning rate."""
ROUNDED = 0.05
"""Largest relative difference of the first step elsewhere, for the loss of a batch in bfloat16 differs by 1 %."""
COMPARED = (
    *("bucket", "rows", "reset_share", "lr_factor"),
    *("lm_loss", "q_halt_loss", "kl", "entropy", "loss", "accuracy_all"),
    *("encoder.coverage", "encoder.grad_norm_pre_clip", "core.grad_norm_pre_clip", "grad_norm_before_clip"),
    *("encoder.moved", "core.moved"),
)
"""Logged numbers in the order in which a step computes them: the first one that differs is named."""
STATE = ("device", "precision", "threads", "versions")


@dataclass(frozen=True)
class StepDeparture:
    """The first logged number that the current code does not repeat.

    Attributes:
        step: the step.
        name: the key of the number.
        logged, repeated: the number in the log of the run, and by the current code.
        size: the relative difference.
    """

    step: int
    name: str
    logged: float
    repeated: float
    size: float


def judge_replayed_steps(run: RunUnderTest) -> Iterator[RecordedFact]:
    """A row for each kept checkpoint after which steps were logged."""
    logged = {m["step"]: m for m in run.metrics}
    alike = _same_machine(run)
    for number, checkpoint in enumerate(run.checkpoints):
        if checkpoint.step + 1 not in logged or "imported" in checkpoint.state:
            continue
        later = run.checkpoints[number + 1] if number + 1 < len(run.checkpoints) else None
        yield from _replay(run, checkpoint, later, logged, alike)


def _same_machine(run: RunUnderTest) -> bool:
    """Whether this machine repeats the bits of the run."""
    on = compute(run.used.train, run.start.device)
    here = {
        "device": on.device,
        "precision": on.precision,
        "threads": on.threads,
        "versions": {"torch": on.torch},
    }
    there = {name: run.record[name] for name in STATE if name in run.record}
    return "device" in there and not find_changes(there, here, 0)


def _replay(
    run: RunUnderTest,
    checkpoint: Checkpoint,
    later: Checkpoint | None,
    logged: Mapping[int, Mapping[str, Any]],
    alike: bool,
) -> Iterator[RecordedFact]:
    item = str(checkpoint.step)
    gap = WHOLE + 1 if later is None else later.step - checkpoint.step
    exact = alike and run.processes == 1
    steps = (gap if gap <= WHOLE and exact else STEPS) if alike else 1
    limit = EXACT if exact else SUMMED if alike else ROUNDED
    found: list[StepDeparture] = []
    largest, done = 0.0, 0
    try:
        trainer = run.replayer
        for optimizer in trainer.optimizers:
            optimizer.zero_grad(set_to_none=True)
        trainer.state.restore(checkpoint)
        while done < steps and trainer.step + 1 in logged and not found:
            before = logged[trainer.step + 1]
            apart = compare_step(before, trainer.train_step())
            largest = max([largest, *(one.size for one in apart)])
            found += [one for one in apart if one.size > limit][:1]
            done += 1
    except EtrmError as error:
        row = REPLAYED.row(NotMeasured(absent=error.brief), item=item, threshold=f"<= {limit:g}", n="0 steps")
        yield RecordedFact(row)
        return
    words = f"the current code does not repeat the run: {describe(found[0])}" if found else ""
    if found and run.processes > 1:
        words += f", in {run.processes} processes"
    row = REPLAYED.row(
        min(largest, 1e6),
        control=0.0,
        item=item,
        threshold=f"<= {limit:g}",
        passed=not found,
        n=f"{done} steps",
        note=words or _explain_rounding(run, alike),
    )
    yield RecordedFact(row, words=words)
    if exact and later is not None and not found and trainer.step == later.step:
        yield _compare_weights(trainer.model.state_dict(), later)


def _explain_rounding(run: RunUnderTest, alike: bool) -> str:
    if not alike:
        return "on another machine than that of the run, so to rounding"
    return "" if run.processes == 1 else f"by one process, instead of {run.processes}, so to rounding"


def _compare_weights(repeated: Mapping[str, torch.Tensor], later: Checkpoint) -> RecordedFact:
    apart = {
        name: float(
            (to_host(t).double() - to_host(repeated[name]).double()).abs().amax()
            / t.abs().amax().clamp(min=1e-12)
        )
        for name, t in later.model.items()
        if t.is_floating_point() and t.numel()
    }
    worst = max(apart, key=lambda name: apart[name])
    size = min(apart[worst], 1e6)
    row = WEIGHTS_REPEAT.row(
        size,
        control=0.0,
        item=str(later.step),
        threshold=f"<= {SAME_WEIGHTS:g}",
        passed=size <= SAME_WEIGHTS,
        n=f"{len(apart)} tensors",
        note=f"largest in {worst}",
    )
    words = f"the current code computes other weights at step {later.step}: {worst} differs by {size:.2g}"
    return RecordedFact(row, words=words)


def compare_step(logged: Mapping[str, Any], repeated: Mapping[str, Any]) -> list[StepDeparture]:
    """The differences of the numbers that both lines have, in the order in which a step computes them."""
    found = []
    for name in COMPARED:
        before, now = logged.get(name), repeated.get(name)
        if before is None or now is None:
            continue
        apart = abs(before - now) / max(abs(before), abs(now), 1e-12)
        size = apart if math.isfinite(apart) else 1e6
        found.append(StepDeparture(int(logged["step"]), name, before, now, 0.0 if before == now else size))
    return found


def describe(departure: StepDeparture) -> str:
    """A departure in words."""
    numbers = f"is {departure.repeated:.6g}, and the run logged {departure.logged:.6g}"
    return f"{departure.name} of step {departure.step} {numbers}"
