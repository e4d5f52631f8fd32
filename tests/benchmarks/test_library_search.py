from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.library_search import CONDITIONS, GUARDS, ROWS, judge, main, search_guards, search_task
from etrm.config import SymbolicConfig
from etrm.data import Pair, Task, load_tasks, rules
from etrm.symbolic import parse
from etrm.symbolic.library import Library
from etrm.symbolic.search import apply_crisply, rank_rules

LIBRARY = Library.of(SymbolicConfig())


def task() -> Task:
    """Two demonstrations and a query whose grids are turned by a quarter."""
    inputs = [np.array([[1, 2], [3, 4]]), np.array([[5, 0, 1]]), np.array([[0, 7], [7, 7], [1, 2]])]
    pairs = [Pair(grid.astype(np.uint8), np.rot90(grid, -1).astype(np.uint8)) for grid in inputs]
    return Task("turn", tuple(pairs[:2]), tuple(pairs[2:]))


def test_a_task_is_solved_where_every_query_is_right() -> None:
    turn = parse("where true paint x.rotate_90")
    found = search_task(task(), LIBRARY)
    assert set(found) == {ROWS[row] for row in (0, 1, 2, 3, 5, 6)}
    assert set(found.values()) == {turn}
    assert (
        rank_rules([(p.input, p.output) for p in task().demos if p.output is not None], LIBRARY)[0].rule
        == turn
    )


def test_a_rule_that_fits_and_fails_the_query_solves_nothing() -> None:
    wrong = replace(task(), tests=(Pair(np.zeros((2, 2), np.uint8), np.ones((2, 2), np.uint8)),))
    judged = judge(wrong, parse("where true paint x.rotate_90"))
    assert (judged.fit, judged.solves) == (1, False)


@pytest.mark.slow
def test_the_table_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--tasks", "1"])
    printed = capsys.readouterr().out
    assert "training: 1 tasks within 10x10" in printed
    assert "dihedral: 938 rules, 91 conditions" in printed
    assert all(printed.count(f"  {row}: ") == 2 for row in ROWS)
    assert all(printed.count(f"  {name}: ") == 1 for name in GUARDS)


def test_the_formulas_of_the_conditions_are_those_of_the_rules() -> None:
    assert set(CONDITIONS) == set(rules.CONDITIONS)
    grids = np.random.default_rng(0).integers(0, 3, (20, 4, 4), dtype=np.uint8)
    for name, text in CONDITIONS.items():
        made = apply_crisply(parse(f"where {text} paint 9"), list(grids))
        holds = rules.CONDITIONS[name](grids)
        assert ((np.stack(made) == 9) == holds)[grids != 0].all(), name  # the rules leave black cells alone
        assert 0 < holds[grids != 0].mean() < 1


def test_the_true_conditions_solve_what_no_guard_cannot() -> None:
    tasks = load_tasks("rules:recolour", "evaluation", 6, 12)
    assert all(search_guards(task, tuple(CONDITIONS)) == (True, True) for task in tasks)
    assert not all(search_guards(task, ())[1] for task in tasks)
