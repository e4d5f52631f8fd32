"""A whole investigation: decoders, hypotheses in order, experiments, root cause, ``result.json``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from etrm.checkpoints.run_folder import describe_environment
from etrm.config import Config, with_settings
from etrm.data import open_episodes
from etrm.errors import ConfigError
from etrm.evaluation import EvaluationReport, check_outputs, evaluate_baselines
from etrm.evaluation.statistics import FULL_SEEDS
from etrm.investigation.announced_verdicts import AnnouncedVerdicts, OnVerdict
from etrm.investigation.decision_order import DecisionOrder, OnDeparture
from etrm.investigation.evidence.table import EvidenceRow, Metric
from etrm.investigation.experiments import frozen_decoder
from etrm.investigation.folder_claim import claim_folder
from etrm.investigation.hypotheses import hypothesis_registry
from etrm.investigation.hypotheses.hypothesis_registry import all_hypotheses
from etrm.investigation.judgement import CommonReason
from etrm.investigation.measurements.additional_findings import gather_additional_findings
from etrm.investigation.planned_runs import OnPlan, plan_work
from etrm.investigation.recorded_run.judge_recorded import judge_recorded_run
from etrm.investigation.recorded_run.recorded_fact import RecordedFact
from etrm.investigation.recorded_run.recorded_verdicts import (
    TRAIN_AGAIN,
    accuse,
    explain_unnamed,
    made_by_other_code,
)
from etrm.investigation.records import Verdict
from etrm.investigation.reference_verdict import compare_recorded, explain_departure
from etrm.investigation.result import (
    AdditionalFinding,
    CauseCode,
    ExperimentResult,
    HypothesisResult,
    RecordedRun,
    ReferenceResult,
    Reproduce,
    Result,
)
from etrm.investigation.root_cause import find_root_cause, select_causes_too
from etrm.investigation.runs.budget import SCREENING, Tier
from etrm.investigation.runs.cache import compute_of
from etrm.investigation.runs.launchers import Launcher
from etrm.investigation.session import Investigation
from etrm.training import named_code
from etrm.training.faults import build_recipe
from etrm.training.task_sets import OTHER_TASKS, load_held_out_tasks, load_training_tasks

Progress = Callable[[str, int, int], None]
"""Takes a phase, the steps done and the steps in all."""
Conduct = Callable[[Investigation, float], ExperimentResult]
"""Runs an experiment, given the best trivial baseline's pass@1 on the held-out tasks."""

BASELINE_SCORE = Metric("baseline.score", "{item}: pass@1 on the held-out tasks")


def choose(subject: Config, *names: str) -> tuple[str, ...]:
    """The ids of the hypotheses in texts, each of them ids with commas between them, or ``all``.

    Args:
        subject: the config under test; ``all`` stands for the hypotheses that apply to it.
        names: the texts.

    Raises:
        ConfigError: one of them is not known.
    """
    known = all_hypotheses()
    ids = dict.fromkeys(name.strip() for text in names for name in text.split(",") if name.strip())
    unknown = [name for name in ids if name not in known and name != "all"]
    if unknown:
        raise ConfigError(
            "investigate.unknown-hypothesis",
            f"unknown hypothesis {unknown[0]!r}",
            allowed=f"all, or some of {', '.join(sorted(known))}",
            next_step="etrm explain H1 says what a hypothesis tests",
        )
    if "all" not in ids:
        return tuple(ids)
    return tuple(id for id, hypothesis in known.items() if id in ids or hypothesis.applies_to(subject))


