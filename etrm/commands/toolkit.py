"""Run the toolkit on a user's own model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from etrm.commands.apps import app
from etrm.commands.shared import allow_named


@app.command("audit")
def audit_case(
    target: Annotated[
        str,
        typer.Argument(
            metavar="PATH:FUNCTION",
            help="File and name of a function that returns the arguments of the audit.",
        ),
    ],
    form: Annotated[
        str, typer.Option("--format", help="Output format: table, markdown, json, sarif or html.")
    ] = "table",
    out: Annotated[
        Path | None, typer.Option(help="File to write the output to, instead of the terminal.")
    ] = None,
    select: Annotated[
        list[str] | None, typer.Option(help="Findings to keep: a rule, a module, or RULE:MODULE. Repeatable.")
    ] = None,
    ignore: Annotated[
        list[str] | None, typer.Option(help="Findings to leave out, in the same form. Repeatable.")
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option(help="Baseline file of known findings, which are not reported again.")
    ] = None,
    write_baseline: Annotated[
        Path | None, typer.Option(help="Baseline file to write the findings to.")
    ] = None,
    probe: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CODE", help="Probe to run instead of the case's own: my_code.py:MyProbe. Repeatable."
        ),
    ] = None,
    rule: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CODE", help="Rule to run instead of the case's own: my_code.py:MY_RULE. Repeatable."
        ),
    ] = None,
) -> None:
    """Audit a training step of any torch model.

    The function returns the arguments of `diagnostics.audit`:

    \b
        def make_case():
            return {"model": model, "step": step, "batches": loader, "optimizer": optimizer}

    step(model, batch) returns the loss, or does the whole training step itself.

    Exit code: 0 if nothing above a note was found, 1 if there are findings, 2 for bad input.
    """
    from diagnostics.auditing.case_file import UserError
    from etrm.commands.audit_case import AuditRequest, run_audit
    from reports.terminal.console import open_console

    allow_named([*(probe or ()), *(rule or ())])
    request = AuditRequest(
        target, form, out, select or (), ignore or (), baseline, write_baseline, probe or (), rule or ()
    )
    try:
        found, text = run_audit(request)
    except UserError as error:
        open_console(stderr=True).out(error, end="", highlight=False)
        raise typer.Exit(2) from None
    open_console().out(f"audit: {out}" if out else text, highlight=False)
    if not found.clean:
        raise typer.Exit(1)
