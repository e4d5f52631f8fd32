"""Run the toolkit on a user's own model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from etrm.commands.apps import INVESTIGATE, app
from etrm.commands.chosen_config import allow_named
from etrm.commands.options import check_file


@app.command("audit", rich_help_panel=INVESTIGATE)
def audit_case(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="A training script, train.py; or a function that returns the arguments of the audit,"
            " train.py:make_case; or hf:NAME, timm:NAME, torchvision:NAME.",
        ),
    ],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[-- ARGUMENTS]", help="Arguments of the script.")
    ] = None,
    form: Annotated[
        str, typer.Option("--format", help="Output format: table, markdown, json, jsonl, sarif or html.")
    ] = "table",
    out: Annotated[
        Path | None,
        typer.Option(help="File to write the output to, instead of the terminal.", callback=check_file),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Number of training steps; a script is stopped after them.", min=1)
    ] = None,
    to_end: Annotated[bool, typer.Option("--all", help="Let a script run to its end.")] = False,
    watch: Annotated[list[str] | None, typer.Option(help="Modules to watch, a pattern. Repeatable.")] = None,
    expect_frozen: Annotated[
        list[str] | None, typer.Option(help="Modules that must not move, a pattern. Repeatable.")
    ] = None,
    expect_partial: Annotated[
        list[str] | None,
        typer.Option(help="Modules of which some calls run under no_grad on purpose, a pattern. Repeatable."),
    ] = None,
    terms: Annotated[
        list[str] | None,
        typer.Option(metavar="NAMES", help="Names of the loss terms that step returns: task,kl"),
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
        Path | None, typer.Option(help="Baseline file to write the findings to.", callback=check_file)
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
    """Audit the training of any torch model.

    A script runs unchanged and is watched from update to update; after 20 steps it is stopped. Checks that repeat a
    step need a function that returns the arguments of `diagnostics.audit`:

    \b
        def make_case():
            return {
                "model": model,
                "step": step,
                "batches": loader,
                "optimizer": optimizer,
            }

    step(model, batch) returns the loss or its terms, or does the whole training step itself. hf:bert, timm:NAME and
    torchvision:NAME need no code: a model of random weights, tiny where the library allows it, learns random data.

    Exit code: 0 if nothing above a note was found, 1 if there are findings, 2 for bad input.
    """
    from diagnostics.audit_command import choose_options, finish
    from diagnostics.auditing.case_file import UserError
    from etrm.commands.audit_case import AuditRequest, run_audit
    from reports.terminal.console import open_console

    allow_named([*(probe or ()), *(rule or ())])
    chosen = choose_options(steps, watch or [], terms or [], expect_frozen or [], expect_partial or [])
    request = AuditRequest(
        target,
        form,
        out,
        select or (),
        ignore or (),
        baseline,
        write_baseline,
        probe or (),
        rule or (),
        chosen,
        arguments or (),
        to_end,
    )
    try:
        found, text = run_audit(request)
    except UserError as error:
        open_console(stderr=True).out(error, end="")
        raise typer.Exit(2) from None
    sys.stdout.write(f"audit: {out}\n" if out else text)
    code = finish(found, form, bool(out))
    if code:
        raise typer.Exit(code)
