"""The program that a changed copy runs in a process of its own: train a config, or investigate it.

Usage: ``python -m etrm.investigation.unlisted.program train|investigate CONFIG OUT [TIER HYPOTHESES]``, with
the copy on the path.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from etrm.atomic_files import write_atomically
from etrm.config import Config
from etrm.data.task import hash_grid
from etrm.errors import OPERATING_ERRORS, EtrmError
from etrm.evaluation import EvaluationReport
from etrm.investigation.run import investigate
from etrm.investigation.runs.budget import Tier
from etrm.investigation.runs.launchers import Attempt, Launcher
from etrm.investigation.unlisted.copy_process import STOPPED
from etrm.training.scoring.score_run import evaluate_run
from etrm.training.trainer import train

EVALUATION = "evaluation.json"
REFUSED = 2
"""Exit status after an error of this project; its code is the last line."""


def main(arguments: list[str]) -> int:
    """Run a command, and return the exit status."""
    command, config, out = (
        arguments[0],
        Config.from_json(Path(arguments[1]).read_text("utf-8")),
        Path(arguments[2]),
    )
    try:
        if command == "train":
            train(config, out, resume=out.exists())
            if config.model.has_encoder:  # a puzzle table has no rows for the held-out tasks
                answers = evaluate_run(out, {}).report
                write_atomically(out / EVALUATION, json.dumps(summarize(answers), indent=1) + "\n")
        else:
            _investigate(config, out, Tier(**json.loads(arguments[3])), arguments[4].split(","))
    except EtrmError as error:
        sys.stderr.write(f"{error}\n{error.code}\n")
        return STOPPED if isinstance(error, OPERATING_ERRORS) else REFUSED
    return 0


class InThisProcess:
    """An executor that does a call at once, which saves the start of a process."""

    def submit(self, call: Callable[..., None], *arguments: Any) -> Attempt:
        """Do a call, and return how it ended."""
        attempt: Future[None] = Future()
        try:
            call(*arguments)
        except Exception as error:  # noqa: BLE001 - as a pool of processes does
            attempt.set_exception(error)
        else:
            attempt.set_result(None)
        return attempt

    def stop(self, attempts: Sequence[Any]) -> None:
        """Do nothing: no call is left."""


@contextmanager
def _in_this_process(folder: Path) -> Iterator[InThisProcess]:
    yield InThisProcess()


def _investigate(config: Config, out: Path, tier: Tier, hypotheses: Sequence[str]) -> None:
    investigate(
        config,
        out,
        name="subject",
        first_seed=config.train.seed,
        launcher=Launcher(1, _in_this_process),
        command="",
        progress=lambda phase, done, total: None,
        experiments=(),
        hypotheses=hypotheses,
        tier=tier,
        until_root_cause=True,
    )


def summarize(report: EvaluationReport) -> dict[str, Any]:
    """The numbers and answers of a report, as JSON."""
    return {
        "token_accuracy": report.token_accuracy,
        "exact_accuracy": report.exact_accuracy,
        "samples": report.samples,
        "missing": report.missing,
        "empty": report.empty,
        "pass_at": {str(k): found.score for k, found in report.pass_at.items()},
        "queries": [[q.task_id, q.query, q.in_region, q.votes, q.candidates, q.rank] for q in report.queries],
        "candidates": {
            task: [[[hash_grid(c.grid), c.votes, c.halting] for c in ranked] for ranked in pairs]
            for task, pairs in report.candidates.items()
        },
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
