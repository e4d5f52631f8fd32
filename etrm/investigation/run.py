"""A whole investigation: decoders, hypotheses in order, experiments, root cause, ``result.json``."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from etrm.atomic_files import write_atomically
from etrm.checkpoints.run_folder import describe_environment
from etrm.config import Config, with_overrides
from etrm.errors import ConfigError, RunFolderError
from etrm.evaluation import EvaluationReport, evaluate_baselines
from etrm.evaluation.statistics import holm
from etrm.investigation.comparison.paired_contrast import LARGEST_P
from etrm.investigation.comparison.screening import jobs_of
from etrm.investigation.evidence import Metric
from etrm.investigation.experiments import frozen_decoder
from etrm.investigation.hypotheses import h1_decoder_loading as h1
from etrm.investigation.hypotheses import h2_encoder_gradients as h2
from etrm.investigation.hypotheses import h3_context_interface as h3
from etrm.investigation.hypotheses import h4_training_dynamics as h4
from etrm.investigation.hypotheses import h5_data as h5
from etrm.investigation.hypotheses import h6_evaluator as h6
from etrm.investigation.hypotheses import h7_encoder_capacity as h7
from etrm.investigation.measurements.additional_findings import beside
from etrm.investigation.protocol import ORDER, CommonReason, Investigation, not_run
from etrm.investigation.result import (
    Beside,
    CauseCode,
    Evidence,
    Experiment,
    Hypothesis,
    Reproduce,
    Result,
    Scenario,
    Verdict,
    explanation,
)
from etrm.investigation.runs.budget import SCREENING, Tier
from etrm.investigation.runs.cache import compute_of
from etrm.investigation.runs.code_version import code_hash
from etrm.investigation.runs.jobs import Job
from etrm.investigation.runs.launchers import Launcher
from etrm.training.faults import build_recipe
from etrm.training.task_sets import load_held_out_tasks, load_training_tasks

Progress = Callable[[str, int, int], None]
OnVerdict = Callable[[Hypothesis], None]
Conduct = Callable[[Investigation, float], Experiment]
"""Runs an experiment, given the best trivial baseline's pass@1 on the held-out tasks."""
Confidence = Literal["proven", "candidate"]


class RootCause(NamedTuple):
    """The root cause, or why none is named.

    Attributes:
        id: of the hypothesis, None where none is named.
        confidence: whether it is proven, None where none is named.
        code: stable name of the outcome.
        sentence: the same in words.
    """

    id: str | None
    confidence: Confidence | None
    code: CauseCode
    sentence: str


BASELINE_SCORE = Metric("baseline.score", "{item}: pass@1 on the held-out tasks")
MODULES = (h5, h6, h1, h2, h3, h4, h7)
DECIDED = {module.STATEMENT.id: module.decide for module in MODULES}
STATEMENTS = {module.STATEMENT.id: module.STATEMENT for module in MODULES}

NEXT_STEP = {
    "H5": "Mend the loader first: page H5 names the first row whose grids are not its task's. Then run the same "
    "command again.",
    "H6": "Mend the evaluator first: page H6 names the planted prediction that is not scored as planted. Its "
    "earlier scores mean nothing.",
    "H3": "Look at what stands between encoder and decoder: page H3 says by which factor, or from which rows. Then "
    "run the same command again.",
    "H1": "Mend the loading first: compare key names, EMA and cycles with the checkpoint (page H1), then run the "
    "same command again.",
    "H2": "Give the encoder its gradients first: look for a cache, a detach, a no_grad, a frozen module or a skipped "
    "optimiser at the place that page H2 names, then run the same command again.",
    "H4": "Make the change that page H4 names in the config, then run the same command again, with --seeds 5 where it "
    "is a candidate.",
    "H7": "Give it the encoder that page H7 names, then run the same command again, with --seeds 5 where it is a "
    "candidate.",
}
NEXT_BY_SCENARIO = {
    Scenario.LEARNS: "Nothing is wrong with loading or gradients, and the encoder learns. Train longer: "
    "`etrm train`, then `etrm evaluate`.",
    Scenario.STUCK: "Loading and gradients are sound, yet the encoder is stuck with a frozen decoder. Look at the "
    "rates and the decoder's own quality (page frozen-decoder), then at H3 and H4.",
    Scenario.USELESS: "Loading and gradients are sound and the encoder trains, but nothing held out is solved. Give it "
    "more tasks, steps and augmentation (data.augmentations='fresh') before asking for capacity (H7).",
    Scenario.CAUGHT: "The checks hold. `etrm frozen-decoder` runs the experiment itself.",
    Scenario.MISSED: "Do not trust the experiment before the check that was passed is fixed.",
    Scenario.UNDECIDED: "Nothing that was tested explains a failure to learn. More seeds and steps narrow the "
    "intervals: --seeds 5, then `etrm train` and `etrm evaluate`.",
}


