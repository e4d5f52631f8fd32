"""Coverage stays exact, or says that it is not known, where training loops do more than one forward and backward.

The truth is brute force: one backward pass per sample and the gradient at a copy that nobody else touches.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diagnostics import Absent, Monitor

B, T, K, D = 4, 3, 2, 5
ALIVE = torch.tensor([1.0, 0.0, 1.0, 1.0])


class Holder(nn.Module):
    """A watched `inner`."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner


class Gives(nn.Module):
    """A linear layer whose result `shape` turns into the output."""

    def __init__(self, shape: Callable[[Tensor], Any] = lambda y: y) -> None:
        super().__init__()
        self.linear = nn.Linear(D, D)
        self.shape = shape

    def forward(self, x: Tensor) -> Any:
        return self.shape(self.linear(x))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def brute_force(output: Tensor, losses: Tensor, samples: Tensor) -> Tensor:
    """(B,) largest |gradient| of loss b at the rows of sample b; `samples` has the leading shape of `output`."""
    sizes = torch.zeros(len(losses))
    for sample, loss in enumerate(losses):
        (gradient,) = torch.autograd.grad(loss, output, retain_graph=True)
        sizes[sample] = gradient[samples == sample].abs().max()
    return sizes


def agree(monitor: Monitor, sizes: Tensor) -> None:
    covering = int((sizes > 0).sum())
    assert monitor.coverage("inner") == covering / len(sizes)
    expected = float(sizes.sum() ** 2 / (len(sizes) * sizes.square().sum()))
    assert monitor.evenness("inner") == pytest.approx(expected, rel=1e-4)


def test_gradient_accumulation_in_one_step() -> None:
    model = Holder(Gives())
    monitor = Monitor(model)
    x, truth = torch.randn(6, D), []
    with monitor.step(samples=6):
        for rows in torch.arange(6).split(2):
            with monitor.rows(rows):
                output = model.inner(x[rows])
            losses = (output * torch.tensor([[1.0], [0.0]])).square().sum(1) * (rows + 1)
            truth.append(brute_force(output, losses, torch.arange(2)))
            losses.sum().backward()
    agree(monitor, torch.cat(truth))
    assert monitor.last.modules["inner"].calls_with_gradient == 3


def test_micro_batches_without_declared_rows_are_not_known() -> None:
    model = Holder(Gives())
    monitor = Monitor(model)
    with monitor.step(samples=6):
        for part in torch.randn(6, D).split(2):
            model.inner(part).sum().backward()
    assert isinstance(monitor.coverage("inner"), Absent)


def test_rows_folded_into_the_batch() -> None:
    """(B, K, D) runs as (B * K, D)."""
    model = Holder(Gives())
    samples = torch.arange(B).repeat_interleave(K)
    monitor = Monitor(model, rows={"inner": lambda args, kwargs, output: samples})
    with monitor.step(samples=B):
        output = model.inner(torch.randn(B * K, D))
        losses = output.view(B, K, D)[:, 0].square().sum(1) * ALIVE
        truth = brute_force(output, losses, samples)
        losses.sum().backward()
    agree(monitor, truth)


@pytest.mark.parametrize("context", [False, True])
def test_sequence_first(context: bool) -> None:
    model = Holder(Gives())
    samples = torch.arange(B).expand(T, B)
    monitor = Monitor(model, rows=None if context else {"inner": lambda args, kwargs, output: samples})
    x = torch.randn(T, B, D)
    with monitor.step(samples=B):
        if context:
            with monitor.rows(samples):
                output = model.inner(x)
        else:
            output = model.inner(x)
        losses = output[-1].square().sum(1) * ALIVE
        truth = brute_force(output, losses, samples)
        losses.sum().backward()
    agree(monitor, truth)
    assert monitor.waste("inner") == 0.25
    assert monitor.calls("inner")[0].rows == T * B


def recurrent(**options: Any) -> Holder:
    return Holder(nn.LSTM(D, D, num_layers=B, **options))


def test_torch_modules_that_are_sequence_first_are_not_guessed() -> None:
    """As many positions as samples: the leading dimension fits by accident."""
    monitor = Monitor(model := recurrent())
    with monitor.step(samples=B):
        model.inner(torch.randn(B, B, D))[0][:, 0].sum().backward()
    found = monitor.coverage("inner")
    assert isinstance(found, Absent)
    assert found.code == "sequence-first"


def test_hidden_states_lead_with_layers_not_samples() -> None:
    monitor = Monitor(model := recurrent(batch_first=True))
    with monitor.step(samples=B):
        model.inner(torch.randn(B, T, D))[1][0][0].sum().backward()
    found = monitor.coverage("inner")
    assert isinstance(found, Absent)
    assert found.code == "hidden-state"
    with monitor.step(samples=B):
        (model.inner(torch.randn(B, T, D))[0][:, -1] * ALIVE[:, None]).sum().backward()
    assert monitor.coverage("inner") == 0.75


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_calls_keep_the_rows_that_were_declared(reentrant: bool) -> None:
    """The backward pass recomputes after the block of `rows` has ended."""
    model = Holder(nn.Sequential(nn.Linear(D, D), nn.Tanh()))
    monitor = Monitor(model, watch=["inner", "inner.0"])
    rows = torch.tensor([3, 1])
    x = torch.randn(B, D, requires_grad=True)
    with monitor.step(samples=B):
        with monitor.rows(rows):
            output = checkpoint(model.inner, x[rows], use_reentrant=reentrant)
        (output * torch.tensor([[1.0], [0.0]])).square().sum().backward()
    for name in ("inner", "inner.0"):
        assert monitor.coverage(name) == 0.25
        live = [call for call in monitor.calls(name) if call.gradient]
        assert [call.samples.tolist() for call in live] == [[3, 1]]


