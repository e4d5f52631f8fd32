"""The report as files: golden pages, stable bytes, links that resolve, nothing else touched."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
from markdown_it import MarkdownIt

from etrm.errors import RunFolderError
from etrm.investigation.result import Result
from reports import read_and_render, render
from tests.errors import raises_code

GOLDEN = Path(__file__).parent / "golden"
REGENERATE = "REGENERATE_GOLDEN"
"""``REGENERATE_GOLDEN=1 pytest tests/reports`` writes the golden pages again; read the diff before committing."""

PAGES = ["frozen-decoder.md", "h1.md", "h2.md", "h3.md", "h4.md", "h5.md", "h7.md", "index.md"]
FIGURES = [
    "figures/frozen-decoder-frozen-loss.png",
    "figures/h1-evidence.png",
    "figures/h2-coverage.png",
    "figures/h2-empty.png",
    "figures/h2-norms.png",
    "figures/h4-loss.png",
    "figures/h4-paired.png",
    "figures/verdicts.png",
]


@pytest.fixture(scope="module")
def rendered(example: Result, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rendered")
    render(example, folder)
    return folder


@pytest.fixture
def unpainted(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of which files there are: a figure is a second of drawing."""
    agg = "matplotlib.backends.backend_agg.FigureCanvasAgg.print_png"
    monkeypatch.setattr(agg, lambda self, file, **_: file.write(b"a figure"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("page", PAGES)
def test_page_equals_its_golden_file(rendered: Path, page: str) -> None:
    text = (rendered / page).read_text("utf-8")
    if os.environ.get(REGENERATE):
        GOLDEN.mkdir(exist_ok=True)
        (GOLDEN / page).write_text(text, "utf-8")
    assert text == (GOLDEN / page).read_text("utf-8"), (
        f"if this is meant: {REGENERATE}=1 pytest tests/reports"
    )


@pytest.mark.usefixtures("unpainted")
def test_every_file_is_returned_and_the_index_is_last(example: Result, tmp_path: Path) -> None:
    written = render(example, tmp_path)
    expected = sorted([*PAGES, *FIGURES, "report.html"])
    assert sorted(str(p.relative_to(tmp_path)) for p in written) == expected
    assert sorted(contents(tmp_path)) == expected
    assert written[-1] == tmp_path / "index.md"


def test_a_result_that_went_through_json_renders_the_same(
    example: Result, rendered: Path, tmp_path_factory
) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "result.json").write_text(example.to_json(), "utf-8")
    again = read_and_render(str(other))
    assert again.to_json() == example.to_json()
    (other / "result.json").unlink()
    assert contents(other) == contents(rendered)


def test_figures_do_not_depend_on_the_users_style(
    example: Result, rendered: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    import matplotlib

    other = tmp_path_factory.mktemp("other")
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "black"}):
        render(example, other)
        assert matplotlib.rcParams["font.size"] == 30
    assert contents(other) == contents(rendered)


@pytest.mark.parametrize("page", PAGES)
def test_every_link_resolves(example: Result, rendered: Path, page: str) -> None:
    parts = (*example.hypotheses.values(), *example.experiments)
    raw = {"result.json", *(f"{run.folder}/metrics.jsonl" for part in parts for run in part.runs)}
    tokens = MarkdownIt("commonmark").enable("table").parse((rendered / page).read_text("utf-8"))
    inline = [child for token in tokens for child in token.children or []]
    targets = [
        unquote(str(t.attrGet("href") or t.attrGet("src")))
        for t in inline
        if t.type in ("link_open", "image")
    ]
    assert targets
    assert [t for t in targets if t not in raw and not (rendered / t).is_file()] == []


def test_every_run_links_to_its_raw_data(rendered: Path) -> None:
    assert "(runs/cached%20context/seed0/metrics.jsonl)" in (rendered / "h2.md").read_text("utf-8")


@pytest.mark.usefixtures("unpainted")
def test_other_files_stay_and_no_temporary_file_is_left(example: Result, tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "mine.png").write_bytes(b"mine")
    (tmp_path / "notes.md").write_text("mine")
    render(example, tmp_path)
    assert (tmp_path / "figures" / "mine.png").read_bytes() == b"mine"
    assert (tmp_path / "notes.md").read_text() == "mine"
    assert [name for name in contents(tmp_path) if "tmp" in name] == []


@pytest.mark.usefixtures("unpainted")
def test_a_folder_that_is_a_file_is_an_error_with_a_next_step(example: Result, tmp_path: Path) -> None:
    (tmp_path / "figures").write_text("in the way")
    with raises_code(RunFolderError, "report.not-writable", "verdicts.png"):
        render(example, tmp_path)


def test_reading_where_there_is_no_result_is_an_error(tmp_path: Path) -> None:
    with raises_code(RunFolderError, "result.absent", tmp_path):
        read_and_render(tmp_path)


def test_importing_the_package_is_cheap() -> None:
    heavy = "import sys, reports; print([m for m in ('matplotlib', 'rich', 'torch') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize("page", PAGES)
def test_tables_are_aligned_up_to_the_last_column(rendered: Path, page: str) -> None:
    for block in re.findall(r"(?:^\|.*\n)+", (rendered / page).read_text("utf-8"), flags=re.M):
        bars = [[m.start() for m in re.finditer(r"(?<!\\)\|", line)][:-1] for line in block.splitlines()]
        assert all(row == bars[0] for row in bars)


@pytest.mark.usefixtures("unpainted")
def test_same_names_get_pages_and_figures_of_their_own(example: Result, tmp_path: Path) -> None:
    gradients = example.hypotheses["H2"]
    twins = {
        "H2": gradients,
        "h2!": gradients,
        "../Index": gradients.replace(figures=gradients.figures * 2),
    }
    written = render(example.replace(hypotheses=twins), tmp_path)
    assert len(set(written)) == len(written)
    assert {p.name for p in written if p.suffix == ".md"} == {
        "h2.md",
        "h2-2.md",
        "index-2.md",
        "frozen-decoder.md",
        "index.md",
    }
    assert all(p.resolve().is_relative_to(tmp_path.resolve()) for p in written)
