"""The documents hold: links and anchors resolve, every page is reachable, commands exist, and the whole stays short."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from cli import app
from etrm.config import list_presets, list_settings
from etrm.training.faults import FAULTS

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").rglob("*.md"))
ALL = (ROOT / "README.md", ROOT / "diagnostics" / "README.md", *DOCS)
COUNTED = tuple(
    page
    for page in ALL
    if page.parent.name not in ("results", "rules") and page.name not in ("log.md", "settings.md")
)
"""Pages that people write for users. Results and the log are records, which grow; rules and settings are generated."""
PAGES = (*ALL, *(page for page in (ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md") if page.exists()))
WORDS = 10_000
"""Words of the counted pages, as `wc -w` counts them."""

FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
IMAGE = re.compile(r"!\[[^\]]*\]\(([^)\s]+)\)")


def drop_code(text: str) -> str:
    """A page without its fenced blocks and code spans, in which brackets are not links."""
    return re.sub(r"`[^`\n]+`", "`code`", FENCE.sub("", text))


def list_anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text("utf-8")), flags=re.MULTILINE)
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.strip().replace(" ", "-") for heading in kept}


def list_links(page: Path) -> Iterator[tuple[Path, str]]:
    """The files that a page links to or shows, each with an anchor or an empty text."""
    text = drop_code(page.read_text("utf-8"))
    for target in LINK.findall(text) + IMAGE.findall(text):
        if not re.match(r"https?://", target):
            file, _, anchor = target.partition("#")
            yield ((page.parent / file).resolve() if file else page), anchor


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_and_anchor_resolves(page: Path) -> None:
    broken = [
        f"{target.name}#{anchor}"
        for target, anchor in list_links(page)
        if not target.exists() or (anchor and anchor not in list_anchors(target))
    ]
    assert broken == []


def test_every_page_is_reachable_from_the_front_page() -> None:
    front = ROOT / "docs" / "README.md"
    seen, left = {front}, [front]
    while left:
        found = {target for target, _ in list_links(left.pop()) if target.suffix == ".md" and target.exists()}
        left += found - seen
        seen |= found
    assert {page for page in DOCS if page not in seen} == set()


def test_the_documents_stay_short() -> None:
    counts = {page: len(page.read_text("utf-8").split()) for page in COUNTED}
    assert sum(counts.values()) <= WORDS, sorted(((n, str(p)) for p, n in counts.items()), reverse=True)[:10]


def test_no_page_cites_a_founding_document_by_number() -> None:
    assert [
        page.name for page in PAGES if re.search(r"\bseed 00\d", page.read_text("utf-8"), re.IGNORECASE)
    ] == []


# commands


def list_commands(page: Path) -> Iterator[list[str]]:
    """The arguments of every `etrm` command that a page quotes in its blocks and code spans."""
    text = page.read_text("utf-8")
    lines = [line for _, block in FENCE.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"(?<!`)`((?:etrm|make) [^`\n]+)`", FENCE.sub("", text))
    lines += re.findall(r"^    (etrm .+)$", FENCE.sub("", text), flags=re.MULTILINE)
    for line in lines:
        found = re.match(r"(?:\$ |torchrun .*? -m )?etrm (.*)", line.strip())
        if found:
            yield shlex.split(found[1].partition(" > ")[0], comments=True)


@cache
def build_commands() -> Any:
    return typer.main.get_command(app)


def parse_options(arguments: list[str]) -> dict[str, list[str]]:
    """The values of every option of a quoted command, by its longest name.

    Raises:
        LookupError: The command or one of its options does not exist.
    """
    command = build_commands()
    while (
        hasattr(command, "commands") and arguments
    ):  # a group alone, such as `etrm checkpoint`, is a mention
        name, *arguments = arguments
        if name not in command.commands:
            raise LookupError(f"no command {name!r}")
        command = command.commands[name]
    options = {name: option for option in command.params for name in (*option.opts, *option.secondary_opts)}
    found: dict[str, list[str]] = {}
    left = iter(arguments[: arguments.index("--")] if "--" in arguments else arguments)
    for word in left:
        name, sign, value = word.partition("=")
        if name.startswith("--") and name != "--help":
            if name not in options:
                raise LookupError(f"no option {name}")
            has_value = not getattr(options[name], "is_flag", False)
            found.setdefault(name, []).append(value if sign else next(left, "") if has_value else "")
    return found


SETTINGS = set(list_settings())
QUOTED = [
    (f"{page.relative_to(ROOT)}: etrm {' '.join(arguments)}", arguments)
    for page in PAGES
    if page.name != "CHANGELOG.md"  # it names commands and options of the past
    for arguments in list_commands(page)
    if not arguments[0].isupper()  # `etrm COMMAND`
]


def find_fault(arguments: list[str]) -> str | None:
    """What is wrong with a quoted command: a name that does not exist; None where all do."""
    try:
        options = parse_options(arguments)
    except LookupError as error:
        return str(error)
    keys = {text.partition("=")[0] for text in options.get("--set", ())}
    faults = {name for name in options.get("--inject", ()) if ":" not in name}  # else one of the reader's own
    unknown = {
        *keys - SETTINGS,
        *set(options.get("--preset", ())) - set(list_presets()),
        *faults - set(FAULTS),
    }
    return f"unknown {sorted(unknown)}" if unknown else None


def test_quoted_commands_exist_with_their_options_settings_presets_and_faults() -> None:
    wrong = [f"{quoted}: {fault}" for quoted, arguments in QUOTED if (fault := find_fault(arguments))]
    assert wrong == []
    assert len(QUOTED) > 50


@pytest.mark.parametrize(
    "line",
    [
        "trian --preset small",
        "train --presett small",
        "train --preset smal",
        "train --set train.lrr=1",
        "investigate --inject cached",
        "checkpoint inspct x",
    ],
)
def test_a_wrong_command_is_found(line: str) -> None:
    assert find_fault(line.split())


def test_quoted_make_targets_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), flags=re.MULTILINE))
    named = {
        name
        for page in ALL
        for name in re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text("utf-8"), flags=re.MULTILINE)
    }
    assert named <= targets
    assert {"investigate", "test"} <= named
