"""The command `etrm` and its groups, to which the modules beside this one add their commands."""

from __future__ import annotations

import typer

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train TRM and ETRM on ARC, and find out why a recursive model does not learn.",
)
data_app = typer.Typer(no_args_is_help=True, help="Look at tasks and check them.")
checkpoint_app = typer.Typer(
    no_args_is_help=True, help="Look into checkpoints, compare, import and export them."
)
bench_app = typer.Typer(no_args_is_help=True, help="Benches of the tool itself.")
experiment_app = typer.Typer(
    no_args_is_help=True, help="The named experiments: E0-E11, A1-A16, O1-O3, X1-X3."
)

for _name, _group in {
    "data": data_app,
    "checkpoint": checkpoint_app,
    "bench": bench_app,
    "experiment": experiment_app,
}.items():
    app.add_typer(_group, name=_name)
