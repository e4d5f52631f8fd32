"""The interface of a model variant, which training, evaluation and investigation use.

Shapes: B rows, S query tokens, P context tokens, D hidden.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from etrm.batch import Batch
from etrm.config import ModelConfig
from etrm.device import to_device
from etrm.errors import ExtensionError
from etrm.extensions import describe
from etrm.model.act import Carry, EncoderState
from etrm.model.encoders import Encoder
from etrm.model.puzzle import PuzzleTable


@dataclass(frozen=True)
class StepOutput:
    """The output of one ACT step.

    Attributes:
        logits: (B, S, 12).
        q_halt: (B,) float32 halting logits.
        context: (B, P, D) the context that the core used.
        kl: (B,) KL divergence of a variational encoder, else None.
        entropy: (B,) entropy of the weights of templates in nats, None of a model without templates.
        steps: (B,) int64 ACT steps that each row took, for an answer (:func:`etrm.model.solve.solve`).
    """

    logits: Tensor
    q_halt: Tensor
    context: Tensor
    kl: Tensor | None = None
    entropy: Tensor | None = None
    steps: Tensor | None = None


@dataclass(frozen=True)
class Given:
    """The result of a context policy for one ACT step.

    Attributes:
        context: (B, P, D) the context for the core.
        stored: (B, P, D) the context for the next carry, if the policy stores one.
        kl: (B,) KL divergence of a variational encoder; zero for rows that were not encoded in this step.
        state: the state of a stateful encoder, for the next carry.
        entropy: (B,) entropy of the weights of templates in nats, None of a model without templates.
    """

    context: Tensor
    stored: Tensor | None = None
    kl: Tensor | None = None
    state: EncoderState | None = None
    entropy: Tensor | None = None


ContextPolicy = Callable[["Variant", Carry, Batch], Given]
"""A function from model, carry and batch to the context and its by-products."""


def with_noise(policy: ContextPolicy) -> ContextPolicy:
    """Return the policy with noise on its context in evaluation, so that no two evaluations give the same answers."""

    def noisy(model: Variant, carry: Carry, batch: Batch) -> Given:
        given = policy(model, carry, batch)
        return given if model.training else replace(given, context=model.draw_noisy(given.context))

    return noisy


class Variant(nn.Module):
    """A model: a context policy that reads the demonstrations, and a core that answers the query from the context.

    It is a base class and no Protocol, for all that watches, averages or saves a model needs an ``nn.Module``. A
    subclass sets the attributes and implements :meth:`step`.

    Attributes:
        config: the model section.
        core: the decoder; train.freeze_decoder_steps freezes its parameters.
        encoder: the demonstration encoder, None of a variant that has none.
        puzzle_table: the table of task ids, None of a variant that has none.
        context_policy: the function from model, carry and batch to the context.
    """

    REQUIRED: ClassVar = ("config", "core", "encoder", "puzzle_table", "context_policy")
    """Names of the attributes that a subclass sets."""

    if TYPE_CHECKING:
        config: ModelConfig
        core: nn.Module
        encoder: Encoder | None
        puzzle_table: PuzzleTable | None
        context_policy: ContextPolicy

    fixed_time: bool = False
    """Whether every training row takes the maximum number of steps, whatever its halting logit."""

    @property
    def device(self) -> torch.device:
        """The device that its weights are on, and its batches must be on."""
        return next(self.parameters()).device

    @property
    def steps_per_turn(self) -> int:
        """Number of training steps that a batch has in a row before the schedule may turn to another bucket."""
        return 1

    @property
    def context_shape(self) -> tuple[int, int]:
        """Context tokens P and their width D."""
        return self.config.context_tokens, self.config.hidden_size

    def anneal(self, progress: float) -> None:
        """Learn which share of training is done, before each training step and in a loaded model."""

    def draw_minimum(self, rows: int, generator: torch.Generator | None) -> Tensor | None:
        """The least ACT steps (rows,) int64 of one training step; None where there is no least."""
        return None

    def draw_noise(self, rows: int, pairs: int) -> Tensor | None:
        """Noise (rows, ...) for one training step of a variational encoder with that many pairs; None of any other."""
        return None

    def draw_noisy(self, context: Tensor) -> Tensor:
        """The context (B, P, D) with Gaussian noise of its own size, from torch's global CPU generator.

        No score should depend on it: it makes a fault, and a misleading score next to the right one.
        """
        noise = to_device(torch.randn(context.shape), context.device).to(context.dtype)
        return context + context.std() * noise

    def initial_carry(self, rows: int) -> Carry:
        """Return a carry whose rows all begin with the next batch."""
        return Carry.initial(rows, self.config.hidden_size, self.device)

    def forward(self, carry: Carry, batch: Batch, minimum: Tensor | None = None) -> tuple[Carry, StepOutput]:
        """Do one ACT step. Rows that are halted in the carry must have their new sample in ``batch``.

        In training mode rows halt by themselves after at least ``minimum`` (B,) steps; in evaluation, and
        with fixed time, only at the maximum number of steps.
        """
        given: object = self.context_policy(self, carry, batch)
        if not isinstance(given, Given):
            raise ExtensionError(
                "variant.no-context",
                f"the context policy of {type(self).__name__} returns something else than a context",
                got=describe(given),
                allowed="etrm.model.variant.Given(context)",
            )
        carry, output = self.step(carry, batch, given.context, minimum)
        output = replace(output, kl=given.kl, entropy=given.entropy)
        return replace(carry, context=given.stored, encoder_state=given.state), output

    def step(
        self, carry: Carry, batch: Batch, context: Tensor, minimum: Tensor | None = None
    ) -> tuple[Carry, StepOutput]:
        """Do one ACT step with a given context (B, P, D), which the carry does not store."""
        raise NotImplementedError