def chosen(names: str) -> tuple[str, ...]:
    """The hypotheses that a text asks for: ids with commas between them, or ``all``.

    Raises:
        ConfigError: one of them is not known.
    """
    asked = (
        tuple(DECIDED) if names.strip() == "all" else tuple(n.strip() for n in names.split(",") if n.strip())
    )
    unknown = [name for name in asked if name not in STATEMENTS]
    if unknown:
        raise ConfigError(
            "investigate.unknown-hypothesis",
            f"unknown hypothesis {unknown[0]!r}",
            allowed=f"all, or of {', '.join(sorted(STATEMENTS))}",
        )
    return asked


def investigate(
    subject: Config,
    out: Path,
    *,
    name: str,
    launcher: Launcher,
    command: str,
    progress: Progress,
    hypotheses: tuple[str, ...] = tuple(DECIDED),
    experiments: Sequence[Conduct] = (frozen_decoder.run,),
    tier: Tier = SCREENING,
    until_root_cause: bool = False,
    first_seed: int = 0,
    on_verdict: OnVerdict = lambda hypothesis: None,
) -> Result:
    """Decide hypotheses about a subject and write ``out/result.json``.

    Args:
        subject: the config to be judged, faults included.
        out: folder of the investigation; what is finished there is not run again.
        name: how the report calls the subject.
        launcher: of training runs.
        command: the command line, for the report.
        progress: called with a phase, steps done and steps in all.
        hypotheses: ids to decide; the others are NOT RUN.
        experiments: run beside them, where the subject has an encoder.
        tier: seeds and steps.
        until_root_cause: leave what stands behind the first proven cause, and the experiments, alone.
        first_seed: of the seeds, which follow one another.
        on_verdict: called with each hypothesis as it is decided, but for those whose verdict waits for the others'.

    Raises:
        EtrmError: the config, data, decoder or folder cannot be used.
        Interrupted: Ctrl-C; the same command goes on from there.
    """
    chosen(",".join(hypotheses))  # refused before any work
    began, where = time.perf_counter(), describe_environment()
    build_recipe(subject)  # an unknown fault is refused before any work
    _claim(out, subject, name, launcher)
    # Every arm has its own seed, a store has one, and neither it nor workers change a sample.
    subject = with_overrides(subject, ("data.store=none", "data.workers=0"))
    investigation = Investigation(
        out,
        subject,
        tuple(range(first_seed, first_seed + tier.seeds)),
        launcher,
        progress,
        tier,
        short_seeds=tuple(range(first_seed, first_seed + tier.short_seeds)),
        frozen_decoder=frozen_decoder.run in experiments and not until_root_cause,
        meanwhile=lambda: () if until_root_cause else _short_runs(investigation, hypotheses),
    )

    def reached(hypothesis: Hypothesis) -> Hypothesis:
        found = hypothesis.replace(decided_after_s=round(time.perf_counter() - began, 1))
        if found.p_value is None:  # else Holm's correction over all of them may still change it
            on_verdict(found)
        return found

    decided = _decide_all(investigation, hypotheses, until_root_cause, reached)
    baselines = evaluate_baselines(load_held_out_tasks(subject), subject.data)
    found: tuple[Experiment, ...] = ()
    proven = root_cause(decided).confidence == "proven"
    if not (until_root_cause and proven) and subject.model.variant != "trm":
        best = max(report.pass_at[1].score for report in baselines.values())
        found = tuple(conduct(investigation, best) for conduct in experiments)
    noticed = beside(investigation)
    reproduce = _reproduce(investigation, command, where, time.perf_counter() - began)
    result = _result(name, decided, found, baselines, noticed, reproduce)
    result.write(out)
    return result


