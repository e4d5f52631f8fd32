"""The adapter: what an investigation has to know of a model that is not of this project.

A batch is a dictionary. Its tensors have the rows (samples) as first dimension, and so have lists of that length; other
values are passed through.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

RowBatch = dict[str, Any]
StepLoss = Tensor | tuple[Tensor, Mapping[str, Any]]


def make_default_optimizer(model: nn.Module) -> Optimizer:
    """AdamW at rate 1e-3 on all parameters; those that take no gradient are left alone."""
    return torch.optim.AdamW(model.parameters(), 1e-3)


def read_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The tensors of a module's state by name, without other entries and those that have no values yet."""
    state = module.state_dict(keep_vars=True)
    return {name: value for name, value in state.items() if isinstance(value, Tensor) and not is_lazy(value)}


class _BackwardReached(BaseException):
    """Ends a training step where it calls ``backward``; no ``except Exception`` of the step catches it."""

    def __init__(self, loss: Tensor) -> None:
        super().__init__()
        self.loss = loss


def until_backward(train: Callable[[nn.Module, Any], Any]) -> Callable[[nn.Module, Any], Tensor]:
    """Make a step of a function that calls ``backward`` and updates the weights itself.

    Args:
        train: function (model, batch) that does a whole training step.

    Returns:
        A function (model, batch) that runs the first part of ``train`` and returns the loss whose ``backward`` it
        calls first. What follows that call is not run, so that clipping belongs into ``clip_norm`` or ``update``.
    """

    def stop(tensors: Any, *args: Any, **kwargs: Any) -> None:
        raise _BackwardReached(tensors if isinstance(tensors, Tensor) else tensors[0])

    def step(model: nn.Module, batch: Any) -> Any:
        try:
            with patch.object(torch.autograd, "backward", stop):
                return train(model, batch)
        except _BackwardReached as reached:
            return reached.loss

    return step


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A part of the model that starts from trained weights.

    Attributes:
        part: name of the submodule.
        load: function that loads the weights into a fresh model, as the training program does.
        original: function that returns the part as it was trained, with its weights and settings.
        inputs: function that returns the arguments of one call of the part, for the functional test.
        tolerance: largest difference of an output that counts as none.
    """

    part: str
    load: Callable[[nn.Module], Any]
    original: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Any, ...]] | None = None
    tolerance: float = 1e-4


@dataclass(frozen=True, kw_only=True)
class ModelUnderTest:
    """A model with the functions that train and evaluate it. A factory ``make_model(seed)`` returns a fresh one.

    ``model``, ``step`` and ``batch`` are required. A hypothesis whose inputs are not given is NOT RUN.

    Attributes:
        model: the model, freshly initialised, in training mode. The factory is called with torch's seed set.
        step: function (model, batch) that returns the loss of a training step, or (loss, numbers to log). Gradients
            are on, for steps that differentiate in an inner loop. For a step that calls ``backward`` itself, see
            :func:`until_backward`.
        batch: function of an index 0, 1, 2, ... that returns a training batch. The same index gives the same batch, and
            any index is allowed: where the data ends, start again.
        optimizer: function of the model that returns its optimiser, or several of them.
        update: function (model, optimizer, loss) that does backward, clipping, step and zero_grad; if it is missing,
            the usual ones are done, with ``clip_norm``.
        clip_norm: largest norm of the gradient in the usual update; None for no clipping.
        schedule: function of the optimiser that returns a scheduler, which steps after each update. H4 also trains
            without it, so ``update`` must not need it.
        context_module: name of the submodule whose output is the context of each row.
        context_consumer: name of the submodule that receives the context.
        frozen: names of submodules or parameters that are frozen on purpose, such as a mask that is kept as one.
            Everything else must train.
        approximate: names of submodules or parameters whose gradient is not the slope of the loss on purpose, as in a
            recursion that trains only its last cycle, or a straight-through estimator.
        demonstrations: keys of the batch from which the context is made.
        labels: key of the labels, which the step reads.
        ids: key of the ids of the samples. Rows with the same id are the same sample.
        reads_ids: whether the model may read the ids.
        independent_rows: whether the loss of a row depends on that row alone; False for contrastive losses.
        sample_losses: function (model, batch) that returns the loss of each row, without reduction.
        sample: function of an id that returns the row of this sample, as a dictionary of tensors without the first
            dimension; keys that are missing are not compared.
        held_out: function of an index that returns a batch that must not be trained on.
        predict: function (model, batch) that returns a prediction per row, in the form that ``evaluate`` takes.
        evaluate: function (predictions, answers) that returns a score.
        as_predictions: function that turns right answers into predictions, such as logits; unchanged if missing.
        best_score: score if all rows are right.
        worst_score: score if no row is right; None if it has no fixed value, as with an error.
        linear_score: whether the score is linear in the share of rows that are right, as an accuracy or mean error is,
            or the root of such an error. A sum over the rows is not.
        pretrained: the part that starts from trained weights.
        steps: number of steps in the short runs of H4 and H7; the unchanged run has three times as many.
    """

    model: nn.Module
    step: Callable[[nn.Module, Any], StepLoss]
    batch: Callable[[int], RowBatch]
    optimizer: Callable[[nn.Module], Optimizer | Sequence[Optimizer]] = make_default_optimizer
    update: Callable[[nn.Module, Any, Tensor], Any] | None = None
    clip_norm: float | None = None
    schedule: Callable[[Optimizer], LRScheduler] | None = None
    context_module: str = ""
    context_consumer: str = ""
    frozen: tuple[str, ...] = ()
    approximate: tuple[str, ...] = ()
    demonstrations: tuple[str, ...] = ()
    labels: str = ""
    ids: str = ""
    reads_ids: bool = False
    independent_rows: bool = True
    sample_losses: Callable[[nn.Module, Any], Tensor] | None = None
    sample: Callable[[Any], Mapping[str, Any]] | None = None
    held_out: Callable[[int], RowBatch] | None = None
    predict: Callable[[nn.Module, Any], Tensor] | None = None
    evaluate: Callable[[Tensor, Tensor], float | Tensor] | None = None
    as_predictions: Callable[[Tensor], Tensor] | None = None
    best_score: float = 1.0
    worst_score: float | None = 0.0
    linear_score: bool = True
    pretrained: Pretrained | None = None
    steps: int = 40
