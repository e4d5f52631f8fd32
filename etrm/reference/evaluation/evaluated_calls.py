"""The calls of encoder and core in an evaluation, each from the inputs that it really had.

Answers depart if the model computes something else on them than in training, or if the evaluator asks it wrongly. Only
in the first case does a call of its own depart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from etrm.config import ModelConfig
from etrm.reference.departure import Departure, PipelineStage
from etrm.reference.model.context import encode, start_state
from etrm.reference.model.network import Weights, core_step, part
from etrm.reference.recorded import RecordedCore, RecordedEncoding

LIMIT = 1e-3
"""Largest relative difference of a row that float32 explains in one call, as of the answers."""


@torch.no_grad()
def compare_calls(
    weights: Weights,
    model: ModelConfig,
    encodings: Sequence[RecordedEncoding],
    cores: Sequence[RecordedCore],
) -> list[Departure]:
    """Compare calls of the networks with the reference; a departure for each value that differs in any of them.

    Args:
        weights: the tensors of the model.
        model: the settings of the model, which the reference covers.
        encodings: calls of the encoder in evaluation mode.
        cores: calls of the core.
    """
    single = {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}
    sizes: dict[tuple[PipelineStage, str], float] = {}

    def note(stage: PipelineStage, pairs: Mapping[str, tuple[Tensor, Tensor]], exists: Tensor | None) -> None:
        for name, (real, wanted) in pairs.items():
            size = _largest(real, wanted, exists)
            sizes[stage, name] = max(sizes.get((stage, name), 0.0), size)

    for call in encodings:
        encoder = part(single, "encoder")
        state = call.state or start_state(encoder, model, call.demos.rows)
        found = encode(encoder, model, call.demos, state)
        note(PipelineStage.CONTEXT, {"context": (call.context, found.context)}, None)
    for core in cores:
        result = core_step(
            part(single, "core"),
            model,
            core.z_H,
            core.z_L,
            core.context,
            core.inputs,
            core.positions,
            core.valid,
        )
        exists = core.valid
        if exists is not None:
            exists = torch.cat((exists.new_ones(len(exists), model.context_tokens), exists), dim=1)
        states = {"z_H": (core.z_H_out, result.z_H), "z_L": (core.z_L_out, result.z_L)}
        note(PipelineStage.CORE, states, exists)
        note(PipelineStage.CORE, {"logits": (core.logits, result.logits)}, core.valid)
    return [
        Departure(stage, name, size, LIMIT, "in an evaluation")
        for (stage, name), size in sizes.items()
        if not size <= LIMIT
    ]


def _largest(real: Tensor, wanted: Tensor, exists: Tensor | None) -> float:
    """The largest difference of a row, relative to the usual norm of a row; infinite of another shape."""
    if real.shape != wanted.shape:
        return torch.inf
    if exists is not None:
        real, wanted = real * exists[..., None], wanted * exists[..., None]
    gaps = (real.double() - wanted.double()).flatten(1).norm(dim=1)
    usual = wanted.double().flatten(1).norm(dim=1).square().mean().sqrt()
    return float((gaps / usual.clamp(min=1e-12)).max().nan_to_num(torch.inf))
