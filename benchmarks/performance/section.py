"""What a part of the bench is, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class Table:
    """Cells as they are printed, under a header of as many columns."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class BenchmarkSection:
    """The answer of a part.

    Attributes:
        tables: measured numbers.
        paragraphs: what they say, and what exactly was measured.
        figures: PNG bytes by name.
    """

    tables: tuple[Table, ...]
    paragraphs: tuple[str, ...]
    figures: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Conditions:
    """Under what a part measures: the device, and how often everything takes its turn."""

    device: torch.device
    repetitions: int


@dataclass(frozen=True)
class Benchmark:
    """A question and how it is answered.

    Attributes:
        name: for ``--only``.
        question: the heading of its section.
        run: measures.
        repetitions: unless ``--repetitions`` says otherwise.
        in_full: whether the document has the tables; ``--kept`` prints those of every part.
    """

    name: str
    question: str
    run: Callable[[Conditions], BenchmarkSection]
    repetitions: int = 5
    in_full: bool = True
