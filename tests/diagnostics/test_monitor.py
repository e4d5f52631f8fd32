"""The monitor around a training step: what it sees, and that it changes nothing."""

from __future__ import annotations

import copy
import gc
import weakref
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diagnostics import Absent, Monitor
from tests.diagnostics.refusals import refused

BATCH = 6


class Net(nn.Module):
    """Encoder with dropout, a core called `cycles` times, a head."""

    def __init__(self, cycles: int = 2) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3))
        self.core = nn.Linear(8, 8)
        self.head = nn.Linear(8, 2)
        self.cycles = cycles

    def forward(self, x: Tensor) -> Tensor:
        state = self.encoder(x)
        for _ in range(self.cycles):
            state = torch.tanh(self.core(state))
        return self.head(state)


class One(nn.Module):
    """A watched module `inner` whose result goes through `after` to a sum."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner


class Returns(nn.Module):
    """A linear layer whose result `shape` turns into the module's output."""

    def __init__(self, shape: Any) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.shape = shape

    def forward(self, x: Tensor) -> Any:
        return self.shape(self.linear(x))


class Mark:
    """Something to put into a graph to see when it is freed."""


@dataclass
class Output:
    """A structured output."""

    hidden: Tensor
    extra: dict[str, Any]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def one_step(monitor: Monitor, model: nn.Module, samples: int = BATCH) -> None:
    with monitor.step(samples=samples):
        model(torch.randn(samples, 4)).square().sum().backward()
    model.zero_grad()


def trained(watch: bool, every: int) -> list[Tensor]:
    torch.manual_seed(3)
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    monitor = Monitor(model, optimizer, watch=["*"], every=every) if watch else None
    for _ in range(6):
        x = torch.randn(BATCH, 4)

        def update(x: Tensor = x) -> None:
            for part in x.split(3):  # two backward passes in a step
                model(part).square().mean().backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
            optimizer.zero_grad()

        if monitor is None:
            update()
        else:
            with monitor.step(samples=BATCH):
                update()
    return [*(parameter.detach() for parameter in model.parameters()), torch.rand(3)]


@pytest.mark.parametrize("every", [1, 3])
def test_training_is_bit_identical(every: int) -> None:
    assert all(torch.equal(*pair) for pair in zip(trained(False, 1), trained(True, every), strict=True))


def test_no_graph_outlives_the_step() -> None:
    model = Net()
    monitor = Monitor(model)
    with monitor.step(samples=BATCH):
        output = model(torch.randn(BATCH, 4))
        output.sum().backward(create_graph=False)
    tensor = weakref.ref(output)
    freed: list[bool] = []
    weakref.finalize(output.grad_fn.metadata.setdefault("mark", Mark()), freed.append, True)
    del output
    gc.collect()
    assert tensor() is None
    assert freed == [True]
    assert all(call.row_gradients.grad_fn is None for call in monitor.calls("core"))


def test_records_one_step_in_every() -> None:
    model = Net()
    monitor = Monitor(model, every=3)
    seen = []
    for _ in range(7):
        one_step(monitor, model)
        seen.append(monitor.last.step)
    assert seen == [0, 0, 0, 3, 3, 3, 6]
    assert [record.step for record in monitor.history] == [0, 3, 6]


def test_history_is_bounded() -> None:
    model = Net()
    monitor = Monitor(model, history=2)
    for _ in range(4):
        one_step(monitor, model)
    assert [record.step for record in monitor.history] == [2, 3]


def test_default_is_the_direct_children() -> None:
    assert set(_modules(Monitor(Net()))) == {"encoder", "core", "head"}
    assert set(_modules(Monitor(Net(), watch=["", "encoder.*"]))) == {
        "encoder",
        "encoder.0",
        "encoder.1",
        "core",
        "head",
    }


def test_lists_of_modules_stand_for_their_members() -> None:
    model = nn.Module()
    model.layers = nn.ModuleList([nn.Linear(1, 1), nn.ModuleList([nn.Linear(1, 1)])])
    assert set(_modules(Monitor(model))) == {"layers.0", "layers.1.0"}


def _modules(monitor: Monitor) -> Any:
    with monitor.step(samples=1):
        pass
    return monitor.last.modules


