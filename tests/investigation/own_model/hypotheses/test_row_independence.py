"""A loss that is no mean or sum over rows fails, though neither the order of the rows nor a single edit shows it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from etrm.investigation.own_model.hypotheses.own_data import OwnData
from etrm.investigation.own_model.hypotheses.row_independence import (
    HALVES,
    check_halves,
    check_pairs,
    check_predicted_keys,
)
from etrm.investigation.own_model.loss_probe import LossProbe
from etrm.investigation.own_model.model_factory import ModelFactory
from etrm.investigation.records import NotMeasured
from tests.investigation.own_model.toy_adapter import Toy, batch, factory, losses, with_model


def failed(made: ModelFactory) -> set[str]:
    return {check.row.code for check in OwnData().inspect(made, 0).failed}


def all_pairs(model: nn.Module, rows: dict[str, Any]) -> Tensor:
    """What broadcasting (rows, 1) and (rows,) makes of a squared error."""
    return (model(rows["demos"], rows["query"])[:, :1] - rows["label"].float()).square().mean()


def counted_again(model: nn.Module, rows: dict[str, Any]) -> Tensor:
    """The sum of the batch, which a mask spreads over every row."""
    return (losses(model, rows).sum() * torch.ones(len(rows["label"]))).sum()


def summed(model: nn.Module, rows: dict[str, Any]) -> Tensor:
    decay = sum(p.square().sum() for p in model.parameters())
    return losses(model, rows).sum() + 0.01 * decay


def weighted(model: nn.Module, rows: dict[str, Any]) -> Tensor:
    weights = 1.0 + rows["label"].float()
    return (losses(model, rows) * weights).sum() / weights.sum()


def noisy(model: nn.Module, rows: dict[str, Any]) -> Tensor:
    return (losses(model, rows) * (1 + 0.2 * torch.rand(len(rows["label"])))).mean()


@pytest.mark.parametrize(
    ("step", "code"), [(all_pairs, "own.row-pairs"), (counted_again, "own.batch-halves")]
)
def test_a_loss_that_is_counted_for_pairs_or_batches_of_rows_is_found(step: Any, code: str) -> None:
    assert failed(factory(step=step, sample_losses=None)) == {code}


@pytest.mark.parametrize("step", [summed, noisy])
def test_sums_decay_and_noise_are_no_fault(step: Any) -> None:
    assert failed(factory(step=step, sample_losses=None)) == set()


def test_a_mean_that_the_labels_weight_lies_between_those_of_its_halves() -> None:
    [found] = check_halves(LossProbe(factory(step=weighted).build(0)), batch(0))
    assert found.row.passed


class Normalised(Toy):
    """Mixes rows in training mode, by design."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh())


def test_batch_norm_is_no_fault() -> None:
    assert failed(with_model(Normalised)) == set()


def test_a_step_with_a_fixed_batch_size_is_left_out() -> None:
    def step(model: nn.Module, rows: dict[str, Any]) -> Tensor:
        return torch.stack([losses(model, rows)[row] for row in range(8)]).mean()

    [found] = check_halves(LossProbe(factory(step=step).build(0)), batch(0))
    assert found.row.code == HALVES.code
    assert isinstance(found.row.treatment, NotMeasured)


def test_a_loss_that_is_not_finite_decides_nothing_here() -> None:
    def step(model: nn.Module, rows: dict[str, Any]) -> Tensor:
        return losses(model, rows).mean() * float("nan")

    probe = LossProbe(factory(step=step).build(0))
    found = [*check_halves(probe, batch(0)), *check_pairs(probe, batch(0))]
    assert [check.row.passed for check in found] == [None, None]


def test_rounding_of_a_loss_of_half_precision_is_no_fault() -> None:
    def step(model: nn.Module, rows: dict[str, Any]) -> Tensor:
        return losses(model, rows).mean().bfloat16()

    [found] = check_pairs(LossProbe(factory(step=step).build(0)), batch(0))
    assert found.row.passed


