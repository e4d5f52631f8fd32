"""Load the factory of an adapter, and check what it returns before any hypothesis is tested."""

from __future__ import annotations

import difflib
import inspect
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from diagnostics.testing.trials import untouched
from etrm.errors import ExtensionError
from etrm.extensions import ExtensionPoint, describe
from etrm.investigation.own_model import adapter_errors as examples
from etrm.investigation.own_model.adapter_errors import call_adapter, refuse_adapter
from etrm.investigation.own_model.batch_rows import are_equal, count_rows
from etrm.investigation.own_model.model_under_test import ModelUnderTest, RowBatch

POINT: ExtensionPoint[Callable[..., ModelUnderTest]] = ExtensionPoint(
    "models_under_test",
    "factory of a model under test",
    "a function make_model(seed) -> ModelUnderTest",
    callable,
)
Change = Callable[[ModelUnderTest], ModelUnderTest]


def seed_everything(*parts: int) -> None:
    """Set the random numbers of torch, numpy and Python to a state that depends on some numbers alone."""
    seed = int(np.random.SeedSequence([part % 2**32 for part in parts]).generate_state(1)[0])
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the state that user code draws from
    random.seed(seed)


@dataclass(frozen=True)
class ModelFactory:
    """Builds the model under test, or a changed one.

    Attributes:
        make: the user's function.
        name: its name in errors and reports.
        changes: changes after it is built, such as an injected fault.
        loads: whether the pretrained part is loaded.
    """

    make: Callable[..., ModelUnderTest]
    name: str
    changes: tuple[Change, ...] = field(default=())
    loads: bool = True

    def build(self, seed: int) -> ModelUnderTest:
        """A fresh model under test.

        Raises:
            ExtensionError: the user's function raises or returns something else, or the weights cannot be loaded.
        """
        seed_everything(seed)
        what = f"the factory {self.name}"
        with call_adapter(
            "adapter.factory-raised", what, expected="a ModelUnderTest", example=examples.EXAMPLE_FACTORY
        ):
            built: Any = self.make(seed) if _takes_seed(self.make) else self.make()
        if not isinstance(built, ModelUnderTest):
            raise refuse_adapter(
                "adapter.wrong-factory",
                f"{what} returned something else",
                got=describe(built),
                expected="a ModelUnderTest",
                example=examples.EXAMPLE_FACTORY,
            )
        if not isinstance(built.model, nn.Module):
            raise refuse_adapter(
                "adapter.no-model",
                "model is not a torch module",
                got=describe(built.model),
                expected="an nn.Module",
                example=examples.EXAMPLE_FACTORY,
            )
        if built.pretrained is not None and self.loads:
            with call_adapter(
                "adapter.loading-raised",
                "pretrained.load",
                expected="a function that loads the weights into the model",
                example=examples.EXAMPLE_PRETRAINED,
            ):
                built.pretrained.load(built.model)
        for change in self.changes:
            built = change(built)
        return built

    def changed(self, *changes: Change) -> ModelFactory:
        """The factory of a model that is changed further."""
        return ModelFactory(self.make, self.name, (*self.changes, *changes), self.loads)


def load_factory(name: str) -> ModelFactory:
    """The factory that a name of code refers to.

    Raises:
        ExtensionError: its code cannot be loaded or may not run, or it is no function.
    """
    return ModelFactory(POINT.load(name), name)


def check_adapter(factory: ModelFactory) -> ModelUnderTest:
    """Call every function of the adapter once, and return a model under test.

    Raises:
        ExtensionError: something is not what it must be; the message shows lines that would work.
    """
    subject = factory.build(0)
    _check_values(subject)
    names = [name for name, _ in subject.model.named_modules()]
    tensors = [name for name, _ in subject.model.named_parameters()]
    given: dict[str, tuple[str, ...]] = {
        "context_module": (subject.context_module,),
        "context_consumer": (subject.context_consumer,),
    }
    given |= {"frozen": subject.frozen, "approximate": subject.approximate}
    given |= {"pretrained.part": (subject.pretrained.part,)} if subject.pretrained else {}
    for what, parts in given.items():
        for part in filter(None, parts):
            known = [*names, *tensors] if what == "frozen" else names
            if part not in known:
                raise refuse_adapter(
                    "adapter.no-such-part",
                    f"{what} names a module that does not exist",
                    got=repr(part),
                    expected=f"a name of model.named_modules(){_list_known(part, known)}",
                    example=examples.EXAMPLE_PARTS,
                )
    batch = _check_batch(subject, subject.batch, "batch")
    if subject.held_out is not None:
        _check_batch(subject, subject.held_out, "held_out")
    keys = {"labels": (subject.labels,), "ids": (subject.ids,), "demonstrations": subject.demonstrations}
    for what, wanted in keys.items():
        for key in filter(None, wanted):
            if key not in batch:
                raise refuse_adapter(
                    "adapter.no-such-key",
                    f"{what} names a key that the batch does not have",
                    got=repr(key),
                    expected=f"a key of the batch{_list_known(key, batch)}",
                    example=examples.EXAMPLE_BATCH,
                )
    make_optimizers(subject)
    with untouched(subject.model):
        compute_loss(subject, batch)
    with untouched(subject.model):
        if subject.sample_losses is not None:
            compute_sample_losses(subject, batch)
    with untouched(subject.model):
        _check_evaluation(subject, batch)
    return subject


