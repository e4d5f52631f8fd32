"""Reach and movement of parameters, before and after clipping, and what the optimiser did."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from diagnostics import RULES, Absent, Monitor

Optimizers = Callable[[nn.Module], torch.optim.Optimizer]


class Pair(nn.Module):
    """Two linear layers; `gate` scales the second."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)


@pytest.fixture
def model() -> Pair:
    torch.manual_seed(0)
    return Pair()


def run(
    monitor: Monitor, model: Pair, optimizer: torch.optim.Optimizer | None = None, gate: float = 1.0
) -> None:
    with monitor.step(samples=2):
        x = torch.randn(2, 3)
        (model.first(x) + gate * model.second(x)).square().sum().backward()
        if optimizer:
            optimizer.step()
            optimizer.zero_grad()


def test_none_zero_some_and_all_are_different(model: Pair) -> None:
    monitor = Monitor(model)
    with monitor.step(samples=2):
        x = torch.randn(2, 3)
        (model.first(x)[:, 0].sum() + 0.0 * model.second(x).sum()).backward()
    assert monitor.reach("first.weight").kind == "some"
    assert monitor.reach("first.weight").nonzero == pytest.approx(1 / 3)
    assert monitor.reach("second.weight").kind == "zero"
    model.zero_grad()
    with monitor.step(samples=2):
        model.first(torch.randn(2, 3)).square().sum().backward()
    assert monitor.reach("first.weight").kind == "all"
    assert monitor.reach("second.weight").kind == "none"
    assert isinstance(monitor.reach("second.weight").norm, Absent)
    record = monitor.last.modules["second"]
    assert (record.params_none, record.params_zero) == (2, 0)


def test_norms_before_and_after_clipping(model: Pair) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = Monitor(model, optimizer)
    with monitor.step(samples=2):
        model.first(torch.randn(2, 3)).square().sum().backward()
        before = nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
        optimizer.step()
        optimizer.zero_grad()
    record = monitor.last.modules["first"]
    assert record.grad_norm_pre_clip == pytest.approx(float(before), rel=1e-5)
    assert record.grad_norm_post_clip == pytest.approx(1e-3, rel=1e-3)


def test_moved_is_relative_to_the_weights(model: Pair) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = Monitor(model, optimizer)
    before = model.first.weight.detach().clone()
    run(monitor, model, optimizer)
    change = (model.first.weight.detach() - before).norm() / before.norm()
    assert monitor.moved("first.weight") == pytest.approx(float(change), rel=1e-5)


