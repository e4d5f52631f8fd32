"""The function that made the first number that is not finite."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from diagnostics.auditing.tracing.recorded_calls import Operation
from diagnostics.auditing.tracing.torch_call import TorchCall
from diagnostics.recording.tensors import is_dense, tensors_in

_FILLS = frozenset(
    [
        *("masked_fill", "masked_fill_", "full", "full_like", "new_full", "fill_"),
        *("where", "triu", "tril", "tensor"),
    ]
)
"""Functions that write an infinity on purpose, as attention masks do."""


class FirstNonFiniteCall:
    """Looks for the first function whose result is not finite although all that it was given is.

    Attributes:
        operation: That function, None as long as there is none.
        fed_by: Inside the model, the modules that its arguments come from, with no other module between.
    """

    def __init__(self) -> None:
        self.operation: Operation | None = None
        self.fed_by: tuple[str, ...] = ()

    def wants(self, name: str) -> bool:
        """All but those that write infinities."""
        return name not in _FILLS

    def note(self, call: TorchCall) -> None:
        """Look at the result of a call, unless one was found before."""
        if self.operation is not None:
            return
        made = list(tensors_in(call.result))
        bad = sum(map(count_bad, made))
        if not bad:
            return
        given = list(tensors_in((call.args, tuple(call.kwargs.values()))))
        # softmax makes NaN of a row that a mask filled with minus infinity: what computes an infinity came before
        new = _any_nan(made) and not _any_nan(given)
        if new or not any(map(count_bad, given)):
            self.operation = call.operation(count=bad)
            if call.step.inside_model:
                self.fed_by = call.step.sources(given)


def count_bad(tensor: Tensor) -> int:
    """The number of elements that are not finite."""
    if not is_dense(tensor) or not tensor.numel():
        return 0
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return 0
    return int((~tensor.detach().isfinite()).sum())


def _any_nan(tensors: Iterable[Tensor]) -> bool:
    return any(count_bad(each) and bool(each.detach().isnan().any()) for each in tensors)
