"""Calls that make weights or probabilities of scores: softmax, attention with a mask, normalisation, gather."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from diagnostics.auditing.tracing.attention_weights import AttentionWeights, count_later
from diagnostics.auditing.tracing.recorded_calls import (
    Arrived,
    AttentionCall,
    NormalizeCall,
    Operation,
    Pick,
    SoftmaxCall,
)
from diagnostics.auditing.tracing.torch_call import TorchCall
from diagnostics.auditing.tracing.value_kinds import MASKED

_HIDDEN = -1e4
"""Score below which a key is masked."""
_ROUNDED = 1e-6
"""Distance from 1 of a weight next to which the others have hardly any gradient."""
_FEWEST = 2
"""Samples that keep a key at one position, from which they can be compared, and places of a mask."""
_MOST = 0.5  # of the places: those of the last token of a packed document see nothing later


class ScoreCalls:
    """Calls on scores.

    Attributes:
        softmaxes: Calls of softmax.
        attentions: Calls of attentions with a mask of keys.
        reaches: For each attention of a sequence to itself, its length, and how many later places each place sees.
        backward_masks: Attentions whose mask shows each place later places alone.
        normalized: Calls of F.normalize.
        picks: Numbers that an index picks from others with a graph, as an action its log-probability.
        logarithms: Where log_softmax and logsigmoid were called, and the gradient that came to their results.
    """

    def __init__(self) -> None:
        self.softmaxes: list[SoftmaxCall] = []
        self.attentions: list[AttentionCall] = []
        self.backward_masks: list[Operation] = []
        self.normalized: list[NormalizeCall] = []
        self.picks: list[Pick] = []
        self.logarithms: list[tuple[Operation, Arrived]] = []
        self._weights = AttentionWeights()
        self.reaches = self._weights.reaches

    def wants(self, name: str) -> bool:
        """Those on scores, and those that attention weights go through."""
        return name in _NOTES or name in _ATTENTIONS or self._weights.wants(name)

    def note(self, call: TorchCall) -> None:
        """Note a call on scores."""
        if isinstance(call.result, Tensor):
            flow = call.step.flow
            self._weights.note(
                call.name, call.args, call.kwargs, call.result, lambda each: bool(flow.nearest([each]))
            )
        if call.name in _ATTENTIONS:
            self._note_attention(call)
        elif call.name in _NOTES:
            _NOTES[call.name](self, call)

    def _note_attention(self, call: TorchCall) -> None:
        mask = call.argument("attn_mask", 3)
        self._note_reach(call)
        plain = call.name == "scaled_dot_product_attention" and isinstance(mask, Tensor)
        if plain and _sees_later_alone(_seen_in(mask)):
            self.backward_masks.append(call.operation())
        keys, kept = _ATTENTIONS[call.name](call.args, call.kwargs)
        if keys is not None and kept is not None and keys.shape[:2] == kept.shape:
            self.attentions.append(AttentionCall(call.operation(), _reads_constant(keys, kept)))

    def _note_reach(self, call: TorchCall) -> None:
        """Note how many later places each place of a sequence sees: none where it is not known what a mask hides."""
        plain = call.name == "scaled_dot_product_attention"
        lengths = {each.shape[-2 if plain else 0] for each in call.pair if each.dim() > 2}
        if len(call.pair) < 2 or len(lengths) != 1:
            return
        (length,), mask = lengths, call.argument("attn_mask", 3)
        reach = length - 1
        if call.argument("is_causal", 5) is True:
            reach = 0
        elif isinstance(mask, Tensor):
            square = plain and mask.shape[-2:] == (length, length)
            reach = count_later(_seen_in(mask)) if square else 0
        self.reaches.append((length, reach))

    def _note_logarithm(self, call: TorchCall) -> None:
        if isinstance(call.result, Tensor) and call.result.requires_grad:
            self.logarithms.append((call.operation(), Arrived(call.result)))

    def _note_log_softmax(self, call: TorchCall) -> None:
        self._note_logarithm(call)
        self._note_softmax(call)

    def _note_softmax(self, call: TorchCall) -> None:
        result = call.result
        if not (isinstance(result, Tensor) and result.requires_grad and result.dim()):
            return
        scores, dim = call.args[0], call.argument("dim", 1)
        if not isinstance(dim, int):
            return
        hard = _hard_share(scores, result, dim) if call.name == "softmax" else 0.0
        place = dim % result.dim()
        found = SoftmaxCall(
            call.operation(),
            tuple(result.shape),
            place,
            call.step.sources([scores]) if hard or result.shape[dim] == 1 else (),
            hard,
            masked=call.step.kinds.of(scores) == MASKED,
            later=place == result.dim() - 1 and _sees_later_alone(scores.detach() > _HIDDEN),
        )
        self.softmaxes.append(found)
        self._weights.add_softmax(scores, result, found)

    def _note_normalized(self, call: TorchCall) -> None:
        given = call.args[0]
        if call.func is F.normalize and isinstance(given, Tensor) and given.grad_fn is not None:
            dim = call.argument("dim", 2, 1)
            if isinstance(dim, int):
                shape = tuple(given.shape)
                self.normalized.append(NormalizeCall(call.operation(), shape, dim % len(shape)))

    def _note_pick(self, call: TorchCall) -> None:
        result = call.result
        index, dim = call.argument("index", 2), call.argument("dim", 1)
        if not (isinstance(result, Tensor) and result.requires_grad):
            return
        if isinstance(index, Tensor) and isinstance(dim, int):
            shape = tuple(call.args[0].shape)
            sources, place = call.step.sources([call.args[0]]), dim % max(len(shape), 1)
            self.picks.append(Pick(call.operation(), index.detach(), shape, place, sources, Arrived(result)))


_NOTES: Mapping[str, Callable[[ScoreCalls, TorchCall], None]] = {
    "softmax": ScoreCalls._note_softmax,
    "log_softmax": ScoreCalls._note_log_softmax,
    "logsigmoid": ScoreCalls._note_logarithm,
    "normalize": ScoreCalls._note_normalized,
    "gather": ScoreCalls._note_pick,
}
Masked = tuple[Tensor | None, Tensor | None]
"""Keys (B, T, ...) and a mask (B, T) that is True where a key is kept; None where there is none for keys alone."""


def _keys_of_multi_head(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Masked:
    mask = kwargs.get("key_padding_mask")
    if len(args) < 2 or not isinstance(mask, Tensor) or args[1].dim() != 3:
        return None, None
    hidden = mask if mask.dtype == torch.bool else mask == -torch.inf
    return args[1].transpose(0, 1), ~hidden


def _keys_of_dot_product(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Masked:
    mask = kwargs.get("attn_mask", args[3] if len(args) > 3 else None)
    if len(args) < 2 or not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        return None, None
    if mask.dim() != 4 or mask.shape[1:3] != (1, 1) or args[1].dim() != 4:
        return None, None
    return args[1].transpose(1, 2), mask[:, 0, 0]


_ATTENTIONS: Mapping[str, Callable[[tuple[Any, ...], Mapping[str, Any]], Masked]] = {
    "multi_head_attention_forward": _keys_of_multi_head,
    "scaled_dot_product_attention": _keys_of_dot_product,
}


def _reads_constant(keys: Tensor, kept: Tensor) -> bool:
    """Whether at each position the kept keys are the same in all samples, and hidden ones are not."""
    flat = keys.detach().flatten(2)

    def spread(places: Tensor) -> Tensor:
        """Largest difference of the chosen keys at each position with several of them."""
        several = places.sum(0) >= _FEWEST
        low = flat.masked_fill(~places[..., None], torch.inf).amin(0)
        high = flat.masked_fill(~places[..., None], -torch.inf).amax(0)
        return (high - low).amax(1)[several]

    inside, outside = spread(kept), spread(~kept)
    return bool(len(inside) and len(outside) and (inside == 0).all() and (outside > 0).any())


def _seen_in(mask: Tensor) -> Tensor:
    """Where a mask of scaled_dot_product_attention() hides nothing."""
    return mask if mask.dtype == torch.bool else mask.detach() > _HIDDEN


def _sees_later_alone(seen: Tensor) -> bool:
    """Whether in a mask (..., T, T) no place sees an earlier one, and most see a later one."""
    length = seen.shape[-1]
    if seen.dim() < 2 or seen.shape[-2] != length or length <= _FEWEST or bool(seen.all()):
        return False
    later = seen.triu(1)
    return not bool(seen.tril(-1).any()) and bool(later[..., :-1, :].any(-1).float().mean() > _MOST)


def _hard_share(scores: Tensor, weights: Tensor, dim: int) -> float:
    """The share of distributions over several finite scores that are one-hot, up to rounding."""
    if scores.is_nested:
        return 0.0
    several = scores.isfinite().sum(dim) > 1
    hard = (weights.amax(dim) > 1.0 - _ROUNDED)[several]
    return float(hard.float().mean()) if hard.numel() else 0.0
