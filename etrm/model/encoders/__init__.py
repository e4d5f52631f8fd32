"""The demonstration encoders, by kind."""

from etrm.config import EncoderKind, ModelConfig
from etrm.model.encoders.base import Encoded, Encoder, as_sets
from etrm.model.encoders.carried import RecurrentEncoder, TRMStyleEncoder
from etrm.model.encoders.lpn import HybridStandardEncoder, LPNGridEncoder, LPNStandardEncoder
from etrm.model.encoders.pairs import PAD, PairEncoder
from etrm.model.encoders.standard import GridEncoder, SetEncoder, StandardEncoder
from etrm.model.encoders.variational import HybridVariationalEncoder, LPNVariationalEncoder

ENCODERS: dict[EncoderKind, type[Encoder]] = {
    "standard": StandardEncoder,
    "hybrid_standard": HybridStandardEncoder,
    "lpn_standard": LPNStandardEncoder,
    "lpn_variational": LPNVariationalEncoder,
    "hybrid_variational": HybridVariationalEncoder,
    "recurrent": RecurrentEncoder,
    "trm_style": TRMStyleEncoder,
}


def build_encoder(config: ModelConfig, side: int) -> Encoder:
    """Build the encoder of a model section for a canvas with the given side."""
    return ENCODERS[config.encoder.kind](config, side)


__all__ = [
    "ENCODERS",
    "PAD",
    "Encoded",
    "Encoder",
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
]
