"""Write markdown that is also readable as plain text: numbers, escapes, padded tables, wrapped lines."""

from __future__ import annotations

import math
import re
import textwrap
import unicodedata
from collections.abc import Callable, Sequence
from urllib.parse import quote

from etrm.investigation.records import NotMeasured, Value

WIDTH = 100
"""Characters of a line of text, so that pages also read well in an editor."""
NOTHING = "—"
WIDE = 40
"""A last column with a longer cell than this is not padded, so that the other lines stay short."""

FOLD_START = re.compile(r"<details>\n<summary>([^<\n]*)</summary>")
FOLD_END = "</details>"
"""The only raw HTML in our markdown: a folded block."""

_CODE_SPAN = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)")
_ATOM = re.compile(r"\\.|(`+)(?!`)(?:.+?(?<!`)\1(?!`))?|[\[\]]")
"""A token of markdown: an escape, a code span, a run of backticks outside a code span, or a bracket."""
_SPECIAL = re.compile(r"[\\`*\]]|<(?=[A-Za-z/!?])|~(?=~)|(?<=~)~|(?<![^\W_])_|_(?![^\W_])|&(?=#?\w+;)")
_BLOCK_START = re.compile(r">|[-+](?=\s|$)|-+$|=+$|#{1,6}(?=\s|$)|\d{1,9}(?=[.)](\s|$))")


def number(x: float) -> str:
    """Return a number with four significant digits, or all digits of a whole number."""
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
    """Return a measured value, ``—`` if there is nothing to measure, or the reason why it was not measured."""
    if v is None:
        return NOTHING
    if isinstance(v, NotMeasured):
        return f"not measured ({escape(v.absent)})"
    return number(v)


def interval(low: float | None, high: float | None) -> str:
    """Return ``[low, high]``, with infinity for a missing end."""
    if low is None and high is None:
        return NOTHING
    return f"[{'-inf' if low is None else number(low)}, {'inf' if high is None else number(high)}]"


def duration(seconds: float) -> str:
    """Return a duration in the units that fit it: seconds, minutes or hours."""
    if not math.isfinite(seconds):
        return number(seconds)
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def count(n: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: ``1 seed``, ``3 seeds``, ``12 000 steps``."""
    digits = f"{n:,}".replace(",", " ") if abs(n) >= 10_000 else str(n)
    return f"{digits} {noun if n == 1 else plural or noun + 's'}"


def plain(text: str) -> str:
    """Return a text as one line without control characters."""
    return " ".join("".join(c for c in text if c.isspace() or unicodedata.category(c) != "Cc").split())


def escape(text: str) -> str:
    """Escape a text for markdown, so that it is shown unchanged except for `code spans`."""
    return _outside_code(plain(text), _literal)


def _outside_code(text: str, change: Callable[[str], str]) -> str:
    parts, at = [], 0
    for match in _CODE_SPAN.finditer(text):
        parts += [change(text[at : match.start()]), match.group()]
        at = match.end()
    return "".join([*parts, change(text[at:])])


def _literal(text: str) -> str:
    # Brackets are escaped only if they could become a link, because intervals are common and should be readable.
    def escaped(match: re.Match[str]) -> str:
        harmless = match.group() == "]" and match.string[match.end() : match.end() + 1] not in ("(", "[", ":")
        return match.group() if harmless else "\\" + match.group()

    return _SPECIAL.sub(escaped, text)


def code(text: str) -> str:
    """Return a code span of any text; ``—`` for an empty text."""
    text = plain(text)
    if not text:
        return NOTHING
    fence = "`" * (_longest_backticks(text) + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def fenced(text: str, language: str = "") -> str:
    """Return a code block of any text."""
    fence = "`" * max(3, _longest_backticks(text) + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def folded(summary: str, block: str) -> str:
    """Return a block that a reader can unfold; ``summary`` is its title, one or two plain words."""
    return f"<details>\n<summary>{summary}</summary>\n\n{block}\n\n{FOLD_END}"


def _longest_backticks(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)


def link(label: str, path: str) -> str:
    """Return a link to a path relative to the page. The label is markdown."""
    # A bracket inside the label would be taken for its end.
    safe = _ATOM.sub(lambda atom: "\\" + atom[0] if atom[0] in "[]" else atom[0], label)
    return f"[{safe}]({quote(path)})"


def sentence(text: str) -> str:
    """Return a text with a full stop, unless it already ends as a sentence."""
    text = text.rstrip()
    return text if not text or text[-1] in ".!?:…" else text + "."


def paragraph(markdown: str, first: str = "", rest: str | None = None) -> str:
    """Wrap a text into lines with a prefix. No line becomes a heading or a list by accident."""
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
    """Return a bulleted list."""
    return "\n".join(paragraph(item, "- ", "  ") for item in items)


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], numeric: str = "") -> str:
    """Return a table with padded columns.

    Args:
        headers: the headers of the columns, as markdown.
        rows: the cells of the rows, as markdown; pipes are escaped here.
        numeric: the alignment, one letter per column: ``r`` for right, anything else and missing letters for left.
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
