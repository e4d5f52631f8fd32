"""What is said of a rule: its fit, its answer and its guard, against grids that were made by hand."""

from __future__ import annotations

import numpy as np
import torch

from etrm.config import SymbolicConfig
from etrm.symbolic import Demonstrations, Grids, parse
from etrm.symbolic.rated_rules import rate_rule, rate_rules
from etrm.symbolic.solver import SymbolicCore

CORE = SymbolicCore(SymbolicConfig(families=("original",))).eval()
RULES = {str(CORE.templates.rule(index)): index for index in range(CORE.templates.count)}
GIVEN = np.array([[1, 2, 2], [0, 1, 0], [1, 0, 0]])


def weights(**rules: float) -> torch.Tensor:
    found = torch.zeros(CORE.templates.count)
    for rule, weight in rules.items():
        found[RULES[rule]] = weight
    return found


def test_rules_come_by_weight_with_their_fit_to_every_demonstration() -> None:
    outputs = [np.where(GIVEN == 1, 5, GIVEN), GIVEN.T]
    demos = Demonstrations(Grids.of([GIVEN, GIVEN]), Grids.of(outputs), torch.zeros(2, dtype=torch.long))
    chosen, other = "where colour(x, 1) paint 5", "where true paint x.flip_columns"
    found = rate_rules(CORE, weights(**{other: 0.2, chosen: 0.7}), demos, Grids.of([GIVEN[:2]]))
    assert [str(rated.rule) for rated in found] == [chosen, other]
    assert [round(rated.weight, 6) for rated in found] == [0.7, 0.2]
    assert found[0].fits[0] == 1
    assert found[0].fits[1] == np.mean(np.where(GIVEN == 1, 5, GIVEN) == GIVEN.T)
    assert found[1].fits[0] == np.mean(GIVEN[:, ::-1] == outputs[0])


def test_an_answer_and_its_guard_are_those_of_the_query() -> None:
    demos = Demonstrations(Grids.of([GIVEN]), Grids.of([GIVEN]), torch.zeros(1, dtype=torch.long))
    query = Grids.of([GIVEN[:2]])
    (edge,) = rate_rules(CORE, weights(**{"where edge(x) paint 4": 1.0}), demos, query, count=1)
    assert edge.answer.tolist() == [[4, 4, 4], [4, 4, 4]]
    assert edge.guard is not None
    assert edge.guard.tolist() == [[1, 1, 1], [1, 1, 1]]
    (colour,) = rate_rules(CORE, weights(**{"where colour(x, 2) paint 0": 1.0}), demos, query, count=1)
    assert colour.answer.tolist() == [[1, 0, 0], [0, 1, 0]]
    assert colour.guard is not None
    assert colour.guard.tolist() == [[0, 1, 1], [0, 0, 0]]
    (turned,) = rate_rules(CORE, weights(**{"where true paint x.rotate_90": 1.0}), demos, query, count=1)
    assert turned.guard is None
    assert turned.answer.shape == (3, 2)
    right = [float(np.mean(np.rot90(GIVEN, quarters) == GIVEN)) for quarters in (1, -1)]
    assert turned.fits[0] in right


def test_several_guards_are_shown_together() -> None:
    demos = Demonstrations(Grids.of([GIVEN]), Grids.of([GIVEN]), torch.zeros(1, dtype=torch.long))
    rule = parse("where colour(x, 2) paint 0 also where colour(x, 0) paint 3 also where corner(x) paint 4")
    rated = rate_rule(CORE, rule, 0.5, demos, Grids.of([GIVEN]))
    assert rated.guard is not None
    assert rated.guard.tolist() == [[1, 1, 1], [1, 0, 1], [1, 1, 1]]
    assert rated.answer.tolist() == [[4, 0, 4], [3, 1, 3], [4, 3, 4]]
    steps = parse("where colour(x, 2) paint 0 then where colour(x, 0) paint 3")
    assert rate_rule(CORE, steps, 0.5, demos, Grids.of([GIVEN])).guard is None