def investigate(
    subject: Config,
    out: Path,
    *,
    name: str,
    launcher: Launcher,
    command: str,
    progress: Progress,
    hypotheses: Sequence[str] | None = None,
    experiments: Sequence[Conduct] = (frozen_decoder.run,),
    tier: Tier = SCREENING,
    until_root_cause: bool = False,
    first_seed: int = 0,
    recorded_in: Path | None = None,
    on_verdict: OnVerdict = lambda hypothesis: None,
    on_departure: OnDeparture = lambda reference: None,
    on_plan: OnPlan = lambda planned: None,
) -> Result:
    """Decide hypotheses about a subject and write ``out/result.json``.

    Args:
        subject: the config under test, faults included.
        out: folder of the investigation; what is finished there is not run again.
        name: name of the config under test in the report.
        launcher: starts the training runs.
        command: the command line, for the report.
        progress: called with a phase, the steps done and the steps in all.
        hypotheses: ids of those to decide, by default all that apply; the others that apply are NOT RUN.
        experiments: run after them, where the model has an encoder.
        tier: seeds and steps.
        until_root_cause: whether to stop at the first proven cause, without the experiments.
        first_seed: the first of consecutive seeds.
        recorded_in: the run folder, or checkpoint in one, that is under test: what it recorded is judged first.
        on_verdict: called with each hypothesis as soon as its verdict is final, except those whose verdict depends on
            later ones. That of a departure from the reference is the first.
        on_departure: called where the run departs from the reference and that decides no hypothesis.
        on_plan: called with the planned runs before the first of them starts.

    Raises:
        EtrmError: the config, data, decoder or folder cannot be used.
        Interrupted: Ctrl-C; the same command resumes.
    """
    chosen = choose(subject, "all" if hypotheses is None else ",".join(hypotheses))  # refused before any work
    announced, where = AnnouncedVerdicts(on_verdict), describe_environment()
    build_recipe(subject)  # an unknown fault is refused before any work, and so are tasks that cannot be used
    tasks = load_training_tasks(subject)
    open_episodes(tasks, _prepare(subject).data, subject.model.variant, subject.train.seed)
    check_outputs(load_held_out_tasks(subject), OTHER_TASKS)
    with claim_folder(out, subject, name, launcher, tier):
        recorded, facts = _judge_recorded(recorded_in, subject, progress)
        given, subject = subject, _prepare(subject)
        investigation = Investigation(
            out,
            subject,
            tuple(range(first_seed, first_seed + tier.seeds)),
            launcher,
            progress,
            tier,
            short_seeds=tuple(range(first_seed, first_seed + tier.short_seeds)),
            frozen_decoder=frozen_decoder.run in experiments and not until_root_cause,
        )
        on_plan(plan_work(investigation, chosen))
        order = DecisionOrder(investigation, chosen, until_root_cause, facts, announced, on_departure)
        departed = compare_recorded(recorded_in, subject, tier.reference_steps) if recorded_in else None
        reference = order.compare(given, departed)
        decided = order.decide(reference)
        recorded = recorded and accuse(recorded, facts, decided)
        baselines = evaluate_baselines(load_held_out_tasks(subject), subject.data)
        found: tuple[ExperimentResult, ...] = ()
        proven = find_root_cause(decided).confidence == "proven"
        if not (until_root_cause and proven) and investigation.takes_decoder:
            best = max(report.pass_at[1].score for report in baselines.values())
            found = tuple(conduct(investigation, best) for conduct in experiments)
        noticed = gather_additional_findings(investigation.finished_under_test())
        reproduce = _reproduce(investigation, command, where, announced.elapsed)
        result = _make_result(name, decided, found, baselines, noticed, recorded, reference, reproduce)
        result.write(out)
        return result


def _prepare(subject: Config) -> Config:
    """The same training, as every run of an investigation needs it.

    A store has one seed and every arm its own; neither a store nor workers change a sample. The hypotheses judge every
    step, and one that is not measured would count as one that does not train the encoder. Of the compared steps only
    those of the whole run are read, and they are compared whatever the settings are.
    """
    measured = {"enabled": True, "every": 1, "reference_every": None}
    return with_settings(subject, data={"store": None, "workers": 0}, monitor=measured)


