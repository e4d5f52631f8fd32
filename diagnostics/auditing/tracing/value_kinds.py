"""What made a tensor: an activation at the end of a model, one constant, a mask, a decision, or a dropout."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diagnostics.auditing.tracing.function_names import RESHAPES, plain_name
from diagnostics.recording.tensors import is_dense

CONSTANT = "constant"
MASKED = "masked"
"""Scores that were multiplied with a mask, which leaves the masked ones at 0 instead of minus infinity."""
DECIDED = "decided"
"""Decisions on what the model returned, such as argmax() == labels, and numbers that they become."""
DROPPED = "dropout"
"""What a dropout took numbers from."""
DROPOUTS = frozenset(["dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout"])
_DIVISIONS = ("div", "truediv", "true_divide")
_MASKINGS = ("mul", "multiply", "add")
_KINDS = {
    "softmax": "softmax",
    "log_softmax": "log-softmax",
    "sigmoid": "sigmoid",
    "logsigmoid": "log-sigmoid",
    "tanh": "tanh",
    "relu": "relu",
    "relu_": "relu",
} | dict.fromkeys(
    (
        *("ones_like", "zeros_like", "full_like", "ones", "zeros", "full", "new_ones", "new_zeros"),
        *("fill_", "zero_"),
    ),
    CONSTANT,
)


class ValueKinds:
    """The kinds of the tensors of a step."""

    def __init__(self) -> None:
        self._kinds: dict[int, tuple[Tensor, str]] = {}  # tensors are kept, so that no id comes twice

    def of(self, value: Any) -> str:
        """The kind of a value, "" where nothing is known of it."""
        found = self._kinds.get(id(value))
        return found[1] if found is not None and found[0] is value else ""

    def note(self, name: str, args: tuple[Any, ...], result: Tensor) -> None:
        """Note a function that made one tensor."""
        kind = _KINDS.get(name, self.of(args[0]) if plain_name(name) in RESHAPES and args else "")
        kind = kind or self._masked(name, args, result)
        if name in DROPOUTS and args and result.shape == args[0].shape and not torch.equal(result, args[0]):
            kind = DROPPED
        kind = kind or (DECIDED if self._is_decided(args, result) else "")
        if kind:
            self._kinds[id(result)] = (result, kind)

    def _is_decided(self, args: tuple[Any, ...], result: Tensor) -> bool:
        given = [each for each in args if isinstance(each, Tensor)]
        if any(self.of(each) == DECIDED for each in given):
            return not result.requires_grad
        whole = not (result.is_floating_point() or result.is_complex())
        return whole and any(each.requires_grad for each in given)

    def _masked(self, name: str, args: tuple[Any, ...], result: Tensor) -> str:
        """Whether scores are multiplied with zeros and ones, or those are added to them; a scale changes nothing."""
        name = name.strip("_").removeprefix("i").removeprefix("r")
        if name in _DIVISIONS and self.of(args[0]) == MASKED:
            return MASKED
        pair = [each for each in args[:2] if isinstance(each, Tensor)]
        if name not in _MASKINGS or len(pair) < 2 or not result.requires_grad:
            return ""
        return MASKED if any(_is_mask(each) for each in pair) else ""


def _is_mask(tensor: Tensor) -> bool:
    """Whether it holds zeros and ones, both of them, and is not computed from weights."""
    if tensor.requires_grad or not is_dense(tensor) or tensor.numel() < 2:
        return False
    if tensor.dtype == torch.bool:
        return bool(tensor.any()) and not bool(tensor.all())
    return bool(((tensor == 0) | (tensor == 1)).all()) and bool((tensor != tensor.flatten()[0]).any())
