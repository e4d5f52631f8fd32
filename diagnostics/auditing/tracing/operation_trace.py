"""Records the operations of one training step: which function made the first number that is not finite, and what the
functions of the loss receive.

A `TorchFunctionMode` sees every torch function that Python calls, with its arguments and its line. That costs several
times the step, so an audit repeats single steps under it, and a monitor looks at three of the first ones.
"""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode, resolve_name

from diagnostics.auditing.tracing.activation_slopes import ActivationCall, slope_of
from diagnostics.auditing.tracing.attention_weights import AttentionWeights
from diagnostics.auditing.tracing.input_reads import Reads
from diagnostics.auditing.tracing.loss_terms_added import AddedTerms
from diagnostics.auditing.tracing.module_calls import ModuleCalls
from diagnostics.auditing.tracing.random_draws import Draw, FirstDraw, RandomDraws
from diagnostics.auditing.tracing.recorded_calls import (
    Arrived,
    AttentionCall,
    BranchCall,
    FirstLayerCall,
    LossCall,
    MeanCall,
    NearCall,
    NormalizeCall,
    Operation,
    PairCall,
    Pick,
    SignedCall,
    SoftmaxCall,
)
from diagnostics.auditing.tracing.value_origins import (
    CLAMPED,
    DECISION,
    NOISE,
    RESHAPES,
    UNTRAINED,
    ValueOrigins,
    plain_name,
)
from diagnostics.recording.calls.module_graph import Flow
from diagnostics.recording.tensors import address_of, is_dense, is_transformed, memory_of, tensors_in
from diagnostics.recording.weak_hooks import LocalHook

