"""Benchmarks of the investigation: how often it names injected faults, and the healthy courses of presets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from etrm.commands.apps import bench_app
from etrm.commands.chosen_config import resolve_config
from etrm.commands.options import (
    ConfigOption,
    PresetOption,
    PretrainOption,
    SetOption,
    check_file,
    check_folder,
    refuse_without_effect,
)
from etrm.commands.resumable_work import budget_of, resumable_work

if TYPE_CHECKING:
    from etrm.config import Config
    from etrm.investigation.runs.budget import Tier


@bench_app.command("course")
def bench_course(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Run folders of one preset without faults, each with another train.seed."),
    ],
    out: Annotated[Path, typer.Option(help="File of the course.", callback=check_file)] = Path(
        "runs/course.json"
    ),
) -> None:
    """Make the healthy course of a preset from real runs. `etrm investigate RUN` compares a run with its course.

    The courses of this version are files in etrm/investigation/recorded_run/courses.
    """
    from etrm.investigation.recorded_run.healthy_course import make_course, write_course
    from reports.terminal.console import open_console

    course = make_course(runs)
    write_course(course, out)
    seeds = ", ".join(map(str, course.made["seeds"]))
    line = f"course of {course.preset}: seeds {seeds}, steps 1 to {course.steps}, windows of {course.window}: {out}"
    open_console().print(line, soft_wrap=True)


@bench_app.command("faults")
def bench_faults(
    context: typer.Context,
    names: Annotated[
        list[str] | None, typer.Argument(help="Names of faults and controls. Default: all.")
    ] = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    unlisted: Annotated[
        bool,
        typer.Option(
            "--unlisted",
            help="Instead of the known faults, draw random changes to the code, and unusual healthy configs. A name "
            "is then a kind of case: change, healthy (a config that starts from the one given here, by default that of "
            "smoke), or preset (a healthy config that starts from any preset).",
        ),
    ] = False,
    seeds: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of cases of each fault, one seed each; with --unlisted, of changes. Default: 3, or 100.",
        ),
    ] = None,
    first_seed: Annotated[int, typer.Option(min=0, help="With --unlisted: seed of the first change.")] = 0,
    time_limit: Annotated[
        float, typer.Option(min=1, help="With --unlisted: largest number of seconds of an investigation.")
    ] = 900,
    tier: Annotated[
        str | None,
        typer.Option(
            help="Budget: screening (default), standard or full. With --unlisted, by default one seed and short runs."
        ),
    ] = None,
    per_case: Annotated[
        int | None,
        typer.Option(min=1, help="Seeds per arm of each investigation. Default: the tier's."),
    ] = None,
    jobs: Annotated[
        int, typer.Option(min=1, help="Investigations that run at the same time, one process each.")
    ] = 2,
    pretrain_steps: PretrainOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the results. Finished cases are kept and not run again. "
            "Default: runs/fault-bench, or runs/unlisted-faults.",
            callback=check_folder,
        ),
    ] = None,
) -> None:
    """Inject each fault, investigate without knowing it, and count how often the root cause is found."""
    from etrm.atomic_files import write_atomically
    from reports.terminal.console import print_page

    if unlisted and tier is None:
        refuse_without_effect(context, ("per_case", "pretrain_steps"), without="--tier")
    if not unlisted:
        refuse_without_effect(context, ("first_seed", "time_limit"), without="--unlisted")
    if unlisted:
        base = resolve_config(preset or (None if config else "smoke"), config, settings, None)
        budget = budget_of(tier, per_case, pretrain_steps) if tier else None
        out = out or Path("runs/unlisted-faults")
        drawn = range(first_seed, first_seed + (seeds or 100))
        text = _bench_unlisted(base, names or (), budget, time_limit, drawn, jobs, out)
    else:
        base = resolve_config(preset, config, settings, None)
        out = out or Path("runs/fault-bench")
        text = _bench_listed(
            base, names or (), seeds or 3, budget_of(tier or "screening", per_case, pretrain_steps), jobs, out
        )
    write_atomically(out / "index.md", f"# Injected and named\n\n{text}")
    print_page(text)


def _bench_listed(base: Config, names: Sequence[str], seeds: int, tier: Tier, jobs: int, out: Path) -> str:
    """Investigate known faults, and return the page."""
    from etrm.investigation import fault_benchmark
    from reports.pages.fault_benchmark_page import page
    from reports.terminal.progress import Phases

    chosen = fault_benchmark.cases(base, names, seeds, tier.most_seeds)
    with resumable_work(Phases("")) as phases:
        done = fault_benchmark.run(base, chosen, out, workers=jobs, tier=tier, progress=phases.update)
    return page(done, tier)


def _bench_unlisted(
    base: Config, kinds: Sequence[str], tier: Tier | None, limit: float, seeds: range, jobs: int, out: Path
) -> str:
    """Investigate random changes and healthy configs, and return the page."""
    from etrm.investigation.run import choose
    from etrm.investigation.unlisted.unlisted_benchmark import (
        BRIEF,
        STRUCTURAL,
        UnlistedBenchmark,
        choose_kinds,
        list_cases,
    )
    from reports.pages.unlisted_page import unlisted_page
    from reports.terminal.progress import Phases

    cases = list_cases(seeds, choose_kinds(kinds))
    bench = UnlistedBenchmark(base, out, tier or BRIEF, choose(base, "all") if tier else STRUCTURAL, limit)
    with resumable_work(Phases("")) as phases:
        done = bench.run(cases, workers=jobs, progress=phases.update)
    return unlisted_page(done, bench.tier)
