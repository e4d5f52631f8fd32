"""Guards of pairs of colours against all guards tried one after the other, and against the rules that they make."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from etrm.config import SymbolicConfig
from etrm.symbolic import Grids, Semantics, SymbolicSolver, apply_rule, parse, parse_formula
from etrm.symbolic.formula import TRUE, And, Formula
from etrm.symbolic.library import recolour
from etrm.symbolic.pairwise import ColourChanges, fit_guards, gather_guards, paint_pairs, pairwise_rule
from etrm.symbolic.search import apply_crisply
from etrm.symbolic.solver import Demonstrations
from etrm.symbolic.templates import Templates
from tests.symbolic import strategies

CONDITIONS = tuple(
    map(
        parse_formula,
        ("edge(x)", "corner(x)", "colour(x.left, 1)", "not colour(x.up, 2)", "colour(x.right, 0)"),
    )
)
TEMPLATES = Templates((), CONDITIONS, strategies.predicates(), Semantics(), 0.1, pairwise=True)
GENERATOR = np.random.default_rng(1)
INPUTS = [GENERATOR.integers(0, 3, shape) for shape in ((4, 5), (5, 3), (4, 4))]
RIGHT, WRONG = math.log(0.91), math.log(0.01)


def guard_of(first: int, second: int) -> Formula:
    """The guard at place (first, second) of the logits of a pair."""
    return And(CONDITIONS[first], CONDITIONS[second - 1]) if second else CONDITIONS[first]


def fitted(
    inputs: list[Any], outputs: list[Any], owner: Tensor, tasks: int
) -> tuple[ColourChanges, Tensor, list[Tensor], Tensor]:
    grids, wanted = Grids.of(inputs, torch.float64), Grids.of(outputs, torch.float64)
    changes, truths = ColourChanges.of(grids, wanted, owner, tasks), TEMPLATES.truths(grids)
    zeros = torch.zeros(len(CONDITIONS), dtype=torch.float64)
    logit, found = fit_guards(truths, changes, owner, zeros, zeros.new_ones(()), 0.1)
    return changes, logit, found, truths


def test_every_guard_has_the_logit_of_the_cells_that_it_gets_wrong() -> None:
    outputs = [np.where(grid == 1, GENERATOR.integers(0, 3, grid.shape), grid) for grid in INPUTS]
    changes, logit, found, _ = fitted(INPUTS, outputs, torch.zeros(3, dtype=torch.long), 1)
    assert changes.shown.tolist() == [[0, 10], [0, 12]]
    total = sum(grid.size for grid in INPUTS) * RIGHT
    for logits, target in zip(found, (0, 2), strict=True):
        for first in range(5):
            for second in range(6):
                if 0 < second <= first + 1:
                    assert logits[first, second] == -math.inf
                    continue
                made = apply_crisply(recolour(guard_of(first, second), 1, target), INPUTS)
                errors = sum(
                    ((painted == target) != (after == target))[before == 1].sum()
                    for before, painted, after in zip(INPUTS, made, outputs, strict=True)
                )
                beforehand = math.log(1 / 2 / (10 if second else 5))
                assert float(logits[first, second]) == pytest.approx(beforehand + errors * (WRONG - RIGHT))
        total += float(logits.logsumexp((0, 1)))
    assert logit.tolist() == pytest.approx([total])


def test_chances_beforehand_sum_to_one() -> None:
    """Without a cell to explain, the evidence of a pair of colours is 0."""
    grids = Grids.of(INPUTS, torch.float64)
    owner = torch.zeros(3, dtype=torch.long)
    changes = ColourChanges.of(grids, grids, owner, 1)
    shown = ColourChanges(
        torch.full_like(changes.before, -1),
        changes.after,
        torch.tensor([[0, 12]]),
        changes.possible,
        changes.cells,
    )
    zeros = torch.zeros(5, dtype=torch.float64)
    _, (logits,) = fit_guards(TEMPLATES.truths(grids), shown, owner, zeros, zeros.new_ones(()), 0.1)
    assert float(logits.exp().sum()) == pytest.approx(1)


def test_the_likeliest_guards_are_the_hidden_ones_and_paint_as_their_rule() -> None:
    corners, edges = "colour(x, 0) and corner(x)", "colour(x, 1) and (edge(x) and colour(x.left, 1))"
    text = f"where {corners} paint 7 also where {edges} paint 2"
    outputs = apply_crisply(parse(text), INPUTS)
    owner = torch.zeros(3, dtype=torch.long)
    changes, _, found, truths = fitted(INPUTS, outputs, owner, 1)
    best = [torch.zeros_like(one.flatten()).scatter(0, one.argmax(), 1.0).view_as(one) for one in found]
    chances = gather_guards(changes, best, 1, truths, 5)
    rule = pairwise_rule(chances[0], CONDITIONS)
    queries = [GENERATOR.integers(0, 3, (5, 5)), *INPUTS]
    made = apply_crisply(rule, queries)
    assert [grid.tolist() for grid in made[1:]] == [grid.tolist() for grid in outputs]
    grids = Grids.of(queries, torch.float64)
    painted = paint_pairs(chances.expand(4, -1, -1, -1), TEMPLATES.truths(grids), grids)
    by_rule = apply_rule(rule, grids, TEMPLATES.predicates, Semantics())
    torch.testing.assert_close(painted * grids.mask[..., None], by_rule.colours * grids.mask[..., None])


def test_of_two_targets_for_a_cell_the_later_one_is_painted() -> None:
    chances = torch.zeros(1, 2, 100, 6, dtype=torch.float64)
    for pair, place in ((13, 1), (12, 2), (15, 0)):  # 1 to 3 on edges, 1 to 2 in corners, 1 to 5 everywhere
        chances[0, 0, pair, place] = chances[0, 1, pair, 0] = 1
    for kept in ((13, 12), (13, 12, 15)):
        some = torch.zeros_like(chances)
        some[:, :, list(kept)] = chances[:, :, list(kept)]
        grids = Grids.of(INPUTS, torch.float64)
        painted = paint_pairs(some.expand(3, -1, -1, -1), TEMPLATES.truths(grids), grids)
        rule = pairwise_rule(some[0], CONDITIONS)
        by_rule = apply_rule(rule, grids, TEMPLATES.predicates, Semantics())
        torch.testing.assert_close(painted * grids.mask[..., None], by_rule.colours * grids.mask[..., None])


def test_soft_guards_paint_a_distribution() -> None:
    chances = torch.rand(
        3, 2, 100, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ).softmax(-1)
    grids = Grids.of(INPUTS, torch.float64)
    painted = paint_pairs(chances, TEMPLATES.truths(grids), grids)
    assert (painted >= 0).all()
    torch.testing.assert_close(painted.sum(-1), torch.ones_like(painted[..., 0]))


def test_no_guard_is_the_identity_and_no_condition_is_true() -> None:
    chances = torch.zeros(2, 100, 6)
    assert str(pairwise_rule(chances, CONDITIONS)) == "where true paint x.identity"
    chances[:, 12, 0] = 1
    assert pairwise_rule(chances, CONDITIONS) == recolour(TRUE, 1, 2)


def test_tasks_know_nothing_of_each_other_and_a_change_of_size_has_no_guards() -> None:
    painted = [np.where(grid == 1, 4, grid) for grid in INPUTS]
    turned = [grid.T for grid in INPUTS]
    owner = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2])
    changes, logit, _, _ = fitted(INPUTS * 3, [*painted, *turned, *INPUTS], owner, 3)
    assert changes.shown.tolist() == [[0, 14]]
    assert changes.possible.tolist() == [True, False, True]
    cells = sum(grid.size for grid in INPUTS)
    assert logit[1:].tolist() == pytest.approx([cells * WRONG, cells * RIGHT])
    alone = fitted(INPUTS, painted, owner[:3], 1)[1]
    torch.testing.assert_close(alone[0], logit[0])


def solver(**settings: Any) -> SymbolicSolver:
    torch.manual_seed(0)
    return SymbolicSolver(SymbolicConfig(pairwise=True, **settings))


RULE = "where colour(x, 1) and corner(x) paint 5 also where colour(x, 2) and edge(x) paint 6"


@pytest.mark.parametrize("selection", ["soft", "straight_through", "hard"])
def test_the_solver_chooses_the_pairwise_template_where_no_other_explains(selection: str) -> None:
    model = solver(families=("original", "relational"), selection=selection).eval()
    query = GENERATOR.integers(0, 3, (5, 4))
    given = Demonstrations(
        Grids.of(INPUTS), Grids.of(apply_crisply(parse(RULE), INPUTS)), torch.zeros(3, dtype=torch.long)
    )
    with torch.no_grad():
        solution = model(given, Grids.of([query]), (6, 6))
    assert int(solution.weights.argmax()) == model.core.templates.count - 1
    found = solution.tokens[0].argmax(-1)[:5, :4].numpy() - 2
    assert found.tolist() == apply_crisply(parse(RULE), [query])[0].tolist()


def test_the_loss_reaches_learned_guards_by_the_pairwise_template_alone() -> None:
    model = solver(families=("learned",)).train()
    given = Demonstrations(
        Grids.of(INPUTS), Grids.of(apply_crisply(parse(RULE), INPUTS)), torch.zeros(3, dtype=torch.long)
    )
    rating = model.rate(given, Grids.of(INPUTS[:1]))
    weights = torch.zeros_like(rating.logits)
    weights[:, -1] = 1
    painted = model.core(Grids.of(INPUTS[:1]), (6, 6), context=rating.join(weights).unsqueeze(1))
    (painted[..., 7] + 0.01).log().sum().backward()
    assert model.core.predicates.guards is not None
    assert all(
        weight.grad is not None and weight.grad.any() for weight in model.core.predicates.guards.parameters()
    )
