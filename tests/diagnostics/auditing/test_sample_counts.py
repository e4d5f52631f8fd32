"""Samples are counted where all tensors agree, and guessed, without an exception, where a framework gives anything."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from diagnostics.auditing.sample_counts import count_samples, guess_samples
from tests.diagnostics.refusals import refused


def of(*shape: int) -> Tensor:
    return torch.empty(shape)


@pytest.mark.filterwarnings("ignore:.*prototype stage")
def test_samples_are_counted_over_nested_tensors_and_scalars_are_passed_over() -> None:
    assert count_samples({"x": of(7, 2), "more": [of(7), torch.tensor(3.0)]}) == 7
    assert count_samples(torch.nested.nested_tensor([of(3, 4), of(5, 4)])) == 2


def test_a_count_that_is_not_known_is_refused() -> None:
    with refused(ValueError, "auditing.samples-not-known", got=[7, 8]):
        count_samples([of(7), of(8)])


@pytest.mark.parametrize(
    ("shapes", "samples"),
    [
        ([(8, 5), (8,)], 8),
        ([(9, 32), (32,), (7, 32)], 32),
        ([(16, 32), (2, 16, 64), (2, 16, 64)], 16),
        ([(8, 5), (8, 5), (5, 7)], 8),
        ([(8, 5), (5, 4)], 8),
        ([(8, 5), (5,)], 8),
        ([], 1),
    ],
)
def test_the_samples_of_a_call(shapes: list[tuple[int, ...]], samples: int) -> None:
    assert guess_samples([of(*shape) for shape in shapes]) == samples


def boxes(count: int) -> dict[str, Tensor]:
    return {"class_labels": of(count), "boxes": of(count, 4), "area": of(count), "size": of(2)}


GUESSED: dict[str, tuple[Any, int]] = {
    "patches of images": (
        {"input_ids": of(2, 9), "labels": of(2, 9), "pixel_values": of(40, 6), "image_grid_thw": of(3, 3)},
        2,
    ),
    "boxes per image": ({"pixel_values": of(4, 3, 8, 8), "labels": [boxes(n) for n in (5, 5, 1, 3)]}, 4),
    "packed sequences": (
        {"input_ids": of(1, 30), "labels": of(1, 30), "cu_seq_lens_q": of(5), "max_length_q": 9},
        1,
    ),
    "parts of the inputs": (((of(6, 9), of(9)), of(6)), 6),
    "nothing to count": ({"text": ["a", "b"], "scale": torch.tensor(2.0)}, 1),
    "no rows": ([of(0, 3)], 1),
}


@pytest.mark.parametrize("name", GUESSED)
def test_what_differs_in_its_leading_sizes_is_guessed(name: str) -> None:
    batch, samples = GUESSED[name]
    assert guess_samples(batch) == samples


@pytest.mark.filterwarnings("ignore:.*prototype stage")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_sequences_of_different_lengths_are_counted(layout: torch.layout) -> None:
    rows = torch.nested.nested_tensor([of(n, 4) for n in (3, 5, 2)], layout=layout)
    assert guess_samples((rows, of(3))) == 3
