"""Inspect, compare, import and export checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from etrm.commands.apps import checkpoint_app
from etrm.commands.completion import complete_run
from etrm.commands.options import CheckpointArgument, JsonOption, SetOption, WeightsOption, check_choice


@checkpoint_app.command("inspect")
def inspect_checkpoint(
    path: CheckpointArgument, weights: WeightsOption = "ema", as_json: JsonOption = False
) -> None:
    """Show the tensors of a checkpoint with their statistics and totals, its settings and its origin."""
    from etrm.checkpoints.inspect_tensors import inspect_weights
    from etrm.checkpoints.weights import read_weights
    from reports.terminal.checkpoint_tables import inspection, print_result

    print_result(inspect_weights(read_weights(path, _weights(weights))), inspection, as_json)


@checkpoint_app.command("compare")
def compare_checkpoints(
    first: CheckpointArgument,
    second: CheckpointArgument,
    weights: WeightsOption = "ema",
    as_json: JsonOption = False,
) -> None:
    """Compare two checkpoints tensor by tensor. Tensors may have the names of this project or the published names.

    Exit code: 0 if all tensors are equal bit for bit, 1 if they differ, 2 for bad input.
    """
    from etrm.checkpoints.inspect_tensors import compare_weights
    from etrm.checkpoints.weights import read_weights
    from reports.terminal.checkpoint_tables import comparison, print_result

    kind = _weights(weights)
    found = compare_weights(read_weights(first, kind), read_weights(second, kind))
    print_result(found, comparison, as_json)
    if not found.equal:
        raise typer.Exit(1)


@checkpoint_app.command("import")
def import_published(
    file: Annotated[Path, typer.Argument(help="A published TRM or ETRM checkpoint.")],
    out: Annotated[Path, typer.Option(help="The run folder to write.")],
    settings_file: Annotated[
        Path | None,
        typer.Option("--settings", help="JSON or YAML file of its settings. Default: a file next to FILE."),
    ] = None,
    settings: SetOption = None,
) -> None:
    """Make a run folder from a published checkpoint, for train.decoder, `etrm evaluate` and `etrm train --resume`.

    Settings that the weights do not determine (cycles, heads, ...) come from --set or a settings file. They are never
    guessed.
    """
    from etrm.checkpoints.import_published import import_checkpoint
    from reports.terminal.checkpoint_tables import imported, print_result

    found = import_checkpoint(file, out, settings_file, tuple(settings or ()))
    print_result(found, imported, as_json=False)


@checkpoint_app.command("export")
def export_published(
    source: Annotated[
        Path,
        typer.Argument(help="A run folder, or one of its checkpoint folders.", autocompletion=complete_run),
    ],
    out: Annotated[
        Path, typer.Option(help="The file to write. Its settings are written next to it, to NAME.json.")
    ],
    weights: WeightsOption = "ema",
    form: Annotated[str, typer.Option("--format", help="File format: safetensors or torch.")] = "safetensors",
) -> None:
    """Export weights under the published names, for use with the published code."""
    from etrm.checkpoints.export_published import export_checkpoint
    from reports.terminal.console import open_console

    found = export_checkpoint(
        source, out, _weights(weights), check_choice("--format", form, "safetensors", "torch")
    )
    open_console().print(
        f"{found.file}: {found.tensors} tensors, {found.weights} weights; settings: {found.settings}",
        soft_wrap=True,
    )


def _weights(name: str) -> Any:
    return check_choice("--weights", name, "ema", "raw")
