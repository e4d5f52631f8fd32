"""A digest differs where one bit does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from diagnostics.recording.updates.digests import digest


def values(dtype: torch.dtype, count: int) -> Tensor:
    found = torch.randn(count, generator=torch.Generator().manual_seed(count))
    return found.to(dtype)


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64]
)
@pytest.mark.parametrize("count", [1, 7, 300_001])
def test_equal_bits_have_one_digest_and_each_changed_bit_another(dtype: torch.dtype, count: int) -> None:
    tensor = values(dtype, count)
    before = int(digest(tensor))
    assert int(digest(tensor.clone())) == before
    bits = tensor.view(-1).view(torch.uint8)
    for byte in {0, len(bits) // 2, len(bits) - 1}:
        for bit in range(8):
            bits[byte] ^= 1 << bit
            assert int(digest(tensor)) != before
            bits[byte] ^= 1 << bit
    assert int(digest(tensor)) == before


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "every sign": lambda each: -each,
    "two signs": lambda each: torch.cat([-each[:2], each[2:]]),
    "an exchange": lambda each: torch.cat([each[1:2], each[:1], each[2:]]),
    "a shift": lambda each: each.roll(1),
    "a reversal": lambda each: each.flip(0),
    "a shift by a chunk": lambda each: each.roll(2**18),
    "zeros of the other sign": lambda each: each.masked_fill(each == 0, -0.0),
    "another NaN": lambda each: each.nan_to_num(nan=-torch.nan),
}


@pytest.mark.parametrize("name", [name for name in CHANGES if name != "another NaN"])
def test_changes_that_sums_do_not_see(name: str) -> None:
    tensor = values(torch.float32, 2**19)
    tensor[5] = 0.0
    changed = CHANGES[name](tensor)
    assert not torch.equal(changed.view(torch.int32), tensor.view(torch.int32))
    assert int(digest(changed)) != int(digest(tensor))


def test_the_payload_of_nan_counts() -> None:
    one = torch.tensor([0x7FC00000, 0x7FC00001], dtype=torch.int32).view(torch.float32)
    assert int(digest(one[:1])) != int(digest(one[1:]))


def test_no_two_of_many_tensors_collide() -> None:
    base = torch.zeros(16)
    found = {int(digest(base + place * torch.eye(16)[place % 16])) for place in range(1, 2000)}
    assert len(found) == 1999