def _short_runs(investigation: Investigation, asked: Sequence[str]) -> list[Job]:
    """What H4 and H7 begin with, which depends on nothing that is found before."""
    screens = [
        screen
        for module in (h4, h7)
        if module.STATEMENT.id in asked
        for screen in module.screens(investigation)
    ]
    return jobs_of(screens)


def _decide_all(
    investigation: Investigation,
    asked: tuple[str, ...],
    until_root_cause: bool,
    reached: Callable[[Hypothesis], Hypothesis],
) -> dict[str, Hypothesis]:
    """Every hypothesis in the order, decided, which goes through ``reached``, or with the reason why not."""
    decided: dict[str, Hypothesis] = {}
    for id in ORDER:
        cause = root_cause(decided)
        if until_root_cause and cause.confidence == "proven":
            words = f"Stands behind the root cause {cause.id}, where this run stopped."
            decided[id] = not_run(STATEMENTS[id], CommonReason.STOPPED_AT_ROOT_CAUSE, words)
        elif id in asked:
            decided[id] = reached(_behind(DECIDED[id](investigation), decided))
        else:
            words = f"Not asked for: --hypotheses {','.join(asked)}."
            decided[id] = not_run(STATEMENTS[id], CommonReason.NOT_SELECTED, words)
    return _over_all(decided)


def _behind(hypothesis: Hypothesis, upstream: Mapping[str, Hypothesis]) -> Hypothesis:
    """A statistical hypothesis says what it stands behind: its losses may be that fault's doing."""
    cause = root_cause(upstream)
    if (
        cause.confidence != "proven"
        or hypothesis.kind != "statistical"
        or hypothesis.verdict is Verdict.NOT_RUN
    ):
        return hypothesis
    return hypothesis.replace(
        codes=(*hypothesis.codes, CommonReason.DOWNSTREAM),
        sentence=f"{hypothesis.sentence} It stands behind {cause.id}, which is proven and may be the reason.",
    )


def _over_all(decided: dict[str, Hypothesis]) -> dict[str, Hypothesis]:
    """Holm over the statistical hypotheses: VALIDATED needs an adjusted p-value below .05."""
    tested = [h for h in decided.values() if h.p_value is not None]
    adjusted = holm([h.p_value for h in tested if h.p_value is not None])
    for hypothesis, p in zip(tested, adjusted, strict=True):
        if hypothesis.verdict is Verdict.VALIDATED and p >= LARGEST_P:
            words = f"Over all statistical hypotheses its p-value is {p:.2g}: undecided."
            decided[hypothesis.id] = hypothesis.replace(
                verdict=Verdict.INCONCLUSIVE,
                codes=(*hypothesis.codes, CommonReason.NOT_SIGNIFICANT),
                sentence=f"{hypothesis.sentence} {words}",
            )
    return decided


