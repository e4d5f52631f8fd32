"""The original neural-symbolic solver, rebuilt with its faults and repaired one fault at a time.

Each stage repairs one thing more than the stage before. It is trained, evaluated on held-out rules and investigated, so
that the page shows what a user would have seen at that point: the loss, the score, and what the instruments name.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from etrm.atomic_files import write_atomically
from etrm.checkpoints.run_folder import describe_environment
from etrm.config import Config, load, with_settings
from etrm.errors import RunFolderError
from etrm.evaluation import evaluate_baselines
from etrm.investigation.evidence.figures import Series, logged_curve, smooth
from etrm.investigation.records import Code, Record, Run, Verdict
from etrm.investigation.result import HypothesisResult
from etrm.investigation.run import Progress, investigate
from etrm.investigation.runs.arms import ArmId
from etrm.investigation.runs.budget import SCREENING
from etrm.investigation.runs.jobs import Job, run_jobs
from etrm.investigation.runs.launchers import Launcher
from etrm.investigation.runs.loaded_run import LoadedRun
from etrm.training.task_sets import load_held_out_tasks, load_training_tasks

FILE = "story.json"
PRESET = "symbolic-rules"
"""Held-out recolouring rules: tasks on which a repaired solver does learn within minutes."""
HYPOTHESES = ("H2", "H3", "N3", "N4")
"""Those that are decided by inspection, within seconds."""
ENTROPY_WEIGHT = 0.01
"""Weight of the regulariser in the original (Training loss analysis)."""
STUDY = "story"
WINDOW = 10
"""Number of steps over which a curve is averaged."""


@dataclass(frozen=True)
class RepairStage:
    """The solver after some repairs.

    Attributes:
        code: name of the stage.
        title: the repair, in words.
        faults: names of the faults that are left.
        symbolic: settings of ``model.symbolic``.
        train: settings of ``train``.
    """

    code: str
    title: str
    faults: tuple[str, ...]
    symbolic: dict[str, Any]
    train: dict[str, Any]

    def config(self, base: Config, steps: int, seed: int) -> Config:
        """The config to train, with that many steps and otherwise the settings of ``base``."""
        train = {**self.train, "steps": steps, "warmup_steps": min(20, steps), "seed": seed, "threads": 1}
        return with_settings(base, model={"symbolic": self.symbolic}, train=train, faults=self.faults)


def _list_stages() -> tuple[RepairStage, ...]:
    faults: tuple[str, ...] = (
        "tautology-guard",
        "assignment-lost",
        "predicates-unregistered",
        "hard-selection",
    )
    repairs = (
        ("assignment-lost", "the assignment is kept"),
        ("tautology-guard", "the guard's own truth weighs the assignment"),
        ("hard-selection", "the answer is the mixture of all templates"),
        ("predicates-unregistered", "the predicates are registered modules"),
    )
    recursion: dict[str, Any] = {"cycles": 3, "cycle_grad": "last", "inject": "start", "hidden_size": 128}
    library: dict[str, Any] = {"families": ("original", "learned"), "composites": True}
    train: dict[str, Any] = {"entropy_weight": ENTROPY_WEIGHT}
    symbolic: dict[str, Any] = {**library, **recursion, "selector": "input"}
    stages = [RepairStage("as-found", "the system as it was found", faults, symbolic, train)]
    for fault, title in repairs:
        faults = tuple(name for name in faults if name != fault)
        stages.append(RepairStage(f"without-{fault}", title, faults, symbolic, train))
    symbolic = {**symbolic, "cycle_grad": "all"}
    stages.append(
        RepairStage("cycles-with-gradient", "all cycles keep their gradient", faults, symbolic, train)
    )
    symbolic = {**symbolic, "selector": "demos"}
    stages.append(
        RepairStage("demonstrations-read", "the encoder reads the demonstrations", faults, symbolic, train)
    )
    symbolic = {**library, "selector": "fit"}
    stages.append(
        RepairStage("templates-evaluated", "templates are rated by their fit", faults, symbolic, train)
    )
    return tuple(stages)


STAGES = _list_stages()


class StageVerdict(Record):
    """The verdict of one hypothesis at one stage."""

    id: str
    verdict: Verdict
    codes: tuple[Code, ...]


class StageResult(Record):
    """What one stage showed."""

    code: str
    title: str
    faults: tuple[str, ...]
    run: Run
    loss_before: float  # on the training queries, before training
    loss_after: float  # on the same queries, after it
    entropy_before: float  # of the template weights in nats, first step
    entropy_after: float  # likewise, last step
    root_cause: str | None
    verdicts: tuple[StageVerdict, ...]
    rules: tuple[str, ...]  # codes of the critical findings of the run


class BaselineScore(Record):
    """The score of answers that need no learning."""

    name: str
    solved: int
    evaluated: int
    token_accuracy: float


class Story(Record):
    """All stages, and what is needed to run them again."""

    schema_version: Literal[1] = 1
    steps: int
    seed: int
    stages: tuple[StageResult, ...]
    baselines: tuple[BaselineScore, ...]
    series: tuple[Series, ...]
    command: str
    environment: dict[str, Any]
    data_hash: str

    @classmethod
    def read(cls, folder: Path) -> Story:
        """Read the story that a folder holds.

        Raises:
            RunFolderError: there is none, or it is damaged.
        """
        try:
            return cls.model_validate_json((folder / FILE).read_bytes())
        except (OSError, ValidationError) as error:
            raise RunFolderError(
                "story.unreadable",
                f"{folder / FILE} cannot be read",
                got=type(error).__name__,
                next_step=f"etrm symbolic story --out {shlex.quote(str(folder))}",
            ) from None


def tell(
    out: Path,
    launcher: Launcher,
    *,
    command: str,
    progress: Progress,
    steps: int = 200,
    seed: int = 0,
    stages: Sequence[RepairStage] = STAGES,
    base: Config | None = None,
    hypotheses: Sequence[str] = HYPOTHESES,
) -> Story:
    """Train, evaluate and investigate every stage, and write ``out/story.json``.

    Args:
        out: the folder; what is finished there is not run again.
        launcher: the launcher of the training runs.
        command: the command line, for the page.
        progress: a function that is called with a phase, the steps done and the steps in all.
        steps: number of training steps of each stage.
        seed: the seed of every run.
        stages: the stages.
        base: the config that stages change, the preset ``symbolic-rules`` by default.
        hypotheses: ids of the hypotheses to decide at every stage.

    Raises:
        EtrmError: the folder cannot be used.
        Interrupted: Ctrl-C; the same command resumes.
    """
    base = load(PRESET) if base is None else base
    configs = {stage.code: stage.config(base, steps, seed) for stage in stages}
    jobs = [Job(ArmId(STUDY, code), seed, config, measure=True) for code, config in configs.items()]
    runs = run_jobs(out, jobs, launcher, lambda done, total: progress("training", done, total))
    found, series = [], []
    for place, (stage, job) in enumerate(zip(stages, jobs, strict=True)):
        run = runs[job.key]
        result = investigate(
            configs[stage.code],
            out / "investigations" / stage.code,
            name=stage.code,
            launcher=launcher,
            command=command,
            progress=_name_phases(progress, stage.code),
            hypotheses=hypotheses,
            experiments=(),
            tier=SCREENING,
        )
        found.append(
            _summarise(stage, run, {id: result.hypotheses[id] for id in hypotheses}, result.root_cause)
        )
        series.append(smooth(logged_curve("loss", run, "lm_loss", f"{place} {stage.code}"), WINDOW))
    last = configs[stages[-1].code]
    story = Story(
        steps=steps,
        seed=seed,
        stages=tuple(found),
        baselines=tuple(
            BaselineScore(
                name=name,
                solved=report.pass_at[1].solved,
                evaluated=report.pass_at[1].asked,
                token_accuracy=report.token_accuracy,
            )
            for name, report in evaluate_baselines(load_held_out_tasks(last), last.data).items()
        ),
        series=tuple(series),
        command=command,
        environment=describe_environment(),
        data_hash=load_training_tasks(last).hash,
    )
    write_atomically(out / FILE, json.dumps(story.model_dump(mode="json"), indent=1, sort_keys=True) + "\n")
    return story


def _name_phases(progress: Progress, stage: str) -> Progress:
    return lambda phase, done, total: progress(f"{stage}, {phase}", done, total)


def _summarise(
    stage: RepairStage, run: LoadedRun, decided: Mapping[str, HypothesisResult], root_cause: str | None
) -> StageResult:
    entropies = [float(m["entropy"]) for m in run.metrics]
    return StageResult(
        code=stage.code,
        title=stage.title,
        faults=stage.faults,
        run=run.record,
        loss_before=_number(run, "loss_start"),
        loss_after=_number(run, "loss_end"),
        entropy_before=entropies[0],
        entropy_after=entropies[-1],
        root_cause=root_cause,
        verdicts=tuple(
            StageVerdict(id=id, verdict=found.verdict, codes=found.codes) for id, found in decided.items()
        ),
        rules=tuple(sorted({item["rule"] for item in run.findings if item["severity"] == "critical"})),
    )


def _number(run: LoadedRun, key: str) -> float:
    found = run.final[key]
    assert isinstance(found, int | float)  # measured runs have it
    return float(found)
