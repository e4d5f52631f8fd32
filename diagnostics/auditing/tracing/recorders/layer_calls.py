"""Calls of layers: activations, layers that read the data, states of recurrent layers, and writes to weights."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from diagnostics.auditing.tracing.activation_slopes import SLOPES, ActivationCall, slope_of
from diagnostics.auditing.tracing.origins.scaled_noise import NOISE
from diagnostics.auditing.tracing.recorded_calls import Arrived, FirstLayerCall, Operation, RecurrentCall
from diagnostics.auditing.tracing.torch_call import TorchCall
from diagnostics.recording.tensors import address_of, is_dense, tensors_in

_LAYERS = ("linear", "conv1d", "conv2d", "conv3d")
_NORMS = ("batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm")
_COPIES = ("copy_", "lerp_")
_WRITES = ("copy", "lerp", "sub", "rsub")
"""Functions that do nothing, or give 0, where both tensors are the same memory."""
_RECURRENT = (
    *("lstm", "gru", "rnn_tanh", "rnn_relu"),
    *("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"),
)
"""Functions whose second argument is the state, or a tuple of states."""
_BATCH_FIRST = 8  # the place of that argument
_FEWEST = 8  # samples from which a deviation over them says something
_NEARLY_ZERO = 0.1
"""Size of weights relative to 1 / sqrt(inputs): torch's own initialisation gives 0.6."""


class LayerCalls:
    """Calls of layers.

    Attributes:
        activations: Calls of activation functions on computed values.
        first: Calls of layers that read the data, and are not followed by a normalisation.
        noisy_states: Recurrent layers whose first state is a draw.
        recurrent: Calls of recurrent layers that read the first dimension as the time.
        unchanged: Where a weight was copied to itself, or compared with its own memory.
    """

    def __init__(self) -> None:
        self.activations: list[ActivationCall] = []
        self.first: list[FirstLayerCall] = []
        self.noisy_states: list[Operation] = []
        self.recurrent: list[RecurrentCall] = []
        self.unchanged: list[Operation] = []

    def wants(self, name: str) -> bool:
        """Those of layers, and writes."""
        plain = name.strip("_")
        return name in (*_LAYERS, *_NORMS, *_RECURRENT) or plain in SLOPES or plain in _WRITES

    def note(self, call: TorchCall) -> None:
        """Note a call of a layer or a write."""
        if call.name in _RECURRENT:
            self._note_states(call)
            self._note_time(call)
        result = call.result
        if not isinstance(result, Tensor):
            return
        if call.name.strip("_") in _WRITES:
            self._note_unchanged(call, result)
        if call.name in _LAYERS:
            self._note_first(call, result)
        elif call.name in _NORMS:
            self.first = [each for each in self.first if each.output is not call.args[0]]
        else:
            self._note_activation(call, result)

    def _note_states(self, call: TorchCall) -> None:
        """Note a recurrent layer that reads data, and starts from random numbers."""
        states = call.args[1] if len(call.args) > 1 else ()
        if _is_without_data(call):
            return  # a generator
        if any(NOISE in call.step.origins.of(each) for each in tensors_in(states)):
            self.noisy_states.append(call.operation())

    def _note_time(self, call: TorchCall) -> None:
        """Note a recurrent layer that reads the first dimension of a batch of sequences as the time."""
        given, result = call.args[0] if call.args else None, call.result
        if not isinstance(given, Tensor) or given.dim() != 3 or not isinstance(result, tuple):
            return
        if call.argument("batch_first", _BATCH_FIRST) is False:
            shape = (given.shape[0], given.shape[1])
            self.recurrent.append(RecurrentCall(call.operation(), shape, Arrived(result[0])))

    def _note_activation(self, call: TorchCall, result: Tensor) -> None:
        given = call.args[0] if call.args else None
        slope = slope_of(call.name, given, result) if isinstance(given, Tensor) else None
        if slope is not None and isinstance(given, Tensor):
            here, sources = call.operation(), call.step.sources([given])
            size = float(given.detach().float().square().mean().sqrt())
            self.activations.append(ActivationCall(here.name, here.place, here.module, sources, slope, size))

    def _note_first(self, call: TorchCall, result: Tensor) -> None:
        """Note how much of what a layer computes from the data differs between samples."""
        given = call.args[0]
        if given.requires_grad or not result.requires_grad or len(given) < _FEWEST or result.dim() < 2:
            return
        values = result.detach().float()
        size = float(values.square().mean().sqrt())
        if not bool((given != given[:1]).any()) or not 0 < size < math.inf:
            return
        if _is_nearly_zero(call.args[1] if len(call.args) > 1 else call.kwargs.get("weight")):
            return  # it starts as nothing on purpose
        bias = call.argument("bias", 2)
        offset = 0.0 if bias is None else float(bias.detach().float().square().mean().sqrt()) / size
        spread = float(values.std(0).square().mean().sqrt()) / size
        self.first.append(FirstLayerCall(call.step.module, spread, offset, result))

    def _note_unchanged(self, call: TorchCall, result: Tensor) -> None:
        given = call.pair
        if len(given) < 2 or (result.requires_grad and not call.name.endswith("_")):
            return  # x - x.detach() is 0 on purpose, and has a gradient
        one, other = given
        same = (
            (one is not other or call.name in _COPIES)
            and one.shape == other.shape
            and one.stride() == other.stride()
            and one.dtype == other.dtype
        )
        if same and address_of(one) == address_of(other) and address_of(one) in call.step.weights:
            self.unchanged.append(call.operation())


def _is_without_data(call: TorchCall) -> bool:
    """Whether the first argument is a draw, or the same for all samples as a first token is."""
    given = call.args[0] if call.args else None
    if not isinstance(given, Tensor) or not is_dense(given) or given.dim() < 2:
        return False
    alike = any(bool((given == given.narrow(dim, 0, 1)).all()) for dim in range(given.dim() - 1))
    return alike or NOISE in call.step.origins.of(given)


def _is_nearly_zero(weight: Any) -> bool:
    if not isinstance(weight, Tensor):
        return False
    size = float(weight.detach().float().square().mean().sqrt())
    return size * math.sqrt(weight[0].numel()) < _NEARLY_ZERO