def test_zero_weights_that_move_have_no_relative_change(model: Pair) -> None:
    nn.init.zeros_(model.first.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = Monitor(model, optimizer)
    run(monitor, model, optimizer)
    assert isinstance(monitor.moved("first.weight"), Absent)
    assert monitor.last.parameters["first.weight"].changed


def test_a_change_whose_square_underflows_is_a_change(model: Pair) -> None:
    nn.init.zeros_(model.first.bias)
    monitor = Monitor(model)
    with monitor.step(samples=1), torch.no_grad():
        model.first.bias += 1e-30
    assert monitor.last.parameters["first.bias"].changed
    assert not monitor.last.parameters["second.bias"].changed


def test_a_tiny_gradient_is_not_one_that_was_cleared(model: Pair) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = Monitor(model, optimizer)
    with monitor.step(samples=2):
        (model.first(torch.randn(2, 3)) * 1e-30).sum().backward()
        optimizer.step()
    place = monitor.last.parameters["first.weight"].place
    assert not isinstance(place, Absent)
    assert place.gradient == "nonzero"


def test_shared_parameters_belong_to_both_modules(model: Pair) -> None:
    model.second.weight = model.first.weight
    monitor = Monitor(model)
    with monitor.step(samples=2):
        model.second(torch.randn(2, 3)).sum().backward()
    assert monitor.last.modules["first"].params_total == 2
    assert monitor.last.modules["second"].params_none == 0


def test_unfreezing_during_the_run_is_seen(model: Pair) -> None:
    model.first.requires_grad_(False)
    monitor = Monitor(model)
    run(monitor, model)
    assert monitor.reach("first.weight").kind == "none"
    model.first.requires_grad_(True)
    run(monitor, model)
    assert monitor.reach("first.weight").kind == "all"


def test_sparse_gradients() -> None:
    model = nn.Sequential(nn.Embedding(10, 4, sparse=True))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = Monitor(model, optimizer)
    with monitor.step(samples=2):
        model(torch.tensor([1, 7])).sum().backward()
        optimizer.step()
    assert monitor.reach("0.weight").nonzero == pytest.approx(0.2)
    assert monitor.coverage("0") == 1.0


def findings(monitor: Monitor, rule: str) -> dict[str, str]:
    """Module -> code of the cause."""
    return {finding.module: finding.code for finding in monitor.findings() if finding.rule == rule}


def only_first(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.first.parameters(), lr=0.1)


def second_without_rate(model: nn.Module) -> torch.optim.Optimizer:
    groups = [{"params": model.first.parameters()}, {"params": model.second.parameters(), "lr": 0.0}]
    return torch.optim.SGD(groups, lr=0.1)


@pytest.mark.parametrize(("make", "code"), [(only_first, "in-no-group"), (second_without_rate, "zero-rate")])
def test_gradient_without_movement(model: Pair, make: Optimizers, code: str) -> None:
    optimizer = make(model)
    monitor = Monitor(model, optimizer)
    for _ in range(5):
        run(monitor, model, optimizer)
    assert findings(monitor, "MOVE001") == {"second": code}


def test_an_optimizer_that_never_steps(model: Pair) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = Monitor(model, optimizer)
    for step in range(20):
        assert not findings(monitor, "MOVE003"), step  # may still be gradient accumulation
        run(monitor, model)
    (found,) = monitor.findings(select=["MOVE003"])
    assert (found.module, [follows.module for follows in found.consequences]) == ("", ["first", "second"])
    assert not findings(monitor, "MOVE001")


def test_gradient_accumulation_is_healthy(model: Pair) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    monitor = Monitor(model, optimizer)
    for step in range(24):
        run(monitor, model, optimizer if step % 4 == 3 else None)
    assert [finding.rule for finding in monitor.findings(ignore=["RULE001"])] == []


def test_without_optimizer_the_rules_say_that_they_did_not_run(model: Pair) -> None:
    monitor = Monitor(model)
    for _ in range(20):
        run(monitor, model)
    notes = {
        finding.code: [rule.id for rule in RULES if rule.id in finding.message]
        for finding in monitor.findings()
    }
    assert notes == {
        "no-optimizer": [
            "GRAD004",
            "GRAD006",
            "GRAD007",
            "REACH005",
            "REACH008",
            "MOVE001",
            "MOVE003",
            "MOVE004",
            "MOVE005",
            "MOVE006",
            "RATE001",
            "RATE002",
        ],
        "no-probe": ["DRIFT001"],
    }


def test_momentum_moves_a_frozen_parameter(model: Pair) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    run(Monitor(model), model, optimizer)
    monitor = Monitor(model, optimizer, expect_frozen=["second"])
    run(monitor, model, optimizer, gate=0.0)
    assert findings(monitor, "FROZEN001")["second"] == "optimizer-state"


@pytest.mark.parametrize("held", [False, True])
def test_weights_written_from_outside(model: Pair, held: bool) -> None:
    parameters = model.parameters() if held else model.first.parameters()
    optimizer = torch.optim.SGD(parameters, lr=0.1, weight_decay=0.1)
    model.second.requires_grad_(False)
    monitor = Monitor(model, optimizer, expect_frozen=["second.*"])
    with monitor.step(samples=1), torch.no_grad():
        optimizer.step()
        model.second.weight.mul_(0.5)
    assert findings(monitor, "FROZEN001")["second"] == "outside-optimizer"


def test_a_frozen_module_that_is_trained(model: Pair) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = Monitor(model, optimizer, expect_frozen=["second"])
    run(monitor, model, optimizer)
    assert findings(monitor, "FROZEN001")["second"] == "trained"


def test_parameters_without_gradient_in_a_module_with(model: Pair) -> None:
    model.first.register_parameter("unused", nn.Parameter(torch.ones(2)))
    model.first.register_parameter("gated", nn.Parameter(torch.ones(())))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = Monitor(model, optimizer)
    for _ in range(5):
        with monitor.step(samples=2):
            (model.first(torch.randn(2, 3)) + model.second(torch.randn(2, 3))).sum().add(
                0.0 * model.first.gated
            ).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert set(findings(monitor, "REACH001")) == {"first"}
    assert set(findings(monitor, "REACH002")) == {"first"}
    (none,) = [finding for finding in monitor.findings() if finding.rule == "REACH001"]
    assert (none.code, none.evidence.value) == ("not-in-loss", 1.0)
    assert "1 of 4" in none.message
    assert "first.unused" in none.message
    assert "first.gated" not in none.message


def test_an_applied_gradient_that_is_not_finite(model: Pair) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = Monitor(model, optimizer)
    run(monitor, model, gate=float("inf"))
    assert not findings(monitor, "REACH003")  # a GradScaler skips such steps
    run(monitor, model, optimizer, gate=float("inf"))
    (found,) = monitor.findings(select=["REACH003"])
    assert (found.module, found.consequences) == ("", ())
    assert found.code == "overflow-in-loss"
    assert monitor.reach("second.weight").finite is False
    assert isinstance(monitor.evenness("second"), Absent)


def test_gradient_that_comes_first_to_a_parameter_is_none_of_an_earlier_step(model: Pair) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    monitor = Monitor(model, optimizer)
    for _ in range(6):
        with monitor.step(samples=2):
            loss = model.second(model.first(torch.randn(2, 3)).detach()).square().sum()
            # what was made last is gone through first
            (loss + sum(parameter.square().sum() for parameter in model.first.parameters())).backward()
            optimizer.step()
            optimizer.zero_grad()
        assert {record.leftover for record in monitor.last.parameters.values()} == {"none"}
    assert "GRAD004" not in {finding.rule for finding in monitor.findings()}


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_what_is_left_of_an_update_is_told(model: Pair, share: float) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    monitor = Monitor(model, optimizer)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    with monitor.step(samples=2):
        model.second(model.first(torch.randn(2, 3))).square().sum().backward()
        optimizer.step()
        for parameter, old in zip(model.parameters(), before, strict=True):
            parameter.data.copy_(old + share * (parameter.data - old))
    for record in monitor.last.parameters.values():
        assert record.kept == pytest.approx(share, abs=1e-5)


def test_without_an_update_nothing_is_left_of_one(model: Pair) -> None:
    monitor = Monitor(model, torch.optim.SGD(model.parameters(), lr=0.5))
    run(monitor, model)
    assert all(isinstance(record.kept, Absent) for record in monitor.last.parameters.values())


def test_an_update_is_of_its_own_step(model: Pair) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    monitor = Monitor(model, optimizer)
    run(monitor, model, optimizer)
    run(monitor, model)
    assert all(isinstance(record.kept, Absent) for record in monitor.last.parameters.values())


def test_the_first_64_numbers_tell(model: Pair) -> None:
    table = nn.ModuleDict({"table": nn.Embedding(64, 4)})
    optimizer = torch.optim.SGD(table.parameters(), lr=0.5)
    for row, known in ((15, True), (16, False)):
        monitor = Monitor(table, optimizer)
        with monitor.step(samples=2):
            table["table"](torch.tensor([row, 50])).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        assert (monitor.last.parameters["table.weight"].kept == 1.0) is known


def test_weights_that_were_set_back_are_told_from_updates_that_rounding_took(model: Pair) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    monitor = Monitor(model, optimizer)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for _ in range(6):
        with monitor.step(samples=2):
            model.second(model.first(torch.randn(2, 3))).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            for parameter, old in zip(model.parameters(), before, strict=True):
                parameter.data.copy_(old)
    (finding,) = (finding for finding in monitor.findings() if finding.rule == "MOVE001")
    assert finding.code == "set-back"


def test_of_an_update_elsewhere_in_a_parameter_nothing_is_known() -> None:
    model = nn.ModuleDict({"table": nn.Embedding(64, 4), "turned": nn.Linear(3, 3)})
    model["turned"].weight = nn.Parameter(torch.randn(3, 3).t())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    monitor = Monitor(model, optimizer)
    with monitor.step(samples=2):
        loss = (
            model["table"](torch.tensor([40, 50])).sum() + model["turned"](torch.randn(2, 3)).square().sum()
        )
        loss.backward()
        optimizer.step()
    kept = {name: record.kept for name, record in monitor.last.parameters.items()}
    assert isinstance(kept["table.weight"], Absent)
    assert isinstance(kept["turned.weight"], Absent)  # not a plain block of memory
    assert kept["turned.bias"] == 1.0


def test_weights_bound_anew_are_looked_at_where_they_are(model: Pair) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    monitor = Monitor(model, optimizer)
    run(monitor, model, optimizer)
    for parameter in model.parameters():
        parameter.data = parameter.data + 1.0
    run(monitor, model, optimizer)
    assert {record.kept for record in monitor.last.parameters.values()} == {1.0}


def test_a_parameter_that_the_model_no_longer_holds_is_told(model: Pair) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    monitor = Monitor(model, optimizer)
    model.first.weight = nn.Parameter(model.first.weight.detach().clone())
    for _ in range(6):
        run(monitor, model, optimizer)
    (finding,) = (finding for finding in monitor.findings() if finding.rule == "REACH001")
    assert finding.code == "replaced-parameter"
    assert not monitor.last.parameters["first.bias"].replaced


@pytest.mark.parametrize("first", ["first", "second"])
def test_a_shared_weight_is_said_of_the_module_that_is_called_first(model: Pair, first: str) -> None:
    second = {"first": "second", "second": "first"}[first]
    model.second.weight = model.first.weight
    monitor = Monitor(model)
    for _ in range(6):
        with monitor.step(samples=2):
            model.get_submodule(second)(model.get_submodule(first)(torch.randn(2, 3))).sum().backward()
    (finding,) = (finding for finding in monitor.findings() if finding.rule == "SHARE001")
    assert finding.module == first
    assert finding.code == "shared-tensor"
    assert second in finding.cause


def test_what_contains_the_first_holder_is_no_other_one(model: Pair) -> None:
    outer = nn.Sequential(nn.Sequential(model.first), nn.Sequential(model.second))
    model.second.weight = model.first.weight
    monitor = Monitor(outer, watch=["*"])
    for _ in range(6):
        with monitor.step(samples=2):
            outer[0](outer[1](torch.randn(2, 3))).sum().backward()
    (finding,) = (finding for finding in monitor.findings() if finding.rule == "SHARE001")
    assert (finding.module, finding.code) == ("1.0", "shared-tensor")
    assert finding.cause.split()[-1] == "0.0"


class NoGradient(torch.autograd.Function):
    """Adds a weight, to which it gives no gradient back."""

    @staticmethod
    def forward(ctx: object, x: Tensor, weight: Tensor) -> Tensor:
        return x + weight

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def test_a_function_that_gives_no_gradient_back_brings_none(model: Pair) -> None:
    monitor = Monitor(model)
    with monitor.step(samples=2):
        NoGradient.apply(model.first(torch.randn(2, 3)), model.second.bias).sum().backward()
    assert monitor.reach("second.bias").kind == "none"
    assert monitor.reach("first.bias").kind == "all"


class Placed(nn.Module):
    """A layer, and an embedding of positions that no module but the model holds."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.randn(3))
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x + self.places)


def test_the_models_own_parameters_are_watched_unless_modules_are_named() -> None:
    found = {}
    for watch in (None, ["layer"]):
        model = Placed()
        optimizer = torch.optim.SGD(model.layer.parameters(), 0.1)
        monitor = Monitor(model, optimizer, watch=watch)
        for _ in range(6):
            with monitor.step(samples=4):
                model(torch.randn(4, 3)).square().mean().backward()
                optimizer.step()
                model.zero_grad()
        found[watch is None] = [(each.rule, each.module, each.code) for each in monitor.findings()]
    assert ("MOVE001", "", "in-no-group") in found[True]
    assert not [each for each in found[False] if each[0] == "MOVE001"]


@pytest.mark.parametrize("make", [torch.optim.LBFGS, torch.optim.SGD])
@pytest.mark.parametrize("within", [True, False])
def test_an_optimiser_that_calls_a_closure_applies_its_gradient(
    model: Pair, make: Callable[..., torch.optim.Optimizer], within: bool
) -> None:
    optimizer = make(model.parameters(), lr=0.1)
    monitor = Monitor(model, optimizer)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (model.first(x) + model.second(x) - 1).square().mean()
        loss.backward()
        return loss

    def closure_of_a_script() -> Tensor:
        """A script's step ends and begins with a forward pass."""
        nonlocal step
        step.__exit__(None, None, None)
        step = monitor.step(samples=2)
        step.__enter__()
        return closure()

    x, step = torch.randn(2, 3), monitor.step(samples=2)
    step.__enter__()
    for _ in range(6):
        optimizer.step(closure_of_a_script if within else closure)
    step.__exit__(None, None, None)
    record = monitor.last
    assert {each.place.gradient for each in record.parameters.values() if each.place} == {"nonzero"}
    assert "MOVE002" not in [finding.rule for finding in monitor.findings()]


class Spectral(nn.Module):
    """Multiplies frequencies by complex weights, as a Fourier neural operator does."""

    def __init__(self, cut: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, dtype=torch.cfloat))
        self.cut = cut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        filtered = torch.fft.irfft(torch.fft.rfft(x) * self.weight, n=8)
        return filtered.detach() if self.cut else filtered


