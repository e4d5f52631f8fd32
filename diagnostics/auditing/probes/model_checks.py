"""What the model computes in evaluation: the same for the same input, not at random, and more than a linear map."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from diagnostics.auditing.observed_step import ObservedStep
from diagnostics.auditing.probes.operations.operation_checks import judges_samples
from diagnostics.auditing.replay import StepStart
from diagnostics.auditing.tracing.torch_call import name_of, place_of
from diagnostics.causes import Cause
from diagnostics.findings import Finding
from diagnostics.recording.tensors import tensors_in
from diagnostics.recording.weak_hooks import LocalHook
from diagnostics.rules.rule import NOTE, WARNING, Family, Rule

KEPT_STATE = Cause(
    "kept-state",
    "{names} holds values that the previous call computed, and the next call, on other samples, starts from them",
    remedy="Begin each batch with a zero state, unless its sequences continue those of the previous batch.",
)
STATE001 = Rule(
    "STATE001",
    WARNING,
    "The result depends on earlier calls",
    "operations",
    "Do not store computed values in an attribute of the model between calls.",
    source="audit",
    arguments="audit",
    causes=(KEPT_STATE,),
    what="In evaluation mode, two calls of the model with the same input and random numbers give different results, and"
    " tensors in plain attributes differ. A note unless a loss has one class per sample.",
    why="Unrelated samples of earlier batches change the prediction.",
    example="`_, self.state = self.lstm(x, self.state)` in a classifier of single sequences.",
    false_alarms="Sequences that continue in the next batch.",
)
DROPS_ALWAYS = Cause(
    "drops-in-evaluation",
    "{functions} drops values in evaluation mode too, because it does not get the mode",
    remedy="Pass training=self.training, or dropout_p only where self.training is true.",
)
IN_TRAINING_MODE = Cause(
    "evaluated-in-training-mode",
    "{model} is evaluated between steps in training mode, which matters for {layers}",
    remedy="Call model.eval() before an evaluation, and model.train() after it.",
)
MODE004 = Rule(
    "MODE004",
    WARNING,
    "Evaluation runs like training",
    "operations",
    "Call model.eval() before an evaluation; use nn.Dropout, or pass training=self.training.",
    source="audit",
    arguments="audit",
    causes=(DROPS_ALWAYS, IN_TRAINING_MODE),
    what="In evaluation mode the model calls a functional dropout that is on, or an attention with dropout_p above 0."
    " In a script: between steps, with gradients disabled, a model with dropout or batch norms is called in training"
    " mode, and a loss or a comparison of predictions follows; not in each step, and never in evaluation mode.",
    why="Predictions are random, and worse than necessary.",
    example="`F.dropout(x, 0.5)`; `F.scaled_dot_product_attention(q, k, v, dropout_p=0.1)`.",
    false_alarms="Dropout at evaluation on purpose, to measure uncertainty.",
)
ONE_MAP = Cause(
    "linear-in-sequence",
    "only linear layers connect input and output ({names}), and no width between them is a bottleneck",
    remedy="Put an activation function between the layers.",
)
LINEAR001 = Rule(
    "LINEAR001",
    WARNING,
    "The layers form one linear map",
    "operations",
    "Put an activation function between the layers.",
    source="audit",
    arguments="audit",
    causes=(ONE_MAP,),
    what="In evaluation mode, the output for the mean of two inputs is the mean of their two outputs, although the"
    " model calls three or more linear layers, and not every width between them is a bottleneck.",
    why="A single layer could compute the same.",
    example="`self.third(self.second(self.first(x)))` without relu().",
    false_alarms="Deep linear networks on purpose.",
)
FAMILY = Family(132, "Model in evaluation", (STATE001, MODE004, LINEAR001))

_DIFFERENT = 1e-4
"""Difference relative to the size of outputs, or of their difference, from which it is more than rounding."""
_STACK = 3
"""Linear layers from which an activation was forgotten; two may be an encoder and a decoder."""
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def check_model(
    model: nn.Module, steps: Sequence[ObservedStep], owner: Callable[[str], str]
) -> list[Finding]:
    """The findings of this file; the random numbers are restored, and the mode and attributes of the model are not.

    Args:
        owner: Function full name of a module -> the innermost watched module that contains it.
    """
    if not steps or steps[-1].call is None:
        return []
    model.eval()
    start, call = StepStart(model, None, 0), steps[-1].call
    with torch.no_grad():
        try:
            _numbers(start, call)
        except Exception:  # noqa: BLE001 - code of the user that runs in training mode alone, which is no fault of the step
            return []
        found = [*_check_dropouts(start, call), *_check_state(model, steps[-1], start, call, owner)]
        return found or list(_check_linear(model, steps[-1], start, call))


class _Dropouts(TorchFunctionMode):
    """Functions that drop, of what runs inside."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function and note it."""
        given = kwargs or {}
        name = name_of(func)
        if _drops(name, args, given):
            place = place_of()
            self.found.append(f"{name}(){f' at {place}' if place else ''}")
        return func(*args, **given)


