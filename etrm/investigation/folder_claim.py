"""Claim on a folder of several runs: one process at a time, and in an investigation one config, code and device."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from typing import Any

from etrm.atomic_files import write_atomically
from etrm.checkpoints.folder_lock import lock_folder
from etrm.config import Config
from etrm.errors import FolderWriteError, RunFolderError
from etrm.investigation.runs.budget import Tier
from etrm.investigation.runs.cache import compute_of
from etrm.investigation.runs.code_version import code_hash
from etrm.investigation.runs.launchers import Launcher


@contextmanager
def hold_folder(out: Path) -> Iterator[None]:
    """Create a folder, and lock it against other processes meanwhile.

    Raises:
        FolderInUseError: another process works in the folder.
        RunFolderError: the folder cannot be written.
    """
    with _explain_refused_writes(out):
        out.mkdir(parents=True, exist_ok=True)
        lock = lock_folder(out)
    with lock:
        yield


@contextmanager
def claim_folder(out: Path, subject: Config, name: str, launcher: Launcher, tier: Tier) -> Iterator[None]:
    """Claim a folder for an investigation and lock it, or refuse it, before anything else is written.

    Its ``subject.json`` says whose runs it holds, and how long they are. Tiers whose runs have the same lengths can
    share a folder.

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
        LENGTHS: list_lengths(subject, tier),
    }
    with hold_folder(out):
        with _explain_refused_writes(out):
            found = read_claim(file) if file.exists() else wanted
            _check(out, found, wanted)
            known = found | {LENGTHS: found.get(LENGTHS, {}) | wanted[LENGTHS]}
            if known != found or not file.exists():
                write_atomically(file, json.dumps(known, indent=1, sort_keys=True) + "\n")
        yield


def read_claim(file: Path) -> dict[str, Any]:
    """Read a file that says whose runs a folder holds.

    Raises:
        RunFolderError: it is damaged.
    """
    try:
        found = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        found, got = None, str(error)
    else:
        got = type(found).__name__
    if not isinstance(found, dict):
        raise RunFolderError(
            "investigate.damaged-file",
            f"{file} is damaged, so it is unknown whose runs the folder holds",
            got=got,
            next_step="restore the file from a backup, or give another --out",
        )
    return found


LENGTHS = "lengths"
"""Entry of ``subject.json``: the lengths of the runs in the folder. Folders of earlier versions do not have it."""


def list_lengths(subject: Config, tier: Tier) -> dict[str, int]:
    """Return what a tier decides about the lengths of the runs of an investigation, by the names of its attributes.

    Args:
        subject: the config under test.
        tier: the budget. Kinds of runs that it leaves out have no length.
    """
    lengths = {
        "short_steps": tier.short_steps,
        "reference_steps": min(tier.reference_steps, subject.train.steps),
    }
    if tier.rule_steps:
        lengths["rule_steps"] = tier.rule_steps
    if subject.model.recursive and subject.model.has_encoder:
        lengths["frozen_steps"] = tier.frozen_steps
        if subject.train.decoder is None:
            lengths["pretrain_steps"] = tier.pretrain_steps
    return lengths


@contextmanager
def _explain_refused_writes(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FolderWriteError(
            "investigate.not-writable",
            f"{out} cannot be written",
            got=str(error),
            next_step="give another --out",
        ) from error


def _find_free_folder(out: Path) -> Path:
    """The first of the names ``out-2``, ``out-3``, ... that does not exist."""
    names = (out.with_name(f"{out.name}-{number}") for number in count(2))
    return next(path for path in names if not path.exists())


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
    if any(found.get(name) != wanted[name] for name in ("name", "config")):
        raise RunFolderError(
            "investigate.other-subject",
            f"{out} contains an investigation of another config",
            allowed="the same preset, settings and faults, which continue it",
            next_step=f"repeat the command with --out {shlex.quote(str(_find_free_folder(out)))}",
        )
    began, lengths = found.get(LENGTHS, {}), wanted[LENGTHS]
    differ = [kind for kind in lengths if began.get(kind, lengths[kind]) != lengths[kind]]
    if differ:
        raise RunFolderError(
            "investigate.other-lengths",
            f"the runs in {out} have other lengths, and runs are compared at the same length",
            got=", ".join(f"{kind} {lengths[kind]}" for kind in differ),
            allowed=", ".join(f"{kind} {began[kind]}" for kind in differ),
            next_step="give another --out, or the --tier and --pretrain-steps with which the folder began",
        )