@pytest.mark.parametrize(
    ("fault", "expected"), [("", None), ("cut", "GRAD001"), ("left out", "MOVE001"), ("undone", "MOVE005")]
)
def test_complex_weights_are_watched(fault: str, expected: str | None) -> None:
    trained = []
    for watched in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 8), Spectral(fault == "cut"), nn.Linear(8, 2))
        held = model[2].parameters() if fault == "left out" else model.parameters()
        optimizer = torch.optim.Adam(held, 1e-2)
        monitor = Monitor(model, optimizer) if watched else None
        for _ in range(8):
            before = model[1].weight.detach().clone()
            with monitor.step(samples=6) if monitor else contextlib.nullcontext():
                model(torch.randn(6, 8)).square().mean().backward()
                optimizer.step()
                optimizer.zero_grad()
                if fault == "undone":
                    model[1].weight.data.lerp_(before, 0.95)
        trained.append(model)
        if monitor is not None:
            (found,) = {each.rule for each in monitor.findings() if each.module == "1"} or {None}
            assert found == expected
            moved = monitor.last.parameters["1.weight"]
            assert moved.update_norm == pytest.approx(
                float((before - model[1].weight.detach()).abs().square().sum() ** 0.5)
            )
    assert all(map(torch.equal, trained[0].parameters(), trained[1].parameters()))
