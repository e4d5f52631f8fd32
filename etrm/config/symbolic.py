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
SelectorKind = Literal["fit", "demos", "input"]
Selection = Literal["soft", "hard", "straight_through"]
RECURSIVE = ("hidden_size", "cycles", "cycle_grad", "inject")
"""Settings that the selector fit does not have."""


class SymbolicConfig(Section):
    """The library of formulas, their semantics and the learned predicates."""

    families: tuple[Family, ...] = Field(
        ("original", "dihedral", "relational", "topological", "counting"),
        description="families of formulas",
    )
    composites: bool = Field(False, description="whether templates include sequences")
    pairwise: bool = Field(
        False,
        description="whether a template recolours each pair of colours by its own guard of one or two conditions",
    )
    tnorm: TNorm = Field("product", description="conjunction of two truths")
    quantifier: QuantifierKind = Field("product", description="truth over all cells")
    exponent: float = Field(4.0, ge=1, description="exponent p of quantifier mean")
    guards: int = Field(16, ge=1, le=100, description="number of learned guards")
    width: int = Field(64, ge=1, description="width of learned predicates")
    reach: int = Field(1, ge=0, le=5, description="distance in cells that guards see")

    selector: SelectorKind = Field(
        "fit",
        description="method that rates templates: fit to the demonstrations, an encoder of them, or of the query "
        "alone (known bad)",
    )
    selection: Selection = Field(
        "soft",
        description="templates applied in training: a mixture, the best one (known bad: no gradient), or a sample "
        "with the mixture's gradient",
    )
    temperature: float = Field(1.0, gt=0, description="temperature of the mixture")
    last_temperature: float | None = Field(
        None,
        gt=0,
        description="temperature at the end of training; none keeps it",
    )
    smoothing: float = Field(0.01, gt=0, lt=1, description="chance of an arbitrary colour")
    hidden_size: int = Field(128, ge=1, description="width of the encoder")
    cycles: int = Field(3, ge=1, description="number of refinements")
    cycle_grad: Literal["all", "last"] = Field("all", description="refinements that keep their gradient")
    inject: Literal["start", "every_cycle"] = Field(
        "every_cycle",
        description="use of the encoding: as starting state, or in every refinement",
    )

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
                    "config.repeated-family", f"a family occurs twice in {', '.join(map(repr, value))}"
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
        if self.pairwise and self.selector != "fit":
            raise refused(
                "config.pairwise-without-fit",
                f"pairwise guards are fitted to the demonstrations, and the selector {self.selector!r} fits "
                "nothing; use 'fit'",
            )
        if self.selector == "fit":
            for name in RECURSIVE:
                value = getattr(self, name)
                if value != fields[name].default:
                    raise refused(
                        "config.recursion-without-encoder",
                        f"{name} {value} has no effect on the selector 'fit', which encodes nothing",
                    )
        if self.selection == "hard":
            for name in ("temperature", "last_temperature"):
                value = getattr(self, name)
                if value != fields[name].default:
                    raise refused(
                        "config.temperature-without-softmax",
                        f"{name} {value} changes no output of the selection 'hard'",
                    )
        return self
