"""A wrong adapter gets an error with a code, what was found, and lines that work."""

from __future__ import annotations

import itertools
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedules

from etrm.errors import ExtensionError
from etrm.investigation.own_model import adapter_errors
from etrm.investigation.own_model.check_adapter import check_adapter
from etrm.investigation.own_model.healthy_reference import REFERENCE
from etrm.investigation.own_model.loss_probe import LossProbe
from etrm.investigation.own_model.model_factory import ModelFactory
from etrm.investigation.own_model.model_under_test import ModelUnderTest, Pretrained, until_backward
from tests.errors import assert_holds, raises_code
from tests.investigation.own_model.toy_adapter import (
    LABELS,
    batch,
    factory,
    losses,
    make_toy,
    read_samples,
    with_model,
)


def fail(*_: Any) -> Any:
    raise KeyError("no such thing")


def leave(*_: Any) -> Any:
    sys.exit("bye")


def step_and_backward(model: nn.Module, rows: Any) -> torch.Tensor:
    """A whole training step, but for the update."""
    loss = losses(model, rows).mean()
    loss.backward()
    return loss


def with_inputs(inputs: Any) -> Pretrained:
    return Pretrained(
        part="encoder", load=id, original=lambda: make_toy(0).model.get_submodule("encoder"), inputs=inputs
    )


SHARED = make_toy(0)


def wrong(**changes: Any) -> ModelFactory:
    return factory(**changes)


def one_pass() -> Any:
    """A loader that is exhausted after one pass."""
    batches = iter([make_toy(0).batch(0)])
    return lambda index: next(batches)


def another_each_time() -> Any:
    """A loader that ignores its index."""
    numbers = itertools.count()
    return lambda index: make_toy(0).batch(next(numbers))


