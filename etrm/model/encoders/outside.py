"""Demonstration encoders from outside the package: how one is made, and the check of what it returns.

Shapes: R context rows, P context tokens, D hidden.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from etrm.batch import Demos
from etrm.config import ModelConfig
from etrm.extensions import ExtensionPoint, describe, in_users_code
from etrm.model.encoders.base import Encoded, Encoder


class EncoderFactory(Protocol):
    """What makes an encoder: a subclass of :class:`Encoder`, or a function that returns one."""

    def __call__(self, config: ModelConfig, side: int, /) -> Encoder:
        """The encoder of a model section, for a canvas of that side."""
        ...


EXTENSION_POINT: ExtensionPoint[EncoderFactory] = ExtensionPoint(
    "encoders",
    "demonstration encoder",
    "a subclass of etrm.model.encoders.Encoder; it is called with the model section and the side of the canvas",
    callable,
)


def make_encoder(factory: EncoderFactory, config: ModelConfig, side: int) -> Encoder:
    """The encoder that code from outside makes; what it returns is checked at every call.

    Raises:
        ExtensionError: the code raises, or makes something else than an encoder.
    """
    kind = config.encoder.kind
    with in_users_code(kind):
        encoder = factory(config, side)
    if not isinstance(encoder, Encoder):
        raise EXTENSION_POINT.wrong(kind, f"it makes {describe(encoder)}")
    if type(encoder).read is Encoder.read and type(encoder).forward is Encoder.forward:
        expected = "a method read(pairs, mask, carried=None) that returns Encoded(context)"
        raise EXTENSION_POINT.wrong(kind, "an encoder that implements neither read nor forward", expected)
    check = _OutputCheck(kind, config.context_tokens, config.hidden_size, frozenset(encoder.state_dict()))
    encoder.register_forward_hook(check)
    return encoder


@dataclass(frozen=True)
class _OutputCheck:
    """A forward hook; an object, so that the encoder can still be copied and pickled."""

    kind: str
    tokens: int
    width: int
    tensors: frozenset[str]

    def __call__(self, module: Encoder, args: tuple[Any, ...], output: object) -> None:
        """Raise ExtensionError where the output is not what the core takes, or nothing would train a new weight."""
        if late := sorted(module.state_dict().keys() - self.tensors):
            expected = (
                "parameters, buffers and layers made in __init__, because the optimiser knows no others"
            )
            raise self._wrong(f"{', '.join(late[:5])}, made in a forward pass", expected)
        demos: Demos = args[0]
        wanted = (demos.rows, self.tokens, self.width)
        expected = f"Encoded(context), context a floating-point tensor of shape (R, P, D) = {wanted}"
        if not isinstance(output, Encoded):
            raise self._wrong(f"forward returns {describe(output)}", expected)
        context = output.context
        if (
            not isinstance(context, Tensor)
            or tuple(context.shape) != wanted
            or not context.is_floating_point()
        ):
            raise self._wrong(f"a context of {_shape(context)}", expected)
        if output.kl is not None and tuple(output.kl.shape) != wanted[:1]:
            raise self._wrong(f"a kl of {_shape(output.kl)}", f"kl of shape (R,) = {wanted[:1]}")

    def _wrong(self, got: str, expected: str) -> Exception:
        return EXTENSION_POINT.wrong(self.kind, got, expected)


def _shape(value: object) -> str:
    if isinstance(value, Tensor):
        return f"shape {tuple(value.shape)}, {str(value.dtype).removeprefix('torch.')}"
    return describe(value)
