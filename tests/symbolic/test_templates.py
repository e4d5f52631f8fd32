"""Factored recolourings against every template applied as a rule of its own."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from torch import Tensor
from torch.nn import functional

from etrm.data import to_canvas
from etrm.symbolic import Grids, Semantics, apply_rule, parse, parse_formula
from etrm.symbolic.templates import COLOURS, SOURCES, Templates, as_tokens
from tests.symbolic import strategies

SMOOTHING = 0.1
RULES = tuple(
    map(
        parse,
        (
            "where true paint x.transpose",
            "where true paint x.tile(1, 2)",
            "where edge(x) paint 2",
            "where true paint x.transpose then where edge(x) paint 1",
            "where true paint x.transpose then where true paint x.tile(2, 1)",
            "where true paint x.flip_rows then where true paint x.tile(2, 1)",
        ),
    )
)
CONDITIONS = tuple(map(parse_formula, ("true", "learned(x, 0)", "edge(x) and not learned(x, 1)")))
TEMPLATES = Templates(RULES, CONDITIONS, strategies.predicates(), Semantics(), SMOOTHING)


def log_likelihood(index: int, given: Grids, wanted: Grids) -> list[Tensor]:
    """By applying the template to each grid, a cell at a time."""
    made = apply_rule(TEMPLATES.rule(index), given, TEMPLATES.predicates, TEMPLATES.semantics)
    found = []
    for number, grid in enumerate(wanted.arrays()):
        size = (int(made.heights[number]), int(made.widths[number]))
        total = torch.zeros((), dtype=torch.float64)
        for (row, column), colour in np.ndenumerate(grid):
            chance = made.colours[number, row, column, colour] if size == grid.shape else torch.zeros(())
            total = total + torch.log((1 - SMOOTHING) * chance + SMOOTHING / 10)
        found.append(total)
    return found


def pairs() -> tuple[Grids, Grids]:
    """Outputs of the size of their inputs, of the transposed size, and of a size that no template makes."""
    generator = np.random.default_rng(0)
    shapes = [((3, 2), (3, 2)), ((2, 3), (3, 2)), ((2, 2), (2, 2)), ((3, 3), (1, 4)), ((2, 2), (2, 4))]
    made = [[generator.integers(0, 3, shape[side]) for shape in shapes] for side in (0, 1)]
    made[1][2] = np.where(made[0][2] == 1, 2, made[0][2])
    return Grids.of(made[0], torch.float64), Grids.of(made[1], torch.float64)


def test_the_factored_likelihoods_are_those_of_the_rules() -> None:
    given, wanted = pairs()
    found = TEMPLATES.log_likelihoods(given, wanted)
    assert found.shape == (given.size, TEMPLATES.count)
    for index in range(0, TEMPLATES.count):
        expected = torch.stack(log_likelihood(index, given, wanted))
        torch.testing.assert_close(found[:, index], expected, msg=str(TEMPLATES.rule(index)))


def test_every_template_is_another_rule() -> None:
    rules = [str(TEMPLATES.rule(index)) for index in range(TEMPLATES.count)]
    assert len(set(rules)) == len(rules) == len(RULES) + len(CONDITIONS) * SOURCES * COLOURS
    assert rules[len(RULES) + COLOURS * COLOURS] == "where not colour(x, 0) paint 0"


@settings(deadline=None, max_examples=6)  # each applies every template
@given(strategies.grids(most=4, side=3))
def test_the_mixture_is_the_weighted_sum_of_what_each_template_paints(queries: Grids) -> None:
    region = (4, 5)
    weights = (
        torch.rand(queries.size, TEMPLATES.count, generator=torch.Generator().manual_seed(0))
        .double()
        .softmax(1)
    )
    expected = sum(
        weights[:, index, None, None, None]
        * as_tokens(
            apply_rule(TEMPLATES.rule(index), queries, TEMPLATES.predicates, TEMPLATES.semantics), region
        )
        for index in range(TEMPLATES.count)
    )
    found = TEMPLATES.paint(weights, queries, region)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found.sum(-1), torch.ones_like(found[..., 0]))


def test_tokens_of_a_grid_are_those_of_the_canvas() -> None:
    grids = [np.array([[1, 2, 3]]), np.array([[4], [5]])]
    for tokens, grid in zip(as_tokens(Grids.of(grids), (3, 4)).argmax(-1), grids, strict=True):
        canvas = to_canvas(grid.astype(np.uint8), side=5)[:3, :4]
        assert tokens.tolist() == canvas.tolist()


def test_templates_without_conditions_or_without_rules() -> None:
    given, wanted = pairs()
    for rules, conditions in ((RULES, ()), ((), CONDITIONS)):
        some = Templates(rules, conditions, TEMPLATES.predicates, Semantics(), SMOOTHING)
        assert some.log_likelihoods(given, wanted).shape == (given.size, some.count)
        even = torch.full((given.size, some.count), 1 / some.count, dtype=torch.float64)
        total = some.paint(even, given, (3, 3)).sum(-1)
        torch.testing.assert_close(total, torch.ones_like(total))


def test_the_gradient_of_a_likelihood_reaches_the_guards() -> None:
    predicates = strategies.predicates(1)
    some = Templates((), CONDITIONS, predicates, Semantics(), SMOOTHING)
    weighted = functional.normalize(torch.arange(some.count, dtype=torch.float64), dim=0)
    (some.log_likelihoods(*pairs()) @ weighted).sum().backward()
    assert predicates.guards is not None
    assert all(weight.grad is not None and weight.grad.any() for weight in predicates.guards.parameters())
