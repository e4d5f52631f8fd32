"""What a step does next to its loss: metrics, random numbers, copies of weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from diagnostics.auditing.tracing.operation_trace import OperationTrace
from diagnostics.auditing.tracing.recorded_calls import Operation
from diagnostics.causes import Cause
from diagnostics.findings import Finding
from diagnostics.rules.families.forward.evaluation_mode import MODE002, RANDOM_ANSWERS
from diagnostics.rules.families.weights.ties import ALIAS_OF_ROLE
from diagnostics.rules.rule import WARNING, Family, Rule
from diagnostics.selection import find_followers

PAIRS_COMPARED = Cause(
    "compared-by-pairs",
    "predictions {vector} are compared with a column {column}, which compares all pairs of samples: {operation}",
    remedy="Give both the same shape first: labels.squeeze(1).",
)
METRIC001 = Rule(
    "METRIC001",
    WARNING,
    "A metric compares each prediction with each label",
    "operations",
    "Bring predictions and labels to one shape.",
    source="audit",
    arguments="audit",
    causes=(PAIRS_COMPARED,),
    what="In each repeated step indices of largest scores (n,) are compared with a column (n, 1).",
    why="The metric stays at the score of a guess, however well the model learns.",
    example="`scores.argmax(1) == labels` with labels of shape (n, 1).",
    false_alarms="None known.",
)
SEEDED = Cause(
    "same-numbers",
    "each step sets the seed {seed} before it draws, so dropout, noise and choices are the same in every step",
    remedy="Set the seed once, before the loop.",
)
RANDOM001 = Rule(
    "RANDOM001",
    WARNING,
    "Each step draws the same random numbers",
    "operations",
    "Set the seed once, before the loop.",
    source="audit",
    arguments="audit",
    causes=(SEEDED,),
    what="In each repeated step, torch's random state on the CPU is that of one seed at the first draw, but was"
    " another at the start of the step.",
    why="A dropout then removes the same units in every step.",
    example="`torch.manual_seed(42)` in the training step.",
    false_alarms="Noise that is fixed on purpose.",
)
OWN_MEMORY = Cause(
    "alias-of-weights",
    "a copy of weights shares their memory, so nothing is copied or averaged: {operation}",
    remedy="Clone the weights: p.detach().clone(), copy.deepcopy(model.state_dict()).",
)
SHARE004 = Rule(
    "SHARE004",
    WARNING,
    "Weights are copied from themselves",
    "operations",
    "Clone what is kept.",
    source="audit",
    arguments="audit",
    causes=(OWN_MEMORY,),
    what="A repeated step copies a parameter to its own memory, or subtracts it from itself, without a graph. In a"
    " script: after the first update a state is loaded whose tensors are those of the model itself.",
    why="The stored weights follow every update, so there is no older state to return to and nothing is averaged.",
    example="`slow = [p.data for p in model.parameters()]`; `best = model.state_dict()`, which is loaded again.",
    false_alarms="None known.",
)
FAMILY = Family(135, "Metrics, random numbers and copied weights", (METRIC001, RANDOM001, SHARE004))


def check_frozen_dropouts(model: nn.Module, traces: Sequence[OperationTrace]) -> list[Finding]:
    """MODE002 for the outermost frozen modules in which each step drops something with gradients disabled.

    Not for those that follow another one: an average may be noisy on purpose.
    """
    every = [trace.dropped for trace in traces]
    layers = set.intersection(*every) if every else set()
    followers = find_followers(model)
    found: dict[str, Finding] = {}
    for name, module in model.named_modules():
        outer = any(name.startswith(f"{known}.") for known in (*found, *followers))
        inside = any(layer == name or layer.startswith(f"{name}.") for layer in layers)
        weights = list(module.parameters())
        if not name or outer or name in followers or not inside or not weights:
            continue
        if not any(each.requires_grad for each in weights):
            found[name] = MODE002.found_once(name, RANDOM_ANSWERS)
    return list(found.values())


def check_bookkeeping(traces: Sequence[OperationTrace]) -> list[Finding]:
    """METRIC001 and RANDOM001 where they hold in each trace, SHARE004 where it does in one."""
    if not traces:
        return []
    found = []
    if all(trace.shapes.decisions for trace in traces):
        call = traces[0].shapes.decisions[0]
        column, vector = sorted(call.shapes, key=len, reverse=True)
        cause = PAIRS_COMPARED.of(column=column, vector=vector, operation=call.operation)
        found.append(METRIC001.found_once("", cause))
    seeds = {trace.first_draw.seed for trace in traces}
    if len(traces) > 1 and len(seeds) == 1 and None not in seeds:
        found.append(RANDOM001.found_once("", SEEDED.of(seed=seeds.pop())))
    own: list[Operation] = [each for trace in traces for each in trace.layers.unchanged]
    if own:
        found.append(SHARE004.found_once("", OWN_MEMORY.of(operation=own[0])))
    return found


def fold_own_copies(findings: Sequence[Finding]) -> list[Finding]:
    """The findings, with SHARE004 under SHARE003 where a target is the module that it should follow.

    What is averaged into such a target is averaged into itself: one fault.
    """
    shared = next((each for each in findings if each.code == ALIAS_OF_ROLE.code), None)
    copies = [each for each in findings if each.rule == SHARE004.id]
    if shared is None or not copies:
        return list(findings)
    whole = replace(shared, consequences=(*shared.consequences, *copies))
    return [whole if each is shared else each for each in findings if each.rule != SHARE004.id]
