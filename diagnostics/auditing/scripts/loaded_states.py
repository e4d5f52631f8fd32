"""States that a running program loads: one that is the memory of the model itself brings nothing back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from torch import Tensor, nn

from diagnostics.auditing.probes.operations.bookkeeping import OWN_MEMORY, SHARE004
from diagnostics.auditing.tracing.recorded_calls import Operation
from diagnostics.auditing.tracing.torch_call import place_of
from diagnostics.findings import Finding
from diagnostics.recording.tensors import address_of


class LoadedStates:
    """Looks at what `load_state_dict` is given."""

    def __init__(self) -> None:
        self._found: list[Finding] = []

    @contextmanager
    def watch(self, has_trained: Callable[[], bool]) -> Iterator[None]:
        """Look at the calls in the block.

        Args:
            has_trained: Whether a model was updated already: before, its state is that of the start in any case.
        """
        load = nn.Module.load_state_dict

        def look(module: nn.Module, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
            if not self._found and has_trained() and _is_own_memory(module, state_dict):
                operation = Operation("load_state_dict", "", place_of())
                self._found = [SHARE004.found_once("", OWN_MEMORY.of(operation=operation))]
            return load(module, state_dict, *args, **kwargs)

        with patch.object(nn.Module, "load_state_dict", look):
            yield

    def findings(self) -> list[Finding]:
        """SHARE004, for the first such call."""
        return self._found


def _is_own_memory(module: nn.Module, state: Mapping[str, Any]) -> bool:
    """Whether each tensor of a state is the one of the module; one that replaces some of them is not."""
    own = {
        name: address_of(tensor) for name, tensor in module.state_dict().items() if isinstance(tensor, Tensor)
    }
    given = {name: address_of(tensor) for name, tensor in state.items() if isinstance(tensor, Tensor)}
    return own == given and any(address >= 0 for address in own.values())
