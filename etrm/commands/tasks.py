"""Look at tasks, check them, and build stores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from etrm.commands.apps import data_app
from etrm.commands.options import (
    ConfigOption,
    PresetOption,
    SetOption,
    SideOption,
    SourceOption,
    SubsetOption,
)
from etrm.commands.shared import allow_named, resolve_config, resumable_work

if TYPE_CHECKING:
    pass


@data_app.command()
def show(
    task: Annotated[str, typer.Argument(help="Task id.")],
    source: SourceOption = "arc-agi-1",
    subset: Annotated[
        str | None, typer.Option(help="training or evaluation; both are searched by default.")
    ] = None,
    augmentation: Annotated[
        int | None,
        typer.Option(min=0, max=9999, help="Draw an episode as the model sees it; 0 is the identity."),
    ] = None,
    query: Annotated[
        int, typer.Option(min=0, help="With --augmentation: a test, then a demonstration left out.")
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, help="With --augmentation: train.seed of the run.")] = 0,
) -> None:
    """Draw a task in the terminal, or one of its episodes under an augmentation."""
    from etrm.data.draw import draw_episode, draw_task
    from etrm.data.episodes import episode_of
    from reports.terminal.console import open_console

    allow_named([source])
    found = _find_task(task, source, subset)
    if augmentation is None:
        drawn = draw_task(found)
    else:
        asked, sample = episode_of(found, query, augmentation, seed)
        drawn = draw_episode(sample, asked)
    open_console().print(drawn)


@data_app.command()
def check(
    source: SourceOption = "arc-agi-1",
    subset: SubsetOption = "training",
    max_side: SideOption = 30,
    store: Annotated[
        Path | None, typer.Option(help="Verify every shard of this store in place of tasks.")
    ] = None,
) -> None:
    """Count and validate tasks, or a store."""
    from etrm.data import describe, load_tasks
    from etrm.data.store import Store
    from reports.terminal.console import open_console
    from reports.terminal.data_tables import store_table, summary_table

    allow_named([source])
    if store is None:
        open_console().print(summary_table(describe(load_tasks(source, subset, max_side, None))))
        return
    found = Store(store)
    found.verify()
    open_console().print(store_table(f"{store}: every shard is what was written", found.index))


@data_app.command()
def build(
    out: Annotated[Path, typer.Option(help="Folder of the store.")],
    preset: PresetOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes; the files do not depend on it.")] = 1,
) -> None:
    """Build a store of augmented tasks for large runs; read with --set data.store=FOLDER.

    The tasks, data.augmentations and train.seed are those of the config. Ctrl-C and kill lose nothing: the same command
    resumes.
    """
    from etrm.data import chosen_tasks
    from etrm.data.build import build_store
    from etrm.errors import ConfigError
    from reports.terminal.console import open_console
    from reports.terminal.data_tables import store_table

    chosen = resolve_config(preset, config, settings, None)
    augmentations = chosen.data.augmentations
    if augmentations == "fresh":
        raise ConfigError(
            "store.fresh-augmentations",
            "a store holds fixed augmentations",
            got="fresh",
            next_step="--set data.augmentations=1000",
        )
    with resumable_work("tasks") as phases:
        index = build_store(
            out,
            chosen_tasks(chosen.data),
            augmentations,
            chosen.train.seed,
            workers=workers,
            progress=lambda done, total: phases.update("store", done, total),
        )
    open_console().print(store_table(str(out), index))


def _find_task(task: str, source: str, subset: str | None) -> Any:
    from etrm.data import load_tasks
    from etrm.errors import DataError

    subsets = [subset] if subset else ["training", "evaluation"]
    problems: dict[str, DataError] = {}
    for name in subsets:
        try:
            return load_tasks(source, name, 30, None).get(task)
        except DataError as error:
            problems.setdefault(str(error), error)
    codes = [error.code for error in problems.values()]
    raise DataError(codes[0], "\n".join(problems), codes=codes)