def compute_loss(subject: ModelUnderTest, batch: RowBatch) -> Tensor:
    """The loss that the user's step returns.

    Raises:
        ExtensionError: the step raises, or returns no loss.
    """
    expected = "a tensor of one element with its graph, or (loss, numbers to log)"
    with (
        torch.enable_grad(),  # a step may differentiate in an inner loop
        call_adapter(
            "adapter.step-raised", "step(model, batch)", expected=expected, example=examples.EXAMPLE_STEP
        ),
    ):
        returned = subject.step(subject.model, batch)
    loss = returned[0] if isinstance(returned, (tuple, list)) and returned else returned
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.is_floating_point():
        got = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else describe(returned)
        raise refuse_adapter(
            "adapter.no-loss",
            "step(model, batch) returned no loss",
            got=got,
            expected=expected,
            example=examples.EXAMPLE_STEP,
        )
    return loss.reshape(())


def make_optimizers(subject: ModelUnderTest) -> list[Optimizer]:
    """The optimisers of a model under test.

    Raises:
        ExtensionError: the user's function raises or returns something else.
    """
    expected = "an optimiser of torch, or a list of them"
    with call_adapter(
        "adapter.optimizer-raised", "optimizer(model)", expected=expected, example=examples.EXAMPLE_OPTIMIZER
    ):
        made = subject.optimizer(subject.model)
    found = [made] if isinstance(made, Optimizer) else list(made) if isinstance(made, (list, tuple)) else []
    if not found or not all(isinstance(one, Optimizer) for one in found):
        raise refuse_adapter(
            "adapter.no-optimizer",
            "optimizer(model) returned no optimiser",
            got=describe(made),
            expected=expected,
            example=examples.EXAMPLE_OPTIMIZER,
        )
    return found


def compute_sample_losses(subject: ModelUnderTest, batch: RowBatch) -> Tensor:
    """The loss of each row; shape (rows,).

    Raises:
        ExtensionError: the user's function raises or returns something else.
    """
    assert subject.sample_losses is not None
    rows = count_rows(batch)
    expected = f"a tensor of shape ({rows},), one loss per row"
    with (
        torch.enable_grad(),
        call_adapter(
            "adapter.sample-losses-raised",
            "sample_losses(model, batch)",
            expected=expected,
            example=examples.EXAMPLE_LOSSES,
        ),
    ):
        losses: Any = subject.sample_losses(subject.model, batch)
    if not isinstance(losses, Tensor) or losses.shape != (rows,):
        got = f"shape {tuple(losses.shape)}" if isinstance(losses, Tensor) else describe(losses)
        raise refuse_adapter(
            "adapter.wrong-sample-losses",
            "sample_losses(model, batch) returned something else",
            got=got,
            expected=expected,
            example=examples.EXAMPLE_LOSSES,
        )
    return losses


def compute_predictions(subject: ModelUnderTest, batch: RowBatch) -> Tensor:
    """The predictions of a batch, rows first.

    Raises:
        ExtensionError: the user's function raises or returns something else.
    """
    assert subject.predict is not None
    rows = count_rows(batch)
    expected = f"a tensor with {rows} rows as first dimension"
    with call_adapter(
        "adapter.predict-raised",
        "predict(model, batch)",
        expected=expected,
        example=examples.EXAMPLE_EVALUATION,
    ):
        made: Any = subject.predict(subject.model, batch)
    if not isinstance(made, Tensor) or not made.dim() or made.shape[0] != rows:
        got = f"shape {tuple(made.shape)}" if isinstance(made, Tensor) else describe(made)
        raise refuse_adapter(
            "adapter.wrong-predictions",
            "predict(model, batch) returned something else",
            got=got,
            expected=expected,
            example=examples.EXAMPLE_EVALUATION,
        )
    return made


def compute_score(subject: ModelUnderTest, predictions: Tensor, answers: Tensor) -> float:
    """The score that the user's evaluator gives.

    Raises:
        ExtensionError: the evaluator raises or returns no number.
    """
    assert subject.evaluate is not None
    expected = "a function evaluate(predictions, answers) that returns one number; answers are batch[labels]"
    with call_adapter(
        "adapter.evaluate-raised",
        "evaluate(predictions, answers)",
        expected=expected,
        example=examples.EXAMPLE_EVALUATION,
    ):
        score: Any = subject.evaluate(predictions, answers)
    if isinstance(score, Tensor) and score.numel() == 1:
        score = float(score)
    if isinstance(score, bool) or not isinstance(score, (int, float)):
        raise refuse_adapter(
            "adapter.no-score",
            "evaluate(predictions, answers) returned no score",
            got=describe(score),
            expected=expected,
            example=examples.EXAMPLE_EVALUATION,
        )
    return float(score)


