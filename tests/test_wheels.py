"""Both distributions, built and installed into fresh environments, and used there. Needs a package index and git."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
TORCH_ALONE = {
    "etrm-diagnostics",
    "torch",
    "filelock",
    "fsspec",
    "jinja2",
    "markupsafe",
    "mpmath",
    "networkx",
}
TORCH_ALONE |= {"setuptools", "sympy", "typing-extensions", "pip"}

WATCHED = """
import importlib.util
import warnings
from collections import OrderedDict

assert importlib.util.find_spec("numpy") is None
with warnings.catch_warnings():  # of torch itself, at its import without numpy
    warnings.filterwarnings("ignore", "Failed to initialize NumPy", UserWarning)
    import torch
from torch import nn

import diagnostics
from diagnostics import RULES, Monitor, explain, to_html, to_markdown, to_sarif

torch.manual_seed(0)
model = nn.Sequential(OrderedDict(encoder=nn.Linear(4, 8), decoder=nn.Linear(8, 1)))
optimizer = torch.optim.AdamW(model.parameters())
monitor = Monitor(model, optimizer, watch=["encoder", "decoder"])
for _ in range(8):
    with monitor.step(samples=6):
        model.decoder(model.encoder(torch.randn(6, 4)).detach()).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
print(monitor.coverage("encoder"), to_markdown(monitor.findings()).splitlines()[0])
assert "False alarms" in explain("COV001")
assert all(explain(rule.id) for rule in RULES)
assert to_html(monitor.findings()) and to_sarif(monitor.findings())
print(diagnostics.__file__)
"""
CASE = """
import torch
from torch import nn


def make_case():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    return {
        "model": model,
        "step": lambda model, batch: model(batch).square().mean(),
        "batches": [torch.randn(6, 4) for _ in range(4)],
        "optimizer": torch.optim.AdamW(model.parameters()),
    }
"""


class Environment:
    """A fresh virtual environment; its commands run in an empty folder, without our checkout on the path."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
        self.work = folder / "work"
        self.work.mkdir(parents=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)

    def try_(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        variables = {
            key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "ETRM_CACHE")
        }
        command = [str(self.bin / program), *arguments]
        return subprocess.run(command, cwd=self.work, env=variables, capture_output=True, text=True)

    def run(self, program: str, *arguments: str) -> str:
        done = self.try_(program, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        print(f"$ {program} {' '.join(arguments)}\n{done.stdout}")  # noqa: T201 (shown by pytest -s)
        return done.stdout

    def install(self, *what: str) -> None:
        self.run("python", "-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt"), *what)

    def installed(self) -> set[str]:
        listed = json.loads(self.run("python", "-m", "pip", "list", "--format", "json"))
        return {one["name"].lower().replace("_", "-") for one in listed}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean copy of the checkout as a git repository."""
    copy = tmp_path_factory.mktemp("source") / "etrm"
    listed = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, check=True, capture_output=True, text=True).stdout.split("\0"):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "copy"]):
        identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
        subprocess.run(["git", "-C", str(copy), *identity, *arguments], check=True)
    return copy


@pytest.fixture(scope="module")
def wheels(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel of each distribution, built from the checkout."""
    return {
        name: build(checkout / folder, tmp_path_factory.mktemp(name))
        for name, folder in (("etrm-arc", "."), ("etrm-diagnostics", "diagnostics"))
    }


def build(source: Path, out: Path) -> Path:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(out), str(source)]
    subprocess.run(command, check=True)
    (wheel,) = out.glob("*.whl")
    return wheel


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_toolkit_works_with_torch_as_its_only_requirement(checkout: Path, tmp_path: Path) -> None:
    there = Environment(tmp_path)
    there.install(f"etrm-diagnostics @ git+file://localhost{checkout}#subdirectory=diagnostics")
    assert "etrm-diagnostics" in there.installed()
    assert there.installed() <= TORCH_ALONE
    (there.work / "watched.py").write_text(WATCHED)
    said = there.run("python", "-W", "error", "watched.py")
    assert said.startswith("0.0 ## critical: GRAD001 encoder")
    assert str(there.bin.parent) in said
    assert "# COV001: " in there.run("python", "-m", "diagnostics", "explain", "COV001")
    assert "# monitor.detached" in there.run("python", "-m", "diagnostics", "explain", "monitor.detached")