def read_pairs(index: int) -> dict[str, Any]:
    """Demonstrations in two keys; the signs have the same order in every row, as labels that are sorted by class."""
    rows = batch(index)
    return {**rows, "signs": torch.tensor([1.0, -1.0, 2.0, -2.0]).expand(8, 4)}


def pair_loss(model: nn.Module, rows: dict[str, Any]) -> Tensor:
    return losses(model, {**rows, "demos": rows["demos"] * rows["signs"]}).mean()


def with_pairs(step: Any, kind: type[Toy] = Toy) -> ModelFactory:
    given: dict[str, Any] = {"batch": read_pairs, "held_out": None, "ids": "", "sample": None}
    return with_model(kind, **given, step=step, sample_losses=None, demonstrations=("demos", "signs"))


def test_a_key_of_the_demonstrations_that_is_not_read_is_found_where_its_order_is_fixed() -> None:
    healthy = with_pairs(pair_loss)
    assert failed(healthy) == set()
    assert failed(with_pairs(lambda model, rows: losses(model, rows).mean())) == {"own.demonstration-key"}
    [control] = [
        one for one in OwnData().list_faults(healthy.build(0)) if one.name == "unread-demonstrations"
    ]
    assert "own.demonstration-key" in failed(control.apply(healthy))


class Lost(Toy):
    def pass_on(self, context: Tensor) -> Tensor:
        return 0 * context


def test_demonstrations_of_which_none_is_read_are_left_to_the_context_interface() -> None:
    assert failed(with_pairs(pair_loss, Lost)) == set()


def test_an_input_that_predict_reads_and_the_step_does_not_is_found() -> None:
    """The step answers another question than the one that is evaluated."""

    def without_query(model: nn.Module, rows: dict[str, Any]) -> Tensor:
        return losses(model, {**rows, "query": rows["demos"][:, :3]})

    wrong = factory(step=lambda model, rows: without_query(model, rows).mean(), sample_losses=without_query)
    [check] = [
        check for check in OwnData().inspect(wrong, 0).failed if check.row.code == "own.unread-by-step"
    ]
    assert (check.row.treatment, check.row.note) == (1, "query")
    assert "own.unread-by-step" not in failed(factory())


def test_predictions_may_differentiate() -> None:
    """As those of a meta-learner, whose weights are adapted first."""

    def adapted(model: nn.Module, rows: dict[str, Any]) -> Tensor:
        [slope] = torch.autograd.grad(losses(model, rows).mean(), [model.decoder.weight])
        return model(rows["demos"], rows["query"]) + slope.mean()

    [check] = check_predicted_keys(LossProbe(factory(predict=adapted).build(0)), batch(0))
    assert check.row.passed


def test_two_draws_that_agree_by_chance_do_not_make_a_random_loss_a_fixed_one() -> None:
    """Dropout of which the second draw is that of the first: only a third tells them apart."""
    drawn: list[int] = []

    def step(model: nn.Module, rows: dict[str, Any]) -> Tensor:
        drawn.append(1)
        return losses(model, rows).mean() * (1.0 if len(drawn) < 3 else 1.1)

    assert LossProbe(factory(step=step).build(0)).is_random(batch(0))


def test_rows_that_are_related_on_purpose_are_not_tested() -> None:
    probe = LossProbe(factory(independent_rows=False).build(0))
    assert not list(check_halves(probe, batch(0)))
    assert not list(check_pairs(probe, batch(0)))


def test_a_mask_among_the_inputs_is_not_exchanged() -> None:
    """It may weigh the rows of a mean, and the labels of another row then count for more."""

    def masked(index: int) -> dict[str, Any]:
        mask = torch.tensor([1, 0, 1, 1, 0, 1, 0, 1])
        return {**batch(index), "mask": mask}

    def step(model: nn.Module, rows: dict[str, Any]) -> Tensor:
        return (losses(model, rows) * rows["mask"]).sum() / rows["mask"].sum()

    made = factory(batch=masked, step=step, demonstrations=())
    [found] = check_pairs(LossProbe(made.build(0)), masked(0))
    assert found.row.passed
