"""The index: what it says of a symbolic run under test."""

from __future__ import annotations

from etrm.investigation.records import Arm, Run
from etrm.investigation.result import Result
from reports.pages.index_page import index_page

SYMBOLIC = {"model": {"variant": "symbolic"}}


def index(result: Result, config: dict[str, object]) -> str:
    symbolic = result.replace(reproduce=result.reproduce.replace(config=config))
    return index_page(
        symbolic, {key: f"{key}.md" for key in result.hypotheses}, ["e.md"] * len(result.experiments)
    )


def with_runs(result: Result, *runs: Run) -> Result:
    """The result with the runs of an arm under test in its first hypothesis, and no others."""
    arm = Arm(name="under test", role="subject", difference="")
    control = Arm(name="control", role="control", difference="")
    bare = {key: one.replace(arms=(), runs=()) for key, one in result.hypotheses.items()}
    first = next(iter(bare))
    bare[first] = bare[first].replace(arms=(arm, control), runs=runs)
    return result.replace(hypotheses=bare, experiments=())


def make_run(folder: str, steps: int, arm: str = "under test", state: str = "finished") -> Run:
    return Run.model_validate(
        {"arm": arm, "seed": 0, "folder": folder, "steps": steps, "wall_s": 1.0, "state": state}
    )


def test_the_longest_finished_run_under_test_has_formulas_to_show(example: Result) -> None:
    found = with_runs(
        example,
        make_run("runs/short", 5),
        make_run("runs/long run", 9),
        make_run("runs/failed", 20, state="failed"),
        make_run("runs/control", 20, arm="control"),
    )
    assert "etrm symbolic report 'runs/long run'" in index(found, SYMBOLIC)
    assert "etrm symbolic report" not in index(found, {"model": {"variant": "etrm"}})
    assert "etrm symbolic report" not in index(
        with_runs(example, make_run("runs/failed", 20, state="failed")), SYMBOLIC
    )
