"""Origins begin at one function and are carried by some; each subject keeps the calls in which they do not fit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diagnostics.auditing.tracing.function_names import plain_name
from diagnostics.auditing.tracing.operation_trace import OperationTrace, trace_operations
from diagnostics.auditing.tracing.origins.outputs import BLENDED, DECISION, LARGEST, OUTPUT

Step = Callable[[Tensor], object]
LABELS = torch.tensor([0, 1, 1, 0])
WEIGHTS = torch.tensor([1.0, -2.0, 0.5, 3.0])


def trace_step(step: Step) -> OperationTrace:
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    with trace_operations(layer) as trace:
        step(layer(torch.randn(4, 3)))
    return trace


def log_probabilities(output: Tensor) -> Tensor:
    return output.log_softmax(1).gather(1, LABELS[:, None]).squeeze(1)


def focal_of_mean(output: Tensor) -> Tensor:
    mean = F.cross_entropy(output, LABELS)
    return (1 - torch.exp(-mean)) ** 2 * mean


def focal_of_each(output: Tensor) -> Tensor:
    each = F.cross_entropy(output, LABELS, reduction="none")
    return ((1 - torch.exp(-each)) ** 2 * each).mean()


@pytest.mark.parametrize(("step", "kept"), [(focal_of_mean, 1), (focal_of_each, 0)])
def test_a_mean_loss_times_a_chance_of_itself_is_kept(step: Step, kept: int) -> None:
    assert len(trace_step(step).origins.losses.weighted_means) == kept


@pytest.mark.parametrize(
    ("step", "kept"),
    [
        (lambda output: F.cross_entropy(output, LABELS) * WEIGHTS, 1),
        (lambda output: F.cross_entropy(output, LABELS, reduction="none") * WEIGHTS, 0),
        (lambda output: F.cross_entropy(output, LABELS) * torch.ones(4), 0),
    ],
)
def test_one_number_times_a_weight_for_each_sample_is_kept(step: Step, kept: int) -> None:
    assert len(trace_step(step).origins.losses.weighted_numbers) == kept


@pytest.mark.parametrize(
    ("step", "kept"),
    [
        (lambda output: log_probabilities(output) * (WEIGHTS - output[:, 0]), 1),
        (lambda output: log_probabilities(output) * (WEIGHTS - output[:, 0]).detach(), 0),
    ],
)
def test_a_weight_of_choices_that_has_a_graph_is_kept(step: Step, kept: int) -> None:
    assert len(trace_step(step).origins.choices.weighted_scores) == kept


@pytest.mark.parametrize("inverted", [False, True])
def test_a_ratio_is_of_now_to_before(inverted: bool) -> None:
    def step(output: Tensor) -> object:
        now, before = log_probabilities(output), log_probabilities(output.detach() + 1e-9)
        return torch.exp(before - now if inverted else now - before) * WEIGHTS

    choices = trace_step(step).origins.choices
    assert len(choices.inverted) == inverted
    assert [each.is_one for each in choices.ratios] == [True] * (not inverted)


@pytest.mark.parametrize(
    ("step", "shifted", "stopped"),
    [
        (lambda output: output[:, 0] + output[:, 1].exp() * torch.randn(4), 0, 0),
        (lambda output: output[:, 0] + output[:, 1].exp() * torch.rand(4), 1, 0),
        (lambda output: output[:, 0] + output[:, 1].detach().exp() * torch.randn(4), 0, 1),
    ],
)
def test_noise_is_two_sided_and_its_deviation_has_a_graph(step: Step, shifted: int, stopped: int) -> None:
    noise = trace_step(step).origins.noise
    assert (len(noise.shifted), len(noise.stopped)) == (shifted, stopped)


@pytest.mark.parametrize(
    ("step", "kept"),
    [
        (lambda output: output[:, 0] / (output - output.mean()).sum(), 1),
        (lambda output: output[:, 0] / output.sigmoid().sum(), 0),
    ],
)
def test_a_quotient_whose_divisor_may_be_zero_is_kept(step: Step, kept: int) -> None:
    assert len(trace_step(step).origins.outputs.divided) == kept


def test_names_of_variants_are_one_name() -> None:
    names = ("__rsub__", "sub_", "__isub__", "true_divide", "relu")
    assert list(map(plain_name, names)) == ["sub", "sub", "sub", "true_divide", "relu"]


def test_an_origin_goes_where_its_numbers_go() -> None:
    layer = nn.Linear(3, 2)
    with trace_operations(layer) as trace, torch.no_grad():
        output = layer(torch.randn(4, 3))
        largest = output.max()
        target = 1 + 0.9 * largest.expand(4)
        labels = output.argmax(1)
        compared = labels == 0
        resized = nn.functional.interpolate(torch.tensor([[[0.0, 3.0]]]), 3, mode="linear")
        halves = resized.long().flatten()
    assert trace.origins.of(output) == {OUTPUT}
    assert LARGEST in trace.origins.of(target)
    assert DECISION in trace.origins.of(labels)
    assert trace.origins.of(compared) == set()
    assert trace.origins.of(halves) == {BLENDED}
    assert trace.origins.of(torch.zeros(1)) == set()
