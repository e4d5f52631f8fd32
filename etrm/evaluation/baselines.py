"""Baselines: predictors that need no learning, with which every accuracy is compared.

Each one predicts a grid of the shape of the query input, because the shape of the true output is not known.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from etrm.config import DataConfig
from etrm.data.sample import CELLS, Sample
from etrm.data.sources import TaskSet
from etrm.data.tokens import FIRST_COLOUR, VOCAB
from etrm.evaluation.passk import EvaluationReport, evaluate
from etrm.evaluation.voting import Answer, Predictor


def copy_input(samples: Sequence[Sample]) -> list[Answer]:
    """Predict the query input, with its EOS tokens."""
    return [(sample.tokens, 0.0) for sample in samples]


def all_black(samples: Sequence[Sample]) -> list[Answer]:
    """Predict the query input with every cell black."""
    return [_filled(sample, FIRST_COLOUR) for sample in samples]


def most_frequent_colour(samples: Sequence[Sample]) -> list[Answer]:
    """Predict the query input with every cell in the most frequent colour of the demonstration outputs.

    Without demonstrations the query input is counted instead. Of equally frequent colours, the lowest is used.
    """
    return [_filled(sample, _most_frequent(sample)) for sample in samples]


BASELINES: MappingProxyType[str, Predictor] = MappingProxyType(
    {"copy input": copy_input, "all black": all_black, "most frequent colour": most_frequent_colour}
)
"""The baselines by their names."""


def evaluate_baselines(
    tasks: TaskSet, data: DataConfig | None = None, ks: Sequence[int] = (1,)
) -> dict[str, EvaluationReport]:
    """Score every baseline, with one vote per query, because augmentations do not change their answers."""
    return {
        name: evaluate(tasks, predictor, augmentations=1, data=data, variant="trm", ks=ks)
        for name, predictor in BASELINES.items()
    }


def _filled(sample: Sample, token: int) -> Answer:
    return np.where(_is_colour(sample.tokens), token, sample.tokens), 0.0


def _most_frequent(sample: Sample) -> int:
    outputs = [pair.tokens[pair.positions >= CELLS] for pair in sample.demos]
    shown = np.concatenate(outputs) if outputs else sample.tokens
    return int(np.bincount(shown[_is_colour(shown)], minlength=VOCAB).argmax())


def _is_colour(tokens: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
    return tokens >= FIRST_COLOUR
