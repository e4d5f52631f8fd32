"""What every section of the config is."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError


class Section(BaseModel):
    """Base of every section: immutable, and closed to keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse what pydantic would convert to something else than was meant."""
        assert info.field_name is not None
        if isinstance(value, bool) and not _takes(cls.model_fields[info.field_name].annotation, bool):
            raise PydanticCustomError("boolean", "true and false are no values of this setting")
        if isinstance(value, str) and "\0" in value:
            raise PydanticCustomError("nul", "a text with a NUL character names nothing")
        return value


def refused(code: str, problem: str) -> PydanticCustomError:
    """The error of a validator: settings that are impossible together, under the code of an EtrmError."""
    return PydanticCustomError(code, "{problem}", {"problem": problem})


def _takes(annotation: Any, kind: type) -> bool:
    return annotation is kind or any(_takes(inner, kind) for inner in get_args(annotation))
