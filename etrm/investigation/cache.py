"""What investigations share: decoders and controls, kept in the user's cache folder.

A kept thing is found again by a hash of its config and of the code that made it, so that changed
code never meets an old number.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import diagnostics
import etrm
from etrm.config import Config
from etrm.files import write_atomically
from etrm.investigation.result import ControlOutcome


def cache_folder() -> Path:
    """``$ETRM_CACHE``, or ``etrm`` in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("ETRM_CACHE") or Path(home) / "etrm")


def code_hash() -> str:
    """Hash of the code that the numbers of a run depend on."""
    return _hash_of("data", "model", "evaluation", "training", "investigation/measure.py")


def judging_hash() -> str:
    """Hash of the code that a verdict depends on."""
    return _hash_of("data", "model", "evaluation", "training", "investigation")


@lru_cache
def _hash_of(*parts: str) -> str:
    """Of the toolkit and of packages or modules of etrm."""
    folders = [Path(diagnostics.__file__).parent]
    folders += [Path(etrm.__file__).parent / name for name in parts]
    found = (path for folder in folders for path in (folder.rglob("*.py") if folder.is_dir() else (folder,)))
    digest = hashlib.sha256()
    for path in sorted(found):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def key(config: Config) -> str:
    """Name of what a config and this code make."""
    return hashlib.sha256((config.to_json() + code_hash()).encode()).hexdigest()[:16]


def outcomes(name: str, make: Callable[[], Sequence[ControlOutcome]]) -> tuple[ControlOutcome, ...]:
    """How the controls of a hypothesis behaved, by this code: found in the cache, or made and kept."""
    file = cache_folder() / "controls" / f"{name}-{judging_hash()[:16]}.json"
    if file.exists():
        return tuple(ControlOutcome.model_validate(item) for item in json.loads(file.read_text("utf-8")))
    made = tuple(make())
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json.dumps([outcome.model_dump(mode="json") for outcome in made], indent=1) + "\n")
    return made


def restore(config: Config, folder: Path) -> None:
    """Put the kept run of a config in ``folder``, if there is one."""
    kept = cache_folder() / "controls" / key(config)
    if kept.exists():
        shutil.copytree(kept, folder, dirs_exist_ok=True)


def keep(config: Config, folder: Path) -> None:
    """Keep the finished run in ``folder`` for other investigations."""
    kept = cache_folder() / "controls" / key(config)
    if kept.exists():
        return
    kept.parent.mkdir(parents=True, exist_ok=True)
    new = kept.with_name(f"{kept.name}.{os.getpid()}.new")
    shutil.copytree(folder, new)
    try:
        new.rename(kept)
    except OSError:  # another investigation was faster, and kept the same
        shutil.rmtree(new)
