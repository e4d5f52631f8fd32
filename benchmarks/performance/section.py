"""The type of a benchmark, and of its section of the document."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class Table:
    """Printed cells under a header with as many columns."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class BenchmarkSection:
    """The results of a benchmark.

    Attributes:
        tables: the measured numbers.
        paragraphs: texts about the numbers and about what was measured.
        figures: PNG bytes by name.
    """

    tables: tuple[Table, ...]
    paragraphs: tuple[str, ...]
    figures: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Conditions:
    """The conditions of a measurement: the device, and the number of repetitions."""

    device: torch.device
    repetitions: int


@dataclass(frozen=True)
class Benchmark:
    """A question and the function that answers it.

    Attributes:
        name: the name for ``--only``.
        question: the heading of its section.
        run: the function that measures.
        repetitions: the number of repetitions, unless ``--repetitions`` is given.
        in_full: whether the document has the tables; ``--kept`` prints those of every part.
    """

    name: str
    question: str
    run: Callable[[Conditions], BenchmarkSection]
    repetitions: int = 5
    in_full: bool = True
