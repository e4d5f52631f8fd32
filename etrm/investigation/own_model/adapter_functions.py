"""The functions of an adapter: how each is called, what it must return, and how it is guarded.

A model under test is built with every function guarded, so that one that raises, or returns something else, ends in the
same error wherever it is called.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from etrm.extensions import describe
from etrm.investigation.own_model import adapter_errors as examples
from etrm.investigation.own_model.adapter_errors import call_adapter, refuse_adapter
from etrm.investigation.own_model.batch_rows import count_rows
from etrm.investigation.own_model.model_under_test import ModelUnderTest, RowBatch


@dataclass(frozen=True)
class Refusal:
    """One way in which a function of the adapter is wrong.

    Attributes:
        code: the code of the error.
        what: a description of the problem.
    """

    code: str
    what: str

    def name_call(self, args: tuple[Any, ...]) -> str:
        """The description, with the value of an index or id instead of its name."""
        return re.sub(r"\((index|id)\)", lambda _: f"({args[0]!r})", self.what)


@dataclass(frozen=True)
class AdapterFunction:
    """A function of the adapter.

    Attributes:
        raised: the error if it raises an exception.
        expected: a description of what it is, and what it must return.
        example: lines that would work.
        wrong: the error if it returns something else; None where any value will do.
        find_problem: function of the arguments and the returned value that describes a wrong one; "" for a valid one.
    """

    raised: Refusal
    expected: str
    example: str
    wrong: Refusal | None = None
    find_problem: Callable[[tuple[Any, ...], Any], str] = lambda args, returned: ""

    def guard(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function with the same arguments, whose exceptions and wrong values are errors of the adapter."""

        @functools.wraps(function, updated=())  # a class or a partial has no __dict__ to copy
        def call(*args: Any) -> Any:
            what = self.raised.name_call(args)
            with call_adapter(self.raised.code, what, expected=self.expected, example=self.example):
                returned = function(*args)
            problem = self.find_problem(args, returned)
            if self.wrong and problem:
                raise refuse_adapter(
                    self.wrong.code,
                    self.wrong.name_call(args),
                    got=problem,
                    expected=self.expected,
                    example=self.example,
                )
            return returned

        return call


def _find_wrong_loss(args: tuple[Any, ...], returned: Any) -> str:
    loss = _take_first(returned)
    if isinstance(loss, Tensor) and loss.numel() == 1 and loss.is_floating_point():
        return ""
    return f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else describe(returned)


def _find_wrong_batch(args: tuple[Any, ...], batch: Any) -> str:
    if not isinstance(batch, dict):
        return describe(batch)
    if count_rows(batch):
        return ""
    shown = (
        f"{key} {tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__}"
        for key, value in batch.items()
    )
    return ", ".join(shown) or "an empty dictionary"


def _find_wrong_optimizers(args: tuple[Any, ...], made: Any) -> str:
    found = list(made) if isinstance(made, (list, tuple)) else [made]
    return "" if found and all(isinstance(one, Optimizer) for one in found) else describe(made)


def _find_wrong_losses(args: tuple[Any, ...], losses: Any) -> str:
    rows = count_rows(args[1])
    if not isinstance(losses, Tensor):
        return describe(losses)
    return "" if losses.shape == (rows,) else f"shape {tuple(losses.shape)} for {rows} rows"


def _find_wrong_predictions(args: tuple[Any, ...], made: Any) -> str:
    rows = count_rows(args[1])
    if not isinstance(made, Tensor):
        return describe(made)
    return "" if made.dim() and len(made) == rows else f"shape {tuple(made.shape)} for {rows} rows"


def _find_wrong_score(args: tuple[Any, ...], score: Any) -> str:
    one = isinstance(score, Tensor) and score.numel() == 1
    return "" if one or (isinstance(score, (int, float)) and not isinstance(score, bool)) else describe(score)


def _must_be(*kinds: type) -> Callable[[tuple[Any, ...], Any], str]:
    return lambda args, returned: "" if isinstance(returned, kinds) else describe(returned)


def _find_wrong_scheduler(args: tuple[Any, ...], made: Any) -> str:
    return "" if callable(getattr(made, "step", None)) else describe(made)


