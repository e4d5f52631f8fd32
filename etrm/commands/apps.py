"""The command `etrm` and its groups. The other modules of this package add their commands to them."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from etrm import __version__
from etrm.errors import ConfigError


class SingleValueCommand(TyperCommand):
    """A command that refuses a second value of an option that takes one; click would keep the last without notice."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments of the command line.

        Raises:
            ConfigError: an option that takes one value occurs more than once.
        """
        if not ctx.resilient_parsing:  # completion parses incomplete lines
            _, _, occurring = self.make_parser(ctx).parse_args(list(args))
            counts = Counter(
                param.opts[0]
                for param in occurring
                if param.param_type_name == "option" and not getattr(param, "is_flag", False)
                if not param.multiple
            )
            for name, count in counts.items():
                if count > 1:
                    raise ConfigError(
                        "cli.repeated-option",
                        f"the option {name} takes one value",
                        got=f"{name} {count} times",
                        next_step=f"give {name} once",
                    )
        return super().parse_args(ctx, args)


class CommandGroup(typer.Typer):
    """A group whose commands refuse a repeated option, and whose help is wrapped to the width of the terminal."""

    def command(self, name: str | None = None, **options: Any) -> Any:
        """A decorator that adds a command, as :meth:`typer.Typer.command` does."""

        def add(function: Callable[..., Any]) -> Any:
            words = join_lines(function.__doc__ or "")
            chosen = {"cls": SingleValueCommand, "help": words, **options}
            return typer.Typer.command(self, name, **chosen)(function)

        return add


def join_lines(text: str) -> str:
    """Join the lines of each paragraph of a docstring, so that only the terminal wraps them.

    A paragraph that begins with a backspace keeps its lines: it is code.
    """
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(one if one.startswith("\b") else one.replace("\n", " ") for one in paragraphs)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


app = CommandGroup(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train TRM and ETRM on ARC tasks, and find out why a recursive model does not learn.",
)


@app.callback()
def _read_common_options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    pass


data_app = CommandGroup(
    no_args_is_help=True, help="Show tasks, check them, and build a store of augmented tasks."
)
checkpoint_app = CommandGroup(no_args_is_help=True, help="Inspect, compare, import and export checkpoints.")
bench_app = CommandGroup(no_args_is_help=True, help="Benchmarks of the investigation itself.")
experiment_app = CommandGroup(
    no_args_is_help=True, help="Run named experiments (E0-E11, A1-A16, O1-O3, X1-X3) against a baseline."
)
symbolic_app = CommandGroup(
    no_args_is_help=True, help="Look into the symbolic solver: its templates and its answers."
)

INVESTIGATE = "Find out why a model does not learn"
TRAIN = "Train and evaluate"
FOLLOW = "Follow runs"
FILES = "Tasks and checkpoints"
BENCHMARKS = "Experiments and benchmarks"
"""The groups of commands in the help."""

for _name, _group, _panel in (
    ("data", data_app, FILES),
    ("checkpoint", checkpoint_app, FILES),
    ("experiment", experiment_app, BENCHMARKS),
    ("symbolic", symbolic_app, BENCHMARKS),
    ("bench", bench_app, BENCHMARKS),
):
    app.add_typer(_group, name=_name, rich_help_panel=_panel)
