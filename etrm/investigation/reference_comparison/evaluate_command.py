"""What ``etrm evaluate`` reports of a run folder, against the same evaluations put together from their parts."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

import torch

from etrm.checkpoints.run_folder import read_config
from etrm.config import Changes, Config, is_rules, with_settings
from etrm.data import Sample, TaskSet, build_evaluation_samples
from etrm.device import to_device
from etrm.evaluation import Prediction
from etrm.evaluation.misleading import score_misleading
from etrm.evaluation.passk import predict, score
from etrm.investigation.reference_comparison.plain_values import plain_report
from etrm.model.construct import build_variant
from etrm.model.variant import Variant
from etrm.reference.data.loaded_rows import compare_task_sets
from etrm.reference.data.task_files import read_tasks
from etrm.reference.departure import Departure, PipelineStage
from etrm.reference.evaluation.evaluation_stages import (
    ROUNDING,
    CountedScores,
    EvaluationRequest,
    agree,
    build_attempts,
    list_placeholders,
)
from etrm.reference.evaluation.misleading_scores import ExpectedShare, compare_misleading, pose_pairs
from etrm.reference.evaluation.trivial_answers import ANSWERS, compare_baselines
from etrm.reference.training.stages.checked_step import covers_model
from etrm.training.faults import build_recipe
from etrm.training.scoring.adaptation import adapt
from etrm.training.scoring.context_search import ContextSearch, SearchedAnswer
from etrm.training.scoring.fitted_scores import Fit, FittedScores, choose_votes
from etrm.training.scoring.predictor import evaluate_tasks, load_model, make_noisy, make_predictor
from etrm.training.scoring.score_run import UNTRAINED, Scores, evaluate_run, score_run, submit
from etrm.training.task_sets import load_held_out_tasks

TASKS, FITTED_TASKS = 4, 2
"""Tasks of an evaluation by command, and of one that fits something to each."""
REPORTED = "reported by the command"
OWN_NAME = "this run"
"""The name of the misleading scores of the run."""
SUBMITTED = Fit.BOTH  # the last of several fits


def compare_requested(path: Path) -> list[Departure]:
    """Compare what ``etrm evaluate`` reports of a run folder with evaluations of the weights as the config says.

    It also reports the model as it was before training, whose weights follow from the seed, and trivial baselines. Then
    it is asked for other settings than those of the run. All are of a few tasks. A model is not compared if its puzzle
    table has no rows for them.
    """
    config = read_config(path)
    few: Changes = {"evaluate": {"max_tasks": min(TASKS, config.evaluate.max_tasks or TASKS)}}
    expected = _ExpectedRun.open(path, few)
    used, model = expected.config, expected.model
    if not expected.answerable:
        return []
    scores = score_run(path, few)
    puzzles = 0 if model.puzzle_table is None else len(model.puzzle_table.weights)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(used.train.seed)
        untrained = to_device(build_variant(used.model, puzzles=puzzles), model.device).eval()
    wanted = expected.evaluate(model)
    trivial = EvaluationRequest(expected.held_out, used.data, 1, used.train.seed, ks=(1,))
    return [
        *_compare_reports(plain_report(scores.model), wanted, REPORTED),
        *_compare_submission(scores, wanted, expected),
        *_compare_reports(
            plain_report(scores.others[UNTRAINED]),
            expected.evaluate(untrained),
            f"{REPORTED} of the {UNTRAINED}",
        ),
        *compare_baselines(trivial, {name: plain_report(one) for name, one in scores.others.items()}),
        *_compare_other_settings(path, config),
    ]


@dataclass(frozen=True)
class _ExpectedRun:
    """What an evaluation must use.

    Attributes:
        config: the config of the run with the settings of the evaluation.
        model: the model with the weights that the settings name.
        trained: the tasks that it was trained on.
        held_out: the tasks to evaluate.
    """

    config: Config
    model: Variant
    trained: TaskSet
    held_out: TaskSet

    @classmethod
    def open(cls, path: Path, changes: Changes) -> _ExpectedRun:
        """Read a run folder with changed settings of the sections evaluate and data."""
        asked = with_settings(read_config(path), **changes).evaluate
        model, trained_with, trained, _ = load_model(path, asked.weights, which=asked.checkpoint)
        config = with_settings(trained_with, **changes)
        return cls(config, model, trained, load_held_out_tasks(config))

    @property
    def answerable(self) -> bool:
        """Whether the model can answer the tasks: it has an encoder, or a row for each of them and its votes."""
        known, numbered = {task.id for task in self.trained}, self.config.data.augmentations
        return self.config.model.has_encoder or (
            numbered != "fresh"
            and self.config.evaluate.augmentations <= numbered
            and all(task.id in known for task in self.held_out)
        )

    def evaluate(self, model: Variant) -> CountedScores:
        """Evaluate a model on the tasks."""
        predictor = make_predictor(model, self.config.evaluate)
        recipe = build_recipe(self.config)
        return plain_report(evaluate_tasks(recipe, predictor, self.held_out, self.config, self.trained))


def _compare_other_settings(path: Path, config: Config) -> list[Departure]:
    """Compare an evaluation with other weights, another checkpoint, other halting and smaller tasks than the run's."""
    section, data = config.evaluate, config.data
    newest = section.checkpoint == "best" or section.every is None
    smallest = min(task.max_side for task in load_held_out_tasks(config))
    changes: Changes = {
        "evaluate": {
            "weights": "raw" if section.weights == "ema" else "ema",
            "checkpoint": "newest" if newest else "best",
            "halting": "early" if section.halting == "all_steps" else "all_steps",
            "max_tasks": FITTED_TASKS,
            "augmentations": min(2, section.augmentations),
            "allow_trained": ("all",),  # the smaller tasks may be others than those that training left out
        },
        "data": {"max_side": max([smallest, *(stage.max_side for stage in data.curriculum[-1:])])},
    }
    wanted = _ExpectedRun.open(path, changes)
    if not wanted.answerable:
        return []
    real = evaluate_run(path, changes)
    where = f"{REPORTED} with other settings"
    found = compare_task_sets(real.held_out, wanted.held_out, PipelineStage.QUERIES, "held-out tasks")
    return found or [*_compare_reports(plain_report(real.report), wanted.evaluate(wanted.model), where)]


