"""What a run was made with, compared with the config, tasks, code and machine of now."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

from etrm.checkpoints.run_folder import UNKNOWN_COMMIT, describe_environment
from etrm.config import Config
from etrm.errors import EtrmError
from etrm.hardware import compute, find_changes
from etrm.investigation.recorded_run.run_under_test import RunUnderTest
from etrm.investigation.result import RecordedDifference
from etrm.setting_texts import flatten
from etrm.training import named_code


class DifferenceCode(StrEnum):
    """What a run was made with and is different now."""

    SETTING = "run.other-setting"
    DATA = "run.other-data"
    DEVICE = "run.other-device"
    PRECISION = "run.other-precision"
    THREADS = "run.other-threads"
    VERSION = "run.other-version"
    COMMIT = "run.other-commit"
    UNCOMMITTED = "run.uncommitted-code"
    OUTSIDE_CODE = "run.other-outside-code"
    MOVED = "run.moved"  # between two processes of the run itself
    NOT_BUILT = "run.not-built"  # by the current code


CODES = {
    "device": DifferenceCode.DEVICE,
    "precision": DifferenceCode.PRECISION,
    "threads": DifferenceCode.THREADS,
    "versions": DifferenceCode.VERSION,
    "commit": DifferenceCode.COMMIT,
    "code": DifferenceCode.OUTSIDE_CODE,
}
"""Codes of the entries of ``run.json`` that are compared."""


def compare_environment(run: RunUnderTest, subject: Config) -> tuple[RecordedDifference, ...]:
    """What differs between the recorded run and an investigation of ``subject`` on this machine.

    Raises:
        EtrmError: the current code cannot build the run.
    """
    return (
        *compare_settings(run, subject),
        *_compare_tasks(run),
        *_compare_machine(run),
        *_list_moves(run),
    )


def compare_settings(run: RunUnderTest, subject: Config) -> Iterator[RecordedDifference]:
    """The settings of the investigation that are not those of the run."""
    before, now = (flatten(one.model_dump(mode="json")) for one in (run.config, subject))
    for name, value in now.items():
        if value != before.get(name):
            yield RecordedDifference(
                code=DifferenceCode.SETTING, name=name, before=str(before.get(name)), now=str(value)
            )


def _compare_tasks(run: RunUnderTest) -> Iterator[RecordedDifference]:
    before, now = run.record.get("data_hash"), run.start.tasks.hash
    if before not in (None, now):
        yield RecordedDifference(code=DifferenceCode.DATA, name="data_hash", before=str(before), now=now)


def _compare_machine(run: RunUnderTest) -> Iterator[RecordedDifference]:
    here = describe_environment()
    on = compute(run.used.train, run.start.device) if "device" in run.record else None
    if on is not None:
        here |= {"device": on.device, "precision": on.precision, "threads": on.threads}
    try:
        here["code"] = named_code.digests(run.config)
    except EtrmError as error:
        yield RecordedDifference(
            code=DifferenceCode.OUTSIDE_CODE, name=error.code, before="it was loaded", now=error.brief
        )
    for change in find_changes(run.record, here, 0):
        if change.name == "commit" and UNKNOWN_COMMIT in (change.before, change.now):
            continue
        code = CODES[change.name.partition(".")[0]]
        yield RecordedDifference(code=code, name=change.name, before=change.before, now=change.now)
    before, now = ("uncommitted" if record.get("dirty") else "committed" for record in (run.record, here))
    if "uncommitted" in (before, now):  # then the same commit is not known to be the same code
        yield RecordedDifference(code=DifferenceCode.UNCOMMITTED, name="code", before=before, now=now)


def _list_moves(run: RunUnderTest) -> Iterator[RecordedDifference]:
    """What changed between the processes of the run itself."""
    for change in run.record.get("changes", ()):
        yield RecordedDifference(
            code=DifferenceCode.MOVED,
            name=f"{change['name']}, step {change['step']}",
            before=change["before"],
            now=change["now"],
        )
