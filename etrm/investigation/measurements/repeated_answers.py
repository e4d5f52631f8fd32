"""Whether a model gives the same answers when it is called again."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from etrm.data import Sample
from etrm.model.variant import Variant
from etrm.training.scoring.predictor import make_predictor


def count_changed(model: Variant, queries: Sequence[Sample]) -> int:
    """Count the queries whose answer a second call in evaluation mode changes.

    Both calls use deterministic algorithms: on a GPU, sums in another order can make the other of two equally good
    templates the best one.
    """
    predictor = make_predictor(model)
    with _deterministic():
        calls = [[answer[0] for answer in predictor(queries) if answer] for _ in range(2)]
    return sum(not np.array_equal(*answers) for answers in zip(*calls, strict=True))


@contextmanager
def _deterministic() -> Iterator[None]:
    """Use deterministic algorithms where torch has them."""
    was, warned = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an operation that has no such algorithm
            yield
    finally:
        torch.use_deterministic_algorithms(was, warn_only=warned)
