"""Write the report of the formulas of a run: a page with a picture per task, as markdown and as one HTML file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from etrm.config import Changes
from etrm.training.scoring.formula_survey import FormulaSurvey, SurveyedTask
from reports import html
from reports.markdown import link
from reports.names import make_unique
from reports.pages.formula_page import FormulaFindings, formula_page
from reports.plots.explanation_drawing import draw_png
from reports.write import write, write_file

PAGE = "index.md"


def write_formula_report(
    run: Path,
    out: Path,
    settings: Changes,
    *,
    unsolved: int,
    progress: Callable[[str, int, int], None],
) -> tuple[FormulaFindings, bool]:
    """Explain every evaluated task of a finished run, and write the page. Ctrl-C ends it with what is known.

    Args:
        run: the run folder.
        out: the folder to write.
        settings: settings of the evaluate section to change, as :func:`etrm.config.with_settings` takes them.
        unsolved: the largest number of unsolved tasks to show.
        progress: called with a phase, the number of tasks done and of all.

    Returns:
        the findings, and whether they are complete.

    Raises:
        EtrmError: see :class:`FormulaSurvey`; or a file cannot be written.
    """
    survey = FormulaSurvey(run, settings)
    tasks: list[SurveyedTask] = []
    found = FormulaFindings(str(run), survey, tasks, unsolved)
    drawn: dict[str, bytes] = {}
    images: dict[str, str] = {}
    complete = True
    try:
        for task in survey:
            tasks.append(task)
            progress("explain", len(tasks), len(survey.tasks))
        shown = [task.explained for task in (*found.solved, *found.nearest)]
        names = make_unique(one.task.id for one in shown)
        for done, (one, name) in enumerate(zip(shown, names, strict=True), start=1):
            path = f"figures/{name}.png"
            drawn[path] = draw_png(one)
            write_file(out / path, drawn[path])
            images[one.task.id] = path
            progress("draw", done, len(shown))
    except KeyboardInterrupt:
        complete = False
    text = formula_page(found, images)
    whole = html.document(f"Formulas of {run}", {PAGE: text}, f"**{link('Formulas', PAGE)}**", drawn)
    write({"report.html": whole.encode(), PAGE: text.encode()}, out)
    return found, complete
