"""The hash of the code: which files change it, and that the code left out computes nothing."""

from __future__ import annotations

import importlib
import json
import pkgutil
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

import etrm.investigation
from etrm.config import load, with_settings
from etrm.investigation.runs.arms import ArmId
from etrm.investigation.runs.code_version import ONLY_JUDGE, ONLY_RENDER, PACKAGES, code_hash, hash_files
from etrm.investigation.runs.jobs import Job, work
from tests.forked import forking

ROOT = Path(__file__).resolve().parents[3]
RENDERING = ("etrm/commands/",)
"""What may be edited without touching a verdict, written down here a second time on purpose."""
RUNS = (
    "__init__",
    "records",
    "runs/arms",
    "runs/loaded_run",
    "runs/__init__",
    "runs/cache",
    "runs/code_version",
    "runs/jobs",
    "runs/launchers",
    "runs/measured_run",
    "runs/pretrained_decoder",
)
"""Files of etrm/investigation that a run is made by; the others judge runs."""


@pytest.fixture
def copies(tmp_path: Path) -> Mapping[str, Path]:
    """A copy of the packages as they are on the disk."""
    ignored = shutil.ignore_patterns("__pycache__", ".*")
    return {
        name: Path(shutil.copytree(folder, tmp_path / name, ignore=ignored))
        for name, folder in PACKAGES.items()
    }


def names(packages: Mapping[str, Path]) -> dict[str, Path]:
    return {
        f"{package}/{path.relative_to(folder).as_posix()}": path
        for package, folder in packages.items()
        for path in folder.rglob("*")
        if path.is_file()
    }


def moved_by_an_edit(packages: Mapping[str, Path], without: tuple[str, ...], folder: Path) -> set[str]:
    """Names of the files whose edit changes the hash, each tried as the only file of its package."""
    found = set()
    for name in names(packages):
        package, _, inside = name.partition("/")
        only = folder / name.replace("/", "-")
        path = only / inside
        path.parent.mkdir(parents=True)
        path.write_bytes(b"")
        before = hash_files({package: only}, without)
        path.write_bytes(b"# edited")
        if hash_files({package: only}, without) != before:
            found.add(name)
    return found


def test_every_edit_changes_the_hash_of_verdicts_but_of_what_only_renders(
    copies: Mapping[str, Path], tmp_path: Path
) -> None:
    everything = set(names(copies))
    assert {
        "etrm/batch.py",
        "etrm/config/tree.py",
        "etrm/presets/smoke.toml",
        "diagnostics/api.py",
    } < everything
    left = {name for name in everything if name.startswith(RENDERING)}
    assert moved_by_an_edit(copies, ONLY_RENDER, tmp_path / "edited") == everything - left


def test_every_edit_changes_the_hash_of_runs_but_of_what_judges_them(
    copies: Mapping[str, Path], tmp_path: Path
) -> None:
    everything = set(names(copies))
    investigation = {name for name in everything if name.startswith("etrm/investigation/")}
    left = {name for name in everything if name.startswith(RENDERING)}
    left |= investigation - {f"etrm/investigation/{name}.py" for name in RUNS}
    assert moved_by_an_edit(copies, (*ONLY_RENDER, *ONLY_JUDGE), tmp_path / "edited") == everything - left


def test_what_is_left_out_exists(copies: Mapping[str, Path]) -> None:
    for name in (*ONLY_RENDER, *ONLY_JUDGE):
        package, _, inside = name.partition("/")
        assert (copies[package] / inside).exists(), name


def make_a_run(folder: Path) -> None:
    """A measured run, as a worker makes it."""
    config = with_settings(
        load("smoke"),
        data={"max_tasks": 6, "max_side": 3},
        train={"steps": 2, "warmup_steps": 1, "batch_size": 4, "threads": 1},
    )
    job = Job(ArmId("arm"), 0, config, measure=True)
    work(job, str(folder), code_hash(config))
    assert (folder / "metrics.jsonl").read_text().count("\n") == 2


def record_loaded(folder: Path) -> None:
    """Write the files of the modules that a run loads, and of those that all of the investigation loads."""

    def loaded() -> list[str]:
        files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
        return [file for file in files if file]

    make_a_run(folder / "run")
    by_a_run = loaded()
    for module in pkgutil.walk_packages(etrm.investigation.__path__, "etrm.investigation."):
        importlib.import_module(module.name)
    (folder / "loaded.json").write_text(json.dumps([by_a_run, loaded()]))


def test_no_process_loads_code_that_its_hash_leaves_out(tmp_path: Path) -> None:
    process = forking().Process(target=record_loaded, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 0
    found = json.loads((tmp_path / "loaded.json").read_text())
    by_a_run, by_all = ({Path(file).resolve() for file in files} for files in found)
    everything = {name: path.resolve() for name, path in names(PACKAGES).items()}
    ours = {name for name, path in everything.items() if path in by_a_run}
    assert {"etrm/batch.py", "etrm/training/trainer.py", "etrm/investigation/runs/measured_run.py"} <= ours
    assert not [name for name in ours if name.startswith((*ONLY_RENDER, *ONLY_JUDGE))]
    assert everything["etrm/investigation/hypotheses/h7_encoder_capacity.py"] in by_all - by_a_run
    assert not [name for name, path in everything.items() if path in by_all and name.startswith(ONLY_RENDER)]
    assert not by_all & {ROOT / "cli.py", *(ROOT / "reports").rglob("*.py")}


def test_names_and_limits_of_files_are_in_the_hash(tmp_path: Path) -> None:
    def hashed(**files: str) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_text(content)
        return hash_files({"package": folder})

    found = [hashed(a="12", b="3"), hashed(a="1", b="23"), hashed(a="3", b="12"), hashed(a="12", c="3")]
    found += [hashed(a="123"), hashed(a="12", b="3", c=""), hash_files({"other": tmp_path / "0"})]
    assert len(set(found)) == len(found)
    assert hashed(b="3", a="12") == found[0]


def test_what_python_and_editors_leave_is_not_in_the_hash(copies: Mapping[str, Path]) -> None:
    before = hash_files(copies)
    (copies["etrm"] / "batch.py").write_bytes(b"# edited")
    before, first = hash_files(copies), before
    assert before != first  # an edit of one file among all of them
    cached = copies["etrm"] / "__pycache__"
    cached.mkdir()
    (cached / "batch.cpython-311.pyc").write_bytes(b"compiled")
    (copies["etrm"] / "config" / ".tree.py.swp").write_bytes(b"an editor's")
    assert hash_files(copies) == before


def test_a_worker_that_loaded_other_code_makes_no_run(tmp_path: Path) -> None:
    config = with_settings(load("smoke"), train={"steps": 2, "warmup_steps": 1, "threads": 1})
    work(Job(ArmId("arm"), 0, config), str(tmp_path), "0" * 64)
    assert {path.name for path in tmp_path.iterdir()} == {"summary.json"}
    assert '"state": "failed"' in (tmp_path / "summary.json").read_text()
