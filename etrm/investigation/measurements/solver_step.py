"""One step of a symbolic solver that updates nothing: its answers, and the terms of its loss with their gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import inf, isfinite

import torch
from torch import Tensor, nn

from diagnostics.auditing.responses import Responses, probe_response
from diagnostics.errors import InvalidValue
from etrm.config import Config, with_settings
from etrm.data import Sample
from etrm.errors import NonFiniteError
from etrm.investigation.runs.measured_run import training_queries
from etrm.model.symbolic_variant import SymbolicVariant
from etrm.training.faults import apply_faults
from etrm.training.loss import act_loss
from etrm.training.scoring.predictor import make_batch
from etrm.training.trainer import Trainer

QUERIES = 4
"""Queries of the batch, the smallest ones: a Python loop takes a millisecond for a cell or a pair of cells."""
TASK = "lm"
"""The term of the loss that teaches the task: the cross entropy of the answers."""
Gradients = Mapping[str, Tensor | None]
"""Gradients of weights by their names; None where no graph leads to a weight."""


@dataclass(frozen=True)
class SolverStep:
    """The model of a config before its first update, and what it makes of one batch.

    Attributes:
        trainer: the run, in memory.
        samples: the queries of the batch with their demonstrations.
    """

    trainer: Trainer
    samples: tuple[Sample, ...]

    @property
    def model(self) -> SymbolicVariant:
        """The model, faults included."""
        model = self.trainer.model
        assert isinstance(model, SymbolicVariant)
        return model

    @property
    def predicates(self) -> dict[str, nn.Parameter]:
        """The weights of the learned predicates, by name; empty where no module of the model has them."""
        found = getattr(self.model.core, "predicates", None)
        return dict(found.named_parameters()) if isinstance(found, nn.Module) else {}

    @cached_property
    def answer(self) -> Tensor:
        """(B, S, 12) logits in training mode, without a graph."""
        with torch.no_grad():
            return self.compute_terms()[0]

    def compute_terms(self) -> tuple[Tensor, dict[str, Tensor]]:
        """The logits (B, S, 12), and the terms of the loss by name as they enter it."""
        train = self.trainer.config.train
        batch = make_batch(self.model, self.samples)
        _, output = self.model(self.model.initial_carry(batch.size), batch)
        return output.logits, act_loss(output, batch.labels, train.loss).terms(train)

    def compute_gradients(self, weights: Mapping[str, Tensor], term: str | None = None) -> Gradients:
        """The gradients of weights, of one term or of the whole loss."""
        terms = self.compute_terms()[1]
        loss = torch.stack(list(terms.values())).sum() if term is None else terms[term]
        if not loss.requires_grad or not weights:
            return dict.fromkeys(weights)
        found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        return dict(zip(weights, found, strict=True))

    def probe_terms(self) -> Responses:
        """How each term depends on the weights of the encoder, of the core, and of the whole model (``""``).

        Raises:
            NonFiniteError: a term is not finite.
        """
        try:
            return probe_response(
                self.model, lambda model, batch: self.compute_terms()[1], None, watch=["encoder", "core"]
            )
        except InvalidValue as error:
            raise NonFiniteError("investigate.nonfinite-term", str(error)) from error


def build_step(
    config: Config, samples: Sequence[Sample] = (), weights: Mapping[str, Tensor] | None = None
) -> SolverStep:
    """Build the model of a config as a run would, in training mode.

    Args:
        config: the config with its faults.
        samples: the batch; the smallest training queries by default.
        weights: weights by name instead of those of the random start.

    Raises:
        EtrmError: the model cannot be built.
    """
    trainer = Trainer(with_settings(config, monitor={"enabled": False}))
    if not samples:
        by_size = sorted(training_queries(trainer), key=lambda sample: (len(sample.tokens), sample.task_id))
        samples = by_size[:QUERIES]
    if weights is not None:
        trainer.model.load_state_dict(dict(weights), strict=False)
    trainer.model.train()
    return SolverStep(trainer, tuple(samples))


def measure_responses(config: Config) -> Responses:
    """The response test of a config; N3 and N4 read the same, so the last ones are kept.

    Raises:
        EtrmError: the model cannot be built, or its loss is not finite.
    """
    return _measure_responses(config.to_json())


@lru_cache(maxsize=16)
def _measure_responses(config: str) -> Responses:
    return build_step(Config.from_json(config)).probe_terms()


def with_other_faults(config: Config, *faults: str) -> Config:
    """The settings that a run of a config really uses, with these faults and none of its own."""
    return with_settings(apply_faults(config), faults=faults, interventions=())


def compare_gradients(reference: Gradients, other: Gradients) -> float:
    """The largest difference of a gradient, relative to the largest gradient of the reference.

    A missing gradient counts as zero. It is infinite where a gradient is not finite, and where only the reference has
    none.
    """
    zero = torch.zeros(())
    pairs = [
        (zero if mine is None else mine, zero if (found := other[name]) is None else found)
        for name, mine in reference.items()
    ]
    largest = max((float(mine.abs().max()) for mine, _ in pairs), default=0.0)
    gaps = [float((mine - found).abs().max()) for mine, found in pairs]
    if not all(map(isfinite, gaps)):
        return inf
    apart = max(gaps, default=0.0)
    return apart / largest if largest else (inf if apart else 0.0)


def count_reached(gradients: Gradients) -> int:
    """The number of weights that have a gradient which is not zero."""
    return sum(grad is not None and bool(grad.any()) for grad in gradients.values())