def test_the_program_works_from_its_wheel_and_next_to_the_toolkit(
    wheels: dict[str, Path], tmp_path: Path
) -> None:
    there = Environment(tmp_path)
    there.install(str(wheels["etrm-arc"]))
    use(there)
    there.install("--no-deps", str(wheels["etrm-diagnostics"]))
    assert "investigate" in there.run("etrm", "--help")

    rules = next(there.bin.parent.rglob("site-packages/diagnostics/rules/registry.py"))
    rules.write_text(rules.read_text("utf-8") + "\n# of another version\n", "utf-8")
    refused = there.try_("etrm", "--help")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "pip uninstall etrm-diagnostics" in refused.stderr

    there.run("python", "-m", "pip", "uninstall", "--yes", "etrm-diagnostics")
    incomplete = there.try_("etrm", "--help")
    assert (incomplete.returncode, incomplete.stdout) == (2, "")
    assert "--force-reinstall" in incomplete.stderr
    there.install("--force-reinstall", "--no-deps", str(wheels["etrm-arc"]))
    assert "investigate" in there.run("etrm", "--help")


def use(there: Environment) -> None:
    """Every command that reads files of the package: presets, assets, tasks, and its own source."""
    (there.work / "case.py").write_text(CASE)
    there.run("etrm", "train", "--preset", "smoke", "--set", "train.steps=3", "--out", "run")
    assert "train.steps = 3 " in there.run("etrm", "config", "run")
    assert "run" in there.run("etrm", "runs", ".")
    there.run("etrm", "plot", "run", "--keys", "loss", "--out", "loss.png")
    assert (there.work / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert "cached-context" in there.run("etrm", "faults")
    assert "RULE001" in there.run("etrm", "audit", "case.py:make_case")
    there.run("etrm", "audit", "case.py:make_case", "--format", "sarif", "--out", "audit.sarif")
    assert "**False alarms.**" in (there.work / "audit.sarif").read_text("utf-8")  # a rule page
    there.run(
        "etrm", "investigate", "--preset", "smoke", "--hypotheses", "H5", "--no-experiments", "--out", "found"
    )
    assert "<style>" in (there.work / "found/report.html").read_text("utf-8")
    assert "# COV001: " in there.run(
        "python", "-c", "import diagnostics; print(diagnostics.explain('COV001'))"
    )
    for code in (
        "COV001",
        "config.unknown-setting",
        "monitor.detached",
        "h2.no-gradient",
    ):  # read from the source
        assert f"# {code}" in there.run("etrm", "explain", code)


@pytest.mark.parametrize("folder", [".", "diagnostics"])
def test_the_wheel_of_the_source_distribution_is_the_wheel_of_the_checkout(
    folder: str, checkout: Path, wheels: dict[str, Path], tmp_path: Path
) -> None:
    there = Environment(tmp_path)
    there.install("setuptools>=77")
    archive = tmp_path / "sdist"
    code = f"import os; os.chdir({str(checkout / folder)!r}); from setuptools.build_meta import build_sdist; "
    there.run("python", "-c", f"{code}build_sdist({str(archive)!r})")
    (source,) = archive.glob("*.tar.gz")
    wheel = wheels["etrm-arc" if folder == "." else "etrm-diagnostics"]
    assert names(build(source, tmp_path / "again")) == names(wheel)


def test_both_wheels_have_the_same_toolkit_and_nothing_of_the_checkout(wheels: dict[str, Path]) -> None:
    main, toolkit = names(wheels["etrm-arc"]), names(wheels["etrm-diagnostics"])
    assert {name for name in main if name.startswith("diagnostics/")} == {
        name for name in toolkit if not name.startswith("etrm_diagnostics-")
    }
    tops = {name.split("/")[0] for name in main if "dist-info" not in name}
    assert tops == {"cli.py", "etrm", "diagnostics", "reports"}
