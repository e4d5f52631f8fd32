"""Each assertion passes on a healthy model, fails on a planted fault, and says where; nothing is left behind."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from diagnostics import (
    CheckFailed,
    assert_all_params_receive_grad,
    assert_frozen,
    assert_gradient_coverage,
    assert_initial_loss,
    assert_loss_decreases,
    assert_output_diversity,
    assert_overfits_batch,
    assert_responds,
    assert_sample_independence,
    assert_trains,
)
from diagnostics.rules.families.weights.movement import NO_PASS, ZERO_RATE
from diagnostics.testing.fit_assertions import LOSS_NOT_FINITE
from diagnostics.testing.loss_assertion import ALL_MOVE, RISES
from tests.diagnostics.refusals import refused

BATCH = 6


class Net(nn.Module):
    """Encoder, pooler, head. `gate` scales the encoder; `keep` is what of its output has gradient."""

    def __init__(self, gate: float = 1.0, keep: int = BATCH, use_pooler: bool = True) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 8), nn.Tanh())
        self.pooler = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)
        self.gate = nn.Parameter(torch.tensor(gate))
        self.keep = keep
        self.use_pooler = use_pooler

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.encoder(x) * self.gate
        live = torch.arange(len(x))[:, None] < self.keep
        hidden = torch.where(live, hidden, hidden.detach())
        return self.head(self.pooler(hidden) if self.use_pooler else hidden)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def loss_of(model: nn.Module) -> Callable[[], Tensor]:
    x, y = torch.randn(BATCH, 4), torch.arange(BATCH) % 3
    return lambda: nn.functional.cross_entropy(model(x), y)


def step_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[], Tensor]:
    loss = loss_of(model)

    def step() -> Tensor:
        value = loss()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        return value

    return step


def sgd(model: nn.Module, lr: float = 0.1, **options: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr, **options)


def codes(caught: pytest.ExceptionInfo[CheckFailed]) -> list[tuple[str, str, str]]:
    """Rule, module and code of every finding."""
    return [(finding.rule, finding.module, finding.code) for finding in caught.value.findings]


def named(caught: pytest.ExceptionInfo[CheckFailed]) -> set[str]:
    """The tensors that the findings are about: the first word of each message."""
    return {finding.message.split()[0] for finding in caught.value.findings}


# gradients


def test_coverage_of_a_healthy_model_passes_and_leaves_nothing_behind() -> None:
    model = Net()
    model.head.weight.grad = kept = torch.ones(3, 8)
    before = [parameter.clone() for parameter in model.parameters()]
    random = torch.get_rng_state()
    loss = loss_of(model)
    torch.set_rng_state(random)
    record = assert_gradient_coverage(model, loss, BATCH)
    assert record.modules["encoder"].coverage == 1.0
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))
    assert model.head.weight.grad is kept
    assert torch.equal(kept, torch.ones(3, 8))
    assert model.encoder[0].weight.grad is None
    assert not any(module._forward_hooks for module in model.modules())


def test_low_coverage_fails_with_the_table_and_the_finding() -> None:
    model = Net(keep=1)
    with pytest.raises(AssertionError) as caught:
        assert_gradient_coverage(model, loss_of(model), BATCH)
    assert codes(caught) == [("COV001", "encoder", "samples-cut")]
    (finding,) = caught.value.findings
    assert finding.evidence.value == pytest.approx(1 / 6)
    assert finding.evidence.threshold == 1.0
    message = str(caught.value)
    # a golden text: what somebody reads in a failing test
    assert " ".join(message.split()).startswith(
        "COV001 encoder: a share of 0.167 of the 6 samples sends gradient through it, needed 1 likely cause: "
    )
    assert max(map(len, message.splitlines())) <= 76
    assert "the same at 3 further seeds" in " ".join(message.split())
    assert message.index("what to do") < message.index("module   gradient")
    assert "pooler   arrived   1 of 1  1 " in message
    assert_gradient_coverage(model, loss_of(model), BATCH, at_least=0.1)
    assert_gradient_coverage(model, loss_of(model), BATCH, ignore=["enc*"])


def test_a_cut_is_one_finding_and_what_it_cuts_off_is_listed() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3))
    with pytest.raises(CheckFailed) as caught:
        assert_gradient_coverage(
            model, lambda: model[2](model[1](model[0](torch.ones(6, 4))).detach()).sum(), BATCH
        )
    assert codes(caught) == [("COV001", "1", "detached"), ("COV001", "0", "detached")]  # the cut is behind 1
    assert str(caught.value).count("what to do") == 1
    assert "  the same: 0\n" in str(caught.value)


def test_unknown_coverage_is_no_pass() -> None:
    model = Net()
    with pytest.raises(CheckFailed) as caught:
        assert_gradient_coverage(model, loss_of(model), BATCH + 1)
    assert ("COV003", "encoder", "other-leading-size") in codes(caught)


def test_a_gate_that_starts_at_zero_is_told_from_a_dead_one() -> None:
    model = Net(gate=0.0)
    assert_gradient_coverage(model, loss_of(model), BATCH)
    late = assert_all_params_receive_grad(model, loss_of(model), ignore=["pooler.weight"])
    assert late == ["encoder.0.bias", "encoder.0.weight"]
    assert float(model.gate.detach()) == 0.0
    with pytest.raises(CheckFailed) as caught:
        assert_gradient_coverage(model, loss_of(model), BATCH, allow_zero_at_init=False)
    assert codes(caught) == [("COV001", "encoder", "zero-at-start")]
    with pytest.raises(CheckFailed) as caught:
        assert_all_params_receive_grad(model, loss_of(model), allow_zero_at_init=False)
    assert named(caught) >= {"encoder.0.weight", "encoder.0.bias"}
    assert ("REACH002", "encoder", "zero-at-start") in codes(caught)
    model.gate.requires_grad_(False)  # a frozen gate stays shut
    with pytest.raises(CheckFailed) as caught:
        assert_gradient_coverage(model, loss_of(model), BATCH)
    assert codes(caught) == [("COV001", "encoder", "zero-factor")]
    with pytest.raises(CheckFailed) as caught:
        assert_all_params_receive_grad(model, loss_of(model))
    assert named(caught) == {"encoder.0.weight", "encoder.0.bias", "pooler.weight"}
    assert {(rule, code) for rule, _, code in codes(caught)} == {("REACH002", "dead-unit")}


def test_a_dead_unit_stays_dead_at_other_seeds() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    with torch.no_grad():
        model[0].bias.fill_(-100.0)
    with pytest.raises(CheckFailed) as caught:
        assert_all_params_receive_grad(model, loss_of(model), ignore=["2.weight"])
    assert set(codes(caught)) == {("REACH002", "0", "dead-unit")}
    assert named(caught) == {"0.weight", "0.bias"}


def test_an_unused_module_is_named_parameter_by_parameter() -> None:
    model = Net(use_pooler=False)
    with pytest.raises(CheckFailed) as caught:
        assert_all_params_receive_grad(model, loss_of(model))
    assert codes(caught) == [("REACH001", "pooler", "not-in-loss")] * 2
    assert named(caught) == {"pooler.weight", "pooler.bias"}
    assert "! pooler.bias" in caught.value.table
    assert "encoder      " in caught.value.table
    assert_all_params_receive_grad(model, loss_of(model), ignore=["pooler.*"])
    assert_all_params_receive_grad(model, loss_of(model), ignore=["pooler"])


def test_gradients_that_are_not_finite_fail() -> None:
    model = nn.Linear(4, 3)
    with pytest.raises(CheckFailed) as caught:
        assert_all_params_receive_grad(model, lambda: (model(torch.ones(2, 4)) * float("inf")).sum())
    assert set(codes(caught)) == {("REACH003", "", "overflow")}
    assert named(caught) == {"weight", "bias"}


def test_a_sparse_gradient_is_a_gradient() -> None:
    table = nn.Embedding(5, 2, sparse=True)
    assert_all_params_receive_grad(table, lambda: table(torch.tensor([1, 1, 3])).sum())
    with pytest.raises(CheckFailed) as caught:
        assert_all_params_receive_grad(table, lambda: 0 * table(torch.tensor([1])).sum())
    assert codes(caught) == [("REACH002", "", "dead-unit")]
    with pytest.raises(CheckFailed) as caught:
        assert_all_params_receive_grad(table, lambda: float("inf") * table(torch.tensor([1])).sum())
    assert codes(caught) == [("REACH003", "", "overflow")]


def test_nothing_to_judge_is_no_pass() -> None:
    model = Net()
    with refused(ValueError, "assertions.no-module"):
        assert_gradient_coverage(model, loss_of(model), BATCH, ignore=["*"])
    with refused(ValueError, "selection.no-match", argument="ignore", got="poler"):
        assert_all_params_receive_grad(model, loss_of(model), ignore=["poler"])
    with refused(ValueError, "assertions.no-parameter"):
        assert_trains(model, lambda: None, ignore=["*"])


# training


def test_training_moves_everything_or_says_what_stands() -> None:
    model = Net()
    assert_trains(model, step_of(model, sgd(model)))
    half = torch.optim.SGD([*model.encoder.parameters(), model.gate], lr=0.1)
    with pytest.raises(CheckFailed) as caught:
        assert_trains(model, step_of(model, half))
    assert {(rule, code) for rule, _, code in codes(caught)} == {("MOVE001", "in-no-group")}
    assert named(caught) == {"pooler.weight", "pooler.bias", "head.weight", "head.bias"}
    assert {finding.evidence.last_step for finding in caught.value.findings} == {2}
    assert_trains(model, step_of(model, half), ignore=["pooler.*", "head"])


@pytest.mark.parametrize(
    ("code", "act"),
    [
        ("no-update", lambda optimizer: None),
        ("zero-rate", lambda optimizer: optimizer.param_groups[0].update(lr=0.0) or optimizer.step()),
        ("cleared-gradient", lambda optimizer: optimizer.zero_grad() or optimizer.step()),
        (
            "rounded-or-set-back",
            lambda optimizer: optimizer.param_groups[0].update(lr=1e-30) or optimizer.step(),
        ),
    ],
)
def test_the_remedy_of_standing_weights_fits_their_cause(
    code: str, act: Callable[[torch.optim.Optimizer], object]
) -> None:
    model = Net()
    optimizer, loss = sgd(model), loss_of(model)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        act(optimizer)

    with pytest.raises(CheckFailed) as caught:
        assert_trains(model, step, ignore=["gate"])
    assert {found for _, _, found in codes(caught)} == {code}
    assert len({finding.remedy for finding in caught.value.findings}) == 1


def test_frozen_is_bit_by_bit_and_names_the_cause() -> None:
    model = Net()
    model.pooler.requires_grad_(False)
    assert_frozen(model, step_of(model, sgd(model)), ["pooler"])
    model = Net()
    decaying = sgd(model, weight_decay=0.1)
    loss = loss_of(model)

    def zeroed() -> None:
        decaying.zero_grad()
        loss().backward()
        for parameter in model.pooler.parameters():
            assert parameter.grad is not None
            parameter.grad.zero_()
        decaying.step()

    with pytest.raises(CheckFailed) as caught:
        assert_frozen(model, zeroed, ["pooler"], optimizers=[decaying])
    assert set(codes(caught)) == {("FROZEN001", "pooler", "weight-decay")}
    assert named(caught) == {"pooler.weight", "pooler.bias"}
    assert "! pooler.weight" in caught.value.table
    with refused(ValueError, "selection.no-match", argument="modules", got="poler"):
        assert_frozen(model, zeroed, ["poler"])


def test_what_moved_a_frozen_module_is_known_without_its_optimisers() -> None:
    model = Net()
    with pytest.raises(CheckFailed) as caught:
        assert_frozen(model, step_of(model, sgd(model)), ["pooler"])
    assert set(codes(caught)) == {("FROZEN001", "pooler", "trained")}
    optimizer, loss = sgd(model), loss_of(model)

    def stale() -> None:  # the last gradient of the frozen layer is applied once more, and is gone afterwards
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()

    loss().backward()
    model.pooler.requires_grad_(False)
    with pytest.raises(CheckFailed) as caught:
        assert_frozen(model, stale, ["pooler"])
    assert set(codes(caught)) == {("FROZEN001", "pooler", "stale-gradient-frozen")}


def test_batch_statistics_of_a_frozen_module_count_as_movement() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    model[1].requires_grad_(False)
    with pytest.raises(CheckFailed) as caught:
        assert_frozen(model, step_of(model, sgd(model)), ["1"])
    assert set(codes(caught)) == {("FROZEN001", "1", "running-statistics")}
    assert named(caught) == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert_frozen(model, step_of(model, sgd(model)), ["1"], ignore=["1.running_*", "1.num_batches_tracked"])


def test_frozen_proves_nothing_where_nothing_trains() -> None:
    model = Net()
    with pytest.raises(CheckFailed) as caught:
        assert_frozen(model, lambda: None, ["pooler"])
    assert codes(caught) == [("MOVE001", "", "no-update")]


def test_the_loss_must_fall() -> None:
    model = Net()
    losses = assert_loss_decreases(model, step_of(model, sgd(model, lr=0.5)))
    assert len(losses) == 50
    model = Net()
    with pytest.raises(CheckFailed) as caught:
        assert_loss_decreases(model, step_of(model, sgd(model, lr=0.0)))
    assert codes(caught) == [("LOSS001", "", "some-still")]
    (finding,) = caught.value.findings
    assert finding.evidence.value < finding.evidence.threshold == 0.1
    assert re.findall(r"\d+", finding.cause)[:2] == ["7", "7"]
    assert finding.remedy == ZERO_RATE.remedy
    assert "encoder" in caught.value.table
    with refused(ValueError, "assertions.too-few-steps", least=5, got=4):
        assert_loss_decreases(model, lambda: 0.0, steps=4)


def test_a_loss_that_does_not_fall_has_the_remedy_of_its_cause() -> None:
    model = Net()
    loss = loss_of(model)
    ascent = torch.optim.SGD(model.parameters(), 0.5, maximize=True)
    steps: list[tuple[Callable[[], Tensor | float], str, str]] = [
        (step_of(model, sgd(model, lr=1e-3)), "all-move", ALL_MOVE.remedy),
        (loss, "some-still", NO_PASS.remedy),
        (lambda: float("nan"), "loss-not-finite", LOSS_NOT_FINITE.remedy),
        (step_of(model, ascent), "rises", RISES.remedy),
    ]
    for step, code, remedy in steps:
        with pytest.raises(CheckFailed) as caught:
            assert_loss_decreases(model, step, steps=10)
        assert codes(caught) == [("LOSS001", "", code)]
        assert caught.value.findings[0].remedy == remedy


@pytest.mark.parametrize("rate", [0.1, 1e4])
def test_weights_that_stand_still_do_not_raise_a_loss(rate: float) -> None:
    """The loss grows, at the high rate until it is not finite, and a layer is not used."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"used": nn.Linear(4, 2), "unused": nn.Linear(4, 2)})
    optimizer = torch.optim.SGD(model.parameters(), rate, maximize=rate < 1)
    x = torch.randn(8, 4)

    def step() -> float:
        loss = model["used"](x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    with pytest.raises(AssertionError) as caught:
        assert_loss_decreases(model, step)
    assert codes(caught) == [("LOSS001", "", "rises")]


# outputs


class Mixing(nn.Module):
    """The second layer normalises over the batch."""

    def __init__(self, mixing: bool = True) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5))
        self.second = nn.BatchNorm1d(8) if mixing else nn.LayerNorm(8)
        self.third = nn.Linear(8, 3)

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        return self.third(self.second(self.first(x))) * scale


