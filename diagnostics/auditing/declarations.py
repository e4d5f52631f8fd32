"""The options of `etrm audit train.py` that name modules, for a script whose models may appear one after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from diagnostics.selection import check_patterns, covers, select_modules, with_submodules


class Declarations:
    """Names and patterns as arguments of a monitor; each must match something in some stage of the training.

    Args:
        watch, expect_frozen, expect_partial: Arguments of `Monitor`; no `watch` for the usual modules.
    """

    def __init__(
        self,
        watch: Sequence[str] = (),
        expect_frozen: Sequence[str] = (),
        expect_partial: Sequence[str] = (),
    ) -> None:
        self._given = {"watch": watch, "expect_frozen": expect_frozen, "expect_partial": expect_partial}
        self._met: dict[str, dict[str, None]] = {}  # argument -> names of all models so far

    def options(self, model: nn.Module, usual: list[str] | None) -> dict[str, Any]:
        """The arguments of a monitor, without patterns that match nothing in its model.

        Args:
            model: The model of the monitor.
            usual: What to watch in it, where no pattern to watch matches.
        """
        model = with_submodules(model)
        modules = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
        weights = [name for name, _ in model.named_parameters(remove_duplicate=False)]
        chosen = self._matching("watch", modules) or usual
        watched = list(select_modules(model, chosen))
        return {
            "watch": chosen,
            "expect_frozen": self._matching("expect_frozen", [*modules, *weights]),
            "expect_partial": self._matching("expect_partial", watched),
        }

    def _matching(self, argument: str, names: Sequence[str]) -> list[str]:
        self._met.setdefault(argument, {}).update(dict.fromkeys(names))
        return [each for each in self._given[argument] if any(covers(each, name) for name in names)]

    def check(self) -> None:
        """Refuse what matched in no model.

        Raises:
            InvalidValue: There is such a pattern; the error names the nearest names.
        """
        for argument, patterns in self._given.items():
            check_patterns(argument, patterns, self._met.get(argument, ()))
