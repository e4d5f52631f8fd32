"""Markdown that also reads well as plain text: numbers, escapes, padded tables, wrapped lines."""

from __future__ import annotations

import math
import re
import textwrap
import unicodedata
from collections.abc import Callable, Sequence
from urllib.parse import quote

from etrm.investigation.result import Absent, Value

WIDTH = 100
"""Characters of a line of text, so that pages also read well in an editor."""
NOTHING = "—"
WIDE = 40
"""A last column with a cell longer than this is not padded, so that lines do not grow with it."""

FOLD_START = re.compile(r"<details>\n<summary>([^<\n]*)</summary>")
FOLD_END = "</details>"
"""The only raw HTML in our markdown."""

_CODE_SPAN = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)")
_ATOM = re.compile(r"\\.|(`+)(?!`)(?:.+?(?<!`)\1(?!`))?|[\[\]]")
"""Of markdown: an escape, a code span or a run of backticks that begins none, a bracket."""
_SPECIAL = re.compile(r"[\\`*\]]|<(?=[A-Za-z/!?])|~(?=~)|(?<=~)~|(?<![^\W_])_|_(?![^\W_])|&(?=#?\w+;)")
_BLOCK_START = re.compile(r">|[-+](?=\s|$)|-+$|=+$|#{1,6}(?=\s|$)|\d{1,9}(?=[.)](\s|$))")


def number(x: float) -> str:
    """Four significant digits; whole numbers whole."""
    if math.isnan(x):
        return "NaN"
    if math.isinf(x):
        return "inf" if x > 0 else "-inf"
    if x == int(x) and abs(x) < 1e9:
        return str(int(x))
    size = abs(x)
    if not 1e-3 <= size < 1e6:
        return f"{x:.3e}"
    decimals = max(0, 3 - math.floor(math.log10(float(f"{size:.3e}"))))
    return f"{x:.{decimals}f}"


def value(v: Value | None) -> str:
    """A measured value, ``—`` where there is none to measure, or why it was not measured."""
    if v is None:
        return NOTHING
    if isinstance(v, Absent):
        return f"not measured ({escape(v.absent)})"
    return number(v)


def interval(low: float | None, high: float | None) -> str:
    """``[low, high]``; an open end where one is missing."""
    if low is None and high is None:
        return NOTHING
    return f"[{'-inf' if low is None else number(low)}, {'inf' if high is None else number(high)}]"


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if not math.isfinite(seconds):
        return number(seconds)
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def count(n: int, noun: str, plural: str = "") -> str:
    """``1 seed``, ``3 seeds``, ``12 000 steps``."""
    digits = f"{n:,}".replace(",", " ") if abs(n) >= 10_000 else str(n)
    return f"{digits} {noun if n == 1 else plural or noun + 's'}"


def plain(text: str) -> str:
    """One line without control characters."""
    return " ".join("".join(c for c in text if c.isspace() or unicodedata.category(c) != "Cc").split())


def escape(text: str) -> str:
    """Text for markdown: `code spans` stay, everything else is shown as it is written."""
    return _outside_code(plain(text), _literal)


def _outside_code(text: str, change: Callable[[str], str]) -> str:
    parts, at = [], 0
    for match in _CODE_SPAN.finditer(text):
        parts += [change(text[at : match.start()]), match.group()]
        at = match.end()
    return "".join([*parts, change(text[at:])])


def _literal(text: str) -> str:
    # Brackets are left alone unless they could become a link: intervals are common and should read well.
    def escaped(match: re.Match[str]) -> str:
        harmless = match.group() == "]" and match.string[match.end() : match.end() + 1] not in ("(", "[", ":")
        return match.group() if harmless else "\\" + match.group()

    return _SPECIAL.sub(escaped, text)


def code(text: str) -> str:
    """A code span around any text; ``—`` around none."""
    text = plain(text)
    if not text:
        return NOTHING
    fence = "`" * (_longest_backticks(text) + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def fenced(text: str, language: str = "") -> str:
    """A code block around any text."""
    fence = "`" * max(3, _longest_backticks(text) + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def folded(summary: str, block: str) -> str:
    """A block that is folded away until it is asked for; the summary is a plain word or two."""
    return f"<details>\n<summary>{summary}</summary>\n\n{block}\n\n{FOLD_END}"


def _longest_backticks(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)


def link(label: str, path: str) -> str:
    """A link to a path relative to the page; the label is markdown already."""
    # A bracket inside would be taken for the label's own.
    safe = _ATOM.sub(lambda atom: "\\" + atom[0] if atom[0] in "[]" else atom[0], label)
    return f"[{safe}]({quote(path)})"


def sentence(text: str) -> str:
    """The text with a full stop, unless it ends as a sentence already."""
    text = text.rstrip()
    return text if not text or text[-1] in ".!?:…" else text + "."


def paragraph(markdown: str, first: str = "", rest: str | None = None) -> str:
    """Wrapped lines, each with its prefix; no line turns into a heading or a list by accident."""
    rest = first if rest is None else rest
    lines = textwrap.wrap(
        markdown, WIDTH - max(len(first), len(rest)), break_long_words=False, break_on_hyphens=False
    )
    safe = [_disarmed(line) for line in lines]
    return "\n".join((first if i == 0 else rest) + line for i, line in enumerate(safe)).rstrip()


def _disarmed(line: str) -> str:
    match = _BLOCK_START.match(line)
    if not match:
        return line
    at = match.end() if match.group()[0].isdigit() else 0
    return line[:at] + "\\" + line[at:]


def bullets(items: Sequence[str]) -> str:
    """A list."""
    return "\n".join(paragraph(item, "- ", "  ") for item in items)


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], numeric: str = "") -> str:
    """A table with padded columns.

    Args:
        headers: of the columns, as markdown.
        rows: cells as markdown; pipes are escaped here.
        numeric: one letter for each column, ``r`` for right-aligned; left where it ends.
    """
    cells = [[cell.replace("|", "\\|") or NOTHING for cell in row] for row in (headers, *rows)]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(headers))]
    if widths[-1] > WIDE:
        widths[-1] = len(cells[0][-1])
    right = [numeric[i : i + 1] == "r" for i in range(len(headers))]
    lines = [_line(row, widths, right) for row in cells]
    rule = [("-" * (w - 1) + ":") if r else "-" * w for w, r in zip(widths, right, strict=True)]
    return "\n".join([lines[0], _line(rule, widths, right), *lines[1:]])


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    padded = [
        cell.rjust(width) if is_right else cell.ljust(width)
        for cell, width, is_right in zip(cells, widths, right, strict=True)
    ]
    return f"| {' | '.join(padded)} |"
