"""H5 of an own model: each fault of the data fails its own row; a healthy loader fails none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from etrm.investigation.own_model.hypotheses.inspected_hypothesis import OwnModelReason
from etrm.investigation.own_model.hypotheses.own_data import OwnData, _check_shown
from etrm.investigation.own_model.hypotheses.row_independence import check_order
from etrm.investigation.own_model.injected_faults import SHIFTED_LABELS, move_rows
from etrm.investigation.own_model.loss_probe import LossProbe
from etrm.investigation.own_model.model_factory import ModelFactory
from etrm.investigation.records import NotMeasured
from tests.investigation.own_model.toy_adapter import (
    LABELS,
    ROWS,
    Toy,
    ZeroHead,
    batch,
    factory,
    losses,
    make_toy,
    read_samples,
    with_model,
)

H5 = OwnData()


def failed(made: ModelFactory) -> set[str]:
    return {check.row.code for check in H5.inspect(made, 0).failed}


def test_a_healthy_loader_passes_every_row() -> None:
    found = H5.inspect(factory(), 0)
    assert found.failed == []
    assert not any(isinstance(check.row.treatment, NotMeasured) for check in found.checks)


def test_a_last_layer_that_starts_at_zero_is_healthy() -> None:
    assert failed(with_model(ZeroHead)) == set()


def test_labels_that_hardly_change_a_loss_by_chance_are_healthy() -> None:
    """The answers of a last layer close to zero are almost equally likely, whatever the label is."""

    class Close(Toy):
        def forward(self, demos: Tensor, queries: Tensor) -> Tensor:
            return super().forward(demos, queries) * 5e-4

    assert failed(with_model(Close)) == set()


def rolled(rows: dict[str, Any]) -> dict[str, Any]:
    return {**rows, "label": rows["label"].roll(1)}


@pytest.mark.parametrize("kind", [Toy, ZeroHead])
def test_rolled_labels_are_found_whatever_the_model_starts_with(kind: type[Toy]) -> None:
    shifted = with_model(
        kind,
        step=lambda model, rows: losses(model, rolled(rows)).mean(),
        sample_losses=lambda model, rows: losses(model, rolled(rows)),
    )
    assert "own.label-rows" in failed(shifted)


class ReadsBatch(Toy):
    def pass_on(self, context: Tensor) -> Tensor:
        return context + context.mean(0)


class Remembers(Toy):
    """Its logits depend on the labels of the batch before."""

    def __init__(self) -> None:
        super().__init__()
        self.earlier = torch.zeros(())


def step_of_remembering(model: Any, rows: dict[str, Any]) -> Tensor:
    loss = losses(model, rows).mean() + model.earlier
    model.earlier = rows["label"][0].float()
    return loss


@pytest.mark.parametrize(
    ("made", "code"),
    [
        (factory(step=lambda model, rows: losses(model, rolled(rows)).mean()), "own.row-order"),
        (factory(step=lambda model, rows: losses(model, rows)[-1]), "own.unread-rows"),
        (factory(batch=lambda index: rolled(batch(index))), "own.sample-origin"),
        (
            factory(batch=lambda index: {**rolled(batch(index)), "id": batch(index)["id"] % 32}, sample=None),
            "own.id-content",
        ),
        (factory(held_out=batch), "own.held-out-rows"),
        (
            factory(batch=lambda index: {**batch(index), "label": torch.zeros(8).long()}),
            "own.distinct-labels",
        ),
        (
            factory(step=lambda model, rows: losses(model, rows).mean() + rows["id"][0].float()),
            "own.loss-by-id",
        ),
        (with_model(ReadsBatch), "own.other-rows"),
        (with_model(Remembers, step=step_of_remembering), "own.old-labels"),
        (
            factory(sample_losses=lambda model, rows: losses(model, rolled(rows))),
            "own.label-rows",
        ),
    ],
)
def test_each_fault_fails_its_row(made: ModelFactory, code: str) -> None:
    assert code in failed(made)


def test_rows_that_are_mixed_are_explained_by_the_context_interface_and_labels_are_not() -> None:
    assert H5.inspect(with_model(ReadsBatch), 0).explained_by == "H3"
    shifted = factory(step=lambda model, rows: losses(model, rolled(rows)).mean())
    assert H5.inspect(shifted, 0).explained_by is None


def rolled_with_noise(model: nn.Module, rows: dict[str, Any], noise: Tensor) -> Tensor:
    return cross_entropy(model(rows["demos"], rows["query"] + 0.1 * noise), rows["label"].roll(1))


def test_shifted_labels_are_found_where_the_step_draws_random_numbers() -> None:
    """Rows that share random numbers can be reordered; if they cannot share them, the labels of rows show it."""
    shared = factory(step=lambda model, rows: rolled_with_noise(model, rows, torch.randn_like(rows["query"])))
    assert failed(shared) == {"own.row-order", "own.step-rows"}

    flat = factory(
        step=lambda model, rows: rolled_with_noise(model, rows, torch.randn(ROWS * 3).view(ROWS, 3))
    )
    assert failed(flat) == {"own.step-rows"}


def test_shifted_labels_are_found_in_a_random_step_on_which_the_context_has_little_effect() -> None:
    """An autoencoder whose loss is almost all the image: the labels of other rows move it as the row's own do."""

    def reconstruct(model: nn.Module, rows: dict[str, Any]) -> Tensor:
        code = rows["query"] * (1 + 0.1 * torch.randn_like(rows["query"]))
        return (rows["query"] - 0.1 * code - 0.05 * model(rows["demos"], code)[:, :3]).square().sum(1)

    made = factory(step=lambda model, rows: reconstruct(model, rows).mean(), labels="query")
    for changed, passed in ((made, True), (SHIFTED_LABELS.apply(made), False)):
        [check] = check_order(LossProbe(changed.build(0)), batch(0))
        assert check.row.passed is passed


