"""Records the calls of a model's networks outside of training steps, as in an evaluation."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from etrm.model.encoders import Encoded
from etrm.model.variant import Variant
from etrm.reference.departure import Departure
from etrm.reference.evaluation.evaluated_calls import compare_calls
from etrm.reference.recorded import RecordedCore, RecordedEncoding
from etrm.training.monitoring.recorded_step import record_demos


def compare_networks(model: Variant, use: Callable[[], object]) -> list[Departure]:
    """Compare the calls of encoder and core with the reference while a model is used, up to the first that departs.

    Args:
        model: the model, which the reference covers; its weights may change between calls.
        use: the function that calls it.
    """
    found = list[Departure]()

    def encoded(module: nn.Module, args: tuple[Any, ...], output: Encoded) -> None:
        demos, state = (*args, None)[:2]
        if (
            not found and not module.training
        ):  # in training mode a latent is noise, which is no fault of its own
            call = RecordedEncoding(record_demos(demos), state, output.context)
            found.extend(compare_calls(model.state_dict(), model.config, [call], []))

    def computed(module: nn.Module, args: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        if not found:
            call = RecordedCore(*args, *output)
            found.extend(compare_calls(model.state_dict(), model.config, [], [call]))

    with ExitStack() as hooks:
        hooks.callback(model.core.register_forward_hook(computed).remove)
        if model.encoder is not None:
            hooks.callback(model.encoder.register_forward_hook(encoded).remove)
        use()
    return found