def test_unknown_names_are_errors_that_name_the_nearest() -> None:
    with refused(ValueError, "selection.no-match", argument="watch", got="encodr", nearest="encoder"):
        Monitor(Net(), watch=["encodr"])
    with refused(ValueError, "selection.no-match", argument="rows", got="cor", nearest="core"):
        Monitor(Net(), rows={"cor": lambda args, kwargs, output: output})
    with refused(ValueError, "selection.no-match", argument="expect_frozen", got="heads"):
        Monitor(Net(), expect_frozen=["heads"])


@pytest.mark.parametrize("argument", ["watch", "expect_frozen", "expect_partial", "regularisers"])
def test_one_name_is_not_taken_for_a_list_of_letters(argument: str) -> None:
    with refused(TypeError, "selection.not-a-list", argument=argument, got="encoder"):
        Monitor(Net(), **{argument: "encoder"})


def test_only_a_module_is_a_model() -> None:
    with refused(TypeError, "selection.not-a-module", got="generator"):
        Monitor(Net().parameters())  # type: ignore[arg-type]


def test_a_model_without_submodules_is_watched_as_a_whole() -> None:
    model = nn.Linear(3, 2)
    monitor = Monitor(model, torch.optim.SGD(model.parameters(), 0.1))
    with monitor.step(samples=5):
        model(torch.randn(5, 3))[:2].square().mean().backward()
    assert monitor.coverage("Linear") == pytest.approx(0.4)
    assert set(monitor.last.parameters) == {"Linear.weight", "Linear.bias"}


def test_wrong_use_is_an_error() -> None:
    model = Net()
    monitor = Monitor(model)
    with refused(LookupError, "monitor.no-step"):
        _ = monitor.last
    with refused(ValueError, "monitor.too-few-samples", got=0), monitor.step(samples=0):
        pass
    with refused(RuntimeError, "monitor.step-open"), monitor.step(samples=1), monitor.step(samples=1):
        pass
    with refused(ValueError, "monitor.count-below-1", every=0, history=5):
        Monitor(model, every=0, history=5)
    one_step(monitor, model)
    with refused(KeyError, "selection.not-watched", got="decoder", allowed="encoder, core, head"):
        monitor.coverage("decoder")
    with (
        refused(TypeError, "capture.rows-not-integers", source="rows", got="torch.bool of shape (1,)"),
        monitor.step(samples=2),
        monitor.rows(torch.tensor([True])),
    ):
        pass


def test_a_failed_step_leaves_no_record_and_no_open_step() -> None:
    model = Net()
    monitor = Monitor(model)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), monitor.step(samples=BATCH):
        model(torch.randn(BATCH, 5))
    assert not monitor.history
    one_step(monitor, model)
    assert monitor.last.step == 1
    assert len(monitor.calls("encoder")) == 1


def test_detach_removes_every_hook() -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, optimizer) as monitor:
        one_step(monitor, model)
        assert any(module._forward_hooks for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())
    assert not any(parameter._post_accumulate_grad_hooks for parameter in model.parameters())
    assert not optimizer._optimizer_step_pre_hooks
    with refused(RuntimeError, "monitor.detached"), monitor.step(samples=1):
        pass
    monitor.attach()
    one_step(monitor, model)
    assert monitor.coverage("core") == 1.0


def test_coverage_counts_samples_of_the_loss_not_rows_seen() -> None:
    """10 of 256 rows encoded: coverage 0.04, nothing wasted."""
    model = One(nn.Linear(4, 4))
    slots = torch.arange(5, 15)
    monitor = Monitor(model, rows={"inner": lambda args, kwargs, output: slots})
    with monitor.step(samples=256):
        model.inner(torch.randn(10, 4)).sum().backward()
    assert monitor.coverage("inner") == 10 / 256
    assert monitor.waste("inner") == 0.0
    assert monitor.evenness("inner") == pytest.approx(10 / 256)
    assert torch.equal(monitor.calls("inner")[0].samples, slots)


def test_processed_samples_are_counted_once_over_calls() -> None:
    model = One(nn.Linear(4, 4))
    monitor = Monitor(model)
    with monitor.step(samples=5):
        outputs = []
        for samples in ([0, 1], [3, 4], [4, 1]):
            with monitor.rows(torch.tensor(samples)):
                outputs.append(model.inner(torch.randn(2, 4)))
        outputs[0][0].sum().backward()
    assert monitor.coverage("inner") == 0.2
    assert monitor.waste("inner") == 0.75


