"""The toolkit from the command line: `python -m diagnostics explain COV001`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from diagnostics.errors import ToolkitError
from diagnostics.reference.explanations import explain_code, list_groups, toolkit_groups
from diagnostics.rules import load
from diagnostics.rules.documents import documents
from diagnostics.rules.page import page


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit code: 0, or 2 for a code that does not exist.
    """
    parser = argparse.ArgumentParser(prog="python -m diagnostics", description="Explain rules and errors.")
    commands = parser.add_subparsers(dest="command", required=True)
    explain = commands.add_parser("explain", help="print the page of a rule or of an error code")
    explain.add_argument(
        "code",
        nargs="?",
        help="code to explain, or FILE.py:NAME of a rule of your own; without it, all codes are listed",
    )
    pages = commands.add_parser("pages", help="write the pages of all rules")
    pages.add_argument("--out", required=True, type=Path, help="folder to write to")
    chosen = parser.parse_args(arguments)
    if chosen.command == "pages":
        _write(chosen.out)
        return 0
    groups = toolkit_groups()
    try:
        if chosen.code and ":" in chosen.code:
            text = page(load(chosen.code))
        else:
            text = explain_code(chosen.code, groups) if chosen.code else list_groups(groups)
    except ToolkitError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(text)
    return 0


def _write(folder: Path) -> None:
    """Write every page, and remove pages of rules that no longer exist."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = documents()
    for name, text in texts.items():
        partial = folder / f"{name}.partial"
        partial.write_text(text, encoding="utf-8")
        partial.replace(folder / name)
    for path in folder.glob("*.md"):
        if path.name not in texts:
            path.unlink()


if __name__ == "__main__":
    sys.exit(main())
