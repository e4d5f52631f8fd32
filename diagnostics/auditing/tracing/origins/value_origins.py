"""Where the numbers of a step come from, as far as a check asks: a maximum over all samples, a mean loss, a draw.

The result of a function gets an origin, and results of some functions inherit those of their arguments. A tensor that
no check asks about has none.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from itertools import chain
from typing import Any

from torch import Tensor

from diagnostics.auditing.tracing.function_names import plain_name
from diagnostics.auditing.tracing.origins.batch_losses import UNTRAINED, BatchLosses
from diagnostics.auditing.tracing.origins.choice_probabilities import ChoiceProbabilities
from diagnostics.auditing.tracing.origins.origin_call import OriginCall, Origins, OriginSubject
from diagnostics.auditing.tracing.origins.outputs import DECISION, OutputOrigins
from diagnostics.auditing.tracing.origins.scaled_noise import ScaledNoise
from diagnostics.recording.tensors import is_dense, tensors_in

_PARTS = ("chunk", "split", "unbind", "tensor_split")
"""Functions whose results hold the numbers of their first argument together."""


class ValueOrigins:
    """The origins of the tensors of one step.

    Attributes:
        outputs, choices, losses, noise: What each subject found.
    """

    def __init__(self) -> None:
        self.outputs = OutputOrigins()
        self.choices = ChoiceProbabilities()
        self.losses = BatchLosses()
        self.noise = ScaledNoise()
        self._subjects: tuple[OriginSubject, ...] = (self.outputs, self.choices, self.losses, self.noise)
        self._carried: Mapping[str, Collection[str]] = dict(
            chain.from_iterable(subject.carried.items() for subject in self._subjects)
        )
        # By id; the tensors are kept, so that no id is used again.
        self._known: dict[int, tuple[Tensor, Origins]] = {}

    def of(self, value: Any) -> Origins:
        """The origins of a value."""
        found = self._known.get(id(value))
        return found[1] if found is not None and found[0] is value else frozenset()

    def note(
        self,
        func: Any,
        name: str,
        given: list[Tensor],
        kwargs: Mapping[str, Any],
        result: Any,
        place: Callable[[], tuple[str, str]],
    ) -> None:
        """A function was called.

        Args:
            func: The function.
            name: Its name.
            given: All tensors that it was given.
            kwargs: Its named arguments.
            result: What it returned.
            place: Function that says by which operation, and at which line.
        """
        plain = plain_name(name)
        if isinstance(result, Tensor):
            if is_dense(result):
                ordered = given[::-1] if name.startswith(("rsub", "__rsub")) else given
                origins = [self.of(each) for each in ordered]
                self._note_tensor(OriginCall(func, plain, ordered, origins, kwargs, result, place))
        elif plain == "max":
            self._give(getattr(result, "indices", None), {DECISION})
        elif plain in _PARTS and isinstance(result, (tuple, list)):
            self._give(result, {each for each in self.of(given[0]) if "split" in self._carried[each]})

    def _note_tensor(self, call: OriginCall) -> None:
        origins = {each for each in set().union(*call.origins) if call.name in self._carried[each]}
        for subject in self._subjects:
            origins |= subject.begin(call)
        if call.result.requires_grad:
            origins.discard(UNTRAINED)
        self._give(call.result, origins)
        for subject in self._subjects:
            subject.look(call)

    def _give(self, value: Any, origins: Collection[str]) -> None:
        """Add origins to all tensors in a value."""
        if origins:
            for each in tensors_in(value):
                self._known[id(each)] = (each, self.of(each) | frozenset(origins))
