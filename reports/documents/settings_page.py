"""Generate docs/settings.md from the fields of the config (`make pages`)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from etrm.config import list_presets, list_sections
from etrm.setting_texts import to_toml
from reports.markdown import code, escape, table
from reports.write import write_file

_HEAD = """# Settings

This page is generated from the fields of the config (`make pages`). `etrm config` prints the same table for your
config, with the value of each setting and its origin:

```
etrm config --preset small --set train.lr=3e-4     # or --config FILE, or a run folder
etrm config --preset small > mine.toml             # a TOML file with every setting, for --config
etrm config runs/mine --json                       # as JSON
```

A config starts from the defaults below, a preset ({presets}), a TOML file (`--config`) or a run.
`--set KEY=VALUE` changes a setting; if a key is set twice, the last value is used.

**TOML files.** A file with `preset = "small"` in its first lines extends that preset, otherwise it extends the
defaults. The text `"none"` unsets a setting that may be `none`.

**Values on the command line** are TOML: `3`, `1e-3`, `true`, `'text'`, `["a", "b"]`. The word `none` unsets a setting
that may be `none`. A word without spaces, quotes, brackets, braces, `=`, `#` and `\\` needs no quotes:
`--set train.optimizer=adamw`, `--set train.decoder=runs/x`. Anything else is an error. Quote a text once for TOML and
once for the shell: `--set "train.decoder='my runs/x'"`, `--set 'data.exclude=["0d3d703e"]'`.

**In code**, `etrm.config.with_settings(config, train={{"steps": 3}}, faults=())` returns a changed, checked config.
"""


def page() -> str:
    """Return the page as markdown."""
    parts = [_HEAD.format(presets=", ".join(code(name) for name in list_presets()))]
    for section in list_sections():
        rows = [
            (code(setting.name), code(to_toml(setting.default)), setting.values, escape(setting.description))
            for setting in section.settings
        ]
        title = f"## {section.name or 'The whole run'}\n\n{escape(section.summary)}"
        parts.append(f"{title}\n\n{table(('setting', 'default', 'values', 'description'), rows)}\n")
    return "\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m reports.documents.settings_page", description=__doc__)
    parser.add_argument("--out", required=True, type=Path, help="the markdown file to write")
    write_file(parser.parse_args(arguments).out, page().encode())


if __name__ == "__main__":
    main()
