"""Answer queries from contexts that are searched for their demonstrations, with all weights frozen."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from etrm.batch import Batch
from etrm.config import Config
from etrm.data import Sample, TaskSet, build_evaluation_samples, pose_demonstrations
from etrm.device import to_device, to_host
from etrm.evaluation import Prediction
from etrm.model.act import Carry
from etrm.model.solve import solve
from etrm.model.variant import Given, Variant
from etrm.training.context_fit import FittedContexts, PosedDemos, check_searchable, fit_contexts
from etrm.training.scoring.predictor import make_batch

TYPICAL = 64
"""Training tasks whose contexts give the mean and the size of noise: enough for two digits of either."""


@dataclass(frozen=True)
class SearchedAnswer:
    """One search and its answer.

    Attributes:
        prediction: the answer to the query; of its sample only the query input and the names are read.
        fitted: the share of the fitted demonstrations that are answered exactly.
        held_out: the same share of held-out demonstrations; NaN where none is held out.
        steps: the number of gradient steps.
    """

    prediction: Prediction
    fitted: float
    held_out: float
    steps: int


class ContextSearch:
    """Searches the contexts of one model.

    Args:
        model: the model; its weights, gradients and mode stay the same.
        config: its settings; the section ``evaluate.search`` is that of the search.
        trained: the tasks that it was trained on, whose contexts give the mean and the size of noise.

    Raises:
        ConfigError: the model has no context that a gradient can move.
    """

    def __init__(self, model: Variant, config: Config, trained: TaskSet) -> None:
        check_searchable(model)
        self.model, self.config, self.settings = model, config, config.evaluate.search
        typical = compute_typical_contexts(model, config, trained)
        self.mean, self.size = typical.mean(0), typical.std()

    def with_model(self, model: Variant) -> ContextSearch:
        """Return the same search of another model, with the same mean and the same size of noise."""
        other = copy(self)
        other.model = model
        return other

    def answer(
        self, samples: Sequence[Sample], shown: Sequence[Sample] | None = None
    ) -> list[SearchedAnswer]:
        """Search contexts for the demonstrations of each sample, and answer its query from each of them.

        Args:
            samples: the samples; their labels are not read.
            shown: samples whose demonstrations are used instead, one for each sample, as in the control.

        Returns:
            ``restarts`` answers for each sample, in the order of the samples.
        """
        found = {
            place: own
            for batch in self.answer_in_turn(samples, shown or samples)
            for place, own in batch.items()
        }
        return [answer for place in range(len(samples)) for answer in found[place]]

    def answer_in_turn(
        self, samples: Sequence[Sample], shown: Sequence[Sample]
    ) -> Iterator[dict[int, list[SearchedAnswer]]]:
        """Search as :meth:`answer` does; yields the answers of each batch by the place of their sample."""
        pairs = list(zip(samples, shown, strict=True))
        size = max(1, self.config.evaluate.batch_size // self.settings.restarts)
        order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][1].demos) * len(pairs[i][0].tokens))
        for first in range(0, len(order), size):
            chosen = order[first : first + size]
            answers = self._answer([pairs[i][0] for i in chosen], [pairs[i][1] for i in chosen])
            yield dict(zip(chosen, answers, strict=True))

    def _answer(self, samples: Sequence[Sample], shown: Sequence[Sample]) -> list[list[SearchedAnswer]]:
        restarts = self.settings.restarts
        fitted = self.search(shown)
        repeated = [sample for sample in samples for _ in range(restarts)]
        output = solve_from(
            self.model, repeated, fitted.context, early=self.config.evaluate.halting == "early"
        )
        measured = zip(
            make_predictions(repeated, *output),
            fitted.fitted.tolist(),
            fitted.held_out.tolist(),
            fitted.steps.tolist(),
            strict=True,
        )
        answers = [SearchedAnswer(*values) for values in measured]
        return [answers[first : first + restarts] for first in range(0, len(answers), restarts)]

    def search(self, shown: Sequence[Sample]) -> FittedContexts:
        """Search ``restarts`` contexts for the demonstrations of each sample, those of a sample in a row."""
        settings, restarts = self.settings, self.settings.restarts
        posed = [pose_demonstrations(sample) for sample in shown]
        left_out = [
            restart % len(queries) if settings.hold_out and len(queries) > 1 else None
            for queries in posed
            for restart in range(restarts)
        ]
        sets = [queries for queries in posed for _ in range(restarts)]
        return fit_contexts(
            self.model,
            self._starts([sample for sample in shown for _ in range(restarts)], left_out),
            PosedDemos.collated(sets, left_out, self.model.device),
            steps=settings.steps,
            rate=settings.rate,
            stop_loss=settings.stop_loss,
            kind=self.config.train.loss,
        )

    def _starts(self, shown: Sequence[Sample], left_out: Sequence[int | None]) -> Tensor:
        """The first context (R, P, D) of each search; a demonstration that is left out is not encoded either."""
        start, restarts = self.settings.start, self.settings.restarts
        first: Tensor = torch.zeros_like(self.mean).expand(len(shown), -1, -1)
        if start == "mean":
            first = self.mean.expand(len(shown), -1, -1)
        elif start == "encoder":
            first = compute_contexts(
                self.model, [_without(sample, left) for sample, left in zip(shown, left_out, strict=True)]
            )
        scale = self.settings.noise * self.size
        shape = tuple(self.mean.shape)
        noise = torch.stack(
            [
                torch.zeros(shape)
                if start != "noise" and row % restarts == 0
                else _draw_noise(shape, self.config.train.seed, sample.name, row % restarts)
                for row, sample in enumerate(shown)
            ]
        )
        return first + scale * to_device(noise, first.device)


@torch.no_grad()
def compute_contexts(model: Variant, samples: Sequence[Sample]) -> Tensor:
    """Compute the contexts (B, P, D) that a model in evaluation mode gives its first ACT step."""
    batch = make_batch(model, samples)
    training = model.training
    model.eval()
    context = model.context_policy(model, model.initial_carry(batch.size), batch).context
    model.train(training)
    return context


def compute_typical_contexts(model: Variant, config: Config, trained: TaskSet) -> Tensor:
    """Compute the contexts (n, P, D) of up to 64 training tasks."""
    tasks = replace(trained, tasks=tuple(trained)[:: max(1, len(trained) // TYPICAL)][:TYPICAL])
    table = trained if model.encoder is None else None
    samples = build_evaluation_samples(
        tasks, config.data, 1, config.train.seed, variant=config.model.variant, trained=table
    )
    return compute_contexts(model, samples)


def solve_from(
    model: Variant, samples: Sequence[Sample], context: Tensor, *, early: bool = False
) -> tuple[Tensor, Tensor]:
    """Answer samples from given contexts (B, P, D): tokens (B, S) and halting logits (B,), on the host."""

    def given(_: Variant, carry: Carry, batch: Batch) -> Given:
        return Given(context)

    fixed = copy(model)
    fixed.context_policy = given
    training = model.training
    model.eval()
    fixed.training = False
    output = solve(fixed, make_batch(model, samples), early=early)
    model.train(training)
    return to_host(output.logits.argmax(-1)), to_host(output.q_halt)


def make_predictions(samples: Sequence[Sample], tokens: Tensor, q_halt: Tensor) -> list[Prediction]:
    """Return the predictions of samples from tokens (B, S), padded, and halting logits (B,)."""
    rows = zip(samples, tokens.numpy().astype(np.int16), q_halt.tolist(), strict=True)
    return [Prediction(sample, row[: len(sample.tokens)], q) for sample, row, q in rows]


def mismatch(samples: Sequence[Sample]) -> list[Sample]:
    """For each sample, one of the next task: the demonstrations of the control."""
    by_task: dict[str, list[Sample]] = {}
    for sample in samples:
        by_task.setdefault(sample.task_id, []).append(sample)
    names = list(by_task)
    following = dict(zip(names, names[1:] + names[:1], strict=True))
    places = {id(sample): place for group in by_task.values() for place, sample in enumerate(group)}
    return [_cycled(by_task[following[sample.task_id]], places[id(sample)]) for sample in samples]


def _cycled(samples: Sequence[Sample], place: int) -> Sample:
    return samples[place % len(samples)]


def _without(sample: Sample, left_out: int | None) -> Sample:
    demos = tuple(demo for index, demo in enumerate(sample.demos) if index != left_out)
    return replace(sample, demos=demos)


def _draw_noise(shape: tuple[int, ...], seed: int, name: str, restart: int) -> Tensor:
    """Draw noise that depends on these arguments alone, so that no search depends on its neighbours."""
    digest = hashlib.sha256(f"{seed} {restart} {name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return torch.randn(shape, generator=generator)
