"""The encoders under the name that they had when there was one."""

from etrm.model.encoders import (
    PAD,
    Encoded,
    Encoder,
    GridEncoder,
    SetEncoder,
    StandardEncoder,
    as_sets,
)

__all__ = [
    "PAD",
    "Encoded",
    "Encoder",
    "GridEncoder",
    "SetEncoder",
    "StandardEncoder",
    "as_sets",
]
