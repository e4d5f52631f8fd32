"""Render a report as one HTML file: the markdown pages with the figures embedded. Nothing is loaded from elsewhere.

The text of a result is untrusted. Raw HTML in markdown is therefore shown as text, and the content security policy of
the file allows only our script, by its hash, and no loading of resources.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path
from urllib.parse import unquote

from markdown_it import MarkdownIt
from markdown_it.token import Token

from etrm.investigation.records import Verdict
from reports.markdown import FOLD_END, FOLD_START
from reports.names import make_unique

ASSETS = Path(__file__).parent / "assets"
VERDICT_CLASSES = {verdict: verdict.name.lower().replace("_", "-") for verdict in Verdict}
"""The CSS class of each verdict."""
CLASSES = {verdict.value: f"verdict {name}" for verdict, name in VERDICT_CLASSES.items()}
CLASSES |= {"NO": "bad", "FAILED": "bad"}
"""The CSS classes of the bold words of a page: verdicts and failed checks."""


def document(
    title: str,
    pages: Mapping[str, str],
    navigation: str,
    drawn: Mapping[str, bytes],
    boxes: Mapping[str, str] | None = None,
) -> str:
    """Return a report as one HTML document.

    Args:
        title: the title of the browser's tab, as plain text.
        pages: the pages as markdown by file name, in reading order; the first one is the top of the document.
        navigation: the links between the pages, as markdown.
        drawn: the figures as PNG, by their paths in the pages.
        boxes: the CSS class of the first box of a page, by file name.
    """
    style, script = _asset("report.css"), _asset("report.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    converter = _Converter(list(pages), drawn, boxes or {})
    body = [
        f'<section id="{_anchor(name)}">\n{converter.page(name, text, top=place == 0)}</section>\n'
        for place, (name, text) in enumerate(pages.items())
    ]
    head = [
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        f"<title>{escape(title)}</title>",
        f"<style>{style}</style>",
    ]
    nav = f"<nav>\n{converter.page('', navigation)}</nav>\n"
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n{chr(10).join(head)}\n</head>\n<body>\n{nav}'
        f"<main>\n{''.join(body)}</main>\n<script>{script}</script>\n</body>\n</html>\n"
    )


@cache
def _asset(name: str) -> str:
    return (ASSETS / name).read_text("utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _anchor(page: str) -> str:
    return page.removesuffix(".md")


class _Converter:
    """Converts our own markdown to HTML.

    Args:
        pages: the file names to which links may lead; each one is a section of the document.
        drawn: the figures by path.
        boxes: the CSS class of the first box of a page, by file name.
    """

    def __init__(self, pages: Sequence[str], drawn: Mapping[str, bytes], boxes: Mapping[str, str]) -> None:
        self._boxes = boxes
        self._pages = pages
        self._drawn = drawn
        self._markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
        self._markdown.add_render_rule("table_open", lambda *_: '<div class="wide"><table>\n')
        self._markdown.add_render_rule("table_close", lambda *_: "</table></div>\n")

    def page(self, name: str, text: str, top: bool = False) -> str:
        """Return a page as HTML. On all pages except the top one, headings are one level lower."""
        tokens = list(_folded(self._markdown.parse(text)))
        headings = [tokens[i + 1].content for i, token in enumerate(tokens) if token.type == "heading_open"]
        box = next((token for token in tokens if token.type == "blockquote_open"), None)
        if box is not None and self._boxes.get(name):
            box.attrs["class"] = f"box {self._boxes[name]}"
        anchors = iter(make_unique(f"{_anchor(name)}-{heading}" for heading in headings))
        for token in tokens:
            if token.type == "heading_open":
                token.attrs["id"] = next(anchors)
            if token.type in ("heading_open", "heading_close") and not top:
                token.tag = f"h{int(token.tag[1]) + 1}"
            if token.attrs.get("style") == "text-align:right":  # the policy forbids style attributes
                token.attrs = {"class": "number"}
            if token.type == "th_open":
                token.attrs["scope"] = "col"
            token.children = list(self._inline(token.children)) if token.children else token.children
        return str(self._markdown.renderer.render(tokens, self._markdown.options, {}))

    def _inline(self, children: Sequence[Token]) -> Iterator[Token]:
        bold = 0
        for child in children:
            bold += {"strong_open": 1, "strong_close": -1}.get(child.type, 0)
            if child.type == "link_open":
                child.attrs["href"] = self._target(str(child.attrs["href"]))
            elif child.type == "image":
                child.attrs["src"] = self._picture(str(child.attrs["src"]))
            yield _coloured(child) if child.type == "text" and bold else child

    def _target(self, href: str) -> str:
        page = unquote(href)
        return f"#{_anchor(page)}" if page in self._pages else href

    def _picture(self, path: str) -> str:
        return f"data:image/png;base64,{base64.b64encode(self._drawn[unquote(path)]).decode()}"


def _folded(tokens: Sequence[Token]) -> Iterator[Token]:
    """Convert the fold of :func:`reports.markdown.folded`, which would otherwise be shown as text."""
    place = 0
    while place < len(tokens):
        inline = tokens[place + 1] if tokens[place].type == "paragraph_open" else None
        start = FOLD_START.fullmatch(inline.content) if inline else None
        if inline and (start or inline.content == FOLD_END):
            summary = f"<details>\n<summary>{escape(start[1])}</summary>\n" if start else "</details>\n"
            yield Token("html_block", "", 0, content=summary)
            place += 3
        else:
            yield tokens[place]
            place += 1


def _coloured(text: Token) -> Token:
    """Add a CSS class to a bold word that is a verdict or a failed check. The word does not change."""
    kind = CLASSES.get(text.content)
    if kind is None:
        return text
    return Token("html_inline", "", 0, content=f'<span class="{kind}">{escape(text.content)}</span>')
