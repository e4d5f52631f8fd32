"""The page of the original solver, from a planted story."""

from __future__ import annotations

from etrm.investigation.evidence.figures import Series
from etrm.investigation.original_solver import BaselineScore, StageResult, StageVerdict, Story
from etrm.investigation.records import Run, Verdict
from reports.pages.original_solver_page import LOSS, draw_losses, make_page


def stage(code: str, before: float, after: float, solved: int, **verdicts: Verdict) -> StageResult:
    run = Run(
        arm=code,
        seed=3,
        folder=code,
        steps=20,
        wall_s=1.0,
        state="finished",
        final={"held_out_solved": solved, "held_out_asked": 200},
    )
    return StageResult(
        code=code,
        title=f"title of {code}",
        faults=("assignment-lost",) if solved == 0 else (),
        run=run,
        loss_before=before,
        loss_after=after,
        entropy_before=5.0,
        entropy_after=0.25,
        root_cause="H3" if solved == 0 else None,
        verdicts=tuple(
            StageVerdict(id=id, verdict=found, codes=("h3.unused",)) for id, found in verdicts.items()
        ),
        rules=("GRAD001",) if solved == 0 else (),
    )


def story(*stages: StageResult) -> Story:
    return Story(
        steps=20,
        seed=3,
        stages=stages,
        baselines=(BaselineScore(name="copy input", solved=1, evaluated=200, token_accuracy=0.69),),
        series=tuple(
            Series(
                figure="loss",
                arm=one.code,
                seed=3,
                label=one.code,
                x=(0.0, 1.0),
                y=(one.loss_before, one.loss_after),
            )
            for one in stages
        ),
        command="etrm symbolic story",
        environment={"commit": "0123456789", "versions": {"torch": "2"}, "hardware": "a machine"},
        data_hash="f" * 64,
    )


def row(page: str, start: str) -> list[list[str]]:
    """The cells of each table row that begins with a word."""
    lines = [line for line in page.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [line for line in cells if line[0] == start]


def test_scores_verdicts_and_findings_of_each_stage_are_on_the_page() -> None:
    told = story(
        stage("as-found", 1.5, 1.5, 0, H2=Verdict.INVALIDATED, H3=Verdict.VALIDATED),
        stage("repaired", 1.5, 0.5, 200, H2=Verdict.INCONCLUSIVE, H3=Verdict.NOT_RUN),
    )
    page = make_page(told)
    score, verdict = row(page, "0")
    assert score[6:] == ["0 of 200", "0.0% to 1.8%"]  # 1 - .025 ** (1 / 200) = .0183, Clopper and Pearson
    assert verdict[1:5] == ["assignment-lost", "H3", "no", "yes"]
    assert verdict[-1] == "GRAD001"
    score, verdict = row(page, "1")
    assert score[6:] == ["200 of 200", "98.2% to 100.0%"]
    assert verdict[1:5] == ["none", "none", "open", "-"]
    assert f"]({LOSS})" in page
    assert draw_losses(told)[:8] == b"\x89PNG\r\n\x1a\n"


def test_only_a_loss_that_is_equal_to_the_last_bit_is_called_constant() -> None:
    constant, near = (make_page(story(stage("as-found", 1.5, after, 0))) for after in (1.5, 1.5 + 1e-15))
    assert constant.count("1.5 before") == 1
    assert "1.5 before" not in near
