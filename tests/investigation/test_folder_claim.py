"""Which investigations may share a folder, and what is refused before any work."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from etrm.checkpoints.folder_lock import lock_folder
from etrm.config import load, with_settings
from etrm.errors import FolderInUseError, RunFolderError
from etrm.investigation.folder_claim import LENGTHS, claim_folder, hold_folder
from etrm.investigation.runs.budget import SCREENING, TIERS, Tier
from tests.errors import raises_code
from tests.investigation.planted import inline


def claim(out: Path, tier: Tier, preset: str = "small", **settings: dict[str, object]) -> None:
    with claim_folder(out, with_settings(load(preset), **settings), preset, inline(), tier):
        """Nothing is run."""


@pytest.mark.parametrize(
    ("tier", "got", "allowed"),
    [
        (
            TIERS["full"],
            "short_steps 400, frozen_steps 2000, pretrain_steps 4000",
            "short_steps 100, frozen_steps 200, pretrain_steps 800",
        ),
        (replace(SCREENING, pretrain_steps=90), "pretrain_steps 90", "pretrain_steps 800"),
    ],
)
def test_a_tier_with_runs_of_other_lengths_is_refused(
    tmp_path: Path, tier: Tier, got: str, allowed: str
) -> None:
    claim(tmp_path, SCREENING, train={"steps": 300})
    before = (tmp_path / "subject.json").read_bytes()
    with raises_code(RunFolderError, "investigate.other-lengths", tmp_path, got=got) as caught:
        claim(tmp_path, tier, train={"steps": 300})
    assert caught.value.allowed == allowed
    assert (tmp_path / "subject.json").read_bytes() == before


def test_the_error_for_another_subject_names_a_free_folder(tmp_path: Path) -> None:
    out = tmp_path / "a folder"
    (tmp_path / "a folder-2").mkdir()
    claim(out, SCREENING)
    with raises_code(RunFolderError, "investigate.other-subject", out) as caught:
        claim(out, SCREENING, train={"lr": 0.5})
    assert f"--out '{out}-3'" in caught.value.next_step


def test_tiers_whose_runs_have_the_same_lengths_share_a_folder(tmp_path: Path) -> None:
    for tier in (SCREENING, replace(TIERS["standard"], seeds=9), SCREENING):
        claim(tmp_path, tier)
    with raises_code(RunFolderError, "investigate.other-lengths", tmp_path, got="rule_steps 7"):
        claim(
            tmp_path, replace(TIERS["standard"], rule_steps=7)
        )  # only the second has runs on invented rules


def test_steps_of_a_decoder_count_only_where_a_run_starts_from_it(tmp_path: Path) -> None:
    for number, (preset, settings) in enumerate(
        [("small", {"decoder": "elsewhere"}), ("symbolic-rules", {}), ("smoke", {})]
    ):
        claim(tmp_path / str(number), SCREENING, preset, train=settings)
    other = replace(SCREENING, pretrain_steps=90)
    claim(tmp_path / "0", other, "small", train={"decoder": "elsewhere"})
    claim(tmp_path / "1", other, "symbolic-rules")
    with raises_code(RunFolderError, "investigate.other-lengths"):
        claim(tmp_path / "2", other, "smoke")


def test_a_folder_of_an_earlier_version_is_accepted_and_has_lengths_from_then_on(tmp_path: Path) -> None:
    claim(tmp_path, SCREENING)
    file = tmp_path / "subject.json"
    found = json.loads(file.read_text("utf-8"))
    del found[LENGTHS]
    file.write_text(json.dumps(found), "utf-8")
    claim(tmp_path, TIERS["full"])
    with raises_code(RunFolderError, "investigate.other-lengths"):
        claim(tmp_path, SCREENING)


@pytest.mark.parametrize("text", ["", "{", "[1]", "\0"])
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "subject.json").write_text(text, "utf-8")
    with raises_code(RunFolderError, "investigate.damaged-file", tmp_path / "subject.json"):
        claim(tmp_path, SCREENING)


def test_one_process_at_a_time_holds_a_folder(tmp_path: Path) -> None:
    with hold_folder(tmp_path / "out"), raises_code(FolderInUseError, "run.in-use", tmp_path / "out"):
        hold_folder(tmp_path / "out").__enter__()
    lock_folder(tmp_path / "out").close()  # free again
