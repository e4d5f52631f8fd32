"""The toolkit on a user's own model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from etrm.commands.apps import app
from etrm.commands.shared import allow_named

if TYPE_CHECKING:
    pass


@app.command("audit")
def audit_case(
    target: Annotated[
        str,
        typer.Argument(metavar="PATH:FUNCTION", help="A function that returns the arguments of an audit."),
    ],
    form: Annotated[str, typer.Option("--format", help="table, markdown, json, sarif or html.")] = "table",
    out: Annotated[Path | None, typer.Option(help="The file to write, in place of the terminal.")] = None,
    select: Annotated[list[str] | None, typer.Option(help="Rules, modules, or RULE:MODULE.")] = None,
    ignore: Annotated[list[str] | None, typer.Option(help="The same, to be left out.")] = None,
    baseline: Annotated[Path | None, typer.Option(help="Findings that are known.")] = None,
    write_baseline: Annotated[Path | None, typer.Option(help="Write what is found as a baseline.")] = None,
    probe: Annotated[
        list[str] | None,
        typer.Option(metavar="CODE", help="A probe to run instead of the case's: my_code.py:MyProbe."),
    ] = None,
) -> None:
    """Audit a training step of your own: any torch model.

    The function returns the arguments of `diagnostics.audit`:

    \b
        def make_case():
            return {"model": model, "step": step, "batches": loader, "optimizer": optimizer}

    step(model, batch) returns the loss, or makes the whole step.

    Exit code 0 nothing above a note, 1 findings, 2 bad input.
    """
    from diagnostics.auditing.case_file import UserError
    from etrm.commands.audit_case import AuditRequest, run_audit
    from reports.terminal.console import open_console

    allow_named(probe or ())
    request = AuditRequest(
        target, form, out, select or (), ignore or (), baseline, write_baseline, probe or ()
    )
    try:
        found, text = run_audit(request)
    except UserError as error:
        open_console(stderr=True).out(error, end="", highlight=False)
        raise typer.Exit(2) from None
    open_console().out(f"audit: {out}" if out else text, highlight=False)
    if not found.clean:
        raise typer.Exit(1)
