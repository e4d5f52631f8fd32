"""The claim on an investigation's folder: one config, version of the code and device; one process at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from etrm.atomic_files import write_atomically
from etrm.checkpoints.folder_lock import lock_folder
from etrm.config import Config
from etrm.errors import RunFolderError
from etrm.investigation.runs.cache import compute_of
from etrm.investigation.runs.code_version import code_hash
from etrm.investigation.runs.launchers import Launcher


@contextmanager
def claim_folder(out: Path, subject: Config, name: str, launcher: Launcher) -> Iterator[None]:
    """Claim a folder for an investigation and lock it, or refuse it, before anything else is written.

    Raises:
        FolderInUseError: another process investigates in the folder.
        RunFolderError: the folder holds another investigation, or cannot be written.
    """
    file = out / "subject.json"
    computed = replace(compute_of(subject, launcher.elsewhere), threads=launcher.threads)
    wanted = {
        "name": name,
        "config": json.loads(subject.to_json()),
        "code": code_hash(subject),
        "compute": asdict(computed),
    }
    with _explain_refused_writes(out):
        out.mkdir(parents=True, exist_ok=True)
        lock = lock_folder(out)
    with lock:
        with _explain_refused_writes(out):
            if file.exists():
                _check(out, json.loads(file.read_text("utf-8")), wanted)
            else:
                write_atomically(file, json.dumps(wanted, indent=1, sort_keys=True) + "\n")
        yield


@contextmanager
def _explain_refused_writes(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunFolderError(
            "investigate.not-writable",
            f"{out} cannot be written",
            got=str(error),
            next_step="give another --out",
        ) from error


def _check(out: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    if found.get("code", wanted["code"]) != wanted["code"]:
        raise RunFolderError(
            "investigate.other-code",
            f"the runs in {out} were made by other code, and their numbers would be mixed with new ones",
            next_step="give another --out, or remove that folder",
        )
    before, now = found.get("compute", wanted["compute"]), wanted["compute"]
    differ = [name for name in now if before.get(name) != now[name]]
    if differ:
        raise RunFolderError(
            "investigate.other-device",
            f"the runs in {out} were computed with another {', '.join(differ)}, and arms are compared",
            got=", ".join(f"{name} {now[name]}" for name in differ),
            allowed=", ".join(f"{name} {before.get(name)}" for name in differ),
            next_step="continue as it began, or give another --out",
        )
    if found != wanted:
        raise RunFolderError(
            "investigate.other-subject",
            f"{out} contains an investigation of another config",
            allowed="the same preset, settings and faults, which continue it",
            next_step="give another --out",
        )
