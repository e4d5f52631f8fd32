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
        description="families of formulas in the library",
    )
    composites: bool = Field(
        False, description="sequences of two rules among the templates of a trained solver"
    )
    tnorm: TNorm = Field(
        "product", description="conjunction of two truths: their product, minimum or bounded sum"
    )
    quantifier: QuantifierKind = Field(
        "product", description="truth over all cells: the product, the minimum or a p-mean"
    )
    exponent: float = Field(4.0, ge=1, description="exponent p of the p-mean, quantifier mean only")
    guards: int = Field(16, ge=1, le=100, description="number K of learned guards, family learned only")
    width: int = Field(64, ge=1, description="width of the learned predicates")
    reach: int = Field(1, ge=0, le=5, description="distance in cells that a learned guard sees")

    selector: SelectorKind = Field(
        "fit",
        description="how templates are chosen: by how well they explain the demonstrations, by an encoder of the "
        "demonstrations, or by an encoder of the query alone (known bad: it cannot know the task)",
    )
    selection: Selection = Field(
        "soft",
        description="weights of the templates in training: a softmax, the best one alone (known bad: no gradient "
        "passes), or a Gumbel sample with the gradient of the softmax; without noise outside of training",
    )
    temperature: float = Field(1.0, gt=0, description="temperature of the softmax over templates")
    last_temperature: float | None = Field(
        None,
        gt=0,
        description="temperature at the end of training, approached by equal factors; none keeps it constant",
    )
    smoothing: float = Field(
        0.01, gt=0, lt=1, description="chance of an arbitrary colour in the likelihood of a demonstration"
    )
    hidden_size: int = Field(128, ge=1, description="width of the encoder and refiners, not of selector fit")
    cycles: int = Field(3, ge=1, description="number of refinements of the choice, not of selector fit")
    cycle_grad: Literal["all", "last"] = Field(
        "all", description="refinements that keep their gradient: all or the last one"
    )
    inject: Literal["start", "every_cycle"] = Field(
        "every_cycle",
        description="where the encoding enters: as the starting state alone, or in every refinement",
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
