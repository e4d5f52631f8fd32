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
from etrm.evaluation.passk import predict, score
from etrm.investigation.reference_comparison.plain_values import plain_report
from etrm.model.construct import build_variant
from etrm.model.variant import Variant
from etrm.reference.departure import Departure, PipelineStage
from etrm.reference.evaluation.evaluation_stages import (
    ROUNDING,
    CountedScores,
    agree,
    build_attempts,
)
from etrm.reference.training.stages.checked_step import covers_model
from etrm.training.faults import build_recipe
from etrm.training.scoring.adaptation import adapt
from etrm.training.scoring.context_search import ContextSearch, SearchedAnswer
from etrm.training.scoring.fitted_scores import Fit, FittedScores, choose_votes
from etrm.training.scoring.predictor import evaluate_tasks, load_model, make_predictor
from etrm.training.scoring.score_run import UNTRAINED, Scores, score_run, submit
from etrm.training.task_sets import load_held_out_tasks

TASKS, FITTED_TASKS = 4, 2
"""Tasks of an evaluation by command, and of one that fits something to each."""
REPORTED = "reported by the command"
SUBMITTED = Fit.BOTH  # the last of several fits


def compare_requested(path: Path) -> list[Departure]:
    """Compare what ``etrm evaluate`` reports of a run folder with evaluations of the weights as the config says.

    It also reports the model as it was before training, whose weights follow from the seed. All are of a few tasks.
    Only models with an encoder are compared, since a puzzle table may lack the tasks.
    """
    config = read_config(path)
    if not config.model.has_encoder:
        return []
    few: Changes = {"evaluate": {"max_tasks": min(TASKS, config.evaluate.max_tasks or TASKS)}}
    scores = score_run(path, few)
    asked = with_settings(config, **few).evaluate
    model, trained_with, tasks, _ = load_model(path, asked.weights, which=asked.checkpoint)
    used = with_settings(trained_with, **few)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(used.train.seed)
        untrained = to_device(build_variant(used.model), model.device).eval()

    def evaluate(model: Variant) -> CountedScores:
        predictor, held_out = make_predictor(model, asked), load_held_out_tasks(used)
        return plain_report(evaluate_tasks(build_recipe(used), predictor, held_out, used, tasks))

    wanted = evaluate(model)
    return [
        *_compare_reports(plain_report(scores.model), wanted, REPORTED),
        *_compare_submission(scores, wanted),
        *_compare_reports(
            plain_report(scores.others[UNTRAINED]), evaluate(untrained), f"{REPORTED} of the {UNTRAINED}"
        ),
    ]


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


def _compare_submission(scores: Scores, wanted: CountedScores) -> Iterator[Departure]:
    """Compare the submission of some scores with the answers that it should have, of the tasks that were evaluated."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "submission.json"
        submit(scores, path)
        held = json.loads(path.read_text("utf-8"))
    expected = build_attempts(scores.held_out, wanted.candidates)
    wrong = [task_id for task_id, attempts in expected.items() if held.get(task_id) != attempts]
    if wrong:
        share = len(wrong) / len(expected)
        yield Departure(PipelineStage.SCORE, "submission", share, 0.0, f"{REPORTED}, task {wrong[0]}")


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
    """Compare what ``etrm evaluate --search --adapt context`` reports with short fits, each done alone.

    Only what repeats its bits can be compared so, which fits on a GPU need not.
    """
    config = read_config(path)
    brief = _shorten_fits(config)
    config = with_settings(config, **brief)
    if not (config.model.has_encoder and covers_model(config)):
        return []
    model, trained_with, tasks, _ = load_model(
        path, config.evaluate.weights, which=config.evaluate.checkpoint
    )
    if model.device.type != "cpu":
        return []
    used = with_settings(trained_with, **brief)
    asked = load_held_out_tasks(used)
    scores = score_run(path, brief, search=True, adapted="context")
    reported, found = scores.fitted, list[Departure]()
    for fit, wanted in _fit_alone(model, used, asked, tasks).items():
        where = f"{REPORTED}, {fit.words}"
        if fit not in reported:
            found.append(Departure(PipelineStage.SCORE, "fits", 1.0, 0.0, f"{where} is missing"))
            continue
        report = score(tuple(asked), [one.sample for one in wanted.predictions], wanted.predictions)
        found += _compare_reports(plain_report(reported[fit].report), plain_report(report), where)
        if fit is SUBMITTED:
            found += _compare_submission(scores, plain_report(report))
        found += _compare_means(reported[fit], wanted.searched, where)
    return found


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


def _fit_alone(
    model: Variant, config: Config, asked: TaskSet, trained: TaskSet
) -> Mapping[Fit, _ExpectedFit]:
    """Fit in each way; the control is fitted to the demonstrations of the next task."""
    section = config.evaluate
    samples = build_evaluation_samples(
        asked, config.data, section.augmentations, config.train.seed, variant=config.model.variant
    )
    own = defaultdict[str, list[Sample]](list)
    for sample in samples:
        own[sample.task_id].append(sample)
    search = ContextSearch(model, config, trained)
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
