"""The updates that belong to one step of a running program."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch.optim import Optimizer

from diagnostics.auditing.scripts.optimizer_turns import MOST_TURNS, OptimizerTurns
from diagnostics.auditing.scripts.stepping_optimizers import share_parameters


class UpdateRound:
    """Tells when an open step has all its updates.

    The first round lasts until each optimiser that may train the models has stepped; later ones follow its order.

    Attributes:
        is_first: Whether the order is not known yet.
        complete: Whether the step has all its updates.
        stepped: The optimisers of its updates, in their order.
    """

    def __init__(self) -> None:
        self.is_first = self.complete = False
        self.stepped: list[Optimizer] = []
        self._candidates: list[Optimizer] = []  # that the first round may contain
        self._turns = OptimizerTurns([])

    def expect_first(self, candidates: Iterable[Optimizer]) -> None:
        """The next round is the first one of these."""
        self.is_first, self._candidates = True, list(candidates)

    def expect_also(self, candidates: Iterable[Optimizer]) -> None:
        """The first round may contain these too."""
        known = [*self._candidates]
        self._candidates += [each for each in candidates if each not in known]

    def follow(self, turns: OptimizerTurns) -> None:
        """The next rounds have this order."""
        self._turns = turns

    def begin(self) -> None:
        """A step begins."""
        self.complete, self.stepped = False, []
        self._turns.begin()

    def end(self) -> None:
        """A complete step ends that was not the first one."""
        self._turns.end()

    def end_first(self) -> tuple[list[Optimizer], OptimizerTurns]:
        """The first round ends: return the optimisers that it showed, and the order of their updates."""
        self.is_first = False
        # one that did not step, though one for the same parameters did, is a wrapper of it
        optimizers = [
            each for each in self._candidates if each in self.stepped or not _has_rival(each, self.stepped)
        ]
        return optimizers, OptimizerTurns(map(id, self.stepped))

    def note(self, optimizer: Optimizer, known: Optimizer) -> None:
        """An update of the models.

        Args:
            optimizer: The optimiser that made it.
            known: The one of the monitor that it steps for.
        """
        self.stepped.append(optimizer)
        if self.is_first:
            waiting = [each for each in self._candidates if not _has_rival(each, self.stepped)]
            self.complete = not waiting or self.stepped.count(optimizer) >= MOST_TURNS
        else:
            self._turns.note(id(known))
            self.complete = self._turns.complete


def _has_rival(optimizer: Optimizer, others: Sequence[Optimizer]) -> bool:
    return any(share_parameters(optimizer, other) for other in others)