def _compare_reports(reported: CountedScores, wanted: CountedScores, where: str) -> Iterator[Departure]:
    for query, candidates in wanted.candidates.items():
        if not agree(candidates, reported.candidates.get(query, ())):
            yield Departure(
                PipelineStage.ANSWERS, "candidates", 1.0, 0.0, f"{where}, task {query[0]}, query {query[1]}"
            )
            break
    for name, value in wanted.values.items():
        size = abs(reported.values.get(name, torch.inf) - value)
        if not size <= ROUNDING:
            yield Departure(PipelineStage.SCORE, name, size, ROUNDING, where)


def _compare_submission(scores: Scores, wanted: CountedScores, expected: _ExpectedRun) -> Iterator[Departure]:
    """Compare the submission of some scores with the answers that it should have, of all tasks of the data set."""
    section = expected.config.evaluate
    rules = is_rules(section.source)  # which have no end, so that the evaluated tasks are the whole
    whole = expected.held_out if rules else read_tasks(section.source, section.subset)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "submission.json"
        submit(scores, path)
        held = json.loads(path.read_text("utf-8"))
        listed = json.loads(path.with_name("submission.placeholders.json").read_text("utf-8"))
    attempts = build_attempts(whole, wanted.candidates)
    wrong = sorted(name for name in attempts.keys() | held.keys() if held.get(name) != attempts.get(name))
    if wrong:
        share = len(wrong) / len(attempts)
        yield Departure(PipelineStage.SCORE, "submission", share, 0.0, f"{REPORTED}, task {wrong[0]}")
    reasons = list_placeholders(whole, wanted.candidates, expected.config.data.max_side)
    if listed != {"tasks": len(whole), "placeholders": reasons}:
        yield Departure(PipelineStage.SCORE, "placeholders of the submission", 1.0, 0.0, REPORTED)


# -- fits ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _ExpectedFit:
    """The answers of one way to fit, and those of its searches before they are chosen as votes."""

    predictions: Sequence[Prediction]
    searched: Sequence[SearchedAnswer] = ()

    @classmethod
    def of_searches(cls, answers: Sequence[SearchedAnswer]) -> _ExpectedFit:
        """The fit whose votes are chosen among some searches."""
        return cls(choose_votes(answers), answers)