def test_a_shared_core_keeps_its_calls_apart() -> None:
    model = One(nn.Linear(4, 4))
    monitor = Monitor(model)
    with monitor.step(samples=2):
        state = torch.randn(2, 4)
        for cycle in range(15):
            with torch.set_grad_enabled(cycle >= 10):
                state = model.inner(state)
        state.sum().backward()
    record = monitor.last.modules["inner"]
    assert (record.calls_total, record.calls_grad_enabled, record.calls_with_gradient) == (15, 5, 5)
    assert len({tuple(call.row_gradients.tolist()) for call in record.calls if call.gradient}) == 5


def test_folded_rows_are_ambiguous_unless_declared() -> None:
    model = One(nn.Linear(4, 4))
    monitor = Monitor(model)
    x = torch.randn(6, 4)
    with monitor.step(samples=2):
        model.inner(x).sum().backward()
    found = monitor.coverage("inner")
    assert isinstance(found, Absent)
    assert found.code == "other-leading-size"
    assert "(6, 4)" in found.reason
    assert "2 samples" in found.reason
    with monitor.step(samples=2):
        with monitor.rows(torch.tensor([0, 0, 0, 1, 1, 1])):
            output = model.inner(x)
        output[:3].sum().backward()
    assert monitor.coverage("inner") == 0.5
    assert monitor.waste("inner") == 0.5


def test_the_context_overrides_the_argument() -> None:
    model = One(nn.Linear(4, 4))
    monitor = Monitor(model, rows={"inner": lambda args, kwargs, output: torch.tensor([0])})
    with monitor.step(samples=4), monitor.rows(torch.tensor([3])):
        model.inner(torch.randn(1, 4)).sum().backward()
    assert monitor.calls("inner")[0].samples.tolist() == [3]


def test_samples_that_do_not_exist_are_ambiguous() -> None:
    model = One(nn.Linear(4, 4))
    monitor = Monitor(model)
    with monitor.step(samples=2), monitor.rows(torch.tensor([0, 2])):
        model.inner(torch.randn(2, 4)).sum().backward()
    found = monitor.coverage("inner")
    assert isinstance(found, Absent)
    assert found.code == "rows-out-of-range"
    assert "0..1" in found.reason


@pytest.mark.parametrize(
    ("shape", "pick"),
    [
        (lambda y: (y, None), lambda out: out[0]),
        (lambda y: {"a": [y]}, lambda out: out["a"][0]),
        (lambda y: Output(y, {"n": 1}), lambda out: out.hidden),
        (lambda y: Output(y.detach(), {"x": (y,)}), lambda out: out.extra["x"][0]),
    ],
)
def test_structured_outputs(shape: Any, pick: Any) -> None:
    model = One(Returns(shape))
    monitor = Monitor(model)
    with monitor.step(samples=4):
        pick(model.inner(torch.randn(4, 4)))[1:].sum().backward()
    assert monitor.coverage("inner") == 0.75


def test_a_scalar_output_with_gradient_is_ambiguous_only_where_it_matters() -> None:
    model = One(Returns(lambda y: (y * 1.0, y.square().mean())))
    monitor = Monitor(model)
    for live, known in ((4, 1.0), (1, None)):
        with monitor.step(samples=4):
            rows, penalty = model.inner(torch.randn(4, 4))
            (rows[:live].sum() + penalty).backward()
        coverage = monitor.coverage("inner")
        if known is None:
            assert isinstance(coverage, Absent)
            assert coverage.code == "scalar-output"
            assert "0.25" in coverage.reason
        else:
            assert coverage == known


def test_a_module_that_returns_its_input_is_ambiguous() -> None:
    model = One(nn.Identity())
    monitor = Monitor(model)
    with monitor.step(samples=3):
        x = torch.randn(3, 4, requires_grad=True) * 2
        (model.inner(x)[:1].sum() + x.sum()).backward()
    found = monitor.coverage("inner")
    assert isinstance(found, Absent)
    assert found.code == "returns-input"


def test_a_copy_of_the_model_is_not_watched() -> None:
    model = Net()
    monitor = Monitor(model)
    average = copy.deepcopy(model)
    with monitor.step(samples=BATCH):
        average(torch.randn(BATCH, 4)).sum().backward()
    assert monitor.coverage("core") == 0.0
    assert monitor.calls("core") == ()


