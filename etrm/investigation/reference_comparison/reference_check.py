"""Where the run under test departs from the reference: in its first steps, its loader, its tasks and its evaluator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file

from etrm.checkpoints.run_folder import read_config, read_metrics
from etrm.config import Config, is_rules, with_settings
from etrm.device import to_host
from etrm.errors import EtrmError, NonFiniteError
from etrm.investigation.reference_comparison.checkpoint_check import CheckpointCheck, draws_noise
from etrm.investigation.reference_comparison.evaluate_command import (
    compare_requested,
    compare_requested_fits,
)
from etrm.investigation.reference_comparison.finished_run import compare_log, compare_resumed, find_step
from etrm.investigation.reference_comparison.first_weights import compare_seeded, compare_structure
from etrm.investigation.reference_comparison.fitted_to_tasks import compare_fits
from etrm.investigation.reference_comparison.known_losses import compare_known_losses
from etrm.investigation.reference_comparison.known_scores import compare_known_scores
from etrm.investigation.reference_comparison.known_steps import compare_known_steps
from etrm.investigation.reference_comparison.later_training import (
    continues,
    enlarge_readers,
    exchange_readers,
    lengthen_states,
    next_states,
    unsettle,
)
from etrm.investigation.reference_comparison.misleading_evaluation import compare_misleading_scores
from etrm.investigation.reference_comparison.network_calls import compare_networks
from etrm.investigation.reference_comparison.plain_values import plain_row
from etrm.investigation.reference_comparison.recorded_evaluation import (
    compare_loaded_weights,
    compare_trivial,
    record_known_answers,
    record_own_answers,
)
from etrm.investigation.reference_comparison.training_updates import compare_training_updates
from etrm.investigation.reference_comparison.whole_schedule import check_schedule
from etrm.investigation.runs.zero_weights import fill_zeros
from etrm.model.core import VOCABULARY
from etrm.reference.data.held_out_tasks import compare_choice
from etrm.reference.data.leaked_tasks import compare_split
from etrm.reference.data.loaded_rows import LoadedRow, compare_passes, compare_task_sets
from etrm.reference.data.loader import choose_tasks_of
from etrm.reference.data.rule_family import compare_rule_tasks
from etrm.reference.departure import Departure, NotCovered, PipelineStage
from etrm.reference.evaluation.answers import compare_answers
from etrm.reference.evaluation.evaluation_stages import RecordedEvaluation, compare_evaluation
from etrm.reference.training.decoder_file import compare_decoder, read_decoder
from etrm.reference.training.stages.checked_step import covers_model
from etrm.reference.training.start_weights import compare_start_weights
from etrm.training.faults import build_recipe
from etrm.training.monitoring.step_check import ComparedStep, StepCheck, read_compared, requested
from etrm.training.scoring.held_out_curve import SOLVED, TOKENS
from etrm.training.scoring.predictor import BEST, evaluate_tasks, load_model, make_predictor
from etrm.training.task_sets import load_held_out_tasks
from etrm.training.trainer import Trainer

FIRST_STEPS = 8  # enough for both of two buckets, and for a row that takes a new sample at max_steps 4
LATER_STEPS = 4  # in situations of later training
TURNS = 4  # evaluations in which a model may come to answer every token; two suffice mostly
LAST_STEP = FIRST_STEPS + LATER_STEPS
"""The last step that :func:`check_start` compares."""
SCORE_LIMIT = 1e-6  # of a score that is computed twice from the same weights
ANSWERS = 8  # rows whose answers are computed again, one at a time


@dataclass(frozen=True)
class ReferenceFacts:
    """What was compared with the reference.

    Attributes:
        steps: the compared steps.
        others: departures of what is no step: tasks, loader and evaluator.
        error: the errors that ended a comparison early; empty if there were none.
    """

    steps: tuple[ComparedStep, ...] = ()
    others: tuple[Departure, ...] = ()
    error: str = ""

    @property
    def departures(self) -> list[Departure]:
        """All of them, those of the first step that departs first, each in the order of the stages."""
        order = list(PipelineStage)
        found = [*self.others, *(departure for step in self.steps for departure in step.departures)]
        first = min((departure.step for departure in found if departure.step is not None), default=None)
        return sorted(
            found,
            key=lambda departure: (
                departure.step not in (first, None),
                order.index(departure.stage),
                departure.step or 0,
            ),
        )

    @property
    def first(self) -> Departure | None:
        """The departure that names the cause: the earliest stage of the first step that departs."""
        return next(iter(self.departures), None)

    @property
    def compared(self) -> int:
        """The number of steps that were compared."""
        return sum(not step.absent for step in self.steps)


class _Comparisons:
    """Departures of several comparisons, and the errors that ended some of them: code under test may raise anything.

    Attributes:
        found: the departures.
        errors: the errors.
        diverged: whether one of them is that a loss, a gradient or a weight is not finite.
    """

    def __init__(self) -> None:
        self.found: list[Departure] = []
        self.errors: list[str] = []
        self.diverged = False

    @property
    def error(self) -> str:
        """The different errors."""
        return "; ".join(dict.fromkeys(self.errors))

    def run(self, compare: Callable[[], Iterable[Departure]]) -> None:
        """Do one comparison."""
        try:
            self.found += compare()
        except Exception as error:  # noqa: BLE001  (see the class)
            what = error.brief if isinstance(error, EtrmError) else f"{type(error).__name__}: {error}"
            self.errors += what.splitlines()[:1]
            self.diverged |= isinstance(error, NonFiniteError)


def check_start(config: Config, given: Config | None = None) -> ReferenceFacts:
    """Compare the first steps of a config, its tasks, two passes of its loader, its evaluator and its checkpoints.

    If all are equal, steps and answers in situations of later training follow.

    Args:
        config: the settings, faults included.
        given: the same with their own store and workers, whose samples are compared too.
    """
    check, comparisons = StepCheck(config), _Comparisons()

    def compare_run() -> Iterable[Departure]:
        trainer = Trainer(with_settings(config, monitor={"enabled": False}))
        saved = CheckpointCheck(trainer.state, noise=draws_noise(trainer.model))
        comparisons.run(lambda: compare_structure(trainer, check.config))
        comparisons.run(lambda: compare_seeded(trainer, check.config))
        comparisons.run(lambda: _check_loading(trainer))
        comparisons.run(lambda: check_schedule(trainer, check.config.train))
        comparisons.run(lambda: compare_training_updates(trainer, check.config))
        for _ in range(2):
            comparisons.run(lambda: _train(trainer, check, FIRST_STEPS // 2))
            if comparisons.diverged:
                break
            comparisons.run(lambda: compare_known_losses(trainer))
            comparisons.run(saved.capture)
        comparisons.run(lambda: _check_tasks(trainer, check))
        comparisons.run(lambda: _check_loader(trainer, check))
        if given is not None and (given.data.workers or given.data.store):
            comparisons.run(lambda: _check_own_loader(given))
        if comparisons.diverged:
            return ()  # answers from weights that are too large to compute with are no fault of the evaluator
        comparisons.run(lambda: _check_evaluation(trainer))
        if not comparisons.found and not any(step.departures for step in check.compared):
            comparisons.run(lambda: _check_later(trainer, check, saved))
            if covers_model(config):
                comparisons.run(lambda: compare_fits(trainer))
        elif _begins_at_gradient(check):
            comparisons.run(lambda: _check_forward(trainer, StepCheck(config)))
        if not any(step.departures for step in check.compared):
            comparisons.run(lambda: _find_network(trainer, comparisons.found))
        return ()

    comparisons.run(compare_run)
    return ReferenceFacts(tuple(check.compared), tuple(comparisons.found), comparisons.error)


def check_loading(config: Config) -> ReferenceFacts:
    """Compare the first weights of a config that names a decoder with those of the checkpoint."""
    comparisons = _Comparisons()
    comparisons.run(lambda: _check_loading(Trainer(with_settings(config, monitor={"enabled": False}))))
    return ReferenceFacts(others=tuple(comparisons.found), error=comparisons.error)


def _train(trainer: Trainer, check: StepCheck, steps: int) -> tuple[()]:
    """Compare the next steps of a run up to one that departs, which says what is wrong.

    A step that ends in an error is compared as far as it came.
    """
    for _ in range(min(steps, trainer.config.train.steps - trainer.step)):
        if any(step.departures for step in check.compared):
            break
        with check.step(trainer):
            trainer.advance()
    return ()


def _begins_at_gradient(check: StepCheck) -> bool:
    first = ReferenceFacts(tuple(check.compared)).first
    return first is not None and first.stage is PipelineStage.GRADIENT


def _check_forward(trainer: Trainer, check: StepCheck) -> list[Departure]:
    """What departs before the gradient of a step in which no parameter is zero.

    A wrong factor of what is zero in a new model changes the gradient alone, and its cause is where it is multiplied.
    """
    order = list(PipelineStage)
    fill_zeros(trainer)
    _train(trainer, check, 1)
    return [
        replace(departure, step=None, where=f"{departure.where} with no parameter of zeros".lstrip())
        for step in check.compared
        for departure in step.departures
        if order.index(departure.stage) < order.index(PipelineStage.GRADIENT)
    ]


def _check_later(trainer: Trainer, check: StepCheck, saved: CheckpointCheck) -> Sequence[Departure]:
    """A step after the evaluation, and a resumed run; then steps and answers that a new model does not reach."""
    if trainer.step + LATER_STEPS > trainer.config.train.steps:
        return []
    with check.step(trainer):
        states = next_states(trainer)
    found = saved.restore()
    check.forget()
    unsettle(trainer, states)
    longer = False
    for left in reversed(range(LATER_STEPS - 1)):
        if not longer and continues(trainer):
            lengthen_states(trainer)
            check.forget()
            longer = True
        if not left:  # now rows began at different steps, and their samples are no consecutive ones
            found += saved.capture()
            enlarge_readers(trainer)  # for one step
            check.forget()
        _train(trainer, check, 1)
    return [*found, *saved.restore(), *_check_every_token(trainer)]


def _check_every_token(trainer: Trainer) -> list[Departure]:
    """The answers of a model that answers other tokens each time, until it answered all of them."""
    found, counts = list[Departure](), [0] * VOCABULARY
    for _ in range(TURNS):
        answers = record_own_answers(trainer)
        found += _compare_own_answers(trainer, answers)
        given = answers.answers if isinstance(answers, RecordedEvaluation) else ()
        for answer in given:
            for token in () if answer.tokens is None else answer.tokens.tolist():
                counts[token] += 1
        if found or not exchange_readers(trainer, counts):
            break
    return found


def check_course(path: Path, evaluated: bool = False) -> ReferenceFacts:
    """What a run folder says about its compared steps.

    Args:
        path: the run folder.
        evaluated: whether to compare the weights that an evaluation of the folder uses, too.

    Raises:
        RunFolderError: the file is damaged.
    """
    comparisons = _Comparisons()
    if evaluated:
        for compare in (
            check_evaluated,
            compare_log,
            compare_resumed,
            compare_requested,
            compare_requested_fits,
        ):
            comparisons.run(partial(compare, path))
    return ReferenceFacts(tuple(read_compared(path)), tuple(comparisons.found), comparisons.error)


def check_evaluated(path: Path) -> tuple[Departure, ...]:
    """Compare the weights that an evaluation of a run folder uses with those that the folder holds, if it is whole.

    They are the averaged ones of the last step, and of the best one by the logged scores if the run was evaluated on
    the way: the first of the highest score, which another evaluation of it gives again. Evaluated are every
    ``evaluate.every`` steps and the last one.
    """
    metrics, config = read_metrics(path), requested(read_config(path))
    steps, every = config.train.steps, config.evaluate.every
    if [line["step"] for line in metrics] != [*range(1, steps + 1)]:
        where = f"{len(metrics)} lines up to step {metrics[-1]['step'] if metrics else 0}, of a run of {steps} steps"
        return (Departure(PipelineStage.SCHEDULE, "logged steps", 1.0, 0.0, where),)
    logged = {line["step"]: line for line in metrics if SOLVED in line}
    wrong = {*logged} ^ ({*range(every, steps + 1, every), steps} if every else set())
    if wrong:
        where = f"step {min(wrong)}, with evaluate.every {every} and {steps} steps"
        return (Departure(PipelineStage.SCORE, "evaluated steps", len(wrong) / steps, 0.0, where),)
    newest = _check_loaded(path, "newest", "checkpoints", metrics[-1]["step"])
    if not logged:
        return newest
    best = max(logged, key=lambda step: (logged[step][SOLVED], logged[step][TOKENS], -step))
    return (
        *newest,
        *compare_known_scores(),
        *_check_loaded(path, "best", BEST, best),
        *_check_logged(path, logged[best]),
    )


def _check_loaded(
    path: Path, which: Literal["newest", "best"], folder: str, wanted_step: int
) -> tuple[Departure, ...]:
    """Compare the checkpoint that an evaluation loads with that of a step."""
    model, _, _, step = load_model(path, "ema", which=which)
    held = next((one for one in (path / folder).glob("step_*") if find_step(one) == wanted_step), None)
    if held is None or step != wanted_step:
        where = f"that of step {step} instead of step {wanted_step}"
        return (Departure(PipelineStage.WEIGHTS, f"{which} checkpoint", 1.0, 0.0, where),)
    wanted = load_file(held / "ema.safetensors")
    real = {name: to_host(value) for name, value in model.state_dict().items()}
    wrong = [name for name, value in wanted.items() if name not in real or not torch.equal(real[name], value)]
    where = f"checkpoint {held.name}"
    return tuple(Departure(PipelineStage.WEIGHTS, name, 1.0, 0.0, where) for name in wrong[:1])


def _check_logged(path: Path, logged: dict[str, Any]) -> tuple[Departure, ...]:
    """Compare the logged score of the best checkpoint with the one that it has."""
    model, config, tasks, _ = load_model(path, read_config(path).evaluate.weights, which="best")
    predictor = make_predictor(model, config.evaluate)
    found = evaluate_tasks(build_recipe(config), predictor, load_held_out_tasks(config), config, tasks)
    first = found.pass_at[1]
    real = {SOLVED: first.solved / first.asked, TOKENS: found.token_accuracy}
    where = f"logged at step {logged['step']}"
    return tuple(
        Departure(PipelineStage.SCORE, name, abs(value - logged[name]), SCORE_LIMIT, where)
        for name, value in real.items()
        if not abs(value - logged[name]) <= SCORE_LIMIT
    )


def _check_loading(trainer: Trainer) -> Sequence[Departure]:
    """The first weights: those of the checkpoint or file that the core starts from; else random ones."""
    source, model = trainer.config.train.decoder, trainer.config.model
    if covers_model(trainer.config):
        random = compare_start_weights(trainer.model.state_dict(), model, loaded=source is not None)
        return [*random, *_check_decoder(trainer, source)]
    return _check_decoder(trainer, source)


def _check_decoder(trainer: Trainer, source: Path | None) -> Sequence[Departure]:
    held = None if source is None else read_decoder(source, trainer.config.train.decoder_weights)
    core = {name: to_host(value) for name, value in trainer.model.core.state_dict().items()}
    return [] if held is None else compare_decoder(core, held)


def _check_tasks(trainer: Trainer, check: StepCheck) -> Sequence[Departure]:
    used, data = trainer.config, check.config.data
    found = compare_task_sets(trainer.tasks, check.rows.tasks)
    if is_rules(data.source) and data.stream is None:
        # The reference chooses among these, and draws only the tasks of a stream itself.
        drawn = choose_tasks_of(data.source, data.subset, data.max_side, data.max_tasks)
        found += compare_rule_tasks(
            drawn, PipelineStage.DATA, count=data.max_tasks, demos=None, max_side=data.max_side
        )
    return [*found, *compare_split(trainer.tasks, load_held_out_tasks(used), used.evaluate.allow_trained)]


def _check_loader(trainer: Trainer, check: StepCheck) -> Sequence[Departure]:
    episodes, draw = trainer.episodes, trainer.prefetch or trainer.recipe.draw
    drawn = trainer.config.train.steps * trainer.config.train.batch_size // max(1, episodes.buckets)

    def load(bucket: int, index: int) -> LoadedRow:
        return plain_row(draw(episodes, bucket, index))

    return compare_passes(check.rows, load, drawn)


def _check_own_loader(given: Config) -> Sequence[Departure]:
    """The samples that come from a store, or from processes that draw ahead."""
    trainer = Trainer(with_settings(given, monitor={"enabled": False}))
    with closing(trainer.prefetch) if trainer.prefetch else nullcontext():
        return _check_loader(trainer, StepCheck(given))


def _check_evaluation(trainer: Trainer) -> Sequence[Departure]:
    """Known answers and those of the model through the evaluator, and the weights that an evaluation loads."""
    found = [departure for known in record_known_answers(trainer) for departure in compare_evaluation(known)]
    found += _compare_own_answers(trainer, record_own_answers(trainer))
    found += compare_trivial(trainer.config)
    found += compare_misleading_scores(trainer)
    found += compare_known_steps(trainer.config)
    found += compare_choice(load_held_out_tasks(trainer.config), trainer.config)
    return [*found, *compare_loaded_weights(trainer)]


def _compare_own_answers(trainer: Trainer, own: RecordedEvaluation | NotCovered) -> list[Departure]:
    """The evaluation of the model, and its answers to some rows, the first and the last of a batch among them."""
    config = trainer.config
    if not isinstance(own, RecordedEvaluation):
        return []
    found = compare_evaluation(own)
    if covers_model(config):
        early = config.evaluate.halting == "early"
        chosen = np.linspace(0, len(own.answers) - 1, min(ANSWERS, len(own.answers))).astype(int)
        some = [own.answers[place] for place in chosen]
        found += compare_answers(trainer.model.state_dict(), config.model, some, early)
    return found


def _find_network(trainer: Trainer, departed: Sequence[Departure]) -> list[Departure]:
    """What departs in the networks where answers do: the fault of a network that computes something else there.

    Without one it is that of the evaluator.
    """
    if not any(departure.stage is PipelineStage.ANSWERS for departure in departed):
        return []
    own = compare_networks(trainer.model, lambda: record_own_answers(trainer))
    return own or compare_networks(trainer.model, lambda: compare_fits(trainer))