_BATCH = "a dictionary of tensors with the rows as first dimension; values that are not tensors are passed on"
FUNCTIONS: Mapping[str, AdapterFunction] = {
    "step": AdapterFunction(
        Refusal("adapter.step-raised", "step(model, batch) raised an exception"),
        "a tensor of one element with its graph, or (loss, numbers to log)",
        examples.EXAMPLE_STEP,
        Refusal("adapter.no-loss", "step(model, batch) returned no loss"),
        _find_wrong_loss,
    ),
    "batch": AdapterFunction(
        Refusal("adapter.batch-raised", "batch(index) raised an exception"),
        _BATCH,
        examples.EXAMPLE_BATCH,
        Refusal("adapter.wrong-batch", "batch(index) returned something else"),
        _find_wrong_batch,
    ),
    "held_out": AdapterFunction(
        Refusal("adapter.held-out-raised", "held_out(index) raised an exception"),
        _BATCH,
        examples.EXAMPLE_BATCH,
        Refusal("adapter.wrong-held-out", "held_out(index) returned something else"),
        _find_wrong_batch,
    ),
    "optimizer": AdapterFunction(
        Refusal("adapter.optimizer-raised", "optimizer(model) raised an exception"),
        "an optimiser of torch, or a list of them",
        examples.EXAMPLE_OPTIMIZER,
        Refusal("adapter.no-optimizer", "optimizer(model) returned no optimiser"),
        _find_wrong_optimizers,
    ),
    "update": AdapterFunction(
        Refusal("adapter.update-raised", "update(model, optimizer, loss) raised an exception"),
        "a function that does backward, step and zero_grad",
        examples.EXAMPLE_UPDATE,
    ),
    "schedule": AdapterFunction(
        Refusal("adapter.schedule-raised", "schedule(optimizer) raised an exception"),
        "a scheduler of torch",
        examples.EXAMPLE_SCHEDULE,
        Refusal("adapter.no-scheduler", "schedule(optimizer) returned no scheduler"),
        _find_wrong_scheduler,
    ),
    "sample_losses": AdapterFunction(
        Refusal("adapter.sample-losses-raised", "sample_losses(model, batch) raised an exception"),
        "a tensor of shape (rows,), one loss per row",
        examples.EXAMPLE_LOSSES,
        Refusal("adapter.wrong-sample-losses", "sample_losses(model, batch) returned something else"),
        _find_wrong_losses,
    ),
    "sample": AdapterFunction(
        Refusal("adapter.sample-raised", "sample(id) raised an exception"),
        "a dictionary of tensors, each with the shape of a row of the batch",
        examples.EXAMPLE_SAMPLE,
        Refusal("adapter.wrong-sample", "sample(id) returned something else"),
        _must_be(Mapping),
    ),
    "predict": AdapterFunction(
        Refusal("adapter.predict-raised", "predict(model, batch) raised an exception"),
        "a tensor with the rows as first dimension",
        examples.EXAMPLE_EVALUATION,
        Refusal("adapter.wrong-predictions", "predict(model, batch) returned something else"),
        _find_wrong_predictions,
    ),
    "evaluate": AdapterFunction(
        Refusal("adapter.evaluate-raised", "evaluate(predictions, answers) raised an exception"),
        "a function evaluate(predictions, answers) that returns one number; answers are batch[labels]",
        examples.EXAMPLE_EVALUATION,
        Refusal("adapter.no-score", "evaluate(predictions, answers) returned no score"),
        _find_wrong_score,
    ),
    "as_predictions": AdapterFunction(
        Refusal("adapter.as-predictions-raised", "as_predictions(answers) raised an exception"),
        "a tensor of the form that predict returns",
        examples.EXAMPLE_ANSWERS,
        Refusal("adapter.wrong-answers", "as_predictions(answers) returned something else"),
        _must_be(Tensor),
    ),
}
"""The functions of :class:`ModelUnderTest`, by field."""
LOADING: Mapping[str, AdapterFunction] = {
    "load": AdapterFunction(
        Refusal("adapter.loading-raised", "pretrained.load(model) raised an exception"),
        "a function that loads the weights into the model",
        examples.EXAMPLE_PRETRAINED,
    ),
    "original": AdapterFunction(
        Refusal("adapter.original-raised", "pretrained.original() raised an exception"),
        "the trained part, an nn.Module",
        examples.EXAMPLE_PRETRAINED,
        Refusal("adapter.wrong-original", "pretrained.original() returned something else"),
        _must_be(nn.Module),
    ),
    "inputs": AdapterFunction(
        Refusal("adapter.inputs-raised", "pretrained.inputs() raised an exception"),
        "a tuple of the arguments of one call of the part",
        examples.EXAMPLE_PRETRAINED,
        Refusal("adapter.wrong-inputs", "pretrained.inputs() returned something else"),
        _must_be(tuple, list),
    ),
}
"""The functions of :class:`Pretrained`, by field."""


def guard_adapter(subject: ModelUnderTest) -> ModelUnderTest:
    """The same adapter with every function guarded."""
    pretrained = subject.pretrained and _guard_fields(subject.pretrained, LOADING)
    return dataclasses.replace(_guard_fields(subject, FUNCTIONS), pretrained=pretrained)


def _guard_fields(record: Any, functions: Mapping[str, AdapterFunction]) -> Any:
    given = {name: getattr(record, name) for name in functions}
    guarded = {name: functions[name].guard(value) for name, value in given.items() if value is not None}
    return dataclasses.replace(record, **guarded)


def compute_loss(subject: ModelUnderTest, batch: RowBatch) -> Tensor:
    """The loss of a step, of shape (); gradients are on, because a step may differentiate in an inner loop."""
    with torch.enable_grad():
        loss = _take_first(subject.step(subject.model, batch))
    assert isinstance(loss, Tensor)
    return loss.reshape(())


def make_optimizers(subject: ModelUnderTest) -> list[Optimizer]:
    """The optimisers of a model under test."""
    made = subject.optimizer(subject.model)
    return [made] if isinstance(made, Optimizer) else list(made)


def compute_sample_losses(subject: ModelUnderTest, batch: RowBatch) -> Tensor:
    """The loss of each row; shape (rows,)."""
    assert subject.sample_losses is not None
    with torch.enable_grad():
        return subject.sample_losses(subject.model, batch)


def make_predictions(subject: ModelUnderTest, answers: Tensor) -> Tensor:
    """Answers in the form of predictions."""
    return answers if subject.as_predictions is None else subject.as_predictions(answers)


def _take_first(returned: Any) -> Any:
    return returned[0] if isinstance(returned, (tuple, list)) and returned else returned