def test_a_loss_that_is_not_finite_is_no_fault_of_the_data() -> None:
    made = factory(step=lambda model, rows: losses(model, rows).mean() * float("nan"))
    assert failed(made) == set()
    controls = H5.list_faults(made.build(0))
    assert [fault.name for fault in controls] == ["labels-of-another-row", "leaked-rows"]
    assert all(failed(fault.apply(made)) for fault in controls)


def test_rows_that_are_related_on_purpose_are_not_a_fault() -> None:
    made = with_model(ReadsBatch, independent_rows=False)
    assert failed(made) == set()


def test_without_labels_ids_and_held_out_rows_it_is_not_run() -> None:
    bare = replace(make_toy(0), labels="", ids="", held_out=None)
    assert H5.find_missing(bare)
    assert not H5.find_missing(replace(bare, labels="label"))


def test_each_test_that_can_run_has_its_control() -> None:
    names: Callable[..., list[str]] = lambda **changes: [  # noqa: E731
        fault.name for fault in H5.list_faults(factory(**changes).build(0))
    ]
    everything = ["shifted-labels", "labels-of-another-row", "leaked-rows", "loss-by-id", "mixed-rows"]
    assert names() == everything
    assert names(sample=None, held_out=None) == ["shifted-labels", "loss-by-id", "mixed-rows"]
    assert names(sample_losses=None, ids="", held_out=None) == ["shifted-labels"]
    for fault in H5.list_faults(factory().build(0)):
        assert failed(fault.apply(factory())), fault.name


def with_ids(make: Callable[[Tensor], Any]) -> ModelFactory:
    """The toy with other ids of the same samples."""
    changed = lambda index: {**batch(index), "id": make(batch(index)["id"])}  # noqa: E731
    return factory(batch=changed, held_out=None, sample=None)


