"""The base class of the sections of the config."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

Precision: TypeAlias = Literal["float32", "bfloat16"]
"""The precision of matrix products."""


class Section(BaseModel):
    """Base class of every section. It is immutable and refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse values that pydantic would silently convert to another type."""
        assert info.field_name is not None
        if isinstance(value, bool) and not _takes(cls.model_fields[info.field_name].annotation, bool):
            raise PydanticCustomError("boolean", "true and false are not allowed here")
        if isinstance(value, str) and "\0" in value:
            raise PydanticCustomError("nul", "a text must not contain a NUL character")
        return value


def refused(code: str, problem: str) -> PydanticCustomError:
    """Return the error that a validator raises for incompatible settings, with the code of an EtrmError."""
    return PydanticCustomError(code, "{problem}", {"problem": problem})


def _takes(annotation: Any, kind: type) -> bool:
    return annotation is kind or any(_takes(inner, kind) for inner in get_args(annotation))
