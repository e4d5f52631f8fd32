"""What investigations share: decoders and controls, kept in the user's cache folder.

A kept thing is found again by everything that its numbers depend on: its config, the code that made it, the tasks, and
what computed it. So changed code never meets an old number, nor one device the decoder of another.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from etrm.atomic_files import write_atomically
from etrm.cache_folder import cache_folder as cache_folder
from etrm.config import Config
from etrm.data import choose_training_tasks
from etrm.device import pick_device
from etrm.hardware import Compute, compute
from etrm.investigation.records import ControlOutcome
from etrm.investigation.runs.code_version import code_hash, judging_hash
from etrm.training.faults import apply_faults
from etrm.training.task_sets import load_held_out_tasks


def compute_of(config: Config, elsewhere: str = "") -> Compute:
    """What computes a run of this config: ``auto`` resolved to this machine's device, by its hardware's name.

    Args:
        config: the config of the run.
        elsewhere: the machines of a cluster that run it (see :class:`~etrm.investigation.runs.launchers.Launcher`),
            whose devices this process cannot see; empty for this machine.
    """
    train = apply_faults(config).train
    here = compute(train, pick_device(train.device))
    return replace(here, device=elsewhere) if elsewhere else here


def key(config: Config, elsewhere: str = "") -> str:
    """Name of what a config makes, with this code, on these tasks, and on this or another machine.

    A decoder that it starts from must itself be kept here, so that its path says what it was made of.

    Raises:
        ConfigError: a fault is not known.
        DataError: the tasks cannot be read.
    """
    return _named([config], code_hash(config), elsewhere)


def outcomes(
    name: str,
    configs: Sequence[Config],
    make: Callable[[], Sequence[ControlOutcome]],
    inspect: object = None,
) -> tuple[ControlOutcome, ...]:
    """The outcomes of the controls of a hypothesis by this code: found in the cache, or made and kept.

    Args:
        name: id of the hypothesis.
        configs: the configs of the controls without their decoder, which they determine.
        make: inspects the controls.
        inspect: the function that inspects one, whose code from outside the packages counts too.
    """
    code = judging_hash(*configs, judges=() if inspect is None else (inspect,))
    file = cache_folder() / "controls" / f"{name}-{_named(configs, code)}.json"
    if file.exists():
        return tuple(ControlOutcome.model_validate(item) for item in json.loads(file.read_text("utf-8")))
    made = tuple(make())
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json.dumps([outcome.model_dump(mode="json") for outcome in made], indent=1) + "\n")
    return made


def is_kept(config: Config, elsewhere: str = "") -> bool:
    """Whether a finished run of a config is kept."""
    return (cache_folder() / "controls" / key(config, elsewhere)).exists()


def restore(config: Config, folder: Path, elsewhere: str = "") -> None:
    """Replace ``folder`` by the kept run of a config, if there is one: all of it, or nothing."""
    kept = cache_folder() / "controls" / key(config, elsewhere)
    if not kept.exists():
        return
    new = folder.with_name(f".{folder.name}.new")  # one name: only one process works on an investigation
    shutil.rmtree(new, ignore_errors=True)  # left by a process that was killed
    shutil.copytree(kept, new)
    shutil.rmtree(folder, ignore_errors=True)
    new.rename(folder)


def keep(config: Config, folder: Path, elsewhere: str = "") -> None:
    """Keep the finished run in ``folder`` for other investigations."""
    kept = cache_folder() / "controls" / key(config, elsewhere)
    if kept.exists():
        return
    kept.parent.mkdir(parents=True, exist_ok=True)
    new = kept.with_name(f"{kept.name}.{os.getpid()}.new")
    shutil.copytree(folder, new)
    try:
        new.rename(kept)
    except OSError:  # another investigation was faster, and kept the same
        shutil.rmtree(new)


def _named(configs: Sequence[Config], code: str, elsewhere: str = "") -> str:
    parts = [code]
    for config in configs:
        tasks = (
            choose_training_tasks(config.data).hash,
            load_held_out_tasks(config).hash,
        )  # files of a user may change
        parts += [config.to_json(), json.dumps(asdict(compute_of(config, elsewhere))), *tasks]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
