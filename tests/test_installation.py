"""Foreign packages with our names: found, with their path and the remedy, before anything of them runs."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sampled import one_in

ROOT = Path(__file__).parents[1]
NAMES = ("diagnostics", "reports", "cli")
FOREIGN = "def main():\n    print('FOREIGN')\n"


def run(*arguments: str, first: Path, cwd: Path, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Python with a folder before all others on its path, and ours second."""
    variables = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, (first, root))),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True)


def package(folder: Path, name: str) -> Path:
    path = folder / name
    path.mkdir(parents=True)
    (path / "__init__.py").write_text(FOREIGN)
    return path


def module(folder: Path, name: str) -> Path:
    path = folder / f"{name}.py"
    path.write_text(FOREIGN)
    return path


@pytest.mark.parametrize(
    ("name", "make"),
    [
        *one_in(2, ((name, package) for name in NAMES)),
        *one_in(len(NAMES), ((name, module) for name in NAMES)),
    ],
)
def test_the_command_names_a_foreign_package_and_the_remedy(tmp_path: Path, name: str, make: object) -> None:
    assert callable(make)
    foreign = make(tmp_path, name)
    done = run("-m", "etrm", "--help", first=tmp_path, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert f"got:     {foreign}\n" in done.stderr
    assert f"allowed: {ROOT}{os.sep}{name}" in done.stderr
    assert f"remove {tmp_path} from PYTHONPATH" in done.stderr


def test_the_script_of_the_distribution_is_checked_too(tmp_path: Path) -> None:
    package(tmp_path, "cli")
    script = "import sys; from etrm.__main__ import main; sys.exit(main())"  # as installers write it
    done = run("-c", script, first=tmp_path, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")


def test_cli_as_a_module_checks_the_others(tmp_path: Path) -> None:
    foreign = package(tmp_path, "reports")
    done = run("-m", "cli", "--help", first=tmp_path, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert str(foreign) in done.stderr


def test_code_that_imports_training_gets_an_import_error_with_the_path(tmp_path: Path) -> None:
    foreign = package(tmp_path, "diagnostics")
    caught = "try:\n    import etrm.training.trainer\nexcept ImportError as error:\n    print(error)"
    done = run("-c", caught, first=tmp_path, cwd=tmp_path)
    assert str(foreign) in done.stdout, done.stderr


def test_what_is_ours_is_accepted(tmp_path: Path) -> None:
    done = run("-m", "etrm", "--help", first=tmp_path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "investigate" in done.stdout


def test_a_folder_that_is_no_package_is_no_matter(tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()  # such as the output of another tool, in the present folder
    assert run("-m", "etrm", "--help", first=tmp_path, cwd=tmp_path).returncode == 0


# an installed wheel: the same files, and a RECORD of them


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder as pip leaves it after installing the wheel, without the dependencies."""
    site = tmp_path / "site-packages"
    for name in ("etrm", "diagnostics", "reports"):
        shutil.copytree(
            ROOT / name, site / name, ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info")
        )
    shutil.copy(ROOT / "cli.py", site)
    write_record(site, "etrm_arc-0.1.0.dist-info", "etrm-arc", sorted(site.rglob("*.py")))
    return site


def write_record(site: Path, folder: str, name: str, files: list[Path]) -> None:
    (site / folder).mkdir()
    lines = []
    for file in files:
        digest = base64.urlsafe_b64encode(hashlib.sha256(file.read_bytes()).digest()).rstrip(b"=").decode()
        lines.append(f"{file.relative_to(site).as_posix()},sha256={digest},{file.stat().st_size}\n")
    (site / folder / "RECORD").write_text("".join([*lines, f"{folder}/RECORD,,\n"]))
    (site / folder / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: 0.1.0\n")


def check(site: Path) -> subprocess.CompletedProcess[str]:
    return run("-m", "etrm", "--help", first=site, cwd=site.parent, root=site)


def test_an_installed_wheel_is_accepted(installed: Path) -> None:
    done = check(installed)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", one_in(2, [*NAMES, "etrm"]))
def test_a_package_that_another_distribution_overwrote_is_found_with_its_name(
    installed: Path, name: str
) -> None:
    file = installed / ("cli.py" if name == "cli" else f"{name}/__init__.py")
    file.write_text(FOREIGN)
    write_record(installed, "somebody-1.0.dist-info", "somebody", [file])
    done = check(installed)
    assert (done.returncode, done.stdout) == (2, "")
    assert str(file) in done.stderr
    assert "pip uninstall somebody" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_name_that_an_uninstall_took_away_is_found(installed: Path) -> None:
    shutil.rmtree(installed / "diagnostics")
    done = check(installed)
    assert done.returncode == 2
    assert "diagnostics" in done.stderr
    assert "--force-reinstall" in done.stderr


def test_the_toolkit_alone_next_to_the_program_must_be_the_same_version(installed: Path) -> None:
    toolkit = sorted((installed / "diagnostics").rglob("*.py"))
    write_record(installed, "etrm_diagnostics-0.1.0.dist-info", "etrm-diagnostics", toolkit)
    assert check(installed).returncode == 0
    changed = installed / "diagnostics/rules/registry.py"
    changed.write_text(changed.read_text("utf-8") + "\n# of another version\n", "utf-8")
    done = check(installed)
    assert done.returncode == 2
    assert str(changed) in done.stderr
    assert "pip uninstall etrm-diagnostics" in done.stderr


def test_an_edit_of_an_installed_file_is_allowed(installed: Path) -> None:
    changed = installed / "diagnostics/rules/registry.py"
    changed.write_text(changed.read_text("utf-8") + "\n# while debugging\n", "utf-8")
    assert check(installed).returncode == 0
