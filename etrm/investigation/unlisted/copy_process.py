"""Run the program of a copy of the packages in a process of its own, with a time limit."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from etrm.config import Config
from etrm.errors import ProcessError
from etrm.investigation.runs.budget import Tier

PROGRAM = "etrm.investigation.unlisted.program"
RUN, INVESTIGATION = "run", "investigation"
"""The folders in which the two commands of the program write."""
EXCEPTION = re.compile(r"[\w.]+(Error|Exception|Warning): ")
"""A line of a traceback that names its exception."""
STOPPED = 75
"""Exit status of the program after one of OPERATING_ERRORS, which says nothing about the copy (EX_TEMPFAIL)."""
TIMED_OUT = -1  # no process has this exit status


@dataclass(frozen=True)
class CopyProcess:
    """How processes of a copy run.

    Attributes:
        tier: the budget of an investigation.
        hypotheses: the hypotheses that it decides.
        limit: the largest number of seconds.
    """

    tier: Tier
    hypotheses: tuple[str, ...]
    limit: float

    def train(
        self, copy: Path, folder: Path, config: Config, environment: Mapping[str, str] | None = None
    ) -> str:
        """Train and evaluate a config in ``folder/run``.

        Returns:
            nothing, or the last line of the errors if that failed.

        Raises:
            ProcessError: a full disk or the like ended the process.
        """
        return self._call("train", copy, folder, config, folder / RUN, environment or {})

    def investigate(self, copy: Path, folder: Path, config: Config) -> str:
        """Investigate a config in ``folder/investigation``; returns the same."""
        return self._call("investigate", copy, folder, config, folder / INVESTIGATION, {})

    def _call(
        self,
        command: str,
        copy: Path,
        folder: Path,
        config: Config,
        out: Path,
        environment: Mapping[str, str],
    ) -> str:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(config.to_json(), "utf-8")
        arguments = [command, folder / "config.json", out, json.dumps(asdict(self.tier))]
        arguments += [",".join(self.hypotheses)]
        own = {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1", "ETRM_CACHE": str(folder / "cache")}
        log = folder / f"{command}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", PROGRAM, *map(str, arguments)],
                cwd=copy,  # Python looks there first
                env={**os.environ, **own, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            status = _wait(process, self.limit)
        if status == TIMED_OUT:
            return f"it took longer than {self.limit:.0f} seconds"
        if status == STOPPED:
            raise ProcessError(
                "bench.case-stopped",
                f"the process in {folder} was stopped by an error of the machine, so the case has no outcome",
                got=_summarize(log.read_text("utf-8", "replace"), status),
                next_step=f"see {log}; the same command continues",
            )
        return _summarize(log.read_text("utf-8", "replace"), status) if status else ""


def _summarize(text: str, status: int) -> str:
    """Return the line of an exception, whose message may have several, or else the last line."""
    lines = [line.strip() for line in text.split("\n") if line.strip()] or [f"exit status {status}"]
    return next((line for line in reversed(lines) if EXCEPTION.match(line)), lines[-1])


def _wait(process: subprocess.Popen[bytes], limit: float) -> int:
    """Wait for a process, and end it with the workers that it started."""
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        return TIMED_OUT
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
