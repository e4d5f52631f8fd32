"""The answers of a model to single rows, from its weights alone: no batch, no padding, one row at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from etrm.config import ModelConfig
from etrm.device import to_host
from etrm.reference.data.canvas import CELLS
from etrm.reference.data.loaded_rows import LoadedRow
from etrm.reference.departure import Departure, PipelineStage
from etrm.reference.evaluation.evaluation_stages import RecordedAnswer
from etrm.reference.model.context import ContextResult, DemoPairs, encode, look_up, start_state
from etrm.reference.model.network import Weights, core_step, part

TIE = 1e-3  # gap of two logits below which rounding may decide which is larger
LOGIT_LIMIT = 1e-3  # relative difference of halting logits that float32 explains


@torch.no_grad()
def answer(
    weights: Weights, model: ModelConfig, row: LoadedRow, early: bool, context: Tensor | None = None
) -> tuple[Tensor, float]:
    """Answer one row from a fresh state.

    Args:
        weights: the tensors of the model, in float32.
        model: the settings of the model, which the reference covers.
        row: the row.
        early: whether it stops at the first positive halting logit, or always takes all steps.
        context: (P, D), the context to read in all steps; that of the row's demonstrations by default.

    Returns:
        logits (S, V) and the halting logit of its last step.
    """
    device = weights["core.H_init"].device
    inputs, positions = (
        torch.as_tensor(np.array(x), dtype=torch.long, device=device)[None]
        for x in (row.tokens, row.positions)
    )
    core = part(weights, "core")
    length = model.context_tokens + inputs.shape[1]
    z_H, z_L = (weights[f"core.{name}_init"].expand(1, length, -1) for name in "HL")
    encodes = model.has_encoder and context is None
    state = start_state(part(weights, "encoder"), model, 1) if encodes else None
    found = None if context is None else ContextResult(context[None])
    for _ in range(model.halt.max_steps):
        if found is None or state is not None:
            found = encode_row(weights, model, row, state)
            state = found.state
        result = core_step(
            core, model, z_H, z_L, found.context, inputs, positions, mask_row(row.tokens, CELLS, device)
        )
        z_H, z_L, halting = result.z_H, result.z_L, float(result.q[0, 0])
        if early and halting > 0:
            break
    return result.logits[0], halting


def encode_row(
    weights: Weights, model: ModelConfig, row: LoadedRow, state: Mapping[str, Tensor] | None
) -> ContextResult:
    """Encode the demonstrations of one row, from the state (1, P, D) of a stateful encoder."""
    device = weights["core.H_init"].device
    if not model.has_encoder:
        return ContextResult(
            look_up(weights, torch.tensor([row.puzzle_id], device=device), model.context_tokens)
        )
    longest = max(len(tokens) for tokens, _ in row.demos)
    tokens = torch.zeros(len(row.demos), longest, dtype=torch.long, device=device)
    positions, valid = torch.zeros_like(tokens), torch.zeros_like(tokens, dtype=torch.bool)
    for pair, (first, second) in enumerate(row.demos):
        tokens[pair, : len(first)] = torch.as_tensor(np.array(first), device=device)
        positions[pair, : len(first)] = torch.as_tensor(np.array(second), device=device)
        valid[pair, : len(first)] = True
    whole = all(len(first) == 2 * CELLS for first, _ in row.demos)
    owner = torch.zeros(len(row.demos), dtype=torch.long, device=device)
    demos = DemoPairs(tokens, positions, None if whole else valid, owner, 1)
    return encode(part(weights, "encoder"), model, demos, state)


def mask_row(tokens: Sequence[int] | np.ndarray, whole: int, device: torch.device) -> Tensor | None:
    """Every token of a single row exists, and the published canvas has no mask."""
    return None if len(tokens) == whole else torch.ones(1, len(tokens), dtype=torch.bool, device=device)


def compare_answers(
    weights: Weights,
    model: ModelConfig,
    answers: Sequence[RecordedAnswer],
    early: bool,
    contexts: Sequence[Tensor] | None = None,
) -> list[Departure]:
    """Compare recorded answers of a model with those that its weights give to the same rows.

    Args:
        weights: the tensors of the model.
        model: the settings of the model.
        answers: rows with the answers that the evaluator got.
        early: whether a row stops at the first positive halting logit.
        contexts: (P, D), the context of each answer, where it is not that of the row's demonstrations.
    """
    single = {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}
    wrong, cells, first, logits = 0, 0, "", 0.0
    given: Sequence[Tensor | None] = contexts or [None] * len(answers)
    for found, context in zip(answers, given, strict=True):
        if found.tokens is None:
            continue
        wanted, halting = answer(single, model, found.row, early, context)
        best = wanted.topk(2, dim=-1)
        clear = (best.values[:, 0] - best.values[:, 1]) > TIE
        sure = to_host(clear).numpy()
        tokens = np.asarray(found.tokens)
        if tokens.shape != sure.shape:
            return [
                Departure(PipelineStage.ANSWERS, "tokens", 1.0, 0.0, f"task {found.task_id}: another length")
            ]
        differs = (tokens != to_host(best.indices[:, 0]).numpy()) & sure
        wrong, cells = wrong + int(differs.sum()), cells + len(differs)
        logits = max(logits, abs(found.q_halt - halting) / max(1.0, abs(halting)))
        if not first and (differs.any() or logits > LOGIT_LIMIT):
            first = f"task {found.task_id}, {found.name}"
    departures = []
    if wrong:
        departures.append(Departure(PipelineStage.ANSWERS, "tokens", wrong / cells, 0.0, first))
    if not logits <= LOGIT_LIMIT:
        departures.append(Departure(PipelineStage.ANSWERS, "halting logit", logits, LOGIT_LIMIT, first))
    return departures
