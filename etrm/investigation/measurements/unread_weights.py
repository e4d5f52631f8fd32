"""The weights of an encoder on which no context depends, such as queries and keys over a single demonstration."""

from __future__ import annotations

import torch
from torch import Tensor

from etrm.config import Config, with_settings
from etrm.investigation.runs.measured_run import training_queries
from etrm.training.scoring.predictor import make_batch
from etrm.training.trainer import Trainer

CHANGE = 0.5
"""Size of the change of a tensor, in its own root mean square."""
ROUNDING = 1e-10
"""Largest difference of contexts, as a share of the largest context, that may be rounding of float64."""


@torch.no_grad()
def count_unread_weights(config: Config) -> int:
    """Count the tensors of a new encoder whose values do not change the context of any training query.

    The model must be recursive and have an encoder. Such a tensor has no gradient by design: an attention over one
    demonstration gives it all weight, whatever its queries and keys are.

    Raises:
        EtrmError: the model cannot be built.
    """
    # On the host, because some devices have no float64.
    host = {"device": "cpu", "precision": "float32", "compile": False, "cuda_graphs": False}
    changes = {**host, "decoder": None, "freeze_encoder_steps": 0}
    trainer = Trainer(with_settings(config, monitor={"enabled": False}, train=changes))
    encoder = trainer.model.encoder
    assert encoder is not None
    encoder.double()
    demos = make_batch(trainer.model, training_queries(trainer)).demos

    def encode() -> Tensor:
        """The contexts as in training, with the same noise at every call."""
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(config.train.seed)
            context: Tensor = encoder(demos).context
        return context

    context = encode()
    limit = ROUNDING * float(context.abs().max())
    noise = torch.Generator().manual_seed(config.train.seed)
    unread = 0
    for parameter in encoder.parameters():
        kept = parameter.clone()
        parameter.add_(_draw_like(parameter, noise))
        unread += bool((encode() - context).abs().max() <= limit)
        parameter.copy_(kept)
    return unread


def _draw_like(parameter: Tensor, noise: torch.Generator) -> Tensor:
    """Return random numbers as large as the change of a tensor; of a tensor of zeros, as large as :data:`CHANGE`."""
    size = float(parameter.square().mean().sqrt()) or 1.0
    return (CHANGE * size * torch.randn(parameter.shape, generator=noise)).to(parameter)
