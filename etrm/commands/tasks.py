"""Show tasks, check them, and build stores of augmented tasks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from etrm.commands.apps import data_app
from etrm.commands.chosen_config import allow_named, resolve_config
from etrm.commands.completion import choose_from
from etrm.commands.options import (
    ConfigOption,
    PresetOption,
    SetOption,
    SideOption,
    SourceOption,
    check_choice,
    check_folder,
    refuse_without_effect,
)
from etrm.commands.resumable_work import resumable_work

if TYPE_CHECKING:
    from etrm.data import TaskSet
    from etrm.errors import DataError


@data_app.command()
def show(
    context: typer.Context,
    task: Annotated[str, typer.Argument(help="Id of the task.")],
    source: SourceOption = "arc-agi-1",
    subset: Annotated[
        str | None, typer.Option(help="Subset to search: training or evaluation. Default: both.")
    ] = None,
    augmentation: Annotated[
        int | None,
        typer.Option(
            min=0, max=9999, help="Number of an augmentation: draw an episode under it. 0 is the identity."
        ),
    ] = None,
    query: Annotated[
        int,
        typer.Option(
            min=0,
            help="Index of the query, with --augmentation. Test pairs come first, then left-out demonstrations.",
        ),
    ] = 0,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the augmentation, with --augmentation: the run's train.seed.")
    ] = 0,
) -> None:
    """Draw a task in the terminal, or one of its episodes in the form that the model gets."""
    from etrm.data.episodes import build_episode
    from etrm.data.task_readers import SUBSETS
    from reports.grid_drawing import draw_episode, draw_task
    from reports.terminal.console import open_console

    if augmentation is None:
        refuse_without_effect(context, ("query", "seed"), without="--augmentation")
    if subset is not None:
        check_choice("--subset", subset, *SUBSETS)
    allow_named([source])
    found = _find_task(task, source, subset)
    if augmentation is None:
        drawn = draw_task(found)
    else:
        asked, sample = build_episode(found, query, augmentation, seed)
        drawn = draw_episode(sample, asked)
    open_console().print(drawn)


@data_app.command()
def check(
    context: typer.Context,
    source: SourceOption = "arc-agi-1",
    subset: Annotated[
        str | None,
        typer.Option(
            help="Subset to check: training or evaluation. Default: both.",
            autocompletion=choose_from("training", "evaluation"),
        ),
    ] = None,
    max_side: SideOption = 30,
    exclude: Annotated[
        list[str] | None,
        typer.Option(help="Id of a task to leave out of the training set, as in data.exclude. Repeatable."),
    ] = None,
    store: Annotated[Path | None, typer.Option(help="Folder of a store to verify, instead of tasks.")] = None,
) -> None:
    """Count and validate the tasks of a source, or verify a store.

    Exit code: 0, or 2 if a file cannot be used, a task is in both subsets, or a store is damaged.
    """
    from etrm.data import check_leakage, describe
    from etrm.data.sources import list_subsets
    from etrm.data.store import EpisodeStore
    from etrm.data.task_readers import SUBSETS
    from reports.terminal.console import open_console
    from reports.terminal.data_tables import store_table, summary_table

    if store is not None:
        refuse_without_effect(context, ("source", "subset", "max_side", "exclude"), next_to="--store")
    if subset == "evaluation":
        refuse_without_effect(context, ("exclude",), next_to="--subset evaluation")
    if subset is not None:
        check_choice("--subset", subset, *SUBSETS)
    allow_named([source])
    if store is None:
        sets = _load_all(source, [subset] if subset else list_subsets(source), max_side)
        if exclude:
            sets[0] = sets[0].without(exclude)
        for tasks in sets:
            open_console().print(summary_table(describe(tasks)))
        if len(sets) > 1:
            check_leakage(sets[0], sets[1])
            open_console().print("tasks in both subsets: none")
        return
    found = EpisodeStore(store)
    found.verify()
    open_console().print(store_table(f"{store}: all shards are intact", found.index))


@data_app.command()
def build(
    out: Annotated[Path, typer.Option(help="Folder of the store to write.", callback=check_folder)],
    preset: PresetOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Number of processes. The files do not depend on it.")
    ] = 1,
) -> None:
    """Build a store of augmented tasks for large runs. A run reads it with --set data.store=FOLDER.

    The tasks, data.augmentations and train.seed come from the config. If the command is interrupted or killed, the same
    command resumes it.
    """
    from etrm.data import choose_training_tasks
    from etrm.data.build import build_store
    from etrm.errors import ConfigError
    from reports.terminal.console import open_console
    from reports.terminal.data_tables import store_table
    from reports.terminal.progress import Phases

    chosen = resolve_config(preset, config, settings, None)
    augmentations = chosen.data.augmentations
    if augmentations == "fresh":
        raise ConfigError(
            "store.fresh-augmentations",
            "a store holds fixed augmentations, so their number is needed",
            got="data.augmentations = fresh",
            allowed="data.augmentations: an integer >= 1",
            next_step="--set data.augmentations=1000",
        )
    with resumable_work(Phases("tasks")) as phases:
        index = build_store(
            out,
            choose_training_tasks(chosen.data),
            augmentations,
            chosen.train.seed,
            workers=workers,
            progress=lambda done, total: phases.update("store", done, total),
        )
    open_console().print(store_table(str(out), index))


def _find_task(task: str, source: str, subset: str | None) -> Any:
    from etrm.data import load_tasks
    from etrm.data.task_readers import SUBSETS
    from etrm.errors import DataError

    problems: list[DataError] = []
    for name in [subset] if subset else SUBSETS:
        try:
            return load_tasks(source, name, 30, None).get(task)
        except DataError as error:
            problems.append(error)
    raise _joined(problems)


def _load_all(source: str, subsets: Sequence[str], max_side: int) -> list[TaskSet]:
    """The subsets of a source.

    Raises:
        DataError: some cannot be used; the error has the problems of all of them.
    """
    from etrm.data import load_tasks
    from etrm.errors import DataError

    sets: list[TaskSet] = []
    problems: list[DataError] = []
    for subset in subsets:
        try:
            sets.append(load_tasks(source, subset, max_side, None))
        except DataError as error:
            problems.append(error)
    if problems:
        raise _joined(problems)
    return sets


def _joined(errors: Sequence[DataError]) -> DataError:
    """One error with the different messages of several."""
    from etrm.errors import DataError

    different = {str(error): error for error in errors}
    codes = [error.code for error in different.values()]
    return DataError(codes[0], "\n".join(different), codes=codes)