def _judge_recorded(
    folder: Path | None, subject: Config, progress: Progress
) -> tuple[RecordedRun | None, Sequence[RecordedFact]]:
    """What a run folder recorded, if one is under test."""
    if folder is None:
        return None, ()
    progress("recorded run", 0, 1)
    judged = judge_recorded_run(folder, subject)
    progress("recorded run", 1, 1)
    return judged


def _make_result(
    name: str,
    hypotheses: dict[str, HypothesisResult],
    experiments: tuple[ExperimentResult, ...],
    baselines: dict[str, EvaluationReport],
    additional: tuple[AdditionalFinding, ...],
    recorded: RecordedRun | None,
    reference: ReferenceResult,
    reproduce: Reproduce,
) -> Result:
    cause = find_root_cause(hypotheses)
    code, sentence = cause.code, cause.sentence
    next_step = _choose_next_step(cause.id, hypotheses, experiments, len(reproduce.seeds))
    if code is CauseCode.UNTESTED:
        code, sentence, next_step = explain_departure(reference) or (code, sentence, next_step)
    elif code in (CauseCode.NONE, CauseCode.NOT_TESTED):
        shown = explain_departure(reference) or (explain_unnamed(recorded) if recorded is not None else None)
        code, sentence, next_step = shown or (code, sentence, next_step)
    elif recorded is not None and cause.id and CommonReason.RECORDED in hypotheses[cause.id].codes:
        next_step = TRAIN_AGAIN if made_by_other_code(recorded) else next_step
    return Result(
        subject=name,
        cause_code=code,
        root_cause=cause.id,
        root_cause_confidence=cause.confidence,
        sentence=sentence,
        next_step=next_step,
        order=tuple(hypotheses),
        hypotheses=hypotheses,
        experiments=experiments,
        baselines=tuple(_make_baseline_row(label, report) for label, report in baselines.items()),
        additional_findings=additional,
        reference=reference,
        recorded=recorded,
        reproduce=reproduce,
    )


def _choose_next_step(
    cause: str | None,
    hypotheses: Mapping[str, HypothesisResult],
    experiments: Sequence[ExperimentResult],
    seeds: int,
) -> str:
    if cause is not None:
        return all_hypotheses()[cause].next_step
    if step := select_causes_too(hypotheses):
        return step
    if any(hypothesis.verdict is Verdict.ERROR for hypothesis in hypotheses.values()):
        return "Fix what the ERROR names, then run the same command again; if code has changed, with another --out."
    return (experiments[0].next_step if experiments else "") or describe_no_cause(hypotheses, seeds)


def describe_no_cause(hypotheses: Mapping[str, HypothesisResult], seeds: int) -> str:
    """The next step where nothing was found: more seeds for what is undecided, otherwise a longer run.

    Args:
        hypotheses: the decided hypotheses by id.
        seeds: the seeds of every arm but those of short runs, whose number their first arm shows.
    """
    undecided = [one for one in hypotheses.values() if one.verdict is Verdict.INCONCLUSIVE]
    if not undecided:
        return "No tested hypothesis explains a failure to learn. Train longer: `etrm train`, then `etrm evaluate`."
    short = [sum(run.arm == one.arms[0].name for run in one.runs) for one in undecided if one.arms]
    most = max([seeds, *short])
    more = FULL_SEEDS if most < FULL_SEEDS else 2 * most
    ids = ", ".join(one.id for one in undecided)
    return f"More seeds would narrow the intervals of {ids}: repeat the command with --seeds {more}."


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
        code=named_code.digests(subject) | hypothesis_registry.digests(),
    )


def _make_baseline_row(label: str, report: EvaluationReport) -> EvidenceRow:
    first = report.pass_at[1]
    return BASELINE_SCORE.row(
        first.score,
        item=label,
        low=first.low,
        high=first.high,
        threshold="a score without learning",
        n=f"{first.solved} of {first.asked} tasks solved",
        note=f"token accuracy {report.token_accuracy:.3f}",
    )
