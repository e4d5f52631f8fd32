"""What N1 to N5 share: they are about the symbolic solver, and their controls are a small run of it."""

from __future__ import annotations

from collections.abc import Sequence

from etrm.config import Config, load, with_settings
from etrm.config.model import SYMBOLIC
from etrm.config.tree import Changes
from etrm.investigation.hypotheses.hypothesis import Hypothesis

SYMBOLIC_PRESET = "symbolic-rules"
"""Preset of the controls, which are small and on tasks whose rules the solver can learn."""


class SymbolicHypothesis(Hypothesis):
    """A hypothesis about a mechanism inside of the symbolic solver; H1 to H7, which come first, name a root cause."""

    def applies_to(self, subject: Config) -> bool:
        """Whether the model is a symbolic solver."""
        return subject.model.variant == SYMBOLIC


def control_config(faults: Sequence[str] = (), **symbolic: object) -> Config:
    """The control preset on few tasks with some faults.

    Args:
        faults: names of the faults.
        symbolic: changes of the section ``model.symbolic``.
    """
    changes: Changes = {
        "data": {"max_tasks": 60},
        "evaluate": {"max_tasks": 60},
        "model": {"symbolic": dict(symbolic)},
        "train": {"batch_size": 8, "threads": 1},
        "faults": tuple(faults),
    }
    return with_settings(load(SYMBOLIC_PRESET), **changes)
