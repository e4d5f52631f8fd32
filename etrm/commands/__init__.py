"""The commands of `etrm`, one module per group. Each command imports what it needs when it runs, so --help is fast."""

from importlib import import_module

from etrm.commands.apps import app

__all__ = ["app"]

for _group in (  # in the order of --help; loading a module adds its commands
    "investigation",
    "fault_benchmarks",
    "training",
    "following",
    "analysis",
    "toolkit",
    "explain",
    "tasks",
    "checkpoint_files",
    "named_experiments",
    "formulas",
):
    import_module(f"etrm.commands.{_group}")
