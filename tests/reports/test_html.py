"""report.html: a golden file, nothing that a text could smuggle in, and a look at it in a real browser."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from etrm.investigation.result import Result
from reports.html import document
from reports.pages.site import files
from tests.reports.test_render import GOLDEN, REGENERATE

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
PICTURE = re.compile(r"data:image/png;base64,([A-Za-z0-9+/=]+)")


@pytest.fixture(scope="module")
def written(example: Result) -> dict[str, bytes]:
    return files(example)


@pytest.fixture(scope="module")
def page(written: dict[str, bytes]) -> str:
    return written["report.html"].decode()


class Elements(HTMLParser):
    """Every element with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def values(self, attribute: str) -> list[str]:
        return [attrs[attribute] or "" for _, attrs in self.found if attribute in attrs]


def test_the_page_equals_its_golden_file(page: str) -> None:
    body = page[page.index("<body>") : page.index("<script>")]
    text = PICTURE.sub("data:image/png;base64,…", body)
    if os.environ.get(REGENERATE):
        (GOLDEN / "report.html").write_text(text, "utf-8")
    assert text == (GOLDEN / "report.html").read_text("utf-8")


def test_every_figure_is_inside_byte_for_byte(page: str, written: dict[str, bytes]) -> None:
    inside = [base64.b64decode(data) for data in PICTURE.findall(page)]
    assert sorted(inside) == sorted(data for name, data in written.items() if name.startswith("figures/"))


def test_nothing_is_fetched_and_every_link_inside_has_its_target(page: str) -> None:
    elements = Elements(page)
    links = elements.values("href")
    assert [link for link in elements.values("src") if not link.startswith("data:image/png;base64,")] == []
    assert [link for link in links if re.match(r"[a-z]+:|//", link)] == []
    assert {link[1:] for link in links if link.startswith("#")} <= set(elements.values("id"))
    assert not [link for link in links if link.endswith(".md")]
    assert len(elements.values("id")) == len(set(elements.values("id")))
    assert not elements.values("style")  # the policy would drop it
    assert not re.search(r"url\(|@import", page)


def test_the_policy_names_the_script_and_the_style_that_stand_in_the_file(page: str) -> None:
    for kind in ("script", "style"):
        text = page[page.index(f"<{kind}>") + len(kind) + 2 : page.index(f"</{kind}>")]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in page


HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</title></style></section><h1>taken</h1>",
    "[here](javascript:alert(1)) ![x](http://example.org/x.png) <http://example.org>",
    "<details>\n<summary>mine</summary>",
    '"><b onclick="alert(1)">',
    "`<i>`|</td><td>",
    "&lt;u&gt; &#60;u&#62;",
    "[x]: http://example.org",
]


def hostile(example: Result, text: str) -> Result:
    """The example with one text wherever text can be."""

    def planted(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: kept(key, item) for key, item in value.items()}
        return [planted(item) for item in value] if isinstance(value, list) else value

    fixed = {
        "key", "figure", "label", "kind", "role", "direction", "verdict", "expected", "got", "state", "folder",
        "config", "series", "order", "root_cause", "root_cause_confidence", "explained_by", "id", "arm", "severity",
        "code", "item", "cause_code", "scenario", "scope",
    }  # fmt: skip

    def kept(key: str, item: Any) -> Any:
        if key in fixed:
            return item
        return text if isinstance(item, str) else planted(item)

    return Result.model_validate(planted(json.loads(example.to_json())))


@pytest.mark.parametrize("text", HOSTILE)
def test_text_cannot_become_an_element_or_a_link(
    example: Result, text: str, page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reports.plots.figures.draw", lambda *_: b"drawn")
    monkeypatch.setattr("reports.plots.paired.draw", lambda *_: b"drawn")
    elements = Elements(files(hostile(example, text))["report.html"].decode())
    usual = Elements(page)
    tags = {tag for tag, _ in usual.found}
    assert {tag for tag, _ in elements.found} <= tags
    assert {name for _, attrs in elements.found for name in attrs} <= {n for _, a in usual.found for n in a}
    folds = [[tag for tag, _ in these.found].count("details") for these in (elements, usual)]
    assert folds[0] == folds[1]
    assert not [link for link in elements.values("href") if re.match(r"[a-z]+:|//", link)]
    assert [s for s in elements.values("src") if not s.startswith("data:image/png;base64,")] == []


def test_a_verdict_is_coloured_and_still_a_word() -> None:
    text = "| a | b |\n|---|---|\n| **VALIDATED** (screening) | VALIDATED |\n\n**NO** VALIDATED **NOT RUN**: x **NOT**"
    found = document("t", {"index.md": text}, "", {})
    assert '<strong><span class="verdict validated">VALIDATED</span></strong> (screening)' in found
    assert "<td>VALIDATED</td>" in found  # of a control, say: what it should be, and no alarm
    assert '<strong><span class="bad">NO</span></strong> VALIDATED' in found
    assert '<strong><span class="verdict not-run">NOT RUN</span></strong>: x <strong>NOT</strong>' in found


def test_html_in_markdown_is_text() -> None:
    found = document(
        "t", {"index.md": "<b>x</b>\n\n<script>1</script>\n\n<details>\n<summary>a<b></summary>"}, "", {}
    )
    assert "&lt;b&gt;x&lt;/b&gt;" in found
    assert "&lt;script&gt;1&lt;/script&gt;" in found
    assert "<details>" not in found


# -- in a browser -----------------------------------------------------------------------------------------


def dom(path: Path, *options: str) -> str:
    """What a browser makes of a file, after its scripts have run."""
    assert CHROMIUM is not None
    words = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={path.parent / 'profile'}",
    ]
    words += [*options, "--dump-dom", path.as_uri()]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=True).stdout


