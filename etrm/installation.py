"""Check that Python imports our `etrm`, `cli`, `diagnostics` and `reports`, not other packages of these names.

Other distributions have packages of these names. Python would run theirs if it finds them first, and pip overwrites
the files of one distribution with those of another without a warning.
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
"""The folder that contains all of our packages: a checkout, or site-packages."""

REINSTALL = f"install {DISTRIBUTION} again, with --force-reinstall --no-deps"


def check_installation() -> None:
    """Check where each package is imported from, and that no file of an installed wheel was overwritten.

    Raises:
        InstallationError: another package or another copy of ours is found first, or a file was overwritten.
    """
    for name in NAMES:
        check_origin(name)
    path = next(_overwritten(), None)
    if path is not None:
        owner = _owners(path)
        raise InstallationError(
            "installation.overwritten-file",
            f"{path} is not the file that {DISTRIBUTION} installed",
            got=f"a file of the distribution {owner}" if owner else "the file was changed or removed",
            next_step=f"pip uninstall {owner}, then {REINSTALL}" if owner else REINSTALL,
        )


def exit_unless_installed() -> None:
    """Run :func:`check_installation`; on an error, print it and exit with code 2."""
    try:
        check_installation()
    except InstallationError as error:
        sys.stderr.write(f"error: {error}\n")  # not the console of `reports`, which may be the wrong package
        sys.exit(2)


def check_origin(name: str) -> None:
    """Check that a top-level package is imported from the folder that contains `etrm`.

    Args:
        name: the name of one of our top-level packages or modules.

    Raises:
        InstallationError: the package is missing, or is imported from another folder.
    """
    found = _location(name)
    if found is None or not any((ROOT / ours).exists() for ours in (name, f"{name}.py")):
        raise InstallationError(
            "installation.missing-package",
            f"the package {name!r} is missing from {ROOT}",
            got=str(found or "none"),
            next_step=REINSTALL,
        )
    if found.parent == ROOT:
        return
    owner = _owners(found)
    move = f"remove {found.parent} from PYTHONPATH, start in another folder, or rename {found.name}"
    raise InstallationError(
        "installation.foreign-package",
        f"Python imports a package {name!r} that does not belong to {DISTRIBUTION}",
        got=str(found) + (f", of the distribution {owner}" if owner else ""),
        allowed=str(ROOT / found.name),
        next_step=f"pip uninstall {owner}" if owner else move,
    )


def _location(name: str) -> Path | None:
    """Return the folder of a package or the file of a module; None if Python finds neither."""
    spec = getattr(sys.modules.get(name), "__spec__", None) or find_spec(name)
    if spec is None or spec.origin is None:  # a folder without __init__.py is what an uninstall leaves
        return None
    file = Path(spec.origin).resolve()
    return file if spec.submodule_search_locations is None else file.parent


def _overwritten() -> Iterator[Path]:
    """Yield the installed files whose content differs from the wheel's RECORD.

    To start fast, only the first file of each package is checked, and every file of `diagnostics` if the toolkit is
    also installed on its own.
    """
    with_toolkit = any(ROOT.glob(f"{TOOLKIT.replace('-', '_')}-*.dist-info"))
    for record in ROOT.glob(f"{DISTRIBUTION.replace('-', '_')}-*.dist-info/RECORD"):  # none in a checkout
        for name, expected, _size in csv.reader(record.read_text("utf-8").splitlines()):
            checked = name in FIRST_FILES or (with_toolkit and name.startswith("diagnostics/"))
            if checked and expected and _hash(ROOT / name) != expected:
                yield ROOT / name


def _hash(path: Path) -> str:
    """Return the hash of a file in the format of RECORD; empty if there is no file."""
    if not path.exists():
        return ""
    digest = hashlib.sha256(path.read_bytes()).digest()
    return "sha256=" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _owners(path: Path) -> str:
    """Return the names of the other distributions that installed this file or folder, separated by spaces."""
    from importlib import metadata  # imported here because it is slow and only an error needs it

    found = sorted(
        distribution.name
        for distribution in metadata.distributions()
        if distribution.name != DISTRIBUTION
        and any(Path(str(file.locate())).is_relative_to(path) for file in distribution.files or ())
    )
    return " ".join(found)
