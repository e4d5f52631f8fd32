"""H1 of an own model: pretrained weights do not arrive unchanged, or frozen weights change."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from diagnostics.recording.tensors import tensors_in
from diagnostics.testing.trials import untouched
from etrm.device import to_device, to_host
from etrm.investigation.evidence.table import Direction, Metric
from etrm.investigation.hypotheses.hypothesis import Statement
from etrm.investigation.own_model.adapter_errors import EXAMPLE_PRETRAINED, call_adapter
from etrm.investigation.own_model.hypotheses.inspected_hypothesis import (
    CheckedRow,
    InspectedHypothesis,
    InspectedModel,
)
from etrm.investigation.own_model.injected_faults import InjectedFault
from etrm.investigation.own_model.model_factory import ModelFactory, seed_everything
from etrm.investigation.own_model.model_under_test import ModelUnderTest, Pretrained, read_tensors
from etrm.investigation.own_model.training_trial import TrainingTrial
from etrm.investigation.records import NotMeasured

STEPS = 6
"""Training steps in which a frozen part must not change a bit."""
VALUE_TOLERANCE = 1e-5
"""Largest difference of a loaded weight that counts as none, as for the decoder of this project."""

MISSING = Metric(
    "own.tensors-missing", "tensors of the pretrained part that the model lacks", Direction.LOWER
)
DIFFERENT = Metric("own.tensors-different", "tensors that differ from the pretrained ones", Direction.LOWER)
OUTPUT = Metric("own.loaded-output", "largest difference of an output of the loaded part", Direction.LOWER)
MOVED = Metric("own.frozen-moved", "tensors of frozen parts that change in training", Direction.LOWER)


class OwnLoading(InspectedHypothesis):
    """H1 of an own model."""

    next_step = (
        "Fix the loading first: page H1 names the tensors that differ. Then run the same command again."
    )
    statement = Statement(
        id="H1",
        title="Loading",
        statement="Pretrained weights are not loaded unchanged, or weights that are frozen change.",
        refuted_by=(
            "Every tensor of the pretrained part is in the model with its value, the part computes the same outputs "
            "as the original, and no bit of a frozen part changes in six training steps."
        ),
        mechanism=(
            "The rest of the model cannot use the part if loading is skipped or matches no key, or if the part runs "
            "with other settings than in its training. Training continues without an error."
        ),
        kind="mechanistic",
        would_change="One tensor or output that differs by more than its threshold.",
    )

    def find_missing(self, subject: ModelUnderTest) -> str:
        """What the tests need at least."""
        return (
            "" if subject.pretrained or subject.frozen else "the adapter gives neither pretrained nor frozen"
        )

    def list_faults(self, subject: ModelUnderTest) -> tuple[InjectedFault, ...]:
        """A part with other weights than the loaded ones, and a frozen part that moves."""
        found = [OTHER_WEIGHTS] if subject.pretrained else []
        return tuple(found + ([MOVING_PART] if _frozen_tensors(subject) else []))

    def inspect(self, factory: ModelFactory, seed: int) -> InspectedModel:
        """Compare the loaded part with the original, and train a few steps."""
        subject = factory.build(seed)
        checks: list[CheckedRow] = []
        if subject.pretrained is not None:
            checks += _check_part(subject, subject.pretrained, seed)
        if subject.frozen:
            checks.append(_check_frozen(factory, seed))
        return InspectedModel(tuple(checks))


def _check_part(subject: ModelUnderTest, given: Pretrained, seed: int) -> Iterator[CheckedRow]:
    part = subject.model.get_submodule(given.part)
    original = given.original()
    wanted, found = (
        {name: tensor.detach() for name, tensor in read_tensors(module).items()}
        for module in (original, part)
    )
    missing = [name for name in wanted if name not in found or found[name].shape != wanted[name].shape]
    n = f"{len(wanted)} tensors"
    words = f"{len(missing)} of {len(wanted)} pretrained tensors have no place in the model"
    yield CheckedRow(MISSING.expect_none(len(missing), n, note=", ".join(missing[:5])), words)
    different = [
        name
        for name, value in wanted.items()
        if name not in missing
        and not torch.allclose(
            to_host(found[name]).double(),
            to_host(value).double(),
            rtol=0,
            atol=VALUE_TOLERANCE,
            equal_nan=True,
        )
    ]
    words = f"{len(different)} of {len(wanted)} tensors differ from the pretrained ones"
    words += f" (first: {different[0]})" if different else ""
    yield CheckedRow(DIFFERENT.expect_none(len(different), n, note=", ".join(different[:5])), words)
    if given.inputs is None:
        yield CheckedRow(
            OUTPUT.row(NotMeasured(absent="no inputs of the pretrained part"), threshold="", n="")
        )
        return
    gap = _compare_outputs(part, original, given, seed)
    row = OUTPUT.expect_at_most(gap, given.tolerance, "one call")
    yield CheckedRow(row, f"the loaded part and the original differ by {gap:.3g} in an output")


@torch.no_grad()
def _compare_outputs(part: nn.Module, original: nn.Module, given: Pretrained, seed: int) -> float:
    """The largest difference of an output on the same inputs, both in evaluation mode; infinite for other shapes."""
    assert given.inputs is not None
    outputs: list[list[Tensor]] = []
    device = next((tensor.device for tensor in read_tensors(part).values()), torch.device("cpu"))
    for module in (to_device(original, device), part):
        with (
            untouched(module),
            call_adapter(
                "adapter.part-raised",
                "a call of the pretrained part with pretrained.inputs() raised an exception",
                expected="a tuple of the arguments of one call",
                example=EXAMPLE_PRETRAINED,
            ),
        ):
            module.eval()
            seed_everything(seed, 7)
            inputs = (to_device(value, device) for value in given.inputs())
            outputs.append([t.double() for t in tensors_in(module(*inputs)) if t.is_floating_point()])
    if [t.shape for t in outputs[0]] != [t.shape for t in outputs[1]]:
        return float("inf")
    return max((_find_gap(a, b) for a, b in zip(*outputs, strict=True)), default=0.0)


def _find_gap(one: Tensor, other: Tensor) -> float:
    """The largest difference of two tensors; equal entries that are not finite have none, others an infinite one."""
    gaps = torch.where(one.eq(other) | (one.isnan() & other.isnan()), 0.0, (one - other).abs())
    return float(gaps.nan_to_num(math.inf, math.inf).max()) if gaps.numel() else 0.0


def _frozen_tensors(subject: ModelUnderTest) -> dict[str, Tensor]:
    """Parameters and buffers of the parts that are frozen on purpose, by name."""
    return {
        name: tensor
        for name, tensor in read_tensors(subject.model).items()
        if any(name == part or name.startswith(f"{part}.") for part in subject.frozen)
    }


def _check_frozen(factory: ModelFactory, seed: int) -> CheckedRow:
    trial = TrainingTrial(factory, seed)
    before = {name: tensor.detach().clone() for name, tensor in _frozen_tensors(trial.subject).items()}
    for number in range(STEPS):
        trial.step(number, trial.batch(number))
    after = _frozen_tensors(trial.subject)
    moved = [name for name, tensor in before.items() if not torch.equal(tensor, after[name].detach())]
    words = f"{len(moved)} of {len(before)} frozen tensors change in {STEPS} steps"
    words += f" (first: {moved[0]})" if moved else ""
    n = f"{len(before)} tensors, {STEPS} steps"
    return CheckedRow(MOVED.expect_none(len(moved), n, note=", ".join(moved[:5])), words)


def _move_frozen(subject: ModelUnderTest) -> ModelUnderTest:
    """Each step moves a frozen weight a little."""

    def step(model: nn.Module, batch: object) -> object:
        with torch.no_grad():
            tensor = next(iter(_frozen_tensors(subject).values()))
            tensor.add_(1 if not tensor.is_floating_point() else 1e-3)
        return subject.step(model, batch)

    return replace(subject, step=step)  # type: ignore[arg-type]  # it returns what the user's step returns


def _change_weights(subject: ModelUnderTest) -> ModelUnderTest:
    """Adds noise to the pretrained part, wherever it was loaded: in ``load``, in the factory or in both."""
    assert subject.pretrained is not None
    with torch.no_grad():
        for tensor in read_tensors(subject.model.get_submodule(subject.pretrained.part)).values():
            if tensor.is_floating_point():
                tensor.add_(torch.randn_like(tensor))
    return subject


OTHER_WEIGHTS = InjectedFault(
    "other-weights", "the loaded part has other weights than the trained one", _change_weights
)
MOVING_PART = InjectedFault("frozen-part-moves", "each step moves a frozen tensor", _move_frozen)
