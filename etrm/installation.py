"""Checks that `etrm`, `cli`, `diagnostics` and `reports` are the ones of this installation.

Other distributions have packages of these names. One that is found first on the import path would run in place of ours,
and pip overwrites files of one distribution with those of another without a word.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from etrm.errors import InstallationError

DISTRIBUTION = "etrm-arc"
TOOLKIT = "etrm-diagnostics"
NAMES = ("etrm", "cli", "diagnostics", "reports")
FIRST_FILES = ("etrm/__init__.py", "cli.py", "diagnostics/__init__.py", "reports/__init__.py")
ROOT = Path(__file__).resolve().parents[1]
"""The folder that all of our packages are in: a checkout, or site-packages."""

REINSTALL = f"install {DISTRIBUTION} again, with --force-reinstall --no-deps"


def check_installation() -> None:
    """Check where each name is imported from, and that no file of an installed wheel was overwritten.

    Raises:
        InstallationError: a foreign package or another copy of ours is found first, or a file was overwritten.
    """
    for name in NAMES:
        check_origin(name)
    path = next(_overwritten(), None)
    if path is not None:
        owner = _owners(path)
        raise InstallationError(
            "installation.overwritten-file",
            f"{path} is not the file that {DISTRIBUTION} installed",
            got=f"a file of the distribution {owner}" if owner else "a file that was changed or removed",
            next_step=f"pip uninstall {owner}, then {REINSTALL}" if owner else REINSTALL,
        )


def exit_unless_installed() -> None:
    """Print what :func:`check_installation` refuses, and end the process with exit code 2."""
    try:
        check_installation()
    except InstallationError as error:
        sys.stderr.write(f"error: {error}\n")  # the console of `reports` may be the foreign one
        sys.exit(2)


def check_origin(name: str) -> None:
    """Check that a top-level name is imported from the folder that `etrm` is in.

    Args:
        name: a top-level package or module of ours.

    Raises:
        InstallationError: it is imported from elsewhere, or is missing.
    """
    found = _location(name)
    if found is None or not any((ROOT / ours).exists() for ours in (name, f"{name}.py")):
        raise InstallationError(
            "installation.missing-package",
            f"there is no {name!r} in {ROOT}",
            got=str(found or "none"),
            next_step=REINSTALL,
        )
    if found.parent == ROOT:
        return
    owner = _owners(found)
    move = f"remove {found.parent} from PYTHONPATH, start in another folder, or rename {found.name}"
    raise InstallationError(
        "installation.foreign-package",
        f"Python imports another {name!r} instead of the one of {DISTRIBUTION}",
        got=str(found) + (f", of the distribution {owner}" if owner else ""),
        allowed=str(ROOT / found.name),
        next_step=f"pip uninstall {owner}" if owner else move,
    )


def _location(name: str) -> Path | None:
    """The folder of a package or the file of a module, loaded or not; None where there is none."""
    spec = getattr(sys.modules.get(name), "__spec__", None) or find_spec(name)
    if spec is None or spec.origin is None:  # a folder without __init__.py is what an uninstall leaves
        return None
    file = Path(spec.origin).resolve()
    return file if spec.submodule_search_locations is None else file.parent


def _overwritten() -> Iterator[Path]:
    """Installed files whose content is not what the wheel recorded.

    The first file of each package is checked and, where the toolkit is also installed on its own, all of `diagnostics`.
    """
    with_toolkit = any(ROOT.glob(f"{TOOLKIT.replace('-', '_')}-*.dist-info"))
    for record in ROOT.glob(f"{DISTRIBUTION.replace('-', '_')}-*.dist-info/RECORD"):  # none in a checkout
        for name, expected, _size in csv.reader(record.read_text("utf-8").splitlines()):
            checked = name in FIRST_FILES or (with_toolkit and name.startswith("diagnostics/"))
            if checked and expected and _hash(ROOT / name) != expected:
                yield ROOT / name


def _hash(path: Path) -> str:
    """The hash of a file as RECORD has it; empty where there is no file."""
    if not path.exists():
        return ""
    digest = hashlib.sha256(path.read_bytes()).digest()
    return "sha256=" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _owners(path: Path) -> str:
    """The names of the other distributions that installed this file or folder, separated by spaces."""
    from importlib import metadata  # slow to import, and only an error needs it

    found = sorted(
        distribution.name
        for distribution in metadata.distributions()
        if distribution.name != DISTRIBUTION
        and any(Path(str(file.locate())).is_relative_to(path) for file in distribution.files or ())
    )
    return " ".join(found)
