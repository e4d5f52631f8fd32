from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from etrm.config import Config, ModelConfig, TrainConfig
from etrm.model.recursive import RecursiveModel
from etrm.training.optim import AdamATan2, SignSGD, build_optimizers, schedule, set_rates
from tests.launches import Launches

LR, B1, B2, DECAY = 0.01, 0.8, 0.95, 0.3


def parameter(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=torch.float64))


def run(p: nn.Parameter, gradients: list[list[float]], lr: float = LR) -> list[list[float]]:
    """The values of ``p`` after each step."""
    optimizer = AdamATan2([p], lr=lr, betas=(B1, B2), weight_decay=DECAY)
    seen = []
    for gradient in gradients:
        p.grad = torch.tensor(gradient, dtype=p.dtype)
        optimizer.step()
        seen.append(p.tolist())
    return seen


def by_hand(value: float, gradients: list[float], lr: float = LR) -> list[float]:
    """The formula, one number at a time."""
    m = v = 0.0
    seen = []
    for t, g in enumerate(gradients, start=1):
        m = B1 * m + (1 - B1) * g
        v = B2 * v + (1 - B2) * g * g
        value -= lr * DECAY * value
        value -= lr / (1 - B1**t) * math.atan2(m, math.sqrt(v) / math.sqrt(1 - B2**t))
        seen.append(value)
    return seen


numbers = st.floats(-100, 100).filter(lambda x: x == 0 or abs(x) > 1e-6)


@given(st.floats(-5, 5), st.lists(numbers, min_size=1, max_size=12))
def test_adam_atan2_is_the_formula(value: float, gradients: list[float]) -> None:
    found = run(parameter(value), [[g] for g in gradients])
    assert [row[0] for row in found] == pytest.approx(by_hand(value, gradients), rel=1e-9, abs=1e-12)


def test_every_element_and_every_parameter_has_its_own_step() -> None:
    gradients = [[1.0, -2.0], [0.5, 0.0], [-3.0, 1e-4]]
    both = run(parameter(1.0, -1.0), gradients)
    for place, start in enumerate((1.0, -1.0)):
        expected = by_hand(start, [g[place] for g in gradients])
        assert [row[place] for row in both] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_scaling_all_gradients_changes_no_step_of_adam_atan2(scale: float) -> None:
    gradients = [[1.0], [-2.0], [0.3]]
    scaled = [[scale * g[0]] for g in gradients]
    assert run(parameter(1.0), scaled)[-1] == pytest.approx(run(parameter(1.0), gradients)[-1], rel=1e-9)


def test_a_first_step_is_a_quarter_turn_of_the_rate() -> None:
    assert run(parameter(0.0), [[7.0]]) == [[pytest.approx(-LR / (1 - B1) * math.atan((1 - B1) / 1))]]


def test_a_zero_gradient_only_decays() -> None:
    assert run(parameter(2.0), [[0.0]]) == [[pytest.approx(2 * (1 - LR * DECAY))]]


def test_a_parameter_without_gradient_is_left_alone_decay_included() -> None:
    idle, busy = parameter(2.0), parameter(2.0)
    optimizer = AdamATan2([idle, busy], lr=LR, weight_decay=DECAY)
    busy.grad = torch.ones_like(busy)
    optimizer.step()
    assert idle.tolist() == [2.0]
    assert idle not in optimizer.state
    assert busy.tolist() != [2.0]


def test_a_parameter_counts_its_own_steps() -> None:
    """One that joins late has the bias correction of a first step."""
    late, other = parameter(0.0), parameter(0.0)
    optimizer = AdamATan2([late, other], lr=LR, betas=(B1, B2), weight_decay=0.0)
    for step in range(4):
        other.grad = torch.ones_like(other)
        late.grad = torch.ones_like(late) if step == 3 else None
        optimizer.step()
    alone = parameter(0.0)
    solo = AdamATan2([alone], lr=LR, betas=(B1, B2), weight_decay=0.0)
    alone.grad = torch.ones_like(alone)
    solo.step()
    assert torch.equal(late, alone)


@pytest.mark.parametrize("make", [AdamATan2, SignSGD])
def test_a_closure_is_run_with_gradients_and_its_loss_returned(
    make: Callable[..., torch.optim.Optimizer],
) -> None:
    table = nn.Parameter(torch.ones(2, 1))
    optimizer = make([table], lr=0.1, weight_decay=0.0)

    def closure() -> float:
        loss = nn.functional.embedding(torch.tensor([0]), table, sparse=make is SignSGD).sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 1.0
    assert table[0].item() < 1


def test_the_operations_of_an_update_do_not_depend_on_the_number_of_weights() -> None:
    counts = []
    for number in (2, 20):
        weights = [nn.Parameter(torch.ones(3, size, device="meta")) for size in range(1, number + 1)]
        optimizer = AdamATan2(weights)
        for weight in weights:
            weight.grad = torch.ones_like(weight)
        optimizer.step()  # makes the state
        with Launches() as launches:
            optimizer.step()
        counts.append(launches.found)
    assert counts[0] == counts[1]
    assert len(counts[0]) < 15


# -- sign-SGD -----------------------------------------------------------------------------------------


def table_after(ids: list[int], weight: list[float], lr: float = 0.1, decay: float = 0.5) -> Tensor:
    """A table of ones after one step with gradient ``weight`` at ``ids``."""
    table = nn.Parameter(torch.ones(4, 1))
    rows = nn.functional.embedding(torch.tensor(ids), table, sparse=True)
    (rows[:, 0] * torch.tensor(weight)).sum().backward()
    SignSGD([table], lr=lr, weight_decay=decay).step()
    return table.detach()[:, 0]