SKIPPED = (str(Path(torch.__file__).parent), str(Path(__file__).parents[2]))
"""Folders whose frames are not the user's."""
_KINDS = {
    "softmax": "softmax",
    "log_softmax": "log-softmax",
    "sigmoid": "sigmoid",
    "logsigmoid": "log-sigmoid",
    "tanh": "tanh",
    "relu": "relu",
    "relu_": "relu",
}
_CONSTANT = "constant"
_KINDS |= dict.fromkeys(
    (
        *("ones_like", "zeros_like", "full_like", "ones", "zeros", "full", "new_ones", "new_zeros"),
        *("fill_", "zero_"),
    ),
    _CONSTANT,
)
_FILLS = {
    "masked_fill",
    "masked_fill_",
    "full",
    "full_like",
    "new_full",
    "fill_",
    "where",
    "triu",
    "tril",
    "tensor",
}
"""Functions that write an infinity on purpose, as attention masks do."""
_MASKED = "masked"
"""Kind of scores that were multiplied with a mask, which leaves the masked ones at 0 instead of minus infinity."""
_DECIDED = "decided"
"""Kind of decisions on what the model returned, such as argmax() == labels, and of numbers that they become."""
_DROPPED = "dropout"
"""Kind of what a dropout took numbers from."""
_NORMS_OF_GRADIENTS = ("tensor", "linalg_vector_norm")
"""Functions whose result clip_grad_norm_() takes as the norm; the first where there is no gradient."""
_CLIP_FRAMES = 4  # clip_grad_norm_() and the wrappers between it and the function
_DROPOUTS = {"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout"}
_ROUNDED = 1e-6
"""Distance from 1 of a weight next to which the others have hardly any gradient."""
_LOSSES: tuple[Callable[..., Tensor], ...] = (
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
_COMPARISONS = ("eq", "ne")
_EXTREMES = ("max", "min", "maximum", "minimum")
_LAYERS = ("linear", "conv1d", "conv2d", "conv3d")
_NORMS = ("batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm")
_COPIES = ("copy_", "lerp_")
_HIDDEN = -1e4
"""Score below which a key is masked."""
_WRITES = ("copy_", "lerp_", "sub", "rsub", "lerp")
"""Functions that do nothing, or give 0, where both tensors are the same memory."""
_ARITHMETIC = {
    "add",
    "sub",
    "mul",
    "div",
    "truediv",
    "true_divide",
    "minimum",
    "maximum",
    "subtract",
    "multiply",
}
_RECURRENT = (
    "lstm",
    "gru",
    "rnn_tanh",
    "rnn_relu",
    "lstm_cell",
    "gru_cell",
    "rnn_tanh_cell",
    "rnn_relu_cell",
)
"""Functions whose second argument is the state, or a tuple of states."""
_SHOWN = 8  # scores of a loss that are looked for in the output of the layer before it
_MOST_COMPARED = 2**24
"""Elements of that output, 64 MB."""


class OperationTrace(TorchFunctionMode):
    """The operations of the step that runs inside.

    Attributes:
        first: The first operation whose result is not finite although all its arguments are.
        fed_first: Inside the model, the modules that its arguments come from, with no other module between.
        inside_model: Whether the forward pass of the model runs.
        losses: Calls of loss functions that compare an input with its target element by element.
        alignments: Calls of the loss of alignments (CTC).
        signed: Calls of those whose targets are -1 and 1.
        pairs: Arithmetic of a column and a vector outside of all modules but the model.
        softmaxes: Calls of softmax.
        attentions: Calls of attentions with a mask of keys.
        normalized: Calls of F.normalize.
        picks: Numbers that an index picks from others with a graph, as an action its log-probability.
        logarithms: Where log_softmax and logsigmoid were called, and the gradient that came to their results.
        activations: Calls of activation functions on computed values.
        loss_broken: Whether a loss on which backward() was called was not finite.
        added: What was added to the losses.
        merged: Where numbers that count up in steps of one become equal neighbours in a type of few digits.
        reads: The tensors that the model was given, and who was given them.
        means: Means of several rows that are one number with a graph.
        backward_masks: Attentions whose mask shows each place later places alone.
        exchanges: Views that exchange dimensions of a computed tensor, with its shape before and after.
        branches: Maxima and minima of two tensors, one of which was clamped.
        noisy_states: Recurrent layers whose first state is a draw.
        calls: The calls of modules, and what they have in common.
        near: Comparisons of two tensors that both have a graph.
        first_layers: Calls of layers that read the data, and are not followed by a normalisation.
        clamped: Where clamp() or relu() outside of all modules cut off every number.
        decisions: Comparisons of predictions (n,) with a column (n, 1), which is a matrix.
        unchanged: Where a weight was copied to itself, or compared with its own memory.
        origins: What the tensors of the step come from.
        first_draw: The random numbers when the step drew first.
        outputs: The gradients that came to what the model returned.
        order: What happened in turn: "backward", "clip" of a gradient, "clip-nothing" where there was none.
        dropped: Modules whose dropout dropped something while gradients were disabled.
    """

    def __init__(self) -> None:
        super().__init__()
        self.near: list[NearCall] = []
        self.first_layers: list[FirstLayerCall] = []
        self.clamped: list[Operation] = []
        self.outputs: list[Arrived] = []
        self.order: list[str] = []
        self.dropped: set[str] = set()
        self.decisions: list[PairCall] = []
        self.unchanged: list[Operation] = []
        self.origins = ValueOrigins()
        self.first_draw = FirstDraw()
        self.weights: frozenset[int] = frozenset()
        """Addresses of the parameters of the model."""
        self.first: Operation | None = None
        self.fed_first: tuple[str, ...] = ()
        self.inside_model = False
        self.losses: list[LossCall] = []
        self.alignments: list[LossCall] = []
        self.signed: list[SignedCall] = []
        self.pairs: list[PairCall] = []
        self._columns: dict[int, Tensor] = {}  # made of vectors
        self._rows: deque[tuple[Tensor, int]] = deque(
            maxlen=_SHOWN
        )  # outputs of layers, and their dimension of features
        self.softmaxes: list[SoftmaxCall] = []
        self.attentions: list[AttentionCall] = []
        self.normalized: list[NormalizeCall] = []
        self.picks: list[Pick] = []
        self.logarithms: list[tuple[Operation, Arrived]] = []
        self.activations: list[ActivationCall] = []
        self.loss_broken = False
        self.merged: list[Operation] = []
        self.added = AddedTerms()
        self._weights_of_attention = AttentionWeights()
        self.reads = Reads()
        self.means: list[MeanCall] = []
        self.backward_masks: list[Operation] = []
        self.exchanges: list[tuple[Operation, tuple[int, ...], tuple[int, ...]]] = []
        self.branches: list[BranchCall] = []
        self.noisy_states: list[Operation] = []
        self.calls = ModuleCalls()
        self._draws = RandomDraws()
        self._running: list[str] = []
        self._flow = Flow()
        self._inputs: list[Tensor] = []  # of the model, integers
        self._kinds: dict[int, tuple[Tensor, str]] = {}  # tensors are kept, so that no id comes twice

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call a function and note it."""
        given = dict(kwargs or {})
        if func is Tensor.backward:
            self.order.append("backward")
            self.calls.passed()
            self.loss_broken |= _count_bad(args[0]) > 0
            self.added.end(args[0])
        name = name_of(func)
        before = None if torch.compiler.is_dynamo_compiling() else self.first_draw.before(name)
        result = func(*args, **given)
        self.first_draw.after(before)
        if name in _NORMS_OF_GRADIENTS and _is_clipping(sys._getframe(1)) and result.dim() == 0:
            self.order.append("clip" if float(result) else "clip-nothing")
        if name in _DROPOUTS and self._running and not torch.is_grad_enabled() and _drops(args, result):
            self.dropped.add(self._running[-1])
        plain = not name.startswith("__get") or name == "__getitem__"
        if not plain and isinstance(result, Tensor):
            self.calls.read(args[0] if args else None)
        if plain and not torch.compiler.is_dynamo_compiling():  # which would compile the recording too
            self._note(func, name, args, given, result)
        return result

    @torch.no_grad()
    def _note(
        self, func: Any, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any
    ) -> None:
        with torch._C.DisableTorchFunction():
            given = list(tensors_in((args, tuple(kwargs.values()))))
            self.reads.note(name, given)
            self.calls.note(name, args, given, result, place_of)
            self.added.note(
                name,
                args,
                result,
                lambda: str(self._here(name)),
                lambda each: UNTRAINED in self.origins.of(each),
            )
            self._draws.note(given, result, lambda: str(self._here("sample")))
            self.origins.note(func, name, given, kwargs, result, lambda: self._text_and_line(name))
            if isinstance(result, Tensor):
                self._note_tensor(name, args, kwargs, result)
            if self.first is None and name not in _FILLS:
                self._look(name, given, result)
            self._note_loss(func, name, args, kwargs, result)
            self._note_states(name, args)
            self._note_near(func, name, args, result)
            self._note_signed(func, name, args, kwargs)
            self._note_attention(name, args, kwargs)
            self._note_normalized(func, name, args, kwargs)

    def _note_tensor(
        self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Tensor
    ) -> None:
        """Note a function that made one tensor."""
        self._note_kind(name, args, result)
        self._note_activation(name, args, result)
        self._note_pairs(name, args, result)
        self._note_decision(name, args, result)
        self._note_clamp(name, args, result)
        self._note_branch(name, args, result)
        self._note_view(name, args, result)
        if name == "mean" and not result.dim() and result.requires_grad and args[0].dim():
            self.means.append(MeanCall(self._here(name), len(args[0]), Arrived(result)))
        self._note_unchanged(name, args, result)
        self._weights_of_attention.note(
            name, args, kwargs, result, lambda each: bool(self._flow.nearest([each]))
        )
        if name in _LAYERS:
            self._note_first_layer(args, kwargs, result)
        if name in _NORMS:
            self.first_layers = [each for each in self.first_layers if each.output is not args[0]]
        if result.dtype in _FEW_DIGITS and _merges_counts(name, args, result):
            self.merged.append(self._here(name))
        if name == "gather" and result.requires_grad:
            self._note_pick(name, args, kwargs, result)
        if name in ("log_softmax", "logsigmoid") and result.requires_grad:
            self.logarithms.append((self._here(name), Arrived(result)))
        if name in ("softmax", "log_softmax") and result.requires_grad and result.dim():
            self._note_softmax(name, args, kwargs, result)

    def _note_loss(
        self, func: Any, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any
    ) -> None:
        if not (func in _LOSSES or func is F.ctc_loss) or not args:
            return
        settings = signature(func).bind(*args, **kwargs).arguments
        _, compared, *_ = settings
        if isinstance(args[0], Tensor) and isinstance(settings[compared], Tensor):
            calls = self.losses if func in _LOSSES else self.alignments
            calls.append(self._loss(name, args[0], settings.pop(compared), result, settings))

    def _note_states(self, name: str, args: tuple[Any, ...]) -> None:
        """Note a recurrent layer that starts from random numbers."""
        states = args[1] if name in _RECURRENT and len(args) > 1 else ()
        if any(NOISE in self.origins.of(each) for each in tensors_in(states)):
            self.noisy_states.append(self._here(name))

    def _note_near(self, func: Any, name: str, args: tuple[Any, ...], result: Any) -> None:
        if func in _NEAR and len(args) > 1 and all(each.requires_grad for each in args[:2]):
            here, sign = self._here(name), _NEAR[func]
            self.near.append(NearCall(here, args[0], args[1], result, sign, Arrived(result)))

    def _note_signed(self, func: Any, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if func not in _SIGNED:
            return
        target = args[_SIGNED[func]] if len(args) > _SIGNED[func] else kwargs.get("target")
        if isinstance(target, Tensor):
            self.signed.append(SignedCall(self._here(name), target.detach()))

    def _note_attention(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        mask = kwargs.get("attn_mask", args[3] if len(args) > 3 else None)
        if name == "scaled_dot_product_attention" and isinstance(mask, Tensor):
            seen = mask if mask.dtype == torch.bool else mask.detach() > _HIDDEN
            if _sees_later_alone(seen):
                self.backward_masks.append(self._here(name))
        if name in _ATTENTIONS:
            keys, kept = _ATTENTIONS[name](args, kwargs)
            if keys is not None and kept is not None and keys.shape[:2] == kept.shape:
                self.attentions.append(AttentionCall(self._here(name), _reads_constant(keys, kept)))

    def _note_normalized(
        self, func: Any, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        if func is F.normalize and isinstance(args[0], Tensor) and args[0].grad_fn is not None:
            dim = kwargs.get("dim", args[2] if len(args) > 2 else 1)
            if isinstance(dim, int):
                shape = tuple(args[0].shape)
                self.normalized.append(NormalizeCall(self._here(name), shape, dim % len(shape)))

    def _note_softmax(
        self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Tensor
    ) -> None:
        dim = kwargs.get("dim", args[1] if len(args) > 1 and isinstance(args[1], int) else None)
        if not isinstance(dim, int):
            return
        hard = _hard_share(args[0], result, dim) if name == "softmax" else 0.0
        sought = hard or result.shape[dim] == 1
        sources = tuple(sorted(self._flow.nearest([args[0]]))) if sought else ()
        masked = self._kind(args[0]) == _MASKED
        last = dim % result.dim() == result.dim() - 1
        later = last and _sees_later_alone(args[0].detach() > _HIDDEN)
        shape, place = tuple(result.shape), dim % result.dim()
        call = SoftmaxCall(self._here(name), shape, place, sources, hard, masked, later)
        self.softmaxes.append(call)
        self._weights_of_attention.add_softmax(args[0], result, call)

    def _note_pick(self, name: str, args: Any, kwargs: Mapping[str, Any], result: Tensor) -> None:
        index = kwargs.get("index", args[2] if len(args) > 2 else None)
        dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
        if isinstance(index, Tensor) and isinstance(dim, int):
            shape = tuple(args[0].shape)
            sources = tuple(sorted(self._flow.nearest([args[0]])))
            place = dim % max(len(shape), 1)
            self.picks.append(Pick(self._here(name), index.detach(), shape, place, sources, Arrived(result)))

    def _note_activation(self, name: str, args: tuple[Any, ...], result: Tensor) -> None:
        given = args[0] if args else None
        slope = slope_of(name, given, result) if isinstance(given, Tensor) else None
        if slope is not None and isinstance(given, Tensor):
            here = self._here(name)
            sources = tuple(sorted(self._flow.nearest([given])))
            size = float(given.detach().float().square().mean().sqrt())
            self.activations.append(ActivationCall(here.name, here.place, here.module, sources, slope, size))

    def _text_and_line(self, name: str) -> tuple[str, str]:
        here = self._here(name)
        return str(here), here.place

    def _note_decision(self, name: str, args: tuple[Any, ...], result: Tensor) -> None:
        """Note a comparison of predictions with a column that nobody made of a vector, as for all pairs."""
        given = [each for each in args[:2] if isinstance(each, Tensor)]
        if name.strip("_") not in _COMPARISONS or len(given) < 2 or result.dim() != 2:
            return
        column, vector = sorted(given, key=Tensor.dim, reverse=True)
        made = self._columns.get(id(column)) is column
        if not _is_column(column) or tuple(vector.shape) != (len(column),) or len(column) < _FEWEST or made:
            return
        if DECISION in self.origins.of(column) | self.origins.of(vector):
            shapes = (tuple(column.shape), tuple(vector.shape))
            self.decisions.append(PairCall(self._here(name), shapes, result, meant=False))

    def _note_clamp(self, name: str, args: tuple[Any, ...], result: Tensor) -> None:
        """Note where no number is left as it was."""
        if self._running or name.strip("_") not in ("clamp", "clip", "relu") or not result.requires_grad:
            return
        given = args[0]
        alike = isinstance(given, Tensor) and given.shape == result.shape and result.numel() >= _SHOWN
        if alike and bool((given != result).all()):
            self.clamped.append(self._here(name))

    def _note_view(self, name: str, args: tuple[Any, ...], result: Tensor) -> None:
        if name not in ("view", "reshape") or not result.requires_grad or result.dim() < 3:
            return
        before, after = tuple(args[0].shape), tuple(result.shape)
        if before != after and sorted(before) == sorted(after) and before[0] != after[0]:
            self.exchanges.append((self._here(name), before, after))

    def _note_branch(self, name: str, args: tuple[Any, ...], result: Tensor) -> None:
        given = [each for each in args[:2] if isinstance(each, Tensor)]
        if self._running or name not in _EXTREMES or len(given) < 2 or not result.requires_grad:
            return
        if sum(CLAMPED in self.origins.of(each) for each in given) == 1:
            sources = tuple(sorted(self._flow.nearest(given)))
            self.branches.append(BranchCall(self._here(name), sources, Arrived(result)))

    def _note_first_layer(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Tensor) -> None:
        """Note how much of what a layer computes from the data differs between samples."""
        given = args[0]
        if given.requires_grad or not result.requires_grad or len(given) < _SHOWN or result.dim() < 2:
            return
        values = result.detach().float()
        size = float(values.square().mean().sqrt())
        if not bool((given != given[:1]).any()) or not 0 < size < float("inf"):
            return
        if _is_nearly_zero(args[1] if len(args) > 1 else kwargs.get("weight")):
            return  # it starts as nothing on purpose
        bias = kwargs.get("bias", args[2] if len(args) > 2 else None)
        offset = 0.0 if bias is None else float(bias.detach().float().square().mean().sqrt()) / size
        spread = float(values.std(0).square().mean().sqrt()) / size
        self.first_layers.append(FirstLayerCall(self.module, spread, offset, result))

    def _note_unchanged(self, name: str, args: tuple[Any, ...], result: Tensor) -> None:
        if name.strip("_") not in _WRITES and name not in _WRITES:
            return
        given = [each for each in args[:2] if isinstance(each, Tensor)]
        if len(given) < 2 or (result.requires_grad and not name.endswith("_")):
            return  # x - x.detach() is 0 on purpose, and has a gradient
        one, other = given
        same = (
            (one is not other or name in _COPIES)
            and one.shape == other.shape
            and one.stride() == other.stride()
            and one.dtype == other.dtype
        )
        if same and address_of(one) == address_of(other) and address_of(one) in self.weights:
            self.unchanged.append(self._here(name))

    def _note_pairs(self, name: str, args: tuple[Any, ...], result: Tensor) -> None:
        given = [each for each in args[:2] if isinstance(each, Tensor)]
        if _is_column(result):
            made = plain_name(name) in RESHAPES and bool(given) and given[0].dim() == 1
            if made or any(self._columns.get(id(each)) is each for each in given):
                self._columns[id(result)] = result
        name = name.strip("_").removeprefix("r").removeprefix("i")
        if self._running or name not in _ARITHMETIC or not result.requires_grad or len(given) < 2:
            return
        column, vector = sorted(given, key=Tensor.dim, reverse=True)
        if not _is_column(column) or tuple(vector.shape) != (len(column),) or len(column) < _FEWEST:
            return
        if any(each.requires_grad and not self._flow.nearest([each]) for each in given):
            return  # a parameter, which has no samples
        meant = self._columns.get(id(column)) is column
        shapes = (tuple(column.shape), tuple(vector.shape))
        sources = tuple(sorted(self._flow.nearest([result])))
        self.pairs.append(PairCall(self._here(name), shapes, result, meant, sources, Arrived(result)))

    def _is_misread(self, values: Tensor) -> bool:
        """Whether the scores of single answers are numbers of the last layer, but none of its rows."""
        nodes = self._flow.nearest_nodes([values])
        before = [(output, dim) for output, dim in self._rows if output.grad_fn in nodes]
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

    def _loss(
        self, name: str, values: Tensor, target: Tensor, result: Any, settings: Mapping[str, Any]
    ) -> LossCall:
        ignored = settings.get("ignore_index")
        flat = target.detach().flatten()
        copied = any(len(each) == len(flat) > 1 and bool((each == flat).all()) for each in self._inputs)
        made = self._kind(target) in (_CONSTANT, _DECIDED)
        return LossCall(
            self._here(name),
            self._kind(values),
            values.detach(),
            target.detach().clone(),  # a program may write the next one into it
            made,
            copied,
            target.requires_grad and not values.requires_grad,
            values,
            result if isinstance(result, Tensor) else None,
            ignored if isinstance(ignored, int) else None,
            tuple(sorted(self._flow.nearest([values]))),
            name == "cross_entropy" and self._is_misread(values),
            _unwritten_share(values, target, ignored) if name == "cross_entropy" else 0.0,
            settings,
            Arrived(values),
            Arrived(result if isinstance(result, Tensor) else None),
            self.origins.of(target),
            memory_of(target),
        )

    def _note_kind(self, name: str, args: tuple[Any, ...], result: Tensor) -> None:
        kind = _KINDS.get(name, self._kind(args[0]) if plain_name(name) in RESHAPES and args else "")
        kind = kind or self._masked(name, args, result)
        if name in _DROPOUTS and args and result.shape == args[0].shape and not torch.equal(result, args[0]):
            kind = _DROPPED
        kind = kind or (_DECIDED if self._is_decided(args, result) else "")
        if kind:
            self._kinds[id(result)] = (result, kind)

    def _is_decided(self, args: tuple[Any, ...], result: Tensor) -> bool:
        given = [each for each in args if isinstance(each, Tensor)]
        if any(self._kind(each) == _DECIDED for each in given):
            return not result.requires_grad
        whole = not (result.is_floating_point() or result.is_complex())
        return whole and any(each.requires_grad for each in given)

    def _masked(self, name: str, args: tuple[Any, ...], result: Tensor) -> str:
        """Whether scores are multiplied with zeros and ones, or those are added to them; a scale changes nothing."""
        name = name.strip("_").removeprefix("i").removeprefix("r")
        if name in ("div", "truediv", "true_divide") and self._kind(args[0]) == _MASKED:
            return _MASKED
        pair = [each for each in args[:2] if isinstance(each, Tensor)]
        if name not in ("mul", "multiply", "add") or len(pair) < 2 or not result.requires_grad:
            return ""
        return _MASKED if any(_is_mask(each) for each in pair) else ""

    def _kind(self, value: Any) -> str:
        found = self._kinds.get(id(value))
        return found[1] if found is not None and found[0] is value else ""

    def _look(self, name: str, given: Sequence[Tensor], result: Any) -> None:
        """Note the first function whose result is not finite although all that it was given is."""
        made = list(tensors_in(result))
        bad = sum(map(_count_bad, made))
        if not bad:
            return
        # softmax makes NaN of a row that a mask filled with minus infinity: what computes an infinity came before
        new = _any_nan(made) and not _any_nan(given)
        if new or not any(map(_count_bad, given)):
            self.first = self._here(name, bad)
            if self.inside_model:
                self.fed_first = tuple(sorted(self._flow.nearest(given)))

    def _here(self, name: str, count: int = 0) -> Operation:
        return Operation(
            name.removesuffix("_"), self._running[-1] if self._running else "", place_of(), count
        )

    def draws(self) -> list[tuple[Draw, list[str]]]:
        """The draws without gradient that the loss uses, and the modules that their parameters come from."""
        return [
            (draw, sorted(self._flow.nearest(draw.parameters))) for draw in self._draws.unused_gradients()
        ]

    @property
    def module(self) -> str:
        """The innermost module whose forward pass runs, "" outside of all."""
        return self._running[-1] if self._running else ""

    def enter(self, name: str, args: tuple[Any, ...]) -> None:
        """A module's forward pass begins."""
        if not self._running:
            self._inputs += [
                each.detach().flatten() for each in tensors_in(args) if not each.is_floating_point()
            ]
        self.reads.enter(name, args)
        self._running.append(name)

    def observe(self, note: Callable[..., None], *given: Any) -> None:
        """Note a call of a module; not one that is compiled, or inside torch.func, whose tensors have no memory."""
        if not (torch.compiler.is_dynamo_compiling() or is_transformed()):
            note(*given)

    def finish(self) -> None:
        """The step has ended: compare its calls of modules."""
        self.calls.finish()

    def leave(self, module: nn.Module, output: Any) -> None:
        """The innermost forward pass ends."""
        dim = _features_of(module)
        if dim is not None and isinstance(output, Tensor) and output.requires_grad and output.dim() > 1:
            self._rows.append((output, dim))
        if self._running:
            self.calls.leave(self._running[-1], output)
            self._flow.note(self._running.pop(), (), tensors_in(output))


@contextmanager
def trace_operations(
    model: nn.Module,
    trace: OperationTrace | None = None,
    others: Mapping[str, nn.Module] = MappingProxyType({}),
) -> Iterator[OperationTrace]:
    """Record the operations of what runs inside, by default with a new trace.

    Args:
        others: Modules outside of the model, by name; of these only the calls are recorded.
    """
    trace = OperationTrace() if trace is None else trace
    trace.weights = frozenset(address_of(each) for each in model.parameters()) - {-1}
    handles = []

    def watching(note: Callable[..., None]) -> LocalHook:
        return LocalHook(lambda *given: trace.observe(note, *given))

    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue
        handles.append(module.register_forward_pre_hook(watching(_enter_call(trace, name)), with_kwargs=True))
        if not name:
            handles.append(module.register_forward_pre_hook(watching(_begin(trace)), with_kwargs=True))
            handles.append(module.register_forward_hook(watching(_end(trace))))
            handles.append(module.register_forward_hook(watching(_leave_call(trace, name)), always_call=True))
            continue
        handles.append(module.register_forward_pre_hook(watching(_enter(trace, name))))
        handles.append(module.register_forward_hook(watching(_leave(trace)), always_call=True))
    for name, module in others.items():
        handles.append(module.register_forward_pre_hook(watching(_enter_call(trace, name)), with_kwargs=True))
        handles.append(module.register_forward_hook(watching(_leave_call(trace, name)), always_call=True))
    try:
        with trace:
            yield trace
    finally:
        for handle in handles:
            handle.remove()
        trace.finish()


def _enter_call(trace: OperationTrace, name: str) -> Callable[..., None]:
    return lambda module, args, kwargs=None: trace.calls.enter(name, module, args, kwargs or {})


def _leave_call(trace: OperationTrace, name: str) -> Callable[..., None]:
    return lambda module, args, output: trace.calls.leave(name, output)


def _begin(trace: OperationTrace) -> Callable[..., None]:
    def begin(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> None:
        # torch calls it without kwargs where a hook before it has removed it: they were listed before
        trace.reads.begin((args, kwargs or {}))
        trace.inside_model = True

    return begin


def _end(trace: OperationTrace) -> Callable[..., None]:
    def end(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        trace.inside_model = False
        trace.outputs.extend(Arrived(each) for each in tensors_in(output) if each.grad_fn is not None)

    return end


def _enter(trace: OperationTrace, name: str) -> Callable[..., None]:
    return lambda module, args: trace.enter(name, args)


def _leave(trace: OperationTrace) -> Callable[..., None]:
    return lambda module, args, output: trace.leave(module, output)


_NEARLY_ZERO = 0.1
"""Size of weights relative to 1 / sqrt(inputs): torch's own initialisation gives 0.6."""


def _is_nearly_zero(weight: Any) -> bool:
    if not isinstance(weight, Tensor):
        return False
    size = float(weight.detach().float().square().mean().sqrt())
    return size * math.sqrt(weight[0].numel()) < _NEARLY_ZERO


def _unwritten_share(values: Tensor, target: Tensor, ignored: Any) -> float:
    """The share of the rows of scores that are all 0 and whose target counts."""
    if target.is_floating_point() or values.dim() != target.dim() + 1 or values.dim() < 2:
        return 0.0
    counted = target != (ignored if isinstance(ignored, int) else -100)
    empty = (values.detach() == 0).all(1)
    return float((empty & counted).float().mean()) if target.numel() else 0.0


def _is_mask(tensor: Tensor) -> bool:
    """Whether it holds zeros and ones, both of them, and is not computed from weights."""
    if tensor.requires_grad or not is_dense(tensor) or tensor.numel() < 2:
        return False
    if tensor.dtype == torch.bool:
        return bool(tensor.any()) and not bool(tensor.all())
    return bool(((tensor == 0) | (tensor == 1)).all()) and bool((tensor != tensor.flatten()[0]).any())


def _drops(args: tuple[Any, ...], result: Any) -> bool:
    return bool(args) and isinstance(result, Tensor) and not torch.equal(result, args[0])


def _is_clipping(frame: FrameType | None) -> bool:
    """Whether clip_grad_norm_() calls, directly or in a few frames."""
    for _ in range(_CLIP_FRAMES):
        if frame is None:
            return False
        if frame.f_code.co_filename.endswith("clip_grad.py"):
            return True
        frame = frame.f_back
    return False


def _features_of(module: nn.Module) -> int | None:
    """The dimension of a layer's output that holds its features; None where it is not known."""
    if isinstance(module, nn.Linear):
        return -1
    return 1 if isinstance(module, nn.modules.conv._ConvNd) else None


_FEW_DIGITS = (torch.float16, torch.bfloat16)
"""Types that do not hold every number from 257 or 2049 on."""


def _merges_counts(name: str, args: tuple[Any, ...], result: Tensor) -> bool:
    """Whether a result counts places, and some neighbours are the same number although they were not before."""
    given = args[0] if args and isinstance(args[0], Tensor) else None
    if name == "arange":
        return bool((result.diff() == 0).any())
    if given is None or given.shape != result.shape or given.dtype == result.dtype or name not in _CASTS:
        return False
    return any(
        size > _FEWEST and bool((given.diff(dim=dim) == 1).all()) and bool((result.diff(dim=dim) == 0).any())
        for dim, size in enumerate(given.shape)
    )


_CASTS = {"to", "type", "type_as", "half", "bfloat16"}


def _is_column(tensor: Tensor) -> bool:
    return tensor.dim() == 2 and tensor.shape[1] == 1


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
_FEWEST = 2
"""Samples that keep a key at one position, from which they can be compared."""


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


def name_of(func: Any) -> str:
    """The plain name of a torch function."""
    full = getattr(func, "__name__", "") or (resolve_name(func) or "")
    return str(full).rpartition(".")[2]


def _sees_later_alone(seen: Tensor) -> bool:
    """Whether in a mask (..., T, T) no place sees an earlier one, and most see a later one."""
    length = seen.shape[-1]
    if seen.dim() < 2 or seen.shape[-2] != length or length <= _FEWEST or bool(seen.all()):
        return False
    later = seen.triu(1)
    return not bool(seen.tril(-1).any()) and bool(later[..., :-1, :].any(-1).float().mean() > _MOST)


_MOST = 0.5  # of the places: those of the last token of a packed document see nothing later


def _hard_share(scores: Tensor, weights: Tensor, dim: int) -> float:
    """The share of distributions over several finite scores that are one-hot, up to rounding."""
    if scores.is_nested:
        return 0.0
    several = scores.isfinite().sum(dim) > 1
    hard = (weights.amax(dim) > 1.0 - _ROUNDED)[several]
    return float(hard.float().mean()) if hard.numel() else 0.0


def _count_bad(tensor: Tensor) -> int:
    if not is_dense(tensor) or not tensor.numel():
        return 0
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return 0
    return int((~torch.isfinite(tensor.detach())).sum())


def _any_nan(tensors: Iterable[Tensor]) -> bool:
    return any(_count_bad(each) and bool(each.detach().isnan().any()) for each in tensors)


def is_users(file: str) -> bool:
    """Whether a file is neither torch's nor the toolkit's."""
    return not file.startswith((*SKIPPED, "<")) and "contextlib" not in file


def place_of() -> str:
    """File and line of the innermost frame that is neither torch's nor the toolkit's."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if is_users(name):
            return f"{Path(name).name}:{frame.f_lineno}"
        frame = frame.f_back
    return ""