@pytest.mark.parametrize(
    "made",
    [
        with_ids(lambda ids: [f"{id:08x}" for id in ids.tolist()]),
        with_ids(lambda ids: ids[:, None]),
        with_ids(lambda ids: torch.stack([ids, ids], 1)),
        factory(step=lambda model, rows: 1e6 * losses(model, rows).mean(), held_out=None, sample=None),
    ],
    ids=["texts of one length", "a column", "two numbers", "a large loss"],
)
def test_a_loss_by_ids_of_any_form_is_found(made: ModelFactory) -> None:
    [fault] = [fault for fault in H5.list_faults(made.build(0)) if fault.name == "loss-by-id"]
    assert "own.loss-by-id" in failed(fault.apply(made))


def test_labels_and_ids_that_are_the_same_in_a_batch_have_no_control() -> None:
    """Those of other rows are then the row's own. A step that moves labels is still found by edited ones."""
    by_class = [read_samples((LABELS[:64] == label).nonzero().flatten()[:ROWS]) for label in range(4)]
    made = factory(batch=lambda index: by_class[index % 4])
    names = [fault.name for fault in H5.list_faults(made.build(0))]
    assert "shifted-labels" in names
    assert "labels-of-another-row" not in names
    one = with_ids(torch.zeros_like)
    assert "loss-by-id" not in [fault.name for fault in H5.list_faults(one.build(0))]


@pytest.mark.parametrize("padded", [1, ROWS])
def test_rows_without_labels_are_no_fault(padded: int) -> None:
    def pad(rows: dict[str, Any]) -> dict[str, Any]:
        return {**rows, "label": torch.where(torch.arange(ROWS) < padded, -100, rows["label"])}

    def each(model: nn.Module, rows: dict[str, Any]) -> Tensor:
        return cross_entropy(model(rows["demos"], rows["query"]), rows["label"], reduction="none")

    made = factory(
        batch=lambda index: pad(batch(index)) if index == 0 else batch(index),
        step=lambda model, rows: each(model, rows).mean(),
        sample_losses=each,
        sample=None,
    )
    assert not failed(made) & {"own.label-rows", "own.step-rows", "own.unread-rows"}


@pytest.mark.parametrize("masked", [True, False])
def test_labels_that_are_no_numbers_are_a_fault_unless_the_loss_leaves_them_out(masked: bool) -> None:
    def with_gaps(index: int) -> dict[str, Any]:
        targets = batch(index)["query"].clone()
        targets[::3, 1] = torch.nan
        return {**batch(index), "label": targets}

    def fit(model: nn.Module, rows: dict[str, Any]) -> Tensor:
        gaps = (model(rows["demos"], rows["query"])[:, :3] - rows["label"]).square()
        return gaps.nanmean(1) if masked else gaps.mean(1)

    made = factory(
        batch=with_gaps,
        step=lambda model, rows: fit(model, rows).mean(),
        sample_losses=fit,
        sample=None,
        held_out=None,
    )
    assert ("own.inputs-not-finite" in failed(made)) is not masked


def test_answers_that_are_equally_likely_in_a_low_precision_are_read() -> None:
    class Low(Toy):
        def forward(self, demos: Tensor, queries: Tensor) -> Tensor:
            return (0.2 * super().forward(demos, queries)).bfloat16()

    assert failed(with_model(Low)) == set()
    unread = with_model(Low, step=lambda model, rows: losses(model, rows)[-1])
    assert "own.unread-rows" in failed(unread)


def test_labels_that_are_an_input_are_reported_and_decide_nothing() -> None:
    """An autoencoder has such labels, and so has a language model whose targets are not shifted."""
    copied = factory(batch=lambda index: batch(index) | {"text": batch(index)["label"]}, held_out=None)
    found = H5.inspect(copied, 0)
    assert found.failed == []
    assert OwnModelReason.LABELS_ARE_INPUTS in found.judge().codes
    assert OwnModelReason.LABELS_ARE_INPUTS not in H5.inspect(factory(), 0).judge().codes


def test_a_batch_of_one_row_has_no_control_by_other_rows() -> None:
    one = factory(batch=lambda index: read_samples(torch.tensor([index % 64])), held_out=None)
    names = [fault.name for fault in H5.list_faults(one.build(0))]
    assert not {"shifted-labels", "mixed-rows"} & set(names)
    assert failed(one) == set()