def test_samples_that_influence_each_other_are_traced_to_the_module() -> None:
    inputs = (torch.randn(BATCH, 4), torch.ones(BATCH, 1))
    assert_sample_independence(Mixing(False), inputs)
    model = Mixing()
    statistics = model.second.running_mean.clone()
    with pytest.raises(CheckFailed) as caught:
        assert_sample_independence(model, inputs)
    assert codes(caught) == [("LEAK001", "second", "mixes-samples")]
    assert [line.split()[-1] for line in caught.value.table.splitlines()[2:]] == ["no", "yes", "yes", "yes"]
    assert torch.equal(model.second.running_mean, statistics)
    assert_sample_independence(model.eval(), inputs)


def test_independence_needs_samples_that_differ_and_an_output_that_leads_with_them() -> None:
    model = nn.Linear(4, 3)
    with refused(ValueError, "assertions.too-few-samples", got=1):
        assert_sample_independence(model, torch.ones(1, 4))
    with refused(ValueError, "assertions.equal-samples"):
        assert_sample_independence(model, torch.ones(3, 4))
    with refused(ValueError, "assertions.output-without-samples", samples=3):
        assert_sample_independence(model, torch.randn(3, 4), forward=lambda x: model(x).sum())
    with refused(ValueError, "assertions.inputs-without-samples", got=[2, 3]):
        assert_sample_independence(model, [torch.ones(2, 4), torch.ones(3, 4)])