def _drops(name: str, args: tuple[Any, ...], given: dict[str, Any]) -> bool:
    if name == "scaled_dot_product_attention":
        rate = given.get("dropout_p", args[4] if len(args) > 4 else 0.0)
        return bool(rate)
    if "dropout" not in name:
        return False
    rate = given.get("p", args[1] if len(args) > 1 else 0.5)
    return bool(rate) and bool(given.get("training", given.get("train", args[2] if len(args) > 2 else True)))


def _check_dropouts(start: StepStart, call: Callable[[], Any]) -> Iterator[Finding]:
    start.restore()
    with _Dropouts() as dropouts:
        call()
    start.restore()
    if dropouts.found:
        functions = ", ".join(sorted(set(dropouts.found)))
        yield MODE004.found_once("", DROPS_ALWAYS.of(functions=functions))


def _check_state(
    model: nn.Module,
    step: ObservedStep,
    start: StepStart,
    call: Callable[[], Any],
    owner: Callable[[str], str],
) -> Iterator[Finding]:
    before = _held(model)
    first = _numbers(start, call)
    after = _held(model)
    second = _numbers(start, call)
    if not _differ(first, second):
        return
    names = [
        name
        for name, value in after.items()
        if _differ([value], [before.get(name, value)]) or name not in before
    ]
    if not names:
        return
    samples = step.output.shape[0] if isinstance(step.output, Tensor) and step.output.dim() else 0
    severity = None if judges_samples(step.trace, samples) else NOTE
    yield STATE001.found_once(owner(names[0]), KEPT_STATE.of(names=", ".join(names[:3])), severity)


def _held(model: nn.Module) -> dict[str, Tensor]:
    """Tensors in plain attributes of the modules, and in tuples and lists there, by name."""
    found = {}
    for prefix, module in model.named_modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, (Tensor, tuple, list)):
                for place, tensor in enumerate(tensors_in(value)):
                    end = f"[{place}]" if isinstance(value, (tuple, list)) else ""
                    found[f"{prefix}.{name}{end}".removeprefix(".")] = tensor.detach().clone()
    return found


def _numbers(start: StepStart, call: Callable[[], Any]) -> list[Tensor]:
    start.restore()
    found = [each.detach().clone() for each in tensors_in(call())]
    start.restore()
    return found


def _differ(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    pairs = list(zip(first, second, strict=False))
    return len(first) != len(second) or any(
        one.shape != other.shape or _is_other(one, other) for one, other in pairs if one.is_floating_point()
    )


def _is_other(one: Tensor, other: Tensor) -> bool:
    if not one.numel():
        return False
    return float((one - other).abs().max()) > _DIFFERENT * float(one.abs().max())


def _check_linear(
    model: nn.Module, step: ObservedStep, start: StepStart, call: Callable[[], Any]
) -> Iterator[Finding]:
    """LINEAR001, of a model with one floating input and one output."""
    inputs = step.inputs
    if len(inputs) != 1 or not inputs[0].is_floating_point() or inputs[0].dim() < 2 or len(inputs[0]) < 2:
        return
    layers, widths = _called_layers(model, start, call)
    wide = [one[1] >= min(one[0], other[1]) for one, other in pairwise(widths) if one[1] == other[0]]
    if len(layers) < _STACK or not any(wide):
        return  # too few layers, or all widths between them are bottlenecks
    given, was = inputs[0], inputs[0].detach().clone()
    outputs = []
    try:  # the tensor is the user's
        for value in (was, was.roll(1, 0), (was + was.roll(1, 0)) / 2):
            given.copy_(value)
            outputs.append(_numbers(start, call))
    finally:
        given.copy_(was)
    if any(len(each) != 1 for each in outputs):
        return
    (one,), (other,), (middle,) = outputs
    size = float((one - other).abs().max()) if one.shape == other.shape else 0.0
    if size > 0 and float((middle - (one + other) / 2).abs().max()) < _DIFFERENT * size:
        yield LINEAR001.found_once("", ONE_MAP.of(names=", ".join(layers)))


def _called_layers(
    model: nn.Module, start: StepStart, call: Callable[[], Any]
) -> tuple[list[str], list[tuple[int, int]]]:
    """The linear layers in the order of their calls: names, and widths of input and output."""
    called: list[tuple[str, nn.Module]] = []
    handles = [
        layer.register_forward_hook(
            LocalHook(lambda layer, args, output, name=name: called.append((name, layer)))
        )
        for name, layer in model.named_modules()
        if isinstance(layer, _LAYERS)
    ]
    try:
        _numbers(start, call)
    finally:
        for handle in handles:
            handle.remove()
    widths = [
        (weight.shape[1], weight.shape[0])
        for _, layer in called
        if isinstance(weight := layer.weight, Tensor)
    ]
    return [name for name, _ in called], widths