def test_rows_that_repeat_without_ids_leave_the_held_out_rows_out_with_a_reason() -> None:
    """Held-out rows then agree with training rows by chance, and so do those of a control that leaks them."""
    made = factory(batch=lambda index: batch(index % 2), ids="", sample=None)
    found = H5.inspect(made, 0)
    assert found.failed == []
    [row] = [check for check in found.checks if check.row.code == "own.held-out-rows"]
    assert isinstance(row.row.treatment, NotMeasured)
    assert found.judge().codes == (OwnModelReason.SOUND, OwnModelReason.ROWS_REPEAT)
    repeated = factory(held_out=lambda index: batch(index % 2), ids="", sample=None)
    for one in (made, repeated):
        assert "leaked-rows" not in [fault.name for fault in H5.list_faults(one.build(0))]


def test_a_sample_of_an_id_may_leave_keys_out() -> None:
    made = factory(sample=lambda id: {"label": read_samples(torch.tensor([id]))["label"][0]})
    origins = [check.row for check in H5.inspect(made, 0).checks if check.row.code == "own.sample-origin"]
    assert [row.item for row in origins] == ["label"]


def test_a_loader_may_convert_the_numbers_of_a_sample() -> None:
    def read(id: int) -> dict[str, Any]:
        return {"demos": read_samples(torch.tensor([id]))["demos"][0].double() / 3, "label": LABELS[id].int()}

    converted = factory(
        sample=read,
        batch=lambda index: {**batch(index), "demos": (batch(index)["demos"].double() / 3).float()},
    )
    assert "own.sample-origin" not in failed(converted)


@pytest.mark.parametrize("rows", [2, 3, 8, 16])
def test_the_rows_of_a_control_all_move_and_do_not_undo_a_shift(rows: int) -> None:
    order = move_rows(rows)
    assert sorted(order.tolist()) == list(range(rows))
    assert not (order == torch.arange(rows)).any()
    if rows > 3:
        for shift in (1, -1):
            assert not torch.equal(torch.arange(rows).roll(shift)[order], torch.arange(rows))


def test_answers_that_only_training_shows_among_the_demonstrations_are_found() -> None:
    """Targets of a regression that are points of its context; held-out targets are others."""
    points = torch.randn(400, 10, generator=torch.Generator().manual_seed(0))

    def read(first: int, start: int) -> Callable[[int], dict[str, Any]]:
        def make(index: int) -> dict[str, Any]:
            rows = points[first + ROWS * index : first + ROWS * (index + 1)]
            return {"demos": rows[:, start : start + 4], "query": rows[:, :3], "label": rows[:, 5:]}

        return make

    def fit(model: nn.Module, rows: dict[str, Any]) -> Tensor:
        return (model(rows["demos"], rows["query"])[:, :1] - rows["label"]).square().mean(1)

    changes = {
        "step": lambda model, rows: fit(model, rows).mean(),
        "sample_losses": fit,
        "sample": None,
        "ids": "",
    }
    for training, held_out, codes in ((6, 1, {"own.answers-shown"}), (1, 1, set()), (6, 6, set())):
        made = factory(batch=read(0, training), held_out=read(200, held_out), predict=None, **changes)
        assert failed(made) == codes


def test_classes_among_the_demonstrations_are_no_evidence() -> None:
    """Labels of a few classes are among those of the demonstrations by chance."""

    def with_labels(rows: dict[str, Any], shown: bool) -> dict[str, Any]:
        return {**rows, "demos": torch.stack([rows["label"] if shown else 9 + rows["label"]] * 4, 1)}

    made = factory(
        batch=lambda index: with_labels(batch(index), True),
        held_out=lambda index: with_labels(batch(100 + index), False),
        labels="label",
    ).build(0)
    assert not list(_check_shown(made, [made.batch(0), made.batch(1)]))