def test_sign_sgd_moves_the_rows_of_the_batch_alone() -> None:
    expected = [1.0, 0.95 - 0.1, 1.0, 0.95 + 0.1]
    torch.testing.assert_close(table_after([1, 3], [20.0, -0.01]), torch.tensor(expected))


def test_gradients_of_a_repeated_id_are_summed_before_the_sign() -> None:
    """+3 - 1 - 1 is positive: one step down, where three signs would make one step up."""
    found = table_after([2, 2, 2], [3.0, -1.0, -1.0])
    torch.testing.assert_close(found, torch.tensor([1.0, 1.0, 0.95 - 0.1, 1.0]))


def test_a_row_whose_gradients_cancel_only_decays() -> None:
    torch.testing.assert_close(table_after([0, 0], [1.0, -1.0]), torch.tensor([0.95, 1.0, 1.0, 1.0]))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.integers(0, 2**31))
def test_a_step_is_bit_for_bit_that_of_the_coalesced_gradient(ids: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    table = nn.Parameter(torch.randn(5, 3, generator=generator))
    rows = nn.functional.embedding(torch.tensor(ids), table, sparse=True)
    (rows * torch.randn(rows.shape, generator=generator)).sum().backward()
    expected = table.detach().clone()
    summed = table.grad.coalesce()
    for row, gradient in zip(summed.indices()[0], summed.values(), strict=True):
        expected[row] = expected[row] * 0.95 - 0.1 * gradient.sign()
    SignSGD([table], lr=0.1, weight_decay=0.5).step()
    assert torch.equal(table, expected)


def test_sign_sgd_without_gradient_does_nothing() -> None:
    table = nn.Parameter(torch.ones(2, 1))
    SignSGD([table], lr=0.1, weight_decay=0.5).step()
    assert table.tolist() == [[1.0], [1.0]]


# -- groups and rates ---------------------------------------------------------------------------------


def model(variant: str) -> RecursiveModel:
    config = ModelConfig(variant=variant, hidden_size=8, num_heads=2, layers=1, context_tokens=2)
    return RecursiveModel(config, puzzles=3, side=3)


@pytest.mark.parametrize("kind", ["adamw", "adam_atan2"])
def test_core_and_encoder_have_a_group_each_and_nothing_is_left_out(kind: str) -> None:
    whole = model("etrm")
    train = TrainConfig(optimizer=kind, lr=0.1, encoder_lr_scale=0.5, beta1=0.7, beta2=0.8, weight_decay=0.2)
    (optimizer,) = build_optimizers(whole, train)
    assert isinstance(optimizer, torch.optim.AdamW if kind == "adamw" else AdamATan2)
    found = {g["name"]: (g["lr"], g["weight_decay"], g["betas"]) for g in optimizer.param_groups}
    assert found == {"decoder": (0.1, 0.2, (0.7, 0.8)), "encoder": (0.05, 0.2, (0.7, 0.8))}
    ours = [p for g in optimizer.param_groups for p in g["params"]]
    assert {id(p) for p in ours} == {id(p) for p in whole.parameters()}
    assert len(ours) == len({id(p) for p in ours})


def test_the_puzzle_table_has_its_own_optimizer_rate_and_decay() -> None:
    whole = model("trm")
    train = TrainConfig(lr=0.1, puzzle_lr=0.01, puzzle_weight_decay=0.3)
    dense, sparse = build_optimizers(whole, train)
    assert [g["name"] for g in dense.param_groups] == ["decoder"]
    assert isinstance(sparse, SignSGD)
    (group,) = sparse.param_groups
    assert group["params"] == [whole.puzzle_table.weights]
    assert (group["lr"], group["weight_decay"]) == (0.01, 0.3)


def test_rates_are_scaled_from_the_peak_and_not_from_the_last_rate() -> None:
    optimizers = build_optimizers(model("trm"), TrainConfig(lr=0.1, puzzle_lr=0.01))
    for factor in (0.5, 0.25):
        set_rates(optimizers, factor)
        rates = [g["lr"] for o in optimizers for g in o.param_groups]
        assert rates == pytest.approx([0.1 * factor, 0.01 * factor])


def test_a_constant_rate_by_default() -> None:
    train = Config().train
    assert {schedule(step, train) for step in range(train.steps)} == {1.0}


def test_warm_up_is_linear_and_reaches_the_peak_at_its_last_step() -> None:
    train = TrainConfig(steps=10, warmup_steps=4)
    assert [schedule(step, train) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_the_cosine_falls_from_one_towards_its_floor() -> None:
    train = TrainConfig(steps=8, warmup_steps=0, lr_min_ratio=0.2)
    found = [schedule(step, train) for step in range(9)]
    expected = [0.2 + 0.8 * (1 + math.cos(math.pi * step / 8)) / 2 for step in range(9)]
    assert found == pytest.approx(expected)
    assert (found[0], found[4], found[8]) == (1.0, pytest.approx(0.6), pytest.approx(0.2))


@given(st.integers(1, 50), st.data())
def test_the_factor_stays_between_floor_and_one(steps: int, data: st.DataObject) -> None:
    warmup = data.draw(st.integers(0, steps))
    floor = data.draw(st.floats(0, 1))
    train = TrainConfig(steps=steps, warmup_steps=warmup, lr_min_ratio=floor)
    found = [schedule(step, train) for step in range(steps)]
    assert max(found) <= 1 + 1e-12
    assert all(factor >= floor - 1e-12 for factor in found[warmup:])
    assert all(
        later <= earlier + 1e-12 for earlier, later in zip(found[warmup:], found[warmup + 1 :], strict=False)
    )
