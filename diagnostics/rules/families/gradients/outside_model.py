"""Tensors that learn, or should learn, and that the model does not hold."""

from __future__ import annotations

from collections.abc import Iterator

from diagnostics.causes import Cause
from diagnostics.records import Absent, StepRecord, Stranger
from diagnostics.rules.options import Values
from diagnostics.rules.parameter_checks import first_few, receives
from diagnostics.rules.rule import WARNING, Family, Observation, Rule, lasting

UNREGISTERED_LAYERS = Cause(
    "unregistered-layers",
    "layers in a plain list, dictionary or other object, which does not register them",
)
PLAIN_TENSOR = Cause(
    "plain-tensor", "a tensor with requires_grad was set as an attribute, without nn.Parameter"
)
NOT_A_PARAMETER = Cause(
    "not-a-parameter",
    "{names} holds the result of an operation on a parameter, as float(), to() or a product after nn.Parameter()",
    remedy="Compute the initial value first, and make the result the parameter: nn.Parameter(start.float()).",
)
NOT_IN_MODEL = Cause(
    "not-in-model", "no module of the model holds them: they should replace layers that are still there"
)
MADE_IN_FORWARD = Cause(
    "made-in-forward",
    "forward() makes a layer, so each call has a new one, which nothing trains",
    remedy="Make the layer in __init__().",
)


def find_idle(record: StepRecord, options: Values) -> Iterator[Observation]:
    """REACH008; a parameter with gradient that is in no optimiser is the other side of the same fault: MOVE001."""
    forgotten = any(
        receives(each) and isinstance(each.place, Absent) and each.place.code == "in-no-group"
        for each in record.parameters.values()
    )
    if record.idle and not forgotten:
        message = f"model: {record.idle} tensors that an optimiser holds are not in it, and have no gradient"
        yield Observation("", float(record.idle), message, NOT_IN_MODEL)


def find_unregistered(record: StepRecord, options: Values) -> Iterator[Observation]:
    """REACH005; needs the optimisers, which might hold such a tensor."""
    groups: dict[tuple[str, Cause], list[str]] = {}
    for stranger in record.strangers if record.optimizers else ():
        shape = "x".join(map(str, stranger.shape)) or "a scalar"
        groups.setdefault((stranger.module, _cause_of(stranger)), []).append(shape)
    for (name, cause), shapes in groups.items():
        message = (
            f"{name or 'model'}: {len(shapes)} tensors that are not its parameters receive gradient"
            f" ({first_few(shapes)})"
        )
        yield Observation(name, float(len(shapes)), message, cause, key=cause)


def _cause_of(stranger: Stranger) -> Cause:
    if stranger.derived:
        return NOT_A_PARAMETER.of(names=", ".join(stranger.derived))
    if stranger.remade:
        return MADE_IN_FORWARD
    return UNREGISTERED_LAYERS if stranger.layer else PLAIN_TENSOR


REACH005 = Rule(
    "REACH005",
    WARNING,
    "A tensor learns outside the model",
    "tensors",
    "Make it an nn.Parameter, keep layers in nn.ModuleList or nn.ModuleDict, and make the optimiser afterwards.",
    find_unregistered,
    lasting(5),
    needs_optimizer=True,
    causes=(UNREGISTERED_LAYERS, PLAIN_TENSOR, NOT_A_PARAMETER, MADE_IN_FORWARD),
    what="In the first two recorded steps, the same tensor, or another parameter in its place, received gradient"
    " between inputs and outputs, but neither `model.parameters()` nor an optimiser holds it.",
    why="It looks trained, but no optimiser moves it, no checkpoint holds it, and `model.to(device)` does not move it.",
    example="`self.scale = torch.ones(16, requires_grad=True)`; `self.layers = [nn.Linear(16, 16), ...]`.",
    false_alarms="A tensor that the loop changes by hand, such as an adversarial perturbation.",
)
REACH008 = Rule(
    "REACH008",
    WARNING,
    "An optimiser holds weights that the model does not use",
    "tensors",
    "Set the new layers as attributes of the modules that use them: setattr(parent, name, layer).",
    find_idle,
    lasting(10, why="a part that is trained in every second step has gradient before"),
    needs_optimizer=True,
    causes=(NOT_IN_MODEL,),
    what="An optimiser holds all weights that the model trains, and also tensors outside of the model that have no"
    " gradient when it steps.",
    why="Layers that should replace others, such as adapters, were never inserted into the model.",
    example="`for module in model.modules(): module = Adapter(module)`, which changes a variable alone.",
    false_alarms="An optimiser of several models, of which the others wait.",
)
FAMILY = Family(52, "Weights outside the model", (REACH005, REACH008))