def make_predictions(subject: ModelUnderTest, answers: Tensor) -> Tensor:
    """Answers in the form of predictions.

    Raises:
        ExtensionError: the user's function raises.
    """
    if subject.as_predictions is None:
        return answers
    with call_adapter(
        "adapter.as-predictions-raised",
        "as_predictions(answers)",
        expected="a function that turns answers into the form that predict returns",
        example="    as_predictions=lambda answers: torch.nn.functional.one_hot(answers, classes).float()",
    ):
        return subject.as_predictions(answers)


def _takes_seed(make: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(make).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL) for p in parameters)


def _list_known(name: str, known: Iterable[str]) -> str:
    """The names that exist, the nearest first."""
    names = [str(key) for key in known if key != ""]
    names = [*difflib.get_close_matches(name, names, n=3), *names]
    listed = list(dict.fromkeys(names))
    return f": {', '.join(listed[:12])}{', ...' if len(listed) > 12 else ''}"


def _check_batch(subject: ModelUnderTest, make: Callable[[int], RowBatch], what: str) -> RowBatch:
    expected = "a dictionary of tensors with the rows as first dimension"
    with call_adapter(
        "adapter.batch-raised", f"{what}(0)", expected=expected, example=examples.EXAMPLE_BATCH
    ):
        seed_everything(0)
        batch: Any = make(0)
        seed_everything(0)
        again: Any = make(0)
    if not isinstance(batch, dict):
        raise _wrong_batch(what, describe(batch), expected)
    if not count_rows(batch):
        shapes = {key: tuple(value.shape) for key, value in batch.items() if isinstance(value, Tensor)}
        raise _wrong_batch(what, ", ".join(f"{k} {s}" for k, s in shapes.items()) or "no tensor", expected)
    if not isinstance(again, dict) or not are_equal(batch, again):
        raise _wrong_batch(what, "another batch at a second call", f"{expected}, the same at every call")
    return batch


def _check_values(subject: ModelUnderTest) -> None:
    """Whether names are texts, lists of names are tuples or lists of them, and numbers are numbers."""
    text, number = (lambda value: isinstance(value, str)), (lambda value: isinstance(value, (int, float)))
    several = lambda value: isinstance(value, (tuple, list)) and all(map(text, value))  # noqa: E731
    optional = lambda value: value is None or number(value)  # noqa: E731
    kinds: dict[str, tuple[Callable[[Any], bool], tuple[str, ...]]] = {
        "a name, such as 'encoder'": (text, ("context_module", "context_consumer", "labels", "ids")),
        "a tuple of names, such as ('encoder',)": (several, ("frozen", "approximate", "demonstrations")),
        "a number": (number, ("best_score",)),
        "a number or None": (optional, ("clip_norm", "worst_score")),
        "a number of steps, at least 1": (lambda value: type(value) is int and value > 0, ("steps",)),
    }
    for expected, (allowed, fields) in kinds.items():
        for field_name in fields:
            value = getattr(subject, field_name)
            if not allowed(value):
                raise refuse_adapter(
                    "adapter.wrong-value",
                    f"{field_name} has a value of another kind",
                    got=describe(value),
                    expected=expected,
                    example=examples.EXAMPLE_PARTS,
                )


def _wrong_batch(what: str, got: str, expected: str) -> ExtensionError:
    return refuse_adapter(
        "adapter.wrong-batch",
        f"{what}(0) returned something else",
        got=got,
        expected=expected,
        example=examples.EXAMPLE_BATCH,
    )


def _check_evaluation(subject: ModelUnderTest, batch: RowBatch) -> None:
    """Whether the evaluator takes what ``predict`` returns."""
    predictions = compute_predictions(subject, batch) if subject.predict else None
    if subject.evaluate is None or not subject.labels:
        return
    answers = batch[subject.labels]
    known = make_predictions(subject, answers)
    if predictions is not None and predictions.shape != known.shape:
        raise refuse_adapter(
            "adapter.unlike-predictions",
            "predict and the right answers do not have the same form, so that known answers cannot be evaluated",
            got=f"predict: {tuple(predictions.shape)}; answers: {tuple(known.shape)}",
            expected="the same shape; as_predictions turns answers into predictions",
            example="    as_predictions=lambda answers: torch.nn.functional.one_hot(answers, classes).float()",
        )
    compute_score(subject, known, answers)