def compare_requested_fits(path: Path) -> list[Departure]:
    """Compare what ``etrm evaluate --search --adapt context --misleading`` reports with short fits, each done alone.

    Only what repeats its bits can be compared so, which fits on a GPU need not.
    """
    config = read_config(path)
    brief = _shorten_fits(config)
    if not (config.model.has_encoder and covers_model(config)):
        return []
    expected = _ExpectedRun.open(path, brief)
    if expected.model.device.type != "cpu":
        return []
    asked = expected.held_out
    misleading = bool(pose_pairs(asked))  # which has no score without them
    scores = score_run(path, brief, search=True, adapted="context", misleading=misleading)
    reported, found = scores.fitted, list[Departure]()
    for fit, wanted in _fit_alone(expected).items():
        where = f"{REPORTED}, {fit.words}"
        if fit not in reported:
            found.append(Departure(PipelineStage.SCORE, "fits", 1.0, 0.0, f"{where} is missing"))
            continue
        report = score(tuple(asked), [one.sample for one in wanted.predictions], wanted.predictions)
        found += _compare_reports(plain_report(reported[fit].report), plain_report(report), where)
        if fit is SUBMITTED:
            found += _compare_submission(scores, plain_report(report), expected)
        found += _compare_means(reported[fit], wanted.searched, where)
    return [*found, *(_compare_overstated(scores, expected) if misleading else ())]


def _shorten_fits(config: Config) -> Changes:
    """Settings of short fits: two of everything that can be exchanged for another one. Rules are not augmented."""
    return {
        "evaluate": {
            "search": {"restarts": 2, "steps": 1, "control": True},
            "adapt": {"steps": 1, "batch_size": 2},
            "max_tasks": min(FITTED_TASKS, config.evaluate.max_tasks or FITTED_TASKS),
            "augmentations": 1 if is_rules(config.evaluate.source) else 2,
        }
    }


def _fit_alone(expected: _ExpectedRun) -> Mapping[Fit, _ExpectedFit]:
    """Fit in each way; the control is fitted to the demonstrations of the next task."""
    model, config, asked = expected.model, expected.config, expected.held_out
    section = config.evaluate
    samples = build_evaluation_samples(
        asked, config.data, section.augmentations, config.train.seed, variant=config.model.variant
    )
    own = defaultdict[str, list[Sample]](list)
    for sample in samples:
        own[sample.task_id].append(sample)
    search = ContextSearch(model, config, expected.trained)
    plain, both = list[Prediction](), list[SearchedAnswer]()
    for task in asked:
        with adapt(model, task, config, "context") as adapted:
            answers = predict(own[task.id], make_predictor(adapted.model, section), section.batch_size)
            plain += [answer for answer in answers if answer is not None]
            both += search.with_model(adapted.model).answer(own[task.id])
    found = {
        Fit.CONTEXT: _ExpectedFit.of_searches(search.answer(samples)),
        Fit.PART: _ExpectedFit(plain),
        Fit.BOTH: _ExpectedFit.of_searches(both),
    }
    if len(own) > 1:
        names = list(own)
        groups = zip(names, names[1:] + names[:1], strict=True)
        shown = [
            own[other][place % len(own[other])] for name, other in groups for place in range(len(own[name]))
        ]
        found[Fit.MISMATCHED] = _ExpectedFit.of_searches(search.answer(samples, shown))
    return found


def _compare_means(
    reported: FittedScores, searched: Sequence[SearchedAnswer], where: str
) -> Iterator[Departure]:
    """Compare what is reported of the searches on average."""
    if not searched:
        return
    means = {
        "share of fitted demonstrations": (reported.fitted, fmean(one.fitted for one in searched)),
        "steps of a search": (reported.steps, fmean(one.steps for one in searched)),
    }
    for name, (real, wanted) in means.items():
        size = torch.inf if real is None else abs(real - wanted)
        if not size <= ROUNDING:
            yield Departure(PipelineStage.SCORE, name, size, ROUNDING, where)


# -- scores that overstate ----------------------------------------------------------------------------


def _compare_overstated(scores: Scores, expected: _ExpectedRun) -> Iterator[Departure]:
    """Compare the misleading scores of the model and of the trivial baselines."""
    config, asked, section = expected.config, expected.held_out, expected.config.evaluate
    seed = config.train.seed
    reported = {
        who: {
            str(name): ExpectedShare(share.value, share.low, share.high, share.of)
            for name, share in found.items()
        }
        for who, found in scores.misleading.items()
    }
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        wanted = score_misleading(
            asked,
            make_predictor(expected.model, section),
            make_predictor(make_noisy(expected.model), section),
            augmentations=section.augmentations,
            data=config.data,
            seed=seed,
            variant=config.model.variant,
            batch_size=section.batch_size,
        )
    own = reported.get(OWN_NAME, {})
    for name, share in wanted.items():
        size = abs(own[str(name)].value - share.value) if str(name) in own else torch.inf
        if not size <= ROUNDING:
            yield Departure(PipelineStage.SCORE, f"misleading score, {name}", size, ROUNDING, REPORTED)
    trivial = EvaluationRequest(asked, config.data, 1, seed, ks=(1,))
    for baseline, answer in ANSWERS.items():
        yield from compare_misleading(trivial, answer, answer, reported.get(baseline, {}))
