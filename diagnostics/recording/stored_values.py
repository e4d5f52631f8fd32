"""What a dense or a sparse tensor holds."""

from __future__ import annotations

from torch import Tensor


def stored_values(tensor: Tensor) -> Tensor:
    """The tensor itself; of a sparse one, as embeddings have for gradients, the values it holds."""
    return tensor.coalesce().values() if tensor.is_sparse else tensor