def test_equal_outputs_are_traced_to_the_first_module() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3))
    x = torch.randn(BATCH, 4)
    assert_output_diversity(model, x)
    with torch.no_grad():
        model[1].weight.mul_(1e-5)
    with pytest.raises(CheckFailed) as caught:
        assert_output_diversity(model, x)
    assert codes(caught) == [("COLLAPSE001", "1", "first-equal")]
    assert_output_diversity(model, x, at_least=0.0)


def test_a_head_that_starts_at_zero_is_no_collapse() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))
    nn.init.zeros_(model[1].weight)
    x = torch.randn(BATCH, 4)
    assert_output_diversity(model, x)
    with pytest.raises(CheckFailed) as caught:
        assert_output_diversity(model, x, allow_zero_at_init=False)
    assert codes(caught) == [("COLLAPSE001", "1", "equal-at-start")]


@pytest.mark.parametrize(
    ("assertion", "argument"),
    [
        (lambda model, loss: assert_gradient_coverage(model, loss, BATCH), "loss"),
        (assert_all_params_receive_grad, "loss"),
        (lambda model, loss: assert_initial_loss(model, loss, expected=1.0), "loss"),
        (assert_responds, "loss"),
        (assert_trains, "train_step"),
        (lambda model, step: assert_frozen(model, step, ["encoder"]), "train_step"),
        (assert_loss_decreases, "train_step"),
        (assert_overfits_batch, "train_step"),
    ],
)
def test_a_loss_that_is_computed_already_is_refused(
    assertion: Callable[[nn.Module, Tensor], object], argument: str
) -> None:
    model = Net()
    with refused(TypeError, "selection.not-a-function", argument=argument, got="Tensor"):
        assertion(model, loss_of(model)())