@pytest.mark.parametrize(
    ("made", "code", "got"),
    [
        (ModelFactory(fail, "f"), "adapter.factory-raised", "KeyError"),
        (ModelFactory(lambda seed: {}, "f"), "adapter.wrong-factory", "dict"),
        (ModelFactory(lambda: make_toy(0).model, "f"), "adapter.wrong-factory", "Toy"),
        (with_model(lambda: 5), "adapter.wrong-value", "int"),  # type: ignore[arg-type]  # what is tested
        (wrong(step=lambda model, rows: losses(model, rows).mean().item()), "adapter.no-loss", "float"),
        (wrong(step=lambda model, rows: None), "adapter.no-loss", "None"),
        (wrong(step=losses), "adapter.no-loss", "(8,)"),
        (wrong(step=lambda model: 0), "adapter.step-raised", "TypeError"),
        (wrong(context_module="encodr"), "adapter.no-such-part", "encodr"),
        (wrong(context_consumer="head"), "adapter.no-such-part", "head"),
        (wrong(frozen=("decoder.9",)), "adapter.no-such-part", "decoder.9"),
        (wrong(frozen="encoder"), "adapter.wrong-value", "encoder"),
        (wrong(demonstrations="demos"), "adapter.wrong-value", "demos"),
        (wrong(context_module=nn.Linear(1, 1)), "adapter.wrong-value", "Linear"),
        (wrong(frozen=(nn.Linear(1, 1),)), "adapter.wrong-value", "Linear"),
        (wrong(labels=None), "adapter.wrong-value", "None"),
        (wrong(steps=0), "adapter.wrong-value", "0"),
        (wrong(clip_norm="1"), "adapter.wrong-value", "1"),
        (wrong(batch=lambda index: torch.zeros(3)), "adapter.wrong-batch", "Tensor"),
        (wrong(batch=lambda index: (torch.zeros(3), torch.zeros(3))), "adapter.wrong-batch", "tuple"),
        (wrong(batch=one_pass()), "adapter.batch-raised", "StopIteration"),
        (wrong(batch=another_each_time()), "adapter.unlike-batch", "second call"),
        (wrong(batch=[make_toy(0).batch(0)]), "adapter.wrong-value", "list"),
        (wrong(step=lambda model, rows: {"loss": losses(model, rows).mean()}), "adapter.no-loss", "dict"),
        (wrong(step=lambda model, rows: losses(model, rows).mean().backward()), "adapter.no-loss", "None"),
        (wrong(evaluate=lambda predictions, answers: {"accuracy": 1.0}), "adapter.no-score", "dict"),
        (wrong(evaluate=lambda model, loader, device: 1.0), "adapter.evaluate-raised", "TypeError"),
        (ModelFactory(lambda seed, config: None, "f"), "adapter.factory-raised", "config"),  # type: ignore[arg-type]
        (
            wrong(batch=lambda index: {"x": torch.zeros(3), "y": torch.zeros(4)}),
            "adapter.wrong-batch",
            "x (3,), y (4,)",
        ),
        (wrong(held_out=fail), "adapter.held-out-raised", "KeyError"),
        (wrong(labels="y"), "adapter.no-such-key", "y"),
        (wrong(demonstrations=("demo",)), "adapter.no-such-key", "demo"),
        (wrong(optimizer=lambda model: None), "adapter.no-optimizer", "None"),
        (wrong(optimizer=fail), "adapter.optimizer-raised", "KeyError"),
        (
            wrong(sample_losses=lambda model, rows: losses(model, rows).mean()),
            "adapter.wrong-sample-losses",
            "()",
        ),
        (wrong(sample_losses=fail), "adapter.sample-losses-raised", "KeyError"),
        (wrong(predict=lambda model, rows: torch.zeros(3)), "adapter.wrong-predictions", "(3,)"),
        (wrong(predict=fail), "adapter.predict-raised", "KeyError"),
        (wrong(evaluate=lambda predictions: 1.0), "adapter.evaluate-raised", "TypeError"),
        (wrong(evaluate=lambda predictions, answers: predictions), "adapter.no-score", "Tensor"),
        (wrong(predict=lambda model, rows: torch.zeros(8, 4)), "adapter.unlike-predictions", "(8, 4)"),
        (wrong(as_predictions=fail), "adapter.as-predictions-raised", "KeyError"),
        (
            wrong(pretrained=Pretrained(part="encoder", load=fail, original=nn.Identity)),
            "adapter.loading-raised",
            "KeyError",
        ),
        (
            wrong(pretrained=Pretrained(part="encoder", load=id, original=dict)),
            "adapter.wrong-original",
            "dict",
        ),
        (wrong(pretrained=with_inputs(lambda: torch.zeros(3, 4))), "adapter.wrong-inputs", "Tensor"),
        (wrong(pretrained=with_inputs(lambda: (1, 2))), "adapter.original-refuses-inputs", "TypeError"),
        (wrong(pretrained={"part": "encoder"}), "adapter.wrong-value", "dict"),
        (ModelFactory(leave, "f"), "adapter.factory-raised", "SystemExit: bye"),
        (ModelFactory(lambda seed: None, "f"), "adapter.wrong-factory", "None"),  # type: ignore[arg-type, return-value]
        (ModelFactory(lambda seed: SHARED, "f"), "adapter.same-model", "share"),
        (wrong(step=leave), "adapter.step-raised", "SystemExit"),
        (wrong(step=None), "adapter.wrong-value", "None"),
        (wrong(step=step_and_backward), "adapter.backward-raised", "second time"),
        (wrong(step=lambda *given: step_and_backward(*given).detach()), "adapter.backward-in-step", "graph"),
        (wrong(batch=lambda index: batch(index) if index < 9 else None), "adapter.wrong-batch", "None"),
        (
            wrong(batch=lambda index: batch(index) if index < 5 else {"x": torch.zeros(8)}),
            "adapter.unlike-batch",
            "x",
        ),
        (wrong(held_out=lambda index: {"x": torch.zeros(8)}), "adapter.unlike-batch", "x"),
        (wrong(held_out=lambda index: [batch(0)][index]), "adapter.held-out-raised", "IndexError"),
        (wrong(held_out=lambda index: None), "adapter.wrong-held-out", "None"),
        (wrong(batch=lambda index: {**batch(index), "label": [0] * 8}), "adapter.no-tensor", "list"),
        (
            wrong(sample_losses=lambda model, rows: losses(model, rows)[:5]),
            "adapter.wrong-sample-losses",
            "(5,)",
        ),
        (wrong(as_predictions=lambda answers: answers.tolist()), "adapter.wrong-answers", "list"),
        (wrong(sample=fail), "adapter.sample-raised", "KeyError"),
        (wrong(sample=lambda id: torch.zeros(4)), "adapter.wrong-sample", "Tensor"),
        (wrong(sample=lambda id: read_samples(torch.tensor([id]))), "adapter.unlike-sample", "(1, 4)"),
        (wrong(sample=lambda id: {"label": 3}), "adapter.unlike-sample", "int"),
        (wrong(sample=lambda id: {"image": torch.zeros(4)}), "adapter.unlike-sample", "image"),
        (wrong(schedule=fail), "adapter.schedule-raised", "KeyError"),
        (wrong(schedule=lambda optimizer: None), "adapter.no-scheduler", "None"),
        (wrong(schedule=schedules.ReduceLROnPlateau), "adapter.schedule-step-raised", "metrics"),
        (
            wrong(schedule=lambda optimizer: schedules.OneCycleLR(optimizer, 0.1, total_steps=12)),
            "adapter.schedule-step-raised",
            "12",
        ),
        (
            wrong(schedule=lambda optimizer: schedules.OneCycleLR(optimizer, 0.1, total_steps=59)),
            "adapter.schedule-step-raised",  # the longest runs have ten times the steps
            "59",
        ),
        (
            wrong(optimizer=lambda model: torch.optim.LBFGS(model.parameters())),
            "adapter.optimizer-step-raised",
            "closure",
        ),
        (wrong(update=fail), "adapter.update-raised", "KeyError"),
        (wrong(update=lambda loss: loss.backward()), "adapter.update-raised", "TypeError"),
        (wrong(update=lambda model, optimizer, loss: None), "adapter.no-backward", "no backward"),
    ],
)
def test_each_wrong_adapter_is_refused_with_lines_that_work(made: ModelFactory, code: str, got: str) -> None:
    with pytest.raises(ExtensionError) as caught:
        check_adapter(made)
    assert caught.value.code == code
    assert got in caught.value.got
    assert caught.value.allowed
    assert len(caught.value.next_step.splitlines()) >= 3


