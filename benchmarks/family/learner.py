"""A model of the product's modules, and a training step over all four sides that a GPU replays as one graph.

Weights are cast to bfloat16 once per step, and lengths are those of the side, so that nothing is padded or masked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.family.device_episodes import RECOLOURINGS, DrawnTasks
from etrm.batch import IGNORE, Demos
from etrm.config import load, with_settings
from etrm.data.rules import DEMOS
from etrm.model.core import VOCABULARY
from etrm.model.encoders import GridEncoder, StandardEncoder
from etrm.model.layers import TokenEmbedding, rms_norm
from etrm.model.recursive import RecursiveModel

CANVAS = 30
"""The side of the product's canvas, which positions refer to."""
CLASSES = (8, 9, 1 + len(RECOLOURINGS), *(10 for _ in range(9)))
"""The values of each number of a rule, see :attr:`DrawnTasks.rules`."""
LABEL_WEIGHT = 0.2
"""Of the loss of naming a part; the answers' loss weighs 1."""


@dataclass(frozen=True)
class FamilyArm:
    """What differs between the compared trainings.

    Attributes:
        hidden: the width D; heads have 32 channels.
        layers: blocks of the grid encoder.
        set_layers: cross-attention layers of the context.
        tokens: whether the context reads every token of every pair, and not one pooled vector of each.
        cells: whether a token is a cell of both grids, and not of one.
        absolute: whether cells also have learned positions, in the encoder and in the core.
        labelled: whether the encoder is also trained to name the rule, by heads that are thrown away.
        easy_first: whether rules of one part and small grids come first.
        cycles: L cycles of the core.
        context: context tokens P.
        lr: learning rate after the warm-up.
    """

    hidden: int = 128
    layers: int = 4
    set_layers: int = 2
    tokens: bool = False
    cells: bool = False
    absolute: bool = False
    labelled: bool = False
    easy_first: bool = False
    cycles: int = 2
    context: int = 16
    lr: float = 1e-3


