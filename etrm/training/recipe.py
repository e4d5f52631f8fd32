"""The replaceable functions of a run. Faults act by replacing some of them, and in no other way.

The trainer calls these and nothing else, so that a fault (``etrm.training.faults``) is a function from
recipe to recipe, and no trainer, model or loader ever checks whether a fault is active.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.optim import Optimizer

from etrm import evaluation
from etrm.checkpoints import decoder_loading as decoder
from etrm.checkpoints.format import Checkpoint, WeightsKind
from etrm.checkpoints.weights import load_weights
from etrm.config import SIDE, Config, check_request
from etrm.data import Episodes, Sample, TaskSet
from etrm.evaluation import EvaluationReport
from etrm.model.construct import build_variant
from etrm.model.recursive import recursive_core
from etrm.model.variant import Variant
from etrm.training import optim
from etrm.training.freeze_schedule import Freeze, find_part
from etrm.training.micro_batches import MicroBatch
from etrm.training.slots import Slots
from etrm.training.task_sets import load_training_tasks


def build_model(config: Config, episodes: Episodes) -> Variant:
    """Build the model of a config on the CPU, from the global random state."""
    return build_variant(config.model, puzzles=episodes.puzzles, side=SIDE)


def load_decoder(model: Variant, config: Config) -> None:
    """Load the core from ``train.decoder``, if it is set."""
    if config.train.decoder is not None:
        source = decoder.read_source(config.train.decoder, config.train.decoder_weights)
        decoder.load_decoder(recursive_core(model), source, config.model, config.train)


def freeze(model: Variant, part: str, frozen: bool) -> None:
    """Freeze or unfreeze the decoder or the encoder.

    The optimiser skips parameters without a gradient, including weight decay.
    """
    for parameter in find_part(model, part).parameters():
        parameter.requires_grad_(not frozen)
        parameter.grad = None


def update(optimizers: list[Optimizer], frozen: str | None) -> None:
    """Do one optimiser step; a frozen part has no gradients and does not change."""
    for optimizer in optimizers:
        optimizer.step()


def draw(episodes: Episodes, bucket: int, index: int) -> Sample:
    """Draw the sample at a position of the stream."""
    return episodes.sample(bucket, index)


def labels(slots: Slots, part: MicroBatch) -> Tensor:
    """Return the targets (b, S) of a micro-batch: the labels of its own samples."""
    return part.batch.labels


def weigh(loss: Tensor, step: int) -> Tensor:
    """Return the scalar that the 0-based ``step`` is trained on."""
    return loss


@dataclass(frozen=True)
class Recipe:
    """The functions of a run.

    Attributes:
        configure: a function from the requested config to the config that the run uses.
        tasks: a function from the config to the training tasks.
        build_model: a function from config and episodes to the model.
        load_decoder: a function that loads the pretrained core.
        build_optimizers: a function from the model and the train section to optimisers.
        freeze: a function that freezes a part when its stage begins, and unfreezes it when it ends.
        draw: the loader, a function from episodes, bucket and index to a sample.
        labels: a function that returns the targets of a micro-batch.
        weigh: a function from the loss and the step to the scalar to train on.
        update: a function that applies the gradients; it gets the name of the frozen part, if any.
        load_weights: a function that loads the weights to evaluate.
        evaluate: the evaluator, a function with the arguments of :func:`etrm.evaluation.evaluate`.
    """

    configure: Callable[[Config], Config] = check_request
    tasks: Callable[[Config], TaskSet] = load_training_tasks
    build_model: Callable[[Config, Episodes], Variant] = build_model
    load_decoder: Callable[[Variant, Config], None] = load_decoder
    build_optimizers: Callable[..., list[Optimizer]] = optim.build_optimizers
    freeze: Freeze = freeze
    draw: Callable[[Episodes, int, int], Sample] = draw
    labels: Callable[[Slots, MicroBatch], Tensor] = labels
    weigh: Callable[[Tensor, int], Tensor] = weigh
    update: Callable[[list[Optimizer], str | None], None] = update
    load_weights: Callable[[Variant, Checkpoint, WeightsKind], None] = load_weights
    evaluate: Callable[..., EvaluationReport] = evaluation.evaluate