def test_reentrant_checkpoints_with_different_rows_are_not_known() -> None:
    model = Holder(nn.Linear(D, D))
    monitor = Monitor(model)
    x = torch.randn(B, D, requires_grad=True)
    with monitor.step(samples=B):
        total = torch.zeros(())
        for rows in (torch.tensor([0, 1]), torch.tensor([2, 3])):
            with monitor.rows(rows):
                total = total + checkpoint(model.inner, x[rows], use_reentrant=True).sum()
        total.backward()
    found = monitor.coverage("inner")
    assert isinstance(found, Absent)
    assert found.code == "recomputed-rows"


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_equals_brute_force(reentrant: bool) -> None:
    model = Holder(Gives(torch.tanh))
    monitor = Monitor(model)
    x = torch.randn(B, D, requires_grad=True)
    plain = model.inner(x)
    truth = brute_force(plain, plain.square().sum(1) * ALIVE, torch.arange(B))
    with monitor.step(samples=B):
        (checkpoint(model.inner, x, use_reentrant=reentrant).square().sum(1) * ALIVE).sum().backward()
    agree(monitor, truth)


def test_autocast_to_bfloat16() -> None:
    model = Holder(Gives())
    monitor = Monitor(model)
    with monitor.step(samples=B):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = model.inner(torch.randn(B, D))
            losses = output.float().square().sum(1) * ALIVE
        assert output.dtype is torch.bfloat16
        truth = brute_force(output, losses, torch.arange(B))
        losses.sum().backward()
    agree(monitor, truth)
    torch.testing.assert_close(monitor.calls("inner")[0].row_gradients, truth)


CHANGES: dict[str, Callable[[Tensor], object]] = {
    "scale": lambda y: y.mul_(ALIVE[:, None]),
    "relu": lambda y: y.relu_(),
    "row": lambda y: y[1].zero_(),
    "masked": lambda y: y.masked_fill_(ALIVE[:, None] == 0, 0.0),
    "detached rows": lambda y: y.__setitem__(1, y[1].detach()),
    "through a view": lambda y: y.view(-1)[D : 2 * D].zero_(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_in_place_after_the_module(change: Callable[[Tensor], object]) -> None:
    model = Holder(Gives())
    monitor = Monitor(model)
    x = torch.randn(B, D)
    untouched = model.inner(x).detach().requires_grad_()
    copy = untouched.clone()
    change(copy)
    truth = brute_force(untouched, copy.sum(1), torch.arange(B))
    with monitor.step(samples=B):
        output = model.inner(x)
        change(output)
        output.sum().backward()
    agree(monitor, truth)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_in_place_on_a_view_that_was_returned_is_not_known(change: Callable[[Tensor], object]) -> None:
    """torch gives the view a new history: the gradient comes, and no hook sees it."""
    model = Holder(Gives(lambda y: y.view(B, D)))
    monitor = Monitor(model)
    for _ in range(6):
        with monitor.step(samples=B):
            output = model.inner(torch.randn(B, D))
            change(output)
            output.sum().backward()
    found = monitor.coverage("inner")
    assert isinstance(found, Absent)
    assert found.code == "changed-view"
    reported = {(finding.rule, finding.code) for finding in monitor.findings(ignore=["RULE001"])}
    assert reported == {("COV003", "changed-view")}


def test_a_view_that_nobody_changes_is_exact() -> None:
    model = Holder(Gives(lambda y: y.view(B, D)))
    monitor = Monitor(model)
    with monitor.step(samples=B):
        (model.inner(torch.randn(B, D)) * ALIVE[:, None]).sum().backward()
    assert monitor.coverage("inner") == 0.75


@pytest.mark.parametrize(
    ("shape", "pick"),
    [
        (lambda y: (y, y * 2), lambda out: out[0] + out[1]),
        (lambda y: {"a": y, "b": [None, (y.sum(1), 3)]}, lambda out: out["a"] + out["b"][1][0][:, None]),
        (lambda y: [y[:, :2], {"rest": y[:, 2:]}], lambda out: torch.cat([out[0], out[1]["rest"]], 1)),
    ],
)
def test_nested_outputs_equal_brute_force(shape: Any, pick: Any) -> None:
    """A sample covers if any of the tensors does."""
    model = Holder(Gives(shape))
    monitor = Monitor(model)
    with monitor.step(samples=B):
        output = model.inner(torch.randn(B, D))
        losses = pick(output).square().sum(1) * ALIVE
        losses.sum().backward()
    assert monitor.coverage("inner") == 0.75


def test_an_output_that_cannot_be_looked_into_is_not_known() -> None:
    model = Holder(Gives(lambda y: SimpleNamespace(hidden=y)))
    monitor = Monitor(model)
    for _ in range(6):
        with monitor.step(samples=B):
            model.inner(torch.randn(B, D)).hidden[0].sum().backward()
        model.zero_grad()
    found = monitor.coverage("inner")
    assert isinstance(found, Absent)
    assert found.code == "opaque-output"
    assert "SimpleNamespace" in found.reason
    reported = {(finding.rule, finding.code) for finding in monitor.findings(ignore=["RULE001"])}
    assert reported == {("COV003", "opaque-output")}
