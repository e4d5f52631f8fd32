"""Write the report of `etrm analyse`: a page with figures as markdown and as one HTML file, and the numbers as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from etrm.config import Changes
from etrm.training.scoring.run_analysis import RunAnalysis, analyse_run
from reports import html
from reports.markdown import escape, link
from reports.pages.analysis_page import analysis_page, list_drawn, make_series
from reports.plots.figures import draw
from reports.write import write

PAGE = "index.md"
NUMBERS = "analysis.json"


def write_analysis_report(
    run: Path, out: Path, settings: Changes, progress: Callable[[str], None] = lambda part: None
) -> RunAnalysis:
    """Analyse a run, and write ``report.html``, ``index.md``, ``analysis.json`` and the figures.

    Args:
        run: the run folder.
        out: the folder to write.
        settings: settings of the evaluate section to change, as :func:`etrm.config.with_settings` takes them.
        progress: a function that is called with the name of each part before it is computed.

    Raises:
        EtrmError: see :func:`analyse_run`; or a file cannot be written.
    """
    found = analyse_run(run, settings, progress)
    progress("draw")
    series = make_series(found)
    drawn: dict[str, bytes] = {}
    images: dict[str, str] = {}
    for figure in list_drawn(found):
        own = [one for one in series if one.figure == figure.key]
        path = f"figures/{figure.key}.png"
        drawn[path] = draw(figure, own, [one.arm for one in own])
        images[figure.key] = f"![{escape(figure.title)}]({path})\n\n*{escape(figure.caption)}*"
    text = analysis_page(str(run), found, images)
    whole = html.document(f"Analysis of {run}", {PAGE: text}, f"**{link('Analysis', PAGE)}**", drawn)
    numbers = json.dumps(_replace_nan(found.to_dict()), indent=2) + "\n"
    write({**drawn, "report.html": whole.encode(), PAGE: text.encode(), NUMBERS: numbers.encode()}, out)
    return found


def _replace_nan(value: Any) -> Any:
    """Replace NaN, which JSON does not have, by None."""
    if isinstance(value, dict):
        return {key: _replace_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_replace_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
