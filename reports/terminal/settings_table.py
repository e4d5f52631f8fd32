"""The output of `etrm config`: tables in a terminal, a TOML file with comments in a pipe, or JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from etrm.config import Resolved, Setting, list_sections, list_settings
from etrm.setting_texts import flatten, to_toml
from reports.runs.groups import shorten_setting
from reports.terminal.console import open_console
from reports.text_table import make_table

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table

_COMMENT = 40
"""The column at which comments start in TOML, unless the setting is longer."""


def print_settings(found: Resolved, json_wanted: bool) -> None:
    """Print every setting with its value, origin, default, allowed values and description."""
    console = open_console()
    if console.is_terminal and not json_wanted:
        console.print(tables(found))
    else:
        text = settings_json(found) if json_wanted else settings_toml(found)
        console.out(text, end="")


def settings_toml(found: Resolved) -> str:
    """Return the settings as a TOML file, one per line. Reading it gives the same config."""
    values = flatten(found.config.model_dump(mode="json"))
    lines = []
    for name, setting in list_settings().items():
        source, default = _source(found, name), to_toml(setting.default)
        origin = source if source == "default" else f"{source}, default {default}"
        assignment = f"{name} = {to_toml(values[name])}"
        lines.append(f"{assignment:<{_COMMENT}}  # {origin} | {setting.values} | {setting.description}\n")
    return "".join(lines)


def settings_json(found: Resolved) -> str:
    """Return the settings as a JSON array of objects, with the fields of :class:`etrm.config.Setting` as keys."""
    values = flatten(found.config.model_dump(mode="json"))
    rows = [
        {"value": values[name], "source": asdict(found.sources[name]), **asdict(setting)}
        for name, setting in list_settings().items()
    ]
    return json.dumps(rows, indent=1) + "\n"


def tables(found: Resolved) -> Group:
    """Return a table per section. Values that differ from their default are bold."""
    from rich.console import Group
    from rich.text import Text

    values = flatten(found.config.model_dump(mode="json"))
    parts: list[RenderableType] = []
    for section in list_sections():
        parts += [_table(section.name, section.settings, values, found), Text()]
    return Group(*parts)


def _table(title: str, rows: tuple[Setting, ...], values: dict[str, Any], found: Resolved) -> Table:
    """Return the table of a section.

    Below a value is its origin, and below the description are the allowed values and the default.
    """
    from rich.text import Text

    table = make_table(("setting", "value", "description"), title=title)
    table.columns[0].no_wrap = True
    for setting in rows:
        about = Text.assemble(
            f"{setting.description}\n", (f"{setting.values}; default: {_default(setting)}", "dim")
        )
        value = shorten_setting(values[setting.name])
        changed = values[setting.name] != setting.default
        table.add_row(
            Text(setting.name),
            Text.assemble(f"{value}\n", (_source(found, setting.name), "dim")),
            about,
            style="bold" if changed else "",
        )
    return table


def _source(found: Resolved, name: str) -> str:
    """Return the origin of a setting in one line, even if its path contains special characters."""
    text = str(found.sources[name])
    return text if text.isprintable() else repr(text)


def _default(setting: Setting) -> str:
    return shorten_setting(setting.default) or "''"
