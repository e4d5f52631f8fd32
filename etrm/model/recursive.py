"""A recursive model: a context source, the core, and one ACT step over a persistent carry."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from etrm.batch import Batch
from etrm.config import SIDE, ModelConfig
from etrm.errors import ConfigError
from etrm.model.act import Carry, explore, halts
from etrm.model.core import Core
from etrm.model.encoders import Encoded, build_encoder
from etrm.model.forward_context import run_part
from etrm.model.puzzle import PuzzleTable
from etrm.model.variant import ContextPolicy as ContextPolicy
from etrm.model.variant import Given as Given
from etrm.model.variant import StepOutput as StepOutput
from etrm.model.variant import Variant


def look_up_puzzle(model: Variant, carry: Carry, batch: Batch) -> Given:
    """TRM: look the context up in the puzzle table."""
    assert model.puzzle_table is not None
    return Given(model.puzzle_table(batch.puzzle_ids))


def encode_every_step(model: Variant, carry: Carry, batch: Batch) -> Given:
    """ETRM: encode the demos of all rows at every ACT step, so that every sample trains the encoder."""
    assert model.encoder is not None
    encoder = model.encoder
    encoded: Encoded = encoder(batch.demos, encoder.begin(carry.encoder_state, carry.halted))
    return Given(encoded.context, kl=encoded.kl, state=encoded.state)


def encode_at_reset(model: Variant, carry: Carry, batch: Batch) -> Given:
    """The faulty cache: encode only the rows that begin, and keep the result without its graph.

    Only the rows that begin send a gradient to the encoder (Progress summary: 2 % of the batch). A
    stateful encoder makes only one step from its initial state.
    """
    assert model.encoder is not None
    begin = carry.halted.nonzero().squeeze(1)
    context = carry.context
    if context is None:
        context = torch.zeros(batch.size, *model.context_shape, device=batch.inputs.device)
    kl = None
    if len(begin):
        encoded: Encoded = model.encoder(batch.demos.select(begin))
        context = context.index_put((begin,), encoded.context.to(context.dtype))
        if encoded.kl is not None:
            kl = encoded.kl.new_zeros(batch.size).index_put((begin,), encoded.kl)
    return Given(context, stored=context.detach(), kl=kl)


POLICIES: dict[str, ContextPolicy] = {
    "trm": look_up_puzzle,
    "etrm": encode_every_step,
    "etrm_cached": encode_at_reset,
    "etrm_fct": encode_every_step,
}


class RecursiveModel(Variant):
    """TRM or ETRM; a variant from outside may derive from it, and then encodes at every step.

    Args:
        config: the settings of the model.
        puzzles: the number of rows of the puzzle table (only for the variant ``trm``).
        side: the side of the canvas that positions refer to.

    Attributes:
        fixed_time: true of ETRM-FCT (fixed computation time), whose whole batch begins and ends together.
    """

    if TYPE_CHECKING:
        core: Core

    def __init__(self, config: ModelConfig, *, puzzles: int = 0, side: int = SIDE) -> None:
        super().__init__()
        self.config = config
        self.context_policy = POLICIES.get(config.variant, encode_every_step)
        self.fixed_time = config.variant == "etrm_fct"
        self.core = Core(config, side)
        if config.variant == "trm":
            self.puzzle_table = PuzzleTable(puzzles, config.context_tokens, config.hidden_size)
            self.encoder = None
        else:
            self.puzzle_table = None
            self.encoder = build_encoder(config, side)

    @property
    def device(self) -> torch.device:
        """The device of its weights and its batches."""
        return self.core.H_init.device

    @property
    def steps_per_turn(self) -> int:
        """Consecutive training steps of a batch before the schedule may switch to another bucket."""
        return self.config.halt.max_steps if self.fixed_time else 1

    def draw_minimum(self, rows: int, generator: torch.Generator | None) -> Tensor | None:
        """Draw the minimum number of ACT steps per row (rows,), see :func:`explore`; None without exploration."""
        return None if self.fixed_time else explore(rows, self.config.halt, generator)

    def draw_noise(self, rows: int, pairs: int) -> Tensor | None:
        """Draw noise (rows, ...) for one training step of a variational encoder; None for other encoders.

        It comes from torch's global CPU generator, for all rows of the global batch and for ``pairs`` pairs, the
        most that any row has, so that splitting the batch changes no number.
        """
        shape = None if self.encoder is None else self.encoder.noise_shape(pairs)
        return None if shape is None else torch.randn(rows, *shape)

    def step(
        self,
        carry: Carry,
        batch: Batch,
        context: Tensor,
        minimum: Tensor | None = None,
    ) -> tuple[Carry, StepOutput]:
        """Do one ACT step with a given context (B, P, D), which the carry does not store."""
        core = self.core
        length = core.context_tokens + batch.inputs.shape[1]
        carry = carry.begin(length, core.H_init, core.L_init)
        z_H, z_L, logits, q = run_part(
            core, core, carry.z_H, carry.z_L, context, batch.inputs, batch.positions, batch.valid
        )
        steps, q_halt = carry.steps + 1, q[:, 0]
        if self.training and not self.fixed_time:
            halted = halts(steps, q_halt.detach(), self.config.halt, minimum)
        else:
            halted = steps >= self.config.halt.max_steps
        carry = Carry(z_H=z_H.detach(), z_L=z_L.detach(), steps=steps, halted=halted)
        return carry, StepOutput(logits, q_halt, context)


def recursive_core(model: Variant) -> Core:
    """The core of a model whose decoder is that of this package.

    Raises:
        ConfigError: its decoder is another one.
    """
    if not isinstance(model.core, Core):
        raise ConfigError(
            "model.other-core",
            f"this needs the recursive core, and model.variant {model.config.variant!r} has another decoder",
            got=f"a core of class {type(model.core).__name__}",
            allowed=", ".join(POLICIES),
        )
    return model.core
