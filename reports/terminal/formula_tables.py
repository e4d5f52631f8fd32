"""Templates and explained answers of the symbolic solver in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from etrm.data import Grid
from etrm.symbolic import Library
from etrm.training.scoring.explain_run import ExplainedQuery, ExplainedTask, Mask
from reports.grid_drawing import draw_grid
from reports.pages.formula_page import FormulaFindings
from reports.runs.explanations import (
    LEARNED,
    describe_choice,
    describe_guard,
    describe_outcome,
    describe_rules,
    describe_task,
    has_learned_guard,
    shorten_rule,
)
from reports.text_table import make_table


def library_table(library: Library, templates: int) -> Table:
    """Count the formulas of each family.

    Args:
        library: the library.
        templates: the number of templates of a solver that has it.
    """
    numbers = ("rules", "conditions", "recolourings by one condition")
    title = f"{templates} templates of a trained solver"
    table = make_table(("family", *numbers), right=numbers, title=title)
    for name, family in library.families.items():
        table.add_row(name, *map(str, (len(family.rules), len(family.conditions), family.recolourings)))
    return table


def tasks_table(found: FormulaFindings) -> Table:
    """List the evaluated tasks, with the formula that answers each."""
    title = f"{found.run}: {len(found.solved)} of {len(found.tasks)} evaluated tasks are solved"
    columns = ("task", "outcome", "fit", "formula of the first query")
    table = make_table(columns, right=("fit",), title=title)
    for one in found.tasks:
        explained = one.explained
        outcome = Text("solved", "bold green") if explained.solved else Text("wrong")
        rule = Text(shorten_rule(explained.queries[0].rules[0].rule))
        table.add_row(Text(explained.task.id), outcome, f"{explained.fit:.0%}", rule)
    return table


def draw_explanation(explained: ExplainedTask, *, demos: bool = False) -> RenderableType:
    """Draw the answers to a task and the formulas behind them; cells in which a guard holds are marked.

    Args:
        explained: the task with its answers.
        demos: whether to draw the demonstrations first.
    """
    parts: list[RenderableType] = [Text(describe_task(explained), style="bold")]
    parts.append(Text(describe_choice(explained.templates), style="dim"))
    if has_learned_guard(explained):
        parts.append(Text(LEARNED, style="dim"))
    for number, pair in enumerate(explained.task.demos if demos else ()):
        parts.append(_arrange([(f"demo {number}", pair.input, None), ("output", pair.output, None)]))
    for number, query in enumerate(explained.queries):
        style = {True: "bold green", False: "bold red", None: "bold"}[query.solved]
        parts.append(Text.assemble(f"test {number}: ", (describe_outcome(query), style)))
        parts += [*map(Text, filter(None, [*describe_rules(query), describe_guard(query)]))]
        parts += [_draw_grids(query), Text()]
    return Group(*parts)


def _draw_grids(query: ExplainedQuery) -> Table:
    guarded, has_errors = query.guarded, query.wrong is not None and query.wrong.any()
    return _arrange(
        [
            ("query" if guarded is None else "query, guard marked", query.pair.input, guarded),
            ("answer, errors marked" if has_errors else "answer", query.rules[0].answer, query.wrong),
            ("true output", query.pair.output, None),
        ]
    )


def _arrange(drawn: Sequence[tuple[str, Grid | None, Mask | None]]) -> Table:
    """Put titled grids next to each other; those that are unknown are left out."""
    grids = Table.grid(padding=(0, 3, 0, 0))
    grids.add_row(
        *(
            Group(Text(title, style="dim"), draw_grid(grid, marked))
            for title, grid, marked in drawn
            if grid is not None
        )
    )
    return grids
