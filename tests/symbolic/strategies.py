"""Formulas, rules and grids at random."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch.nn import functional

from etrm.config import SymbolicConfig
from etrm.symbolic.formula import (
    CELL,
    LIMITS,
    MAPS,
    PREDICATES,
    TRUE,
    Also,
    And,
    Atom,
    Cell,
    Exists,
    ForAll,
    Formula,
    Implies,
    Map,
    Not,
    Or,
    Rule,
    Then,
    Where,
)
from etrm.symbolic.grids import Grids
from etrm.symbolic.predicates import Predicates

GUARDS = 2
VARIABLES = ("y", "z")
_HIGH = {"tile": 2, "mirror": 2, "scale": 2, "shrink": 3, "part": 3, "offset": 2, "wrap": 2}
"""Largest number of maps in tests, so that the grids stay small."""


@st.composite
def maps(draw: st.DrawFn, resizes: bool | None = None) -> Map:
    names = [name for name, kind in MAPS.items() if resizes is None or kind.resizes == resizes]
    name = draw(st.sampled_from(names))
    limits = [(max(low, -3), min(high, _HIGH.get(name, 9))) for low, high in MAPS[name].numbers]
    numbers = [draw(st.integers(low, high)) for low, high in limits]
    for place in MAPS[name].parts:
        numbers[place] %= numbers[place + 1]
    return Map(name, tuple(numbers))


@st.composite
def atoms(draw: st.DrawFn, variables: tuple[str, ...], pairs: bool = True) -> Atom:
    names = [
        name
        for name, sorts in PREDICATES.items()
        if (pairs or sorts.count("cell") < 2) and (variables or not sorts)
    ]
    name = draw(st.sampled_from(names))
    arguments: list[Cell | int] = []
    for sort in PREDICATES[name]:
        if sort == "cell":
            moved = draw(st.none() | maps(resizes=False))
            arguments.append(Cell(draw(st.sampled_from(variables)), moved))
        else:
            arguments.append(
                draw(st.integers(0, GUARDS - 1 if sort == "guard" else min(9, LIMITS[sort] - 1)))
            )
    return Atom(name, tuple(arguments))


@st.composite
def formulas(
    draw: st.DrawFn, variables: tuple[str, ...] = (CELL,), depth: int = 3, quantifiers: int = 1
) -> Formula:
    """Formulas whose free variables are among some; at most so many quantifiers in one another."""
    kinds = ["atom"]
    if depth > 0:
        kinds += ["not", "and", "or", "implies"] + ["forall", "exists"] * (quantifiers > 0)
    kind = draw(st.sampled_from(kinds))
    if kind == "atom":
        return draw(atoms(variables))
    if kind == "not":
        return Not(draw(formulas(variables, depth - 1, quantifiers)))
    if kind in ("forall", "exists"):
        variable = draw(st.sampled_from(VARIABLES))
        body = draw(formulas(tuple(dict.fromkeys((*variables, variable))), depth - 1, quantifiers - 1))
        return ForAll(variable, body) if kind == "forall" else Exists(variable, body)
    left, right = (draw(formulas(variables, depth - 1, quantifiers)) for _ in range(2))
    return {"and": And, "or": Or, "implies": Implies}[kind](left, right)


@st.composite
def paints(draw: st.DrawFn, depth: int = 2) -> Where:
    value = draw(st.integers(0, 9) | maps(resizes=False))
    return Where(draw(formulas(depth=depth)), value)


@st.composite
def rules(draw: st.DrawFn, depth: int = 2) -> Rule:
    kind = draw(st.sampled_from(["paint", "resize", "also"] + ["then"] * (depth > 0)))
    if kind == "paint":
        return draw(paints(depth))
    if kind == "resize":
        return Where(TRUE, draw(maps(resizes=True)))
    if kind == "also":
        return Also(draw(paints(1)), draw(paints(1)))
    return Then(draw(rules(depth - 1)), draw(rules(depth - 1)))


@st.composite
def grids(draw: st.DrawFn, most: int = 2, side: int = 3, soft: bool = False) -> Grids:
    """Some grids of different sizes, on a canvas that may be larger than all; few colours, so that many are equal."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sides = st.integers(1, side)
    shapes = draw(st.lists(st.tuples(sides, sides), min_size=1, max_size=most))
    made = Grids.of([generator.integers(0, 3, shape) for shape in shapes], dtype=torch.float64)
    spare = draw(st.integers(0, 1))
    colours = functional.pad(made.colours, (0, 0, 0, spare, 0, spare))
    colours[..., 0] += 1 - colours.sum(-1)
    if soft:
        noise = torch.from_numpy(generator.dirichlet(np.ones(colours.shape[-1]), colours.shape[:-1]))
        colours = 0.7 * colours + 0.3 * noise
    return Grids(colours, made.heights, made.widths)


def config(**settings: Any) -> SymbolicConfig:
    """Of a small solver with learned predicates."""
    return SymbolicConfig(families=("learned",), guards=GUARDS, width=5, **settings)


def predicates(seed: int = 0) -> Predicates:
    """All predicates, with weights that make the learned ones neither true nor false."""
    torch.manual_seed(seed)
    return Predicates(config()).double()


def arrays(side: int = 5) -> st.SearchStrategy[Any]:
    """Grids of few colours as numpy arrays."""
    shapes = st.tuples(st.integers(1, side), st.integers(1, side))
    return st.builds(
        lambda shape, seed: np.random.default_rng(seed).integers(0, 3, shape),
        shapes,
        st.integers(0, 2**32 - 1),
    )