def with_copies(read: tuple[str, str]) -> ModelFactory:
    """The toy whose batch holds its demonstrations and labels twice, and whose step reads one of each."""

    def read_twice(index: int) -> dict[str, Any]:
        rows = batch(index)
        return rows | {"all": torch.cat([rows["demos"], rows["query"]], 1), "classes": rows["label"].clone()}

    def step(model: nn.Module, rows: Any) -> torch.Tensor:
        demos, label = rows[read[0]][:, :4], rows[read[1]]
        return losses(model, rows | {"demos": demos, "label": label}).mean()

    return factory(batch=read_twice, step=step, held_out=None)


@pytest.mark.parametrize(
    ("read", "unread"),
    [(("demos", "label"), ""), (("all", "label"), "demos"), (("demos", "classes"), "label")],
)
def test_a_key_that_the_step_reads_under_another_name_is_refused(read: tuple[str, str], unread: str) -> None:
    if not unread:
        check_adapter(with_copies(read))
        return
    with raises_code(ExtensionError, "adapter.unread-key") as caught:
        check_adapter(with_copies(read))
    assert_holds(caught.value.got, unread, *set(read) - {"demos", "label"})


def test_labels_that_nothing_reads_are_a_matter_of_the_investigation() -> None:
    """No other key holds them, so that the step itself may be wrong (H5)."""
    check_adapter(factory(step=lambda model, rows: losses(model, {**rows, "label": LABELS[:8]}).mean()))


