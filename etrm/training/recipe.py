"""What a run is made of, as replaceable functions: the one seam through which variation enters.

The trainer calls these and nothing else, so a fault (``etrm.training.faults``) is a function from
recipe to recipe and no trainer, model or loader ever asks whether one is switched on.
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
    """The model of a config, on the CPU, from the global random state."""
    return build_variant(config.model, puzzles=episodes.puzzles, side=SIDE)


def load_decoder(model: Variant, config: Config) -> None:
    """Start the core from ``train.decoder``, if there is one."""
    if config.train.decoder is not None:
        source = decoder.read_source(config.train.decoder, config.train.decoder_weights)
        decoder.load_decoder(recursive_core(model), source, config.model, config.train)


def freeze(model: Variant, part: str, frozen: bool) -> None:
    """Take the decoder or the encoder out of training, or put it back.

    Without a gradient the optimiser skips it, decay included.
    """
    for parameter in find_part(model, part).parameters():
        parameter.requires_grad_(not frozen)
        parameter.grad = None


def update(optimizers: list[Optimizer], frozen: str | None) -> None:
    """One optimiser step; a frozen part has no gradients and stays as it is."""
    for optimizer in optimizers:
        optimizer.step()


def draw(episodes: Episodes, bucket: int, index: int) -> Sample:
    """The sample at a position of the stream."""
    return episodes.sample(bucket, index)


def labels(slots: Slots, part: MicroBatch) -> Tensor:
    """What the rows of a part are scored against, (b, S): the labels of the samples that they work on."""
    return part.batch.labels


def weigh(loss: Tensor, step: int) -> Tensor:
    """The scalar that the 0-based ``step`` is trained on."""
    return loss


@dataclass(frozen=True)
class Recipe:
    """The functions of a run.

    Attributes:
        configure: requested config to the config that the run really uses.
        tasks: what it trains on.
        build_model: config and episodes to the model.
        load_decoder: put the pretrained core in place.
        build_optimizers: model and train section to optimisers.
        freeze: take a part out of training when its stage begins, and put it back when it ends.
        draw: the loader.
        labels: what rows are scored against.
        weigh: what a step is trained on.
        update: apply the gradients, told which part is frozen, if any.
        load_weights: put the weights that an evaluation asks for in place.
        evaluate: the evaluator, with the arguments of :func:`etrm.evaluation.evaluate`.
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