def test_in_place_change_of_an_output_keeps_its_gradient() -> None:
    model = One(nn.Linear(4, 4))
    monitor = Monitor(model)
    with monitor.step(samples=2):
        output = model.inner(torch.randn(2, 4))
        output.mul_(torch.tensor([[1.0], [0.0]]))
        output.sum().backward()
    assert monitor.coverage("inner") == 0.5


def test_a_module_that_is_not_called_covers_nothing() -> None:
    model = Net()
    monitor = Monitor(model)
    with monitor.step(samples=4):
        model.head(torch.randn(4, 8)).sum().backward()
    assert monitor.coverage("encoder") == 0.0
    assert monitor.last.modules["encoder"].state == "not called"
    assert isinstance(monitor.waste("encoder"), Absent)


def test_a_module_used_by_other_ways_than_forward_is_not_called_dead() -> None:
    model = One(nn.Linear(4, 4))
    monitor = Monitor(model)
    with monitor.step(samples=4):
        nn.functional.linear(torch.randn(4, 4), model.inner.weight, model.inner.bias).sum().backward()
    found = monitor.coverage("inner")
    assert isinstance(found, Absent)
    assert found.code == "other-way"


def test_several_backward_passes_add_up() -> None:
    model = One(nn.Linear(4, 4))
    monitor = Monitor(model)
    with monitor.step(samples=4):
        output = model.inner(torch.randn(4, 4))
        output[0].sum().backward(retain_graph=True)
        output[2].sum().backward()
    assert monitor.coverage("inner") == 0.5
    gradients = [parameter.grad for parameter in model.parameters()]
    total = torch.stack([gradient.norm() for gradient in gradients]).norm()
    assert monitor.last.modules["inner"].grad_norm_pre_clip == pytest.approx(float(total))


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing(reentrant: bool) -> None:
    model = One(nn.Sequential(nn.Linear(4, 4), nn.Tanh()))
    monitor = Monitor(model, watch=["inner", "inner.0"])
    with monitor.step(samples=4):
        x = torch.randn(4, 4, requires_grad=True)
        checkpoint(model.inner, x, use_reentrant=reentrant)[:3].sum().backward()
    for name in ("inner", "inner.0"):
        assert monitor.coverage(name) == 0.75
        assert monitor.last.modules[name].calls_total == 1
        assert [call.recomputed for call in monitor.calls(name)] == ([False, True] if reentrant else [False])
    assert monitor.last.modules["inner"].params_none == 0


def test_tiny_gradients_count() -> None:
    """Squares of 1e-30 underflow in float32; coverage must not."""
    model = One(nn.Linear(4, 4))
    monitor = Monitor(model)
    with monitor.step(samples=2):
        (model.inner(torch.randn(2, 4)) * 1e-30).sum().backward()
    assert monitor.coverage("inner") == 1.0
    assert monitor.evenness("inner") == pytest.approx(1.0)
    assert monitor.reach("inner.weight").kind == "all"


def test_of_a_large_batch_every_second_or_third_row_is_read() -> None:
    model = One(nn.Linear(4, 4))
    monitor = Monitor(model)
    with monitor.step(samples=150):
        output = model.inner(torch.randn(150, 4))
        output.sum().backward()
    stats = monitor.last.modules["inner"].output
    c = output.detach()[::3]
    assert stats.rows == 150
    assert stats.share == pytest.approx(float(((c - c.mean(0)) ** 2).mean() / (c**2).mean()), rel=1e-5)
    assert stats.mean == pytest.approx(float(c.mean()), rel=1e-4)
    assert stats.rms == pytest.approx(float(c.square().mean().sqrt()), rel=1e-5)


def test_output_share_is_the_definition() -> None:
    model = One(nn.Linear(4, 4))
    monitor = Monitor(model)
    with monitor.step(samples=BATCH):
        output = model.inner(torch.randn(BATCH, 4))
        output.sum().backward()
    stats = monitor.last.modules["inner"].output
    c = output.detach()
    assert stats.share == pytest.approx(float(((c - c.mean(0)) ** 2).mean() / (c**2).mean()), rel=1e-5)
    assert stats.rms == pytest.approx(float(c.square().mean().sqrt()), rel=1e-5)
