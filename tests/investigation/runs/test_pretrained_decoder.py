"""The decoder cache: found again by config and code, and a half-trained one is finished."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from etrm.checkpoints import format as checkpoint
from etrm.checkpoints.run_folder import RunFolder
from etrm.checkpoints.saved_steps import list_saved
from etrm.config import load, with_settings
from etrm.errors import CheckpointError
from etrm.investigation.controls import control_outcome
from etrm.investigation.judgement import Judgement
from etrm.investigation.records import ControlOutcome, Verdict
from etrm.investigation.runs import pretrained_decoder as pretrain
from etrm.investigation.runs.cache import outcomes
from etrm.training.trainer import Trainer

SMOKE = with_settings(load("smoke"), train={"threads": 1})
save = Trainer._save


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ETRM_CACHE", str(tmp_path))
    return tmp_path


def test_a_decoder_is_trained_once(cache: Path) -> None:
    config = pretrain.trm_config(SMOKE, 3)
    seen: list[tuple[int, int]] = []
    first = pretrain.pretrained(config, lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3), (3, 3)]
    seen.clear()
    assert pretrain.pretrained(config, lambda done, total: seen.append((done, total))) == first
    assert seen == [(3, 3)]
    assert checkpoint.read(list_saved(first / "checkpoints")[-1]).step == 3


def test_a_decoder_whose_last_step_is_not_saved_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not trained again without an end."""
    monkeypatch.setattr(Trainer, "_save", lambda self: None if self.step else save(self))
    with pytest.raises(CheckpointError) as error:
        pretrain.pretrained(pretrain.trm_config(SMOKE, 3), lambda done, total: None)
    assert error.value.code == "decoder.not-kept"


def test_another_config_or_other_code_is_another_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    three = pretrain.pretrained(pretrain.trm_config(SMOKE, 3), lambda done, total: None)
    two = pretrain.pretrained(pretrain.trm_config(SMOKE, 2), lambda done, total: None)
    assert two != three
    monkeypatch.setattr("etrm.investigation.runs.cache.code_hash", lambda config: "edited")
    assert pretrain.pretrained(pretrain.trm_config(SMOKE, 2), lambda done, total: None) != two


def test_what_is_judged_in_the_subject_does_not_reach_the_decoder() -> None:
    broken = with_settings(
        load("smoke"), train={"lr": 1e30, "warmup_steps": 20}, model={"halt": {"exploration": 1}}
    )
    assert pretrain.trm_config(broken, 9) == pretrain.trm_config(load("smoke"), 9)


def test_the_losses_of_the_subject_do_not_reach_the_decoder() -> None:
    subject = with_settings(
        load("smoke"),
        model={"encoder": {"kind": "lpn_variational"}},
        train={"kl_weight": 0.1, "loss": "softmax"},
    )
    assert pretrain.trm_config(subject, 9).train == pretrain.trm_config(load("smoke"), 9).train


def test_the_trm_shares_the_core_and_the_tasks_and_nothing_injected() -> None:
    subject = with_settings(
        load("smoke"),
        faults=("cached-context",),
        train={"freeze_decoder_steps": 5},
        evaluate={"every": 5},  # for which a table has no rows
    )
    config = pretrain.trm_config(subject, 9)
    kept = subject.model.model_dump(exclude={"variant", "halt"})
    assert config.model.model_dump(exclude={"variant", "halt"}) == kept
    assert config.model.variant == "trm"
    assert config.data.augmentations == pretrain.AUGMENTATIONS  # a table cannot hold fresh ones
    assert (config.faults, config.train.freeze_decoder_steps, config.train.steps) == ((), 0, 9)
    assert config.data.queries == "all"
    assert config.evaluate.every is None


def test_the_decoder_of_a_run_on_a_stream_has_tasks_that_return() -> None:
    stream = load("rules")
    assert stream.data.stream is not None
    data = pretrain.trm_config(stream, 10).data
    assert (data.source, data.stream, data.queries) == (stream.data.source, None, "all")
    assert data.max_tasks == pretrain.LISTED_TASKS


def test_a_decoder_that_another_process_trains_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    config = pretrain.trm_config(SMOKE, 2)
    other = RunFolder(pretrain.folder_of(config), config, resume=False)
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            other.close()

    monkeypatch.setattr(time, "sleep", sleep)
    assert pretrain.pretrained(config, lambda done, total: None) == other.path
    assert waited == [pretrain.WAIT] * 3
    assert pretrain.finished(config)


def test_what_was_made_once_is_kept_with_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def make() -> list[ControlOutcome]:
        made.append(1)
        found = Judgement(Verdict.INVALIDATED, ("test.nothing",), "nothing")
        return [control_outcome("healthy", False, found)]

    first = outcomes("h9", [SMOKE], make)
    assert outcomes("h9", [SMOKE], make) == first == tuple(make())
    assert len(made) == 2  # once for the cache, once here
    assert outcomes("h8", [SMOKE], make) == first
    monkeypatch.setattr("etrm.investigation.runs.cache.judging_hash", lambda *configs, judges: "edited")
    outcomes("h9", [SMOKE], make)
    assert len(made) == 4
    monkeypatch.setattr("etrm.hardware.describe", lambda device: "another device")
    outcomes("h9", [SMOKE], make)
    assert len(made) == 5
