"""`etrm symbolic` as a user meets it, on a run whose answers are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from etrm.config import load, with_settings
from etrm.data import build_evaluation_samples
from etrm.data.tokens import read_grid
from etrm.training.scoring.explain_run import explain_run
from etrm.training.scoring.predictor import load_model, make_predictor
from etrm.training.task_sets import load_held_out_tasks
from etrm.training.trainer import train
from tests.command_line import etrm
from tests.errors import assert_holds


def test_a_preset_and_a_file_of_templates_are_refused_together(tmp_path: Path) -> None:
    done = etrm("symbolic", "templates", "--preset", "symbolic", "--config", "f.toml", cwd=tmp_path)
    assert (done.code, done.err.splitlines()[-1]) == (2, "  code:    config.preset-and-file")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps, so that some answers are wrong."""
    folder = tmp_path_factory.mktemp("runs") / "rules"
    config = with_settings(
        load("symbolic-rules"),
        data={"max_tasks": 12},
        model={"symbolic": {"guards": 4, "width": 8}},
        train={"steps": 2, "batch_size": 4, "warmup_steps": 0},
        evaluate={"max_tasks": 6},
    )
    assert train(config, folder)
    return folder


def test_explained_answers_are_those_of_the_model(run: Path) -> None:
    model, config, trained, _ = load_model(run, "ema")
    held_out = load_held_out_tasks(config)
    samples = build_evaluation_samples(held_out, config.data, 1, 0)
    answers = make_predictor(model)(samples)
    outcomes = set()
    for sample, (tokens, _) in zip(samples, answers, strict=True):
        explained = explain_run(run, sample.task_id)
        assert not explained.trained
        (query,) = explained.queries
        answer = read_grid(tokens.reshape(sample.region))
        assert np.array_equal(query.rules[0].answer, answer)
        assert query.solved == np.array_equal(answer, sample.target)
        assert query.wrong is not None
        assert query.wrong.sum() == (answer != sample.target).sum()
        assert query.rules[0].weight >= query.rules[1].weight
        outcomes.add(query.solved)
    assert False in outcomes
    assert explain_run(run, next(iter(trained)).id).trained


def test_explain_prints_the_formula_and_draws_it(run: Path, tmp_path: Path) -> None:
    task = next(iter(load_held_out_tasks(load_model(run, "ema")[1])))
    png = tmp_path / "new" / "explained.png"
    done = etrm("symbolic", "explain", run, task.id, "--png", png)
    assert (done.code, done.err) == (0, "")
    (query,) = explain_run(run, task.id).queries
    printed = " ".join(done.out.split())
    for rated in query.rules:
        assert str(rated.rule) in printed
    assert_holds(printed, "templates", "small networks")
    assert "demo 0" not in printed
    assert "demo 2" in etrm("symbolic", "explain", run, task.id, "--demos").out
    assert png.read_bytes().startswith(b"\x89PNG")


def test_an_unknown_task_and_another_variant_are_refused(run: Path, tmp_path: Path) -> None:
    refused = etrm("symbolic", "explain", run, "nothing")
    assert refused.code == 2
    assert_holds(refused.err, "symbolic.unknown-task", "000003-recolour-covered-9")
    assert train(with_settings(load("smoke"), train={"steps": 2}), tmp_path / "smoke")
    refused = etrm("symbolic", "explain", tmp_path / "smoke", "nothing")
    assert refused.code == 2
    assert_holds(refused.err, "symbolic.other-variant", "etrm", "symbolic")


@pytest.mark.slow
def test_the_report_lists_every_evaluated_task(run: Path, tmp_path: Path) -> None:
    done = etrm("symbolic", "report", run, "--out", tmp_path / "out", "--unsolved", "1")
    assert (done.code, done.err) == (0, "")
    held_out = load_held_out_tasks(load_model(run, "ema")[1])
    assert_holds(done.out, *(task.id for task in held_out), tmp_path / "out" / "index.md")
    assert (tmp_path / "out" / "report.html").exists()
    assert etrm("symbolic", "report", run, "--set", "evaluate.max_tasks=1").code == 0
    assert (run / "formulas" / "index.md").exists()


@pytest.mark.slow
def test_an_interrupted_report_ends_with_130(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr("reports.pages.formula_report.draw_png", interrupted)
    done = etrm("symbolic", "report", run, "--out", tmp_path / "out")
    assert done.code == 130
    assert_holds((tmp_path / "out" / "index.md").read_text(), "Interrupted")


def test_templates_are_counted_and_printed() -> None:
    done = etrm("symbolic", "templates")
    assert done.code == 0
    rows = [line.replace("│", " ").split() for line in done.out.splitlines()]
    assert ["original", "152", "1", "90"] in rows
    printed = etrm("symbolic", "templates", "--family", "original").out.splitlines()
    assert len(printed) == 152 + 1
    assert len(set(printed)) == len(printed)
    refused = etrm("symbolic", "templates", "--family", "orignal")
    assert refused.code == 2
