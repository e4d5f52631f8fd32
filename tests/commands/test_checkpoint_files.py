"""`etrm checkpoint` as a user meets it: what it prints, its exit codes, and what it leaves behind."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.command_line import Ended, etrm
from tests.errors import assert_holds

PARITY = Path(__file__).parents[1] / "parity"
TRM = str(PARITY / "trm" / "weights.safetensors")
ETRM = str(PARITY / "etrm_lpn_standard" / "weights.safetensors")


def run(*words: object) -> Ended:
    return etrm("checkpoint", *words)


def test_a_published_checkpoint_is_imported_inspected_exported_and_compared(tmp_path: Path) -> None:
    folder, file = tmp_path / "run", tmp_path / "out.pt"
    done = run("import", ETRM, "--out", folder)
    assert done.code == 0, done.err
    assert "published code" in done.out
    shown = run("inspect", folder)
    assert shown.code == 0
    assert "digest: verified" in shown.out
    assert "H_cycles: 3" in shown.out
    done = run("export", folder, "--out", file, "--format", "torch")
    assert done.code == 0, done.err
    assert torch.load(file, weights_only=True).keys() == load_file(ETRM).keys()
    same = run("compare", file, ETRM)
    assert same.code == 0
    assert "equal: 34/34 tensors" in same.out


def test_totals_and_statistics_for_machines() -> None:
    found = json.loads(run("inspect", TRM, "--json").out)
    tensors = load_file(TRM)
    assert found["totals"]["all"]["values"] == sum(t.numel() for t in tensors.values())
    assert found["totals"]["puzzle table"]["values"] == 6 * 32
    assert (found["weights"], found["verified"], found["settings"]) == ("unknown", False, None)
    first = found["tensors"][0]
    assert first["mean"] == pytest.approx(float(tensors[first["name"]].double().mean()))


def test_two_checkpoints_that_differ_are_exit_1(tmp_path: Path) -> None:
    tensors = load_file(TRM)
    tensors["model.inner.lm_head.weight"][3, 5] += 0.5
    tensors["model.inner.L_init"][0] = float("nan")
    del tensors["model.inner.puzzle_emb.weights"]
    save_file({"_orig_mod." + name: tensor for name, tensor in tensors.items()}, tmp_path / "other")
    done = run("compare", TRM, tmp_path / "other")
    assert done.code == 1
    for part in (
        "different: 12/15 tensors",
        "core.lm_head.weight",
        "0.5",
        "only in the first: puzzle_table.weights",
    ):
        assert part in done.out
    found = json.loads(run("compare", TRM, tmp_path / "other", "--json").out)
    changed = {t["name"]: t["largest"] for t in found["tensors"] if t["status"] != "equal"}
    assert changed["core.lm_head.weight"] == pytest.approx(0.5)
    assert changed.keys() == {"core.lm_head.weight", "core.L_init"}
    shown = run("inspect", tmp_path / "other")
    assert "not finite" in shown.out


@pytest.mark.parametrize("damage", ["empty", "truncated", "foreign", "folder", "missing"])
def test_bad_input_is_exit_2_and_leaves_nothing(tmp_path: Path, damage: str) -> None:
    bad = tmp_path / "bad"
    content = {"empty": b"", "truncated": Path(TRM).read_bytes()[:-9], "foreign": b"PK\x03\x04, not really"}
    if damage in content:
        bad.write_bytes(content[damage])
    elif damage == "folder":
        bad.mkdir()
    before = sorted(tmp_path.iterdir())
    for words in (
        ("inspect", bad),
        ("compare", TRM, bad),
        ("compare", bad, TRM, "--json"),
        ("import", bad, "--out", tmp_path / "run"),
        ("export", bad, "--out", tmp_path / "out"),
    ):
        done = run(*words)
        assert (done.code, done.out) == (2, ""), words
        assert_holds(done.err, bad)
    assert sorted(tmp_path.iterdir()) == before


def test_what_is_no_checkpoint_is_said_in_plain_words_and_no_unsafe_way_is_advised(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    done = run("inspect", tmp_path / "config.json")
    assert_holds(done.err, "checkpoint.not-a-checkpoint", tmp_path / "config.json", "torch.save")
    assert "weights_only" not in done.err
    absent = run("inspect", tmp_path / "none")
    assert_holds(absent.err, "checkpoint.not-a-checkpoint", tmp_path / "none", os.strerror(errno.ENOENT))


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (("inspect", TRM, "--weights", "both"), ["--weights 'both'", "ema", "raw"]),
        (("export", TRM, "--out", "x", "--format", "pickle"), ["--format 'pickle'", "safetensors", "torch"]),
    ],
)
def test_an_unknown_choice_is_exit_2_and_names_those_there_are(
    words: tuple[str, ...], values: list[str]
) -> None:
    done = run(*words)
    assert done.code == 2
    assert_holds(done.err, "cli.unknown-choice", *values)
