"""Backward passes: none in a step, gradients that are not cleared between them, passes that count for nothing."""

from __future__ import annotations

from collections.abc import Iterator

from diagnostics.causes import Cause
from diagnostics.records import Absent, ParameterRecord, StepRecord
from diagnostics.rules.options import Values
from diagnostics.rules.parameter_checks import grouped
from diagnostics.rules.rule import (
    CRITICAL,
    UNTRAINED,
    WARNING,
    Family,
    Observation,
    Rule,
    lasting,
    learners,
)

NO_BACKWARD = Cause(
    "no-backward",
    "backward() is not called in the step, or the loss has no graph to these modules, as torch.tensor(loss.item())",
)
ZERO_GRAD_MISSING = Cause(
    "zero-grad-missing",
    "zero_grad() is not called between updates, so each update applies the sum of all gradients so far",
)
OTHER_LOSS = Cause(
    "other-loss",
    "it also holds the gradient of another loss, which another optimiser has applied: zero_grad() is missing"
    " between the two backward passes",
)
PASS_DISCARDED = Cause(
    "pass-discarded",
    "zero_grad() is called between the backward passes of one update, as in a loop over micro-batches, so"
    " only the last pass counts",
)
PASS_TWICE = Cause("pass-twice", "backward() is called twice on the same loss, which doubles its gradient")
DEAD_END = Cause(
    "dead-end",
    "its inputs are detached in the step of the module that should learn from it, like a fake in the step of"
    " a generator",
)


def find_missing_backward(record: StepRecord, options: Values) -> Iterator[Observation]:
    """STEP001; not where an optimiser was given and did not step, as in the other player's turn of a GAN."""
    if any(parameter.reach.kind != "none" for parameter in record.parameters.values()):
        return
    trained = list(learners(record))
    ready = any(call.requires_grad for _, module in trained for call in module.calls)
    idle = bool(record.optimizers) and not any(record.optimizers)
    reached = any(call.reached for module in record.modules.values() for call in module.calls)
    if ready and not (idle or reached):
        message = "model: no backward pass came to any watched module, though its outputs require gradient"
        yield Observation("", 0.0, message, NO_BACKWARD)


def _judge_clearing(record: StepRecord, parameter: ParameterRecord) -> Cause | None:
    place = parameter.place
    updated = not isinstance(place, Absent) and place.stepped and parameter.reach.kind in ("some", "all")
    if record.gap > 1 or not updated or parameter.carried == "no":
        return None
    return ZERO_GRAD_MISSING if parameter.carried == "own" else OTHER_LOSS


def find_wasted_passes(record: StepRecord, options: Values) -> Iterator[Observation]:
    """GRAD006."""
    passes = record.passes
    # what a pass brought to a perturbation of the inputs is used, whatever becomes of the rest
    discarded = len(passes.discarded - _perturbing(record))
    if discarded:
        message = (
            f"model: {discarded} of {passes.total} backward passes of a step are cleared and never applied"
        )
        yield Observation("", float(discarded), message, PASS_DISCARDED, key="discarded")
    if passes.repeated:
        message = "model: a backward pass brings exactly the gradient of the pass before it again"
        yield Observation("", 1.0, message, PASS_TWICE, key="twice")


def _perturbing(record: StepRecord) -> set[int]:
    """The passes that came to a call on perturbed inputs."""
    calls = (call for module in record.modules.values() for call in module.calls if call.perturbed)
    return {number for call in calls for number in call.passes}


def _wasted(parameter: ParameterRecord) -> bool:
    """Whether it has a gradient that its optimiser could apply."""
    return parameter.reach.kind in ("some", "all") and not isinstance(parameter.place, Absent)


