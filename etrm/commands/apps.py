"""The command `etrm` and its groups. The other modules of this package add their commands to them."""

from __future__ import annotations

import typer

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train TRM and ETRM on ARC tasks, and find out why a recursive model does not learn.",
)
data_app = typer.Typer(
    no_args_is_help=True, help="Show tasks, check them, and build a store of augmented tasks."
)
checkpoint_app = typer.Typer(no_args_is_help=True, help="Inspect, compare, import and export checkpoints.")
bench_app = typer.Typer(no_args_is_help=True, help="Benchmarks of the investigation itself.")
experiment_app = typer.Typer(
    no_args_is_help=True, help="Run named experiments (E0-E11, A1-A16, O1-O3, X1-X3) against a baseline."
)
symbolic_app = typer.Typer(
    no_args_is_help=True, help="Look into the symbolic solver: its templates and its answers."
)

for _name, _group in {
    "data": data_app,
    "checkpoint": checkpoint_app,
    "bench": bench_app,
    "experiment": experiment_app,
    "symbolic": symbolic_app,
}.items():
    app.add_typer(_group, name=_name)
