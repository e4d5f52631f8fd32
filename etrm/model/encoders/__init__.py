"""The demonstration encoders, by kind."""

from etrm.config import ModelConfig
from etrm.model.encoders.base import Encoded, Encoder, as_sets, mean_of_set
from etrm.model.encoders.carried import RecurrentEncoder, TRMStyleEncoder
from etrm.model.encoders.lpn import HybridStandardEncoder, LPNGridEncoder, LPNStandardEncoder
from etrm.model.encoders.outside import EXTENSION_POINT, EncoderFactory, make_encoder
from etrm.model.encoders.pairs import PAD, PairEncoder
from etrm.model.encoders.standard import GridEncoder, SetEncoder, StandardEncoder
from etrm.model.encoders.variational import HybridVariationalEncoder, LPNVariationalEncoder

ENCODERS: dict[str, type[Encoder]] = {
    "standard": StandardEncoder,
    "hybrid_standard": HybridStandardEncoder,
    "lpn_standard": LPNStandardEncoder,
    "lpn_variational": LPNVariationalEncoder,
    "hybrid_variational": HybridVariationalEncoder,
    "recurrent": RecurrentEncoder,
    "trm_style": TRMStyleEncoder,
}


def find_encoder(kind: str) -> EncoderFactory:
    """Find the factory of an encoder kind: a built-in one, or code from outside.

    Raises:
        ExtensionError: see :meth:`etrm.extensions.ExtensionPoint.find`.
    """
    return EXTENSION_POINT.find(kind, ENCODERS)


def build_encoder(config: ModelConfig, side: int) -> Encoder:
    """Build the encoder of a model section for a canvas with the given side.

    Raises:
        ExtensionError: code from outside fails, or does not make an encoder.
    """
    factory = find_encoder(config.encoder.kind)
    return factory(config, side) if config.encoder.kind in ENCODERS else make_encoder(factory, config, side)


__all__ = [
    "ENCODERS",
    "PAD",
    "Encoded",
    "Encoder",
    "EncoderFactory",
    "GridEncoder",
    "HybridStandardEncoder",
    "HybridVariationalEncoder",
    "LPNGridEncoder",
    "LPNStandardEncoder",
    "LPNVariationalEncoder",
    "PairEncoder",
    "RecurrentEncoder",
    "SetEncoder",
    "StandardEncoder",
    "TRMStyleEncoder",
    "as_sets",
    "build_encoder",
    "find_encoder",
    "mean_of_set",
]
