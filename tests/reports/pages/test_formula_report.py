"""The report of formulas of a run whose answers are known: its page, its pictures, and what Ctrl-C leaves."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from etrm.errors import RunFolderError
from etrm.training.scoring.formula_survey import FormulaSurvey, SurveyedTask
from reports.pages import formula_report
from reports.pages.formula_report import write_formula_report
from tests.errors import assert_holds, raises_code
from tests.known_run import FLIP, train_known_run


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_known_run(tmp_path_factory.mktemp("report"))


def report(run: Path, out: Path, unsolved: int = 1) -> tuple[str, bool]:
    _, complete = write_formula_report(run, out, {}, unsolved=unsolved, progress=lambda *_: None)
    return (out / "index.md").read_text(), complete


@pytest.fixture(scope="module")
def written(known: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, bool]:
    """The folder of a whole report, its page, and whether it is complete."""
    folder = tmp_path_factory.mktemp("written") / "report"
    return folder, *report(known, folder)


def rows(page: str) -> dict[str, list[str]]:
    """The cells of the table rows by the first one."""
    lines = [line for line in page.splitlines() if line.startswith("|")]
    cells = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]
    return {first: rest for first, *rest in cells}


def test_the_page_lists_the_solved_tasks_and_the_nearest_unsolved_one(
    written: tuple[Path, str, bool],
) -> None:
    _, page, complete = written
    assert complete
    found = rows(page)
    assert found["this run"][0] == found["search without training (original)"][0] == "2 of 4"
    assert found["copy input"] == ["1 of 4", "0.6% to 80.6%"]
    assert found["flip"] == ["100%", "yes", FLIP]
    assert found["nearly"] == ["100%", "no", FLIP]
    assert "noise" not in found
    assert re.findall(r"^### (\w+)", page, re.M) == ["copy", "flip", "nearly"]
    assert "Interrupted" not in page


def test_every_picture_is_there_and_in_the_one_file(known: Path, tmp_path: Path) -> None:
    page, _ = report(known, tmp_path, unsolved=9)
    linked = re.findall(r"!\[.*\]\((.*)\)", page)
    assert linked == [f"figures/{name}.png" for name in ("copy", "flip", "nearly", "noise")]
    for path in linked:
        assert (tmp_path / path).read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "report.html").read_text().count("data:image/png") == 4
    assert {path.name for path in tmp_path.iterdir()} == {"figures", "index.md", "report.html"}


def test_the_same_run_gives_the_same_bytes(
    known: Path, written: tuple[Path, str, bool], tmp_path: Path
) -> None:
    first, second = written[0], tmp_path / "second"
    report(known, second)
    files = {path.relative_to(first) for path in first.rglob("*.*")}
    assert len(files) == 5
    for file in files:
        assert (first / file).read_bytes() == (second / file).read_bytes()


def test_an_interrupted_survey_leaves_a_page_of_what_it_has(
    known: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = FormulaSurvey.__iter__

    def interrupted(self: FormulaSurvey) -> Iterator[SurveyedTask]:
        for number, task in enumerate(whole(self)):
            if number == 2:
                raise KeyboardInterrupt
            yield task

    monkeypatch.setattr(FormulaSurvey, "__iter__", interrupted)
    page, complete = report(known, tmp_path)
    assert not complete
    assert rows(page)["this run"][0] == "2 of 2"
    assert_holds(page, "Interrupted", "2 of 4 tasks")


def test_an_interrupted_drawing_leaves_the_finished_pictures(
    known: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = formula_report.draw_png
    drawn: list[bytes] = []

    def interrupted(*given: object) -> bytes:
        if drawn:
            raise KeyboardInterrupt
        drawn.append(draw(*given))  # type: ignore[arg-type]
        return drawn[-1]

    monkeypatch.setattr(formula_report, "draw_png", interrupted)
    page, complete = report(known, tmp_path)
    assert not complete
    assert re.findall(r"!\[.*\]\((.*)\)", page) == ["figures/copy.png"]
    assert_holds(page, "Interrupted", "2 tasks")
    assert rows(page)["this run"][0] == "2 of 4"


def test_a_folder_that_cannot_be_written_is_refused(
    known: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FormulaSurvey, "__iter__", lambda self: iter(()))
    (tmp_path / "taken").write_text("")
    with raises_code(RunFolderError, "report.not-writable", tmp_path / "taken"):
        report(known, tmp_path / "taken")
