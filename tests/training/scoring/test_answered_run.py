from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from etrm.config import Changes, Config
from etrm.data import load_tasks
from etrm.errors import DataError
from etrm.training.scoring.answered_run import answer_run, find_unknown, submit_answers
from etrm.training.scoring.fitted_scores import Fit
from etrm.training.scoring.score_run import score_run
from etrm.training.trainer import train
from tests.errors import raises_code


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, smoke: Callable[..., Config]) -> Path:
    folder = tmp_path_factory.mktemp("answers") / "run"
    assert train(smoke("train.steps=3", "monitor.enabled=false"), folder)
    return folder


@pytest.fixture
def hidden(tmp_path: Path, tasks_folder: Path) -> Changes:
    """The settings for the held-out tasks as a Kaggle file, without the outputs of the tests."""
    kaggle = {
        task.id: {
            "train": [
                {"input": d.input.tolist(), "output": np.asarray(d.output).tolist()} for d in task.demos
            ],
            "test": [{"input": pair.input.tolist()} for pair in task.tests],
        }
        for task in load_tasks(str(tasks_folder), "evaluation")
    }
    file = tmp_path / "test_challenges.json"
    file.write_text(json.dumps(kaggle))
    return {"evaluate": {"source": str(file)}}


def test_answers_to_hidden_tasks_are_those_that_are_scored_where_outputs_are_known(
    run: Path, hidden: Changes, tmp_path: Path
) -> None:
    known = score_run(run, {})
    answered = answer_run(run, hidden)
    assert repr(answered.candidates) == repr(known.model.candidates)
    done = submit_answers(answered, tmp_path / "submission.json")
    assert set(json.loads(done.path.read_text())) == {"task100", "task101", "task102"}
    assert find_unknown(run, hidden) == ("task100", "task101", "task102")
    assert find_unknown(run, {}) == ()
    with raises_code(DataError, "evaluate.unknown-outputs"):
        score_run(run, hidden)


def test_fitted_answers_are_those_of_the_last_way_of_fitting(run: Path, hidden: Changes) -> None:
    brief: Changes = {
        "evaluate": {
            "max_tasks": 1,
            "search": {"steps": 2, "restarts": 2, "control": False},
            "adapt": {"steps": 1},
        }
    }
    known = score_run(run, brief, search=True, adapted="context")
    answered = answer_run(
        run, {"evaluate": {**hidden["evaluate"], **brief["evaluate"]}}, search=True, adapted="context"
    )
    assert repr(answered.candidates) == repr(known.fitted[Fit.BOTH].report.candidates)
    assert not answered.interrupted
