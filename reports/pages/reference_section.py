"""The section on the comparison with the reference implementation."""

from __future__ import annotations

from collections.abc import Mapping

from etrm.investigation.result import RecordedDeparture, ReferenceResult
from reports.markdown import NOTHING, code, escape, link, paragraph, sentence, table
from reports.pages.sections import image, section
from reports.plots.stage_differences import CAPTION
from reports.plots.stage_differences import TITLE as PICTURE

TITLE = "Comparison with the reference implementation"
STAGES = "figures/reference-stages.png"
"""The figure of the stages, which is drawn if one departs."""
NOT_FINITE = 1e12
"""A difference above this is that of a value that is not finite, which a result cannot hold."""


def reference_section(reference: ReferenceResult | None, pages: Mapping[str, str]) -> str:
    """Return the section, or an empty text for a result of an earlier version.

    Args:
        reference: the comparison, as the result holds it.
        pages: the page file of each hypothesis, by its key.
    """
    if reference is None:
        return ""
    owner = reference.hypothesis
    named = (
        "" if owner is None or owner not in pages else f" The stage belongs to {link(owner, pages[owner])}."
    )
    rows = [_row(departure) for departure in reference.departures]
    header = ["stage", "value", "difference", "limit", "step", "place"]
    return section(
        TITLE,
        paragraph(f"{escape(sentence(reference.sentence))}{named}"),
        image(PICTURE, STAGES, CAPTION) if rows else "",
        table(header, rows) if rows else "",
    )


def _row(departure: RecordedDeparture) -> list[str]:
    return [
        departure.stage.value,
        code(departure.tensor),
        "not finite" if departure.size > NOT_FINITE else f"{departure.size:.2g}",
        f"{departure.limit:g}",
        NOTHING if departure.step is None else str(departure.step),
        escape(departure.where) or NOTHING,
    ]
