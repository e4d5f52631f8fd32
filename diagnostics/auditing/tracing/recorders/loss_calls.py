"""Calls of loss functions, and of others that compare two tensors."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diagnostics.auditing.tracing.origins.outputs import OUTPUT
from diagnostics.auditing.tracing.recorded_calls import Arrived, LossCall, MeanCall, NearCall, SignedCall
from diagnostics.auditing.tracing.torch_call import TorchCall
from diagnostics.auditing.tracing.value_kinds import CONSTANT, DECIDED
from diagnostics.recording.tensors import memory_of

COMPARED: tuple[Callable[..., Tensor], ...] = (
    F.cross_entropy,
    F.nll_loss,
    F.binary_cross_entropy,
    F.binary_cross_entropy_with_logits,
    F.mse_loss,
    F.l1_loss,
    F.smooth_l1_loss,
    F.huber_loss,
    F.kl_div,
)
"""Losses that compare an input with its target element by element."""
_SIGNED: Mapping[Callable[..., Tensor], int] = {
    F.margin_ranking_loss: 2,
    F.cosine_embedding_loss: 2,
    F.soft_margin_loss: 1,
    F.hinge_embedding_loss: 1,
}
"""Losses whose targets are -1 and 1 -> the place of the target among the arguments."""
_NEAR: Mapping[Callable[..., Tensor], int] = {F.cosine_similarity: 1} | dict.fromkeys(
    (F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss), -1
)
"""Function that compares two tensors -> the sign of its change as they come nearer."""
_NAMES = frozenset(each.__name__ for each in (*COMPARED, F.ctc_loss, *_SIGNED, *_NEAR)) | {
    "mean",
    "clamp",
    "clip",
}
_SHOWN = 8  # scores of a loss that are looked for in the output of the layer before it
_MOST_COMPARED = 2**24
"""Elements of that output, 64 MB."""


class LossCalls:
    """Calls of losses.

    Attributes:
        compared: Calls of functions that compare an input with its target element by element.
        alignments: Calls of the loss of alignments (CTC).
        signed: Calls of those whose targets are -1 and 1.
        near: Comparisons of two tensors that both have a graph.
        means: Means of several rows that are one number with a graph.
    """

    def __init__(self) -> None:
        self.compared: list[LossCall] = []
        self.alignments: list[LossCall] = []
        self.signed: list[SignedCall] = []
        self.near: list[NearCall] = []
        self.means: list[MeanCall] = []
        self._outputs: deque[tuple[Tensor, int]] = deque(maxlen=_SHOWN)  # with their dimension of features
        self._clamped: deque[tuple[Tensor, float]] = deque(
            maxlen=_SHOWN
        )  # with the share that was outside of 0 to 1

    def wants(self, name: str) -> bool:
        """Those of losses and means."""
        return name in _NAMES

    def note(self, call: TorchCall) -> None:
        """Note a call of a loss, a mean, or a clamp() of what a loss may receive."""
        if call.name in ("clamp", "clip"):
            self._note_clamp(call)
            return
        if call.name == "mean":
            self._note_mean(call)
            return
        self._note_loss(call)
        if call.func in _NEAR and len(call.args) > 1 and all(each.requires_grad for each in call.args[:2]):
            one, other, *_ = call.args
            self.near.append(
                NearCall(call.operation(), one, other, call.result, _NEAR[call.func], Arrived(call.result))
            )
        if call.func in _SIGNED:
            target = call.argument("target", _SIGNED[call.func])
            if isinstance(target, Tensor):
                self.signed.append(SignedCall(call.operation(), target.detach()))

    def note_output(self, module: nn.Module, output: Any) -> None:
        """Note what a layer returned, in whose rows the scores of a loss are looked for."""
        dim = _features_of(module)
        if dim is not None and isinstance(output, Tensor) and output.requires_grad and output.dim() > 1:
            self._outputs.append((output, dim))

    def _note_clamp(self, call: TorchCall) -> None:
        given, result = call.argument("input", 0), call.result
        if not (isinstance(given, Tensor) and isinstance(result, Tensor) and result.requires_grad):
            return
        within = given.numel() and bool(((result >= 0) & (result <= 1)).all())
        if within and OUTPUT in call.step.origins.of(given):
            self._clamped.append((result, float(((given < 0) | (given > 1)).float().mean())))

    def _outside(self, values: Tensor) -> float:
        return next((share for result, share in self._clamped if result is values), -1.0)

    def _note_mean(self, call: TorchCall) -> None:
        given, result = call.argument("input", 0), call.result
        if not (isinstance(result, Tensor) and isinstance(given, Tensor) and result.requires_grad):
            return
        if given.dim() and not result.dim():
            self.means.append(MeanCall(call.operation(), len(given), Arrived(result)))

    def _note_loss(self, call: TorchCall) -> None:
        if not (call.func in COMPARED or call.func is F.ctc_loss) or not call.args:
            return
        settings = signature(call.func).bind(*call.args, **call.kwargs).arguments
        _, compared, *_ = settings
        if isinstance(call.args[0], Tensor) and isinstance(settings[compared], Tensor):
            calls = self.compared if call.func in COMPARED else self.alignments
            calls.append(self._describe(call, call.args[0], settings.pop(compared), settings))

    def _describe(
        self, call: TorchCall, values: Tensor, target: Tensor, settings: Mapping[str, Any]
    ) -> LossCall:
        step, result = call.step, call.result if isinstance(call.result, Tensor) else None
        ignored = settings.get("ignore_index")
        flat = target.detach().flatten()
        classes = call.name == "cross_entropy"
        return LossCall(
            call.operation(),
            step.kinds.of(values),
            values.detach(),
            target.detach().clone(),  # a program may write the next one into it
            made=step.kinds.of(target) in (CONSTANT, DECIDED),
            copied=any(len(each) == len(flat) > 1 and bool((each == flat).all()) for each in step.inputs),
            learns_target=target.requires_grad and not values.requires_grad,
            source=values,
            result=result,
            ignored=ignored if isinstance(ignored, int) else None,
            sources=step.sources([values]),
            misread=classes and self._is_misread(call, values),
            outside=self._outside(values),
            unwritten=_unwritten_share(values, target, ignored) if classes else 0.0,
            settings=settings,
            at_input=Arrived(values),
            at_result=Arrived(result),
            target_origins=step.origins.of(target),
            memory=memory_of(target),
            held=target.detach(),
            alone=_is_alone(values, step.flow.nearest_nodes([values])),
        )

    def _is_misread(self, call: TorchCall, values: Tensor) -> bool:
        """Whether the scores of single answers are numbers of the last layer, but none of its rows."""
        nodes = call.step.flow.nearest_nodes([values])
        before = [(output, dim) for output, dim in self._outputs if output.grad_fn in nodes]
        if len(nodes) != 1 or len(before) != 1 or values.dim() < 2:
            return False
        output, dim = before[0]
        rows = output.detach().movedim(dim, -1).flatten(0, -2)
        scores = values.detach().movedim(1, -1).flatten(0, -2)
        if rows.shape[1] != scores.shape[1] or rows.numel() > _MOST_COMPARED or not len(scores):
            return False
        shown = scores[:: -(-len(scores) // _SHOWN)]
        known = rows.sort(1).values  # classes may come in another order
        return all(
            not bool((known == each.sort().values).all(1).any()) and bool(torch.isin(each, rows).all())
            for each in shown
        )


def _is_alone(values: Tensor, outputs: Collection[Any]) -> bool:
    """Whether between values and one of these nodes of the graph are functions of one tensor alone, as views."""
    node = values.grad_fn
    while node is not None and node not in outputs:
        node = node.next_functions[0][0] if len(node.next_functions) == 1 else None
    return node is not None


def _features_of(module: nn.Module) -> int | None:
    """The dimension of a layer's output that holds its features; None where it is not known."""
    if isinstance(module, nn.Linear):
        return -1
    return 1 if isinstance(module, nn.modules.conv._ConvNd) else None


def _unwritten_share(values: Tensor, target: Tensor, ignored: Any) -> float:
    """The share of the rows of scores that are all 0 and whose target counts."""
    if target.is_floating_point() or values.dim() != target.dim() + 1 or values.dim() < 2:
        return 0.0
    counted = target != (ignored if isinstance(ignored, int) else -100)
    empty = (values.detach() == 0).all(1)
    return float((empty & counted).float().mean()) if target.numel() else 0.0
