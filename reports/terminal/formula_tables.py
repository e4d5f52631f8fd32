"""Templates and explained answers of the symbolic solver in the terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from etrm.data.draw import draw_grid
from etrm.symbolic import Library
from etrm.training.scoring.explain_run import ExplainedQuery, ExplainedTask
from reports.runs.explanations import describe_outcome, describe_rules, describe_task


def library_table(library: Library, templates: int) -> Table:
    """Count the formulas of each family.

    Args:
        library: the library.
        templates: the number of templates of a solver that has it.
    """
    table = Table(title=f"{templates} templates of a trained solver", title_justify="left")
    for column in ("family", "rules", "conditions", "recolourings by one condition"):
        table.add_column(column, justify="left" if column == "family" else "right")
    for name, family in library.families.items():
        table.add_row(name, *map(str, (len(family.rules), len(family.conditions), family.recolourings)))
    return table


def draw_explanation(explained: ExplainedTask) -> RenderableType:
    """Draw the answers to a task and the formulas behind them; cells in which a guard holds are marked."""
    parts: list[RenderableType] = [Text(describe_task(explained), style="bold")]
    for number, query in enumerate(explained.queries):
        style = {True: "bold green", False: "bold red", None: "bold"}[query.solved]
        parts.append(Text.assemble(f"test {number}: ", (describe_outcome(query), style)))
        parts += [*map(Text, describe_rules(query)), _draw_grids(query), Text()]
    return Group(*parts)


def _draw_grids(query: ExplainedQuery) -> Table:
    guarded = query.guarded
    drawn = [
        ("query" if guarded is None else "query, guard marked", query.pair.input, guarded),
        ("answer", query.rules[0].answer, query.wrong),
        ("true output", query.pair.output, None),
    ]
    grids = Table.grid(padding=(0, 3, 0, 0))
    grids.add_row(
        *(
            Group(Text(title, style="dim"), draw_grid(grid, marked))
            for title, grid, marked in drawn
            if grid is not None
        )
    )
    return grids