def find_dead_ends(record: StepRecord, options: Values) -> Iterator[Observation]:
    """GRAD007."""
    if not any(lost for _, lost in record.passes.lost):
        return
    held = {
        name: {
            each for each, item in record.parameters.items() if each.startswith(f"{name}.") and _wasted(item)
        }
        for name, _ in learners(record)
    }
    for name, own in held.items():
        for number, lost in record.passes.lost:
            calls = [call for call in record.modules[name].calls if number in call.passes]
            if not (own and own <= lost and calls and all(call.raw for call in calls)):
                continue
            readers = [other for other in _readers(record, name) if held.get(other, set()) - lost]
            if any(number in call.passes for other in readers for call in record.modules[other].calls):
                continue  # the pass trains what reads it, as a critic that learns from a fake
            message = (
                f"{name}: a backward pass trains nothing through it: its own gradient is cleared, and the inputs"
                f" of its {len(calls)} calls require none"
            )
            yield Observation(name, float(len(calls)), message, DEAD_END)
            break


def _readers(record: StepRecord, module: str) -> set[str]:
    """The watched modules that read a module's results, directly or through others."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        new = {other for other, sources in record.into.items() if name in sources} - found
        found |= new
        waiting += new
    return found - {module}


STEP001 = Rule(
    "STEP001",
    CRITICAL,
    "No backward pass",
    "calls_with_gradient",
    "Call loss.backward() inside the monitored step, before optimizer.step().",
    find_missing_backward,
    lasting(5),
    causes=(NO_BACKWARD,),
    what="Outputs of the watched modules require gradient, but none of them and none of their parameters receives"
    " one, although the optimiser steps.",
    why="Nothing is trained.",
    example="`optimizer.zero_grad(); loss = criterion(model(x), y); optimizer.step()`.",
    false_alarms="All trained modules are left out of `watch`.",
    explains=UNTRAINED | {"GRAD001", "MOVE003", "CALL002", "LOSS002"},
    everywhere=True,
    rank=1,
)
GRAD004 = Rule(
    "GRAD004",
    CRITICAL,
    "Gradients are not cleared",
    "parameters",
    "Call optimizer.zero_grad() once per update.",
    grouped("have their gradient added to that of earlier steps", _judge_clearing),
    lasting(5, why="five updates in a row; gradient accumulation has steps without an update between them"),
    needs_optimizer=True,
    needs_every_step=True,
    causes=(ZERO_GRAD_MISSING, OTHER_LOSS),
    what="When an optimiser steps, `.grad` still holds gradients of backward passes that this or another optimiser"
    " has already applied.",
    why="Old directions never fade, and the steps grow.",
    example="A loop of `loss.backward(); optimizer.step()`.",
    false_alarms="None known: with gradient accumulation over monitored steps the optimiser does not step in each.",
    explains=frozenset({"GRAD006", "SPIKE001", "DRIFT001", "COLLAPSE001"}),
    rank=60,
)
GRAD006 = Rule(
    "GRAD006",
    WARNING,
    "Backward passes do not add up to the update",
    "passes",
    "Call zero_grad() once before the backward passes of an update, and backward() once for each loss.",
    find_wasted_passes,
    lasting(5),
    needs_optimizer=True,
    causes=(PASS_DISCARDED, PASS_TWICE),
    what="The gradient of a whole backward pass is cleared before an optimiser applies any of it, but the gradient"
    " of a later pass in the same step is applied; or a pass adds the same gradient as the pass before.",
    why="Samples are computed but do not count, or count twice.",
    example="`for part in parts: optimizer.zero_grad(); loss(part).backward()`, then one `optimizer.step()`.",
    false_alarms="A loop that discards passes on purpose and leaves the gradients and weights as they are.",
    rank=65,
)
GRAD007 = Rule(
    "GRAD007",
    WARNING,
    "A loss trains nothing through the module",
    "calls",
    "Remove the detach() on its input in that backward pass, or leave the term out of that loss.",
    find_dead_ends,
    lasting(5),
    needs_optimizer=True,
    causes=(DEAD_END,),
    what="A backward pass trains other modules, but the gradient of this module is cleared before its optimiser"
    " steps, and the inputs of its calls require no gradient.",
    why="The term of the loss that it computes has no effect.",
    example="The fake is detached in the generator's own step: `loss_g = fool(d(fake.detach())) + l1`.",
    false_alarms="A body with an optimiser of its own that ignores one of two losses on purpose.",
    rank=115,
)
FAMILY = Family(15, "Backward passes", (STEP001, GRAD004, GRAD006, GRAD007))