def root_cause(hypotheses: Mapping[str, Hypothesis]) -> RootCause:
    """The first hypothesis in the order that is VALIDATED, else the first candidate.

    Passed over is what another one explains: an encoder whose context the decoder is never given (H3) has no
    gradient (H2). An ERROR that nothing explains leaves the cause open, for what comes after it rests on it.
    """
    found = [hypotheses[id] for id in ORDER if id in hypotheses]
    for hypothesis in found:
        if explanation(hypothesis, hypotheses) is not None:
            continue
        if hypothesis.verdict is Verdict.ERROR:
            name = f"{hypothesis.id} ({hypothesis.title})"
            words = f"No root cause can be named: {name} ended in an ERROR. {hypothesis.sentence}"
            return RootCause(None, None, CauseCode.ERROR, words)
        if hypothesis.verdict is Verdict.VALIDATED:
            return RootCause(hypothesis.id, "proven", CauseCode.PROVEN, hypothesis.sentence)
    for hypothesis in found:
        if hypothesis.candidate:
            return RootCause(hypothesis.id, "candidate", CauseCode.CANDIDATE, hypothesis.sentence)
    tested = [hypothesis.id for hypothesis in found if hypothesis.verdict is not Verdict.NOT_RUN]
    if not tested:
        return RootCause(None, None, CauseCode.NOT_TESTED, "No hypothesis was asked for.")
    left_open = [hypothesis.id for hypothesis in found if hypothesis.verdict is Verdict.INCONCLUSIVE]
    undecided = f"; undecided: {', '.join(left_open)}" if left_open else ""
    words = f"No root cause among the tested hypotheses ({', '.join(tested)}){undecided}."
    return RootCause(None, None, CauseCode.NONE, words)


def _claim(out: Path, subject: Config, name: str, launcher: Launcher) -> None:
    """Refuse a folder that holds something else, before anything is written."""
    file = out / "subject.json"
    computed = replace(compute_of(subject, launcher.elsewhere), threads=launcher.threads)
    wanted = {
        "name": name,
        "config": json.loads(subject.to_json()),
        "code": code_hash(subject),
        "compute": asdict(computed),
    }
    try:
        if file.exists():
            _check_claim(out, json.loads(file.read_text("utf-8")), wanted)
            return
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(wanted, indent=1, sort_keys=True) + "\n")
    except OSError as error:
        raise RunFolderError(
            "investigate.not-writable",
            f"{out} cannot be written",
            got=str(error),
            next_step="give another --out",
        ) from error


def _check_claim(out: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
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
            f"{out} holds an investigation of another subject",
            allowed="the same preset, settings and faults, which continue it",
            next_step="give another --out",
        )


def _result(
    name: str,
    hypotheses: dict[str, Hypothesis],
    experiments: tuple[Experiment, ...],
    baselines: dict[str, EvaluationReport],
    also: tuple[Beside, ...],
    reproduce: Reproduce,
) -> Result:
    cause = root_cause(hypotheses)
    return Result(
        subject=name,
        cause_code=cause.code,
        root_cause=cause.id,
        root_cause_confidence=cause.confidence,
        sentence=cause.sentence,
        next_step=_next_step(cause.id, hypotheses, experiments),
        order=ORDER,
        hypotheses=hypotheses,
        experiments=experiments,
        baselines=tuple(_baseline(label, report) for label, report in baselines.items()),
        beside=also,
        reproduce=reproduce,
    )


def _next_step(
    cause: str | None, hypotheses: dict[str, Hypothesis], experiments: tuple[Experiment, ...]
) -> str:
    if cause is not None:
        return NEXT_STEP[cause]
    if any(hypothesis.verdict is Verdict.ERROR for hypothesis in hypotheses.values()):
        return "Mend what the ERROR names, then run the same command again."
    return NEXT_BY_SCENARIO[experiments[0].scenario if experiments else Scenario.UNDECIDED]


def _reproduce(
    investigation: Investigation, command: str, where: dict[str, Any], seconds: float
) -> Reproduce:
    subject = investigation.subject
    here = compute_of(subject)
    return Reproduce(
        command=command,
        commit=where["commit"],
        dirty=where["dirty"],
        seeds=investigation.seeds,
        data_hash=load_training_tasks(subject).hash,
        versions=where["versions"],
        hardware=where["hardware"],
        device=here.device,
        precision=here.precision,
        threads=investigation.launcher.threads,
        tier=investigation.tier.name,
        wall_s=round(seconds, 1),
        config=json.loads(subject.to_json()),
    )


def _baseline(label: str, report: EvaluationReport) -> Evidence:
    first = report.pass_at[1]
    return BASELINE_SCORE.row(
        first.score,
        item=label,
        low=first.low,
        high=first.high,
        threshold="what needs no learning",
        n=f"{first.solved} of {first.asked} tasks solved",
        note=f"token accuracy {report.token_accuracy:.3f}",
    )