SORTED = """
const table = document.querySelector("table");
const column = (i) => Array.from(table.tBodies[0].rows, (row) => row.cells[i].textContent);
const header = (i) => table.tHead.rows[0].cells[i];
out.columns = [];
for (let i = 0; i < header(0).parentNode.cells.length; i++) {
  header(i).querySelector("button").click();
  const rising = column(i);
  const sort = header(i).getAttribute("aria-sort");
  header(i).querySelector("button").click();
  out.columns.push([rising, column(i), sort, header(i).getAttribute("aria-sort")]);
}
out.marked = table.querySelectorAll("[aria-sort]").length;
"""
LOOKS = """
out.overflow = document.documentElement.scrollWidth - innerWidth;
out.width = innerWidth;
out.colour = getComputedStyle(document.body).backgroundColor;
out.pictures = Array.from(document.images, (image) => image.naturalWidth);
"""
SAY = """
const said = document.createElement("pre");
said.id = "probe";
said.textContent = JSON.stringify(out);
document.body.append(said);
"""


def probed(page: str, probe: str, folder: Path, *options: str) -> dict[str, Any]:
    """What a probe saw in a page whose policy allows it."""
    script = f"const out = {{}};{probe}{SAY}"
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed = page.replace("script-src ", f"script-src 'sha256-{digest}' ")
    file = folder / "probed.html"
    file.write_text(allowed.replace("</body>", f"<script>{script}</script></body>"), "utf-8")
    found = re.search(r'<pre id="probe">(.*?)</pre>', dom(file, *options), flags=re.S)
    assert found, "the probe did not run to its end"
    result: dict[str, Any] = json.loads(found[1])
    return result


CELLS = {
    "number": (["10.5", "-2", "—", "3.000e-01"], ["-2", "3.000e-01", "10.5", "—"]),
    "time": (["1 h 05 min", "59 min 03 s", "59.9 s", "—"], ["59.9 s", "59 min 03 s", "1 h 05 min", "—"]),
    "change": (["+0.5", "[-0.1, 2]", "not measured (x)", "inf"], ["[-0.1, 2]", "+0.5", "inf", "not measured (x)"]),
    "word": (["b", "c", "a", "d"], ["a", "b", "c", "d"]),
    "count": (["12 000 steps", "9 steps", "100 steps", "1 step"], ["1 step", "9 steps", "100 steps", "12 000 steps"]),
}  # fmt: skip


@browser
def test_a_click_on_a_header_sorts(tmp_path: Path) -> None:
    rows = "\n".join(
        f"| {' | '.join(cells)} |" for cells in zip(*(c for c, _ in CELLS.values()), strict=True)
    )
    text = f"# Sorted\n\n| {' | '.join(CELLS)} |\n|{'---|' * len(CELLS)}\n{rows}\n"
    found = probed(document("t", {"sorted.md": text}, "", {}), SORTED, tmp_path)
    for (_, expected), (rising, falling, first, second) in zip(CELLS.values(), found["columns"], strict=True):
        assert rising == expected
        measured = [cell for cell in expected if not cell.startswith(("—", "not measured"))]
        assert falling == measured[::-1] + expected[len(measured) :]  # what has no value stays last
        assert (first, second) == ("ascending", "descending")
    assert found["marked"] == 1


@browser
@pytest.mark.parametrize(("scheme", "colour"), [("light", "rgb(255, 255, 255)"), ("dark", "rgb(22, 24, 27)")])
def test_a_narrow_window_scrolls_down_only_and_shows_every_figure(
    page: str, tmp_path: Path, scheme: str, colour: str
) -> None:
    dark = ["--force-dark-mode"] if scheme == "dark" else []
    found = probed(page, LOOKS, tmp_path, "--window-size=500,900", *dark)
    assert found["width"] <= 500
    assert found["overflow"] <= 0
    assert found["colour"] == colour
    assert len(found["pictures"]) == len(PICTURE.findall(page))
    assert min(found["pictures"]) > 0


@browser
def test_a_script_that_is_not_ours_does_not_run(page: str, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(page.replace("</body>", "<script>document.title = 'taken'</script></body>"), "utf-8")
    found = dom(file)
    assert "<title>Why does preset small not learn?</title>" in found
    assert found.count("<button>") > 20  # ours did run
