"""A number that stands for all bits of a tensor: it differs where one of them does."""

from __future__ import annotations

import torch
from torch import Tensor

_CHUNK = 2**18
"""Words of 4 bytes that are mixed at a time: intermediate results of 1 MB, which stay in the caches."""
_FIRST, _SECOND, _PLACE = 0x2C1B3C6D, 0x297A2D39, -1640531535
"""Odd factors, with which multiplication loses no bit: two of a common mixing function, and the golden ratio."""
_JOIN = 6364136223846793005
"""Odd factor between chunks."""
_NARROW = {1: torch.int8, 2: torch.int16}


@torch.no_grad()
def digest(tensor: Tensor) -> Tensor:
    """A scalar of 64 bits on the device of the tensor; nothing waits for it.

    Every word is mixed with its place, so that it also differs where elements are exchanged or change their sign
    together. Two tensors of one type and shape have the same one by chance in one of some 10^19 cases.
    """
    flat = tensor.detach().contiguous().view(-1)
    narrow = _NARROW.get(flat.element_size())
    words = flat.view(torch.int32 if narrow is None else narrow)
    total = torch.zeros((), dtype=torch.int64, device=words.device)
    for chunk in words.split(_CHUNK):
        places = torch.arange(len(chunk), dtype=torch.int32, device=words.device).mul_(_PLACE)
        mixed = places.bitwise_xor_(chunk).mul_(_FIRST)
        mixed.bitwise_xor_((mixed >> 15).bitwise_and_(0x1FFFF)).mul_(_SECOND)
        mixed.bitwise_xor_((mixed >> 13).bitwise_and_(0x7FFFF))
        total = total * _JOIN + mixed.sum(dtype=torch.int64)
    return total