class FamilyModel(nn.Module):
    """ETRM with one ACT step: the product's standard encoder and core.

    Args:
        arm: its settings.
    """

    def __init__(self, arm: FamilyArm) -> None:
        super().__init__()
        config = with_settings(
            load("rules"),
            model={
                "hidden_size": arm.hidden,
                "num_heads": max(1, arm.hidden // 32),
                "context_tokens": arm.context,
                "L_cycles": arm.cycles,
                "encoder": {
                    "layers": arm.layers,
                    "set_layers": arm.set_layers,
                    "layout": "cells" if arm.cells else "sequence",
                    "pooling": "none" if arm.tokens else "mean",
                },
            },
        ).model
        model = RecursiveModel(config)
        assert isinstance(model.encoder, StandardEncoder)
        self.arm, self.core = arm, model.core
        self.encoder: StandardEncoder = model.encoder
        grids = self.encoder.grid_encoder
        assert isinstance(grids, GridEncoder)
        self._grids = (grids,)  # in a tuple, so that its weights are registered once
        self.cells = TokenEmbedding(2 * CANVAS * CANVAS, arm.hidden) if arm.absolute else None
        if arm.absolute:
            self.core.embed_pos = TokenEmbedding(arm.context + CANVAS * CANVAS, arm.hidden)

        self.heads = nn.Linear(arm.context * arm.hidden, sum(CLASSES)) if arm.labelled else None

    def encode(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Encode pairs (B D, L), of positions (1, L), as contexts (B, P, H)."""
        (grids,) = self._grids
        if self.arm.cells:  # as lay_out does, of grids with the same side
            given, wanted = tokens.chunk(2, dim=1)
            tokens, positions = VOCABULARY * given + wanted, positions.chunk(2, dim=1)[0]
        demos = Demos(tokens, positions, None, tokens, tokens)  # owner and slots are not read
        h = grids.embed(demos)
        if self.cells is not None:
            h = h + h.shape[-1] ** 0.5 * self.cells(positions)
        rotation = grids.positions(positions)
        for block in grids.layers.children():
            h = block(h, rotation, None)
        if not self.arm.tokens:
            h = h.mean(1, keepdim=True)
        h = grids.pool_proj(h)
        sets = h.reshape(len(h) // DEMOS, -1, h.shape[-1])
        return self.read(sets)

    def read(self, sets: Tensor) -> Tensor:
        """Vectors (B, K, H) to contexts (B, P, H), as the set encoder reads them; all of them exist."""
        reader = self.encoder.set_encoder
        h = reader.query_tokens.expand(len(sets), -1, -1)
        for layer in reader.layers:
            h = layer(h, sets, None)
        return rms_norm(h)

    def answer(self, context: Tensor, inputs: Tensor, positions: Tensor) -> Tensor:
        """Logits (B, S, V) of queries (B, S) of positions (1, S), for contexts (B, P, H)."""
        core = self.core
        length = context.shape[1] + inputs.shape[1]
        states = (
            state.to(context.dtype).expand(len(inputs), length, -1).contiguous()
            for state in (core.H_init, core.L_init)
        )
        logits: Tensor = core(*states, context, inputs, positions, None)[2]
        return logits

    def name_rules(self, context: Tensor, rules: Tensor) -> Tensor:
        """Return the loss of naming the parts (B, 12) of the rules from contexts (B, P, H)."""
        assert self.heads is not None
        found = self.heads(context.flatten(1)).float().split(CLASSES, 1)
        return torch.stack([F.cross_entropy(x, y) for x, y in zip(found, rules.unbind(1), strict=True)]).sum()

    def compile_blocks(self) -> None:
        """Compile what the trainer compiles: one graph serves all sides."""
        networks: list[nn.Module] = [self.core.L_level, *self._grids[0].layers.children()]
        for network in networks:
            network.compile(dynamic=True)


@dataclass(frozen=True)
class Laid:
    """Tasks of one side as tokens: pairs (B D, L), inputs and labels (B, S), rules; positions of either (1, ...)."""

    pairs: Tensor
    inputs: Tensor
    labels: Tensor
    rules: Tensor
    pair_positions: Tensor
    positions: Tensor

    def tensors(self) -> tuple[Tensor, ...]:
        """All of them, in the order of the fields."""
        return self.pairs, self.inputs, self.labels, self.rules, self.pair_positions, self.positions


def lay_out(tasks: DrawnTasks) -> Laid:
    """Lay tasks out as the product does on regions: EOS below and right of a grid, PAD in the corner."""
    side, device = tasks.inputs.shape[-1], tasks.inputs.device
    given, wanted = _canvas(tasks.inputs), _canvas(tasks.outputs)
    pairs = torch.cat((given[:, :DEMOS, :-1], wanted[:, :DEMOS, :-1]), 2).flatten(0, 1)
    labels = wanted[:, DEMOS].clone()
    labels[:, -1] = IGNORE
    rows = torch.arange(side + 1, device=device)
    positions = (CANVAS * rows[:, None] + rows).flatten()
    both = torch.cat((positions[:-1], positions[:-1] + CANVAS * CANVAS))
    return Laid(pairs, given[:, DEMOS], labels, tasks.rules, both[None], positions[None])


def _canvas(grids: Tensor) -> Tensor:
    framed = F.pad(grids + 2, (0, 1, 0, 1), value=1)
    framed[..., -1, -1] = 0
    return framed.flatten(2)


class FamilyStep:
    """A training step on equally many tasks of every side.

    Args:
        model: the model, on its device, in float32.
        rows: the tasks per side and step.
        sides: the sides of the grids.
    """

    def __init__(self, model: FamilyModel, rows: int, sides: Sequence[int]) -> None:
        self.model, self.sides = model, tuple(sides)
        self.device = next(model.parameters()).device
        self.masters = [p.detach().clone().float() for p in model.parameters()]
        low = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        for name, parameter in model.named_parameters():
            if "q_head" not in name:  # which the core feeds in float32
                parameter.data = parameter.data.to(low)
        self.weights: list[Tensor] = list(model.parameters())
        self.rate = torch.zeros((), device=self.device)
        self.moments = (
            [torch.zeros_like(p) for p in self.masters],
            [torch.zeros_like(p) for p in self.masters],
        )
        self.count = torch.zeros((), device=self.device)
        self.averages = [p.clone() for p in self.masters]
        empty = {
            side: torch.zeros(rows, DEMOS + 1, side, side, dtype=torch.long, device=self.device)
            for side in self.sides
        }
        kinds = torch.zeros(rows, dtype=torch.long, device=self.device)
        rules = torch.zeros(rows, len(CLASSES), dtype=torch.long, device=self.device)
        self.batches = {
            side: lay_out(DrawnTasks(grids, grids, kinds, rules)) for side, grids in empty.items()
        }
        self.sums = torch.zeros(3, device=self.device)  # loss, tasks solved, tasks
        self._graph: torch.cuda.CUDAGraph | None = None

    def load(self, side: int, tasks: DrawnTasks) -> None:
        """Copy tasks into the batch of their side."""
        for held, new in zip(self.batches[side].tensors()[:4], lay_out(tasks).tensors()[:4], strict=True):
            held.copy_(new)

    def capture(self, warm: int = 3) -> None:
        """Record the step as a graph, after some steps that compile and allocate; those train nothing.

        Raises:
            RuntimeError: torch cannot record it; the step then runs without a graph.
        """
        if self.device.type != "cuda":
            return
        try:
            self._graph = self._record(warm)
        finally:
            for tensor in (self.count, self.sums, *self.moments[0], *self.moments[1]):
                tensor.zero_()

    def _record(self, warm: int) -> torch.cuda.CUDAGraph:
        torch.cuda.empty_cache()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(warm):
                self._compute()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.empty_cache()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._compute()
        return graph

    def __call__(self, rate: float) -> None:
        """Do the step on the loaded batches."""
        self.rate.fill_(rate)
        if self._graph is None:
            self._compute()
        else:
            self._graph.replay()

    def _compute(self) -> None:
        total = [torch.zeros_like(master) for master in self.masters]
        for side in self.sides:
            batch = self.batches[side]
            context = self.model.encode(batch.pairs, batch.pair_positions)
            logits = self.model.answer(context, batch.inputs, batch.positions).float()
            loss = F.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORE)
            objective = loss
            if self.model.heads is not None:
                objective = loss + LABEL_WEIGHT * self.model.name_rules(context, batch.rules)
            gradients = torch.autograd.grad(objective / len(self.sides), self.weights, allow_unused=True)
            reached = [(t, g) for t, g in zip(total, gradients, strict=True) if g is not None]
            torch._foreach_add_([t for t, _ in reached], [g.float() for _, g in reached])
            with torch.no_grad():
                solved = is_solved(logits, batch.labels).float()
                counts = (loss * len(solved), solved.sum(), solved.new_full((), len(solved)))
                self.sums += torch.stack(counts)
        self._update(total)

    @torch.no_grad()
    def _update(self, gradients: list[Tensor]) -> None:
        """AdamW with betas .9 and .95 and decay .1, gradients clipped at norm 1, and an average of the weights."""
        norm = torch.stack(torch._foreach_norm(gradients)).norm()
        torch._foreach_mul_(gradients, (1 / norm.clamp(min=1)))
        self.count += 1
        first, second = self.moments
        torch._foreach_lerp_(first, gradients, 0.1)
        torch._foreach_mul_(second, 0.95)
        torch._foreach_addcmul_(second, gradients, gradients, 0.05)
        scale = torch._foreach_div(second, 1 - 0.95**self.count)
        torch._foreach_sqrt_(scale)
        torch._foreach_add_(scale, 1e-8)
        change = torch._foreach_div(first, scale)
        torch._foreach_mul_(change, self.rate / (1 - 0.9**self.count))
        torch._foreach_mul_(self.masters, 1 - 0.1 * self.rate)
        torch._foreach_sub_(self.masters, change)
        torch._foreach_lerp_(self.averages, self.masters, 0.002)
        torch._foreach_copy_(self.weights, self.masters)

    def read(self) -> tuple[float, float]:
        """Return the mean loss and the share of solved training tasks since the last reading."""
        loss, solved, tasks = self.sums.tolist()
        self.sums.zero_()
        return loss / max(tasks, 1), solved / max(tasks, 1)

    def use(self, weights: Iterable[Tensor]) -> None:
        """Put weights into the model: :attr:`averages` to evaluate, :attr:`masters` to train on."""
        with torch.no_grad():
            torch._foreach_copy_(self.weights, list(weights))


def is_solved(logits: Tensor, labels: Tensor) -> Tensor:
    """(B, S, V) and (B, S) to (B,) bool: every scored token is right."""
    return ((logits.argmax(-1) == labels) | (labels == IGNORE)).all(1)
