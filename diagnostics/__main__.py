"""The toolkit from the command line: `python -m diagnostics audit train.py:make_case`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from diagnostics.audit_command import add_options, run, split_arguments
from diagnostics.errors import ToolkitError
from diagnostics.reference.explanations import explain_code, list_groups, toolkit_groups
from diagnostics.report.whole_files import write_whole
from diagnostics.rules import load
from diagnostics.rules.documents import documents
from diagnostics.rules.page import page


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit code: 0; 1 for an audit with findings; 2 for bad input, such as a code that does not exist.
    """
    parser = argparse.ArgumentParser(prog="python -m diagnostics", description="Audit a torch model.")
    commands = parser.add_subparsers(dest="command", required=True)
    add_options(commands.add_parser("audit", help="audit a training step and print what is wrong"))
    explain = commands.add_parser("explain", help="print the page of a rule or of an error code")
    explain.add_argument(
        "code",
        nargs="?",
        help="code to explain, or FILE.py:NAME of a rule of your own; without it, all codes are listed",
    )
    pages = commands.add_parser("pages", help="write the pages of all rules")
    pages.add_argument("--out", required=True, type=Path, help="folder to write to")
    commands.add_parser("agents", help="print the instructions for coding agents")
    words, given = split_arguments(sys.argv[1:] if arguments is None else arguments)
    chosen = parser.parse_args(words)
    if chosen.command == "audit":
        return run(chosen, given)
    if chosen.command == "agents":
        sys.stdout.write(Path(__file__).with_name("AGENTS.md").read_text(encoding="utf-8"))
        return 0
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
        write_whole(folder / name, text)
    for path in folder.glob("*.md"):
        if path.name not in texts:
            path.unlink()


if __name__ == "__main__":
    sys.exit(main())