@pytest.mark.parametrize(
    ("ends", "refused"),
    [
        ({"best_score": 0.0}, True),  # the worst one is 0 by default
        ({}, True),
        ({"best_score": 0.0, "worst_score": 1.0}, False),
        ({"best_score": 0.0, "worst_score": None}, False),
    ],
)
def test_an_error_that_is_declared_as_a_score_is_refused(ends: dict[str, Any], refused: bool) -> None:
    made = factory(evaluate=lambda p, a: (p != a).float().mean().item(), **ends)
    if refused:
        with raises_code(ExtensionError, "adapter.error-as-score"):
            check_adapter(made)
    else:
        check_adapter(made)


def test_an_exception_names_the_line_of_the_users_code() -> None:
    with pytest.raises(ExtensionError) as caught:
        check_adapter(ModelFactory(fail, "f"))
    assert_holds(caught.value.got, "test_check_adapter.py", fail.__code__.co_firstlineno + 1)


def test_a_factory_is_called_with_the_seed_or_without_an_argument() -> None:
    seeds: list[int] = []

    def make(seed: int) -> ModelUnderTest:
        seeds.append(seed)
        return make_toy(seed)

    ModelFactory(make, "f").build(3)
    assert seeds == [3]
    one, same, other = (ModelFactory(lambda: make_toy(0), "f").build(seed).model for seed in (1, 1, 2))
    first = [next(model.parameters()) for model in (one, same, other)]
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])


def test_a_step_that_trains_itself_gives_the_loss_of_its_backward() -> None:
    moved: list[str] = []

    def train(model: nn.Module, rows: Any) -> None:
        try:
            losses(model, rows).mean().backward()
        except Exception:  # noqa: BLE001  (as careless code does)
            moved.append("caught")
        moved.append("updated")

    subject = make_toy(0)
    loss = until_backward(train)(subject.model, subject.batch(0))
    assert moved == []
    assert torch.equal(loss, subject.step(subject.model, subject.batch(0)))  # type: ignore[arg-type]
    loss.backward()  # its graph is whole, and backward works again
    assert all(p.grad is not None for p in subject.model.parameters())


def test_a_step_that_differentiates_in_an_inner_loop_is_measured_without_training() -> None:
    """As a meta-learner's: its loss needs a gradient also where nothing is trained."""

    def step(model: nn.Module, rows: Any) -> torch.Tensor:
        inner = losses(model, rows).mean()
        [slope] = torch.autograd.grad(inner, [model.decoder.weight], create_graph=True)
        return losses(model, rows).mean() + slope.square().sum()

    subject = check_adapter(wrong(step=step))
    assert LossProbe(subject).step_loss(subject.batch(0)) > 0


def test_checking_trains_nothing() -> None:
    checked, fresh = check_adapter(factory()).model, factory().build(0).model
    assert all(torch.equal(a, b) for a, b in zip(checked.parameters(), fresh.parameters(), strict=True))


def test_the_lines_of_the_errors_work() -> None:
    """The parts of the examples, put together as a user would, make an adapter that is accepted."""
    given: dict[str, Any] = {"inputs": torch.randn(80, 4), "targets": torch.randn(80, 4), "torch": torch}

    class MyModel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.decoder(self.encoder(x))

    given["MyModel"] = MyModel
    parts = ("EXAMPLE_FACTORY", "EXAMPLE_STEP", "EXAMPLE_BATCH", "EXAMPLE_LOSSES", "EXAMPLE_EVALUATION")
    for name in parts:
        lines = getattr(adapter_errors, name).splitlines()
        exec("\n".join(line.removeprefix("    ") for line in lines), given)
    made = given["make_model"]
    assert check_adapter(ModelFactory(made, "example")).labels == ""

    def full(seed: int) -> ModelUnderTest:
        names = ("step", "batch", "sample_losses", "evaluate")
        return replace(
            made(seed), labels="y", context_module="encoder", **{name: given[name] for name in names}
        )

    check_adapter(ModelFactory(full, "example"))
    assert given["predict"](MyModel(), given["batch"](0)).shape == (8,)


def test_the_healthy_reference_is_a_valid_adapter() -> None:
    check_adapter(REFERENCE)
