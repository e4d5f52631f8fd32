"""The command `etrm explain`, which prints the meaning of a rule, an error code, or a code in a result."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from etrm.commands.apps import app
from etrm.errors import ConfigError

if TYPE_CHECKING:
    from diagnostics.explanations import Groups, Topic


@app.command()
def explain(
    code: Annotated[
        str | None,
        typer.Argument(help="A rule, an error code or a code in a result. Default: list all of them."),
    ] = None,
) -> None:
    """Explain a rule (COV001), an error code (config.unknown-setting) or a code in a result (h2.no-gradient).

    Name your own rule as my_code.py:MY_RULE. Exit code: 0, or 2 if the code does not exist.
    """
    from diagnostics.errors import UnknownName
    from diagnostics.explanations import explain_code, list_groups

    if code and ":" in code:
        _show(_own_rule(code))
        return
    groups = all_groups()
    try:
        text = explain_code(code, groups) if code else list_groups(groups)
    except UnknownName as error:
        raise ConfigError(
            "explain.unknown-code",
            "this code does not exist",
            got=str(error.facts["got"]),
            allowed=f"nearest: {error.facts['nearest']}",
            next_step="etrm explain, which lists all codes",
        ) from error
    _show(text)


def _own_rule(name: str) -> str:
    """Return the page of a rule that the user named as code."""
    from diagnostics.rules.page import page
    from etrm.commands.shared import allow_named
    from etrm.training.observer import find_rule

    allow_named([name])
    return page(find_rule(name))


def all_groups() -> Groups:
    """Return all codes of this project: rules, errors, and codes of results."""
    from diagnostics.explanations import error_topics, toolkit_groups
    from etrm.commands.error_codes import sites

    toolkit = toolkit_groups()
    rules = {heading: topics for heading, topics in toolkit.items() if heading.startswith("Rules")}
    return rules | {"Errors": error_topics(sites())} | toolkit | _result_groups()


def _result_groups() -> Groups:
    from etrm.investigation.codes import declared, reasons
    from etrm.investigation.evidence.table import Instrument, Metric
    from etrm.investigation.result import CauseCode

    metrics = sorted(declared(Metric), key=lambda metric: metric.code)
    instruments = sorted(declared(Instrument), key=lambda instrument: instrument.code)
    return {
        "Results: root cause (cause_code)": _coded("root cause", (cause.value for cause in CauseCode)),
        "Results: reasons of verdicts, controls and experiments (codes)": _coded("reason", sorted(reasons())),
        "Results: rows of evidence (code)": [
            _topic(
                metric.code,
                metric.words.format(item="…"),
                "A row of evidence.",
                f"A healthy value is: {metric.direction}. Where a table has several such rows, `item` names each.",
            )
            for metric in metrics
        ],
        "Results: instrument checks (code)": [
            _topic(check.code, check.words, "A check of an instrument, which must hold.")
            for check in instruments
        ],
    }


def _coded(kind: str, codes: Iterable[str]) -> list[Topic]:
    """Codes that have no fixed words: the result has a sentence with the numbers of the case beside each."""
    place = f"A {kind} in `result.json`; the sentence beside it has the numbers of the case."
    return [_topic(code, code.partition(".")[2].replace("-", " "), place) for code in codes]


def _topic(code: str, title: str, *paragraphs: str) -> Topic:
    from diagnostics.explanations import Topic

    return Topic(code, title, partial(_text, code, title, *paragraphs))


def _text(code: str, title: str, *paragraphs: str) -> str:
    return "\n\n".join([f"# {code}", f"**{title[:1].upper()}{title[1:]}**", *paragraphs]) + "\n"


def _show(text: str) -> None:
    """Rendered in a terminal, plain markdown in a pipe."""
    from rich.markdown import Markdown

    from reports.terminal.console import open_console

    console = open_console()
    if console.is_terminal:
        console.print(Markdown(text))
    else:
        console.out(text, end="", highlight=False)
