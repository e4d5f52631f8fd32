"""Compares the loss of outputs that no new model produces: of solved, almost solved and unscored rows."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from etrm.data.sample import CELLS
from etrm.device import to_device
from etrm.investigation.reference_comparison.checkpoint_check import draws_noise
from etrm.model.core import VOCABULARY
from etrm.model.variant import StepOutput
from etrm.reference.data.canvas import COLOUR, END, PAD
from etrm.reference.departure import Departure, PipelineStage
from etrm.reference.training.objective import NOT_SCORED, row_losses
from etrm.training.loss import act_loss
from etrm.training.trainer import Trainer

SOLVED = 2  # the first rows
ONLY_WRONG = (COLOUR, COLOUR + 1), (COLOUR, END), (COLOUR, PAD), (END, COLOUR)
"""The label and the answer of the only wrong token of each row after these: a loss may forgive one kind of token."""
ROWS, TOKENS = SOLVED + len(ONLY_WRONG) + 3, CELLS
"""With as many tokens as a query can have, a row with one wrong token is as close to a solved one as any row."""
LIMIT = 1e-5  # relative; both are computed in float32 or better
MARGINS = 2.0, 6.0, 60.0, 600.0
"""Added in turn to the logits of the tokens that are answered, which then have probabilities from .2 to .98 under
stablemax, and from .3 to 1 under softmax. A new model is sure of nothing, and a loss may treat what is sure otherwise.
"""


def compare_known_losses(trainer: Trainer) -> list[Departure]:
    """Compare the loss of outputs with known answers, and its gradient, with the reference."""
    train, labels, output = trainer.config.train, *_make_output(trainer)
    loss = act_loss(output, labels, train.loss)
    real = trainer.recipe.weigh(loss.total(train), trainer.step)
    wanted = row_losses(output.logits, output.q_halt, labels, output.kl, None, train).total.sum()
    leaves = [value for value in (output.logits, output.q_halt, output.kl) if value is not None]
    found = _compare(PipelineStage.LOSS, "loss of known answers", real, wanted)
    names = ("logits", "halting logits", "kl")
    gradients = (torch.autograd.grad(total, leaves, allow_unused=True) for total in (real, wanted))
    for name, leaf, one, other in zip(names, leaves, *gradients, strict=False):
        both = (torch.zeros_like(leaf) if value is None else value for value in (one, other))
        found += _compare(PipelineStage.GRADIENT, f"gradient of the {name} of known answers", *both)
    return found


def _make_output(trainer: Trainer) -> tuple[Tensor, StepOutput]:
    """Return the labels (B, S) and the output: of rows that are solved, almost solved, wrong, and not scored."""
    random = torch.Generator().manual_seed(trainer.config.train.seed)
    labels = torch.randint(1, VOCABULARY, (ROWS, TOKENS), generator=random)
    logits = 2 * torch.rand(ROWS, TOKENS, VOCABULARY, generator=random) - 1  # closer than the least margin
    answers = torch.randint(1, VOCABULARY, (ROWS, TOKENS), generator=random)
    answers[:-3] = labels[:-3]
    for row, (label, answer) in enumerate(ONLY_WRONG, start=SOLVED):
        labels[row, 0], answers[row, 0] = label, answer
    margins = torch.tensor(MARGINS).repeat(ROWS * TOKENS)[: ROWS * TOKENS].view(ROWS, TOKENS, 1)
    logits += margins * torch.nn.functional.one_hot(answers, VOCABULARY)
    labels[0, -1] = labels[-3, :2] = NOT_SCORED
    labels[-2] = NOT_SCORED
    q_halt = torch.linspace(-2, 3.5, ROWS)  # none is 0, where both targets have the same loss
    kl = torch.rand(ROWS, generator=random) if draws_noise(trainer.model) else None
    moved = [None if x is None else to_device(x, trainer.device) for x in (logits, q_halt, kl)]
    leaves = [None if x is None else x.requires_grad_() for x in moved]
    context = torch.zeros(ROWS, 1, 1, device=trainer.device)
    assert leaves[0] is not None
    assert leaves[1] is not None
    return to_device(labels, trainer.device), StepOutput(leaves[0], leaves[1], context, kl=leaves[2])


def _compare(stage: PipelineStage, name: str, real: Tensor, wanted: Tensor) -> list[Departure]:
    one, other = real.detach().double(), wanted.detach().double()
    size = float((one - other).norm() / other.norm().clamp(min=1e-12))
    return [] if size <= LIMIT else [Departure(stage, name, math.inf if math.isnan(size) else size, LIMIT)]
