"""Settings of the symbolic solver: which formulas it has, what they mean, and what of them is learned."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from etrm.config.section import Section, refused

Family = Literal["original", "dihedral", "relational", "topological", "counting", "learned"]
FAMILIES: tuple[Family, ...] = (
    "original",
    "dihedral",
    "relational",
    "topological",
    "counting",
    "learned",
)
"""The families of the library, see ``etrm.symbolic.library``."""
TNorm = Literal["product", "goedel", "lukasiewicz"]
QuantifierKind = Literal["product", "minimum", "mean"]


class SymbolicConfig(Section):
    """The library of formulas, their semantics and the learned predicates."""

    families: tuple[Family, ...] = Field(
        ("original", "dihedral", "relational", "topological", "counting"),
        description="families of formulas in the library",
    )
    tnorm: TNorm = Field(
        "product", description="conjunction of two truths: their product, minimum or bounded sum"
    )
    quantifier: QuantifierKind = Field(
        "product", description="truth over all cells: the product, the minimum or a p-mean"
    )
    exponent: float = Field(4.0, ge=1, description="exponent p of the p-mean, quantifier mean only")
    guards: int = Field(8, ge=1, le=100, description="number K of learned guards, family learned only")
    width: int = Field(32, ge=1, description="width of the learned predicates")
    reach: int = Field(1, ge=0, le=5, description="distance in cells that a learned guard sees")

    @field_validator("families", mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            unknown = [name for name in value if name not in FAMILIES]
            if unknown:
                raise refused(
                    "config.unknown-family",
                    f"no family {', '.join(map(repr, unknown))} of formulas; there are {', '.join(FAMILIES)}",
                )
            if not value:
                raise refused(
                    "config.empty-library", f"a library needs a family of formulas: {', '.join(FAMILIES)}"
                )
            if len(set(value)) < len(value):
                raise refused(
                    "config.repeated-family", f"a family stands twice in {', '.join(map(repr, value))}"
                )
        return value

    @model_validator(mode="after")
    def _check(self) -> SymbolicConfig:
        fields = type(self).model_fields
        if self.quantifier != "mean" and self.exponent != fields["exponent"].default:
            raise refused(
                "config.exponent-without-mean",
                f"exponent {self.exponent} has no effect on the quantifier {self.quantifier!r}; use 'mean'",
            )
        if "learned" not in self.families:
            for name in ("guards", "width", "reach"):
                value = getattr(self, name)
                if value != fields[name].default:
                    raise refused(
                        "config.learned-setting-without-family",
                        f"{name} {value} has no effect without the family 'learned'",
                    )
        return self
