"""The weights and random numbers with which training starts, as the settings and the seed of the run decide them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations

import torch
from torch import Tensor

from etrm.config import SIDE, Config, ModelConfig
from etrm.device import to_host
from etrm.model.construct import build_variant
from etrm.reference.departure import Departure, PipelineStage
from etrm.reference.model.weight_shapes import compare_shapes, context_shapes, core_shapes
from etrm.reference.training.stages.checked_step import covers_core, covers_model
from etrm.training.trainer import Trainer

OTHER = 1
"""What is added to the seed of the run, to know which weights depend on it."""


def compare_structure(trainer: Trainer, requested: Config) -> Iterator[Departure]:
    """Compare the names and shapes of the weights with those of the settings; code from outside is left out.

    Args:
        trainer: the run.
        requested: the settings without faults.
    """
    if not covers_core(requested):
        return
    model, fixed = requested.model, requested.data.augmentations
    parts = {"core": core_shapes(model)}
    if covers_model(requested):
        puzzles = len(trainer.tasks) * (1 if fixed == "fresh" else fixed)  # a table has no fresh ones
        parts["encoder" if model.has_encoder else "puzzle_table"] = context_shapes(model, puzzles)
    weights = {
        name: value for name, value in trainer.model.state_dict().items() if name.split(".")[0] in parts
    }
    parameters = {name for name, _ in trainer.model.named_parameters()}
    wanted = {name: shape for shapes in parts.values() for name, shape in shapes.items()}
    yield from compare_shapes(weights, parameters, wanted)


def compare_seeded(trainer: Trainer, requested: Config) -> Iterator[Departure]:
    """Compare the first weights and the generator of halting with those of the seed; code from outside is left out.

    The weights of another seed must be others, and no two tensors the same, unless they are constant. A core that is
    loaded does not depend on the seed.

    Args:
        trainer: the run, before its first step.
        requested: the settings without faults.
    """
    seed = requested.train.seed
    fresh = torch.Generator().manual_seed(seed)
    if not torch.equal(trainer.halting.get_state(), fresh.get_state()):
        yield Departure(
            PipelineStage.HALTING, "state of the random numbers", 1.0, 0.0, f"not that of seed {seed}"
        )
    if requested.model.own_encoder:
        return
    loaded = requested.train.decoder is not None
    real = {
        name: to_host(value)
        for name, value in trainer.model.state_dict().items()
        if not (loaded and name.startswith("core."))
    }
    for name, where in _find_wrong(real, requested.model, trainer.episodes.puzzles, seed):
        stage = PipelineStage.LOADING if name.startswith("core.") else PipelineStage.CONTEXT
        yield Departure(stage, name, 1.0, 0.0, f"{where}, before the first step")


def _find_wrong(
    real: Mapping[str, Tensor], model: ModelConfig, puzzles: int, seed: int
) -> Iterator[tuple[str, str]]:
    """The names of weights that the seed does not decide, each with what is wrong."""
    own, other = (_build(model, puzzles, one) for one in (seed, seed + OTHER))
    random = [
        name for name, value in real.items() if value.numel() and bool((value != value.flatten()[0]).any())
    ]
    for name, value in real.items():
        wanted = own.get(name)
        if wanted is not None and wanted.shape == value.shape and not torch.equal(value, wanted):
            yield name, f"not drawn from seed {seed}"
    for name in random:
        if name in other and torch.equal(real[name], other[name]):
            yield name, "the same with another seed"
    for one, two in combinations(random, 2):
        if torch.equal(real[one], real[two]):
            yield two, f"the same as {one}"


def _build(model: ModelConfig, puzzles: int, seed: int) -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return build_variant(model, puzzles=puzzles, side=SIDE).state_dict()
