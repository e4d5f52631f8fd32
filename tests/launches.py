"""Counts what an accelerator would have to start: operations on tensors of its device that are no views."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Launches(TorchDispatchMode):
    """Counts the operations on tensors of the device ``meta``, which stands for an accelerator; a list is one argument.

    Attributes:
        found: the names of the operations.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        on_device = any(isinstance(leaf, Tensor) and leaf.is_meta for leaf in tree_leaves((args, kwargs)))
        if on_device and not func.is_view and func is not torch.ops.aten.detach.default:
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))
