"""What is fitted to tasks at test time, adapted weights and searched contexts, against the reference.

A fit is training too: its steps, what it reports and the answers from it must be those of its formulas, and it must
leave the model as it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from etrm.batch import IGNORE
from etrm.config import AdaptedPart, Config, with_settings
from etrm.data import Sample, Task, build_evaluation_samples, pose_demonstrations
from etrm.device import to_device, to_host
from etrm.investigation.reference_comparison.known_shares import compare_known_shares
from etrm.investigation.reference_comparison.known_updates import compare_context_updates, compare_optimizer
from etrm.investigation.reference_comparison.plain_values import plain_row
from etrm.model.variant import Variant
from etrm.reference.data.posed_queries import pose
from etrm.reference.departure import Departure, PipelineStage
from etrm.reference.evaluation.adapted_weights import OFFSET, AdaptedWeights, adapt_weights, list_trained
from etrm.reference.evaluation.answers import answer, compare_answers
from etrm.reference.evaluation.evaluation_stages import RecordedAnswer
from etrm.reference.evaluation.search_starts import SearchedRow, start_contexts
from etrm.reference.model.network import part
from etrm.reference.training.context_steps import (
    SearchedContexts,
    answer_demos,
    average_watched,
    search_contexts,
)
from etrm.reference.training.stages.differences import dither
from etrm.reference.training.stages.model_pass import SAMPLES
from etrm.training.context_fit import FittedContexts, PosedDemos, fit_contexts
from etrm.training.scoring.adaptation import adapt
from etrm.training.scoring.context_search import ContextSearch, SearchedAnswer
from etrm.training.scoring.fitted_scores import choose_votes
from etrm.training.task_sets import load_held_out_tasks
from etrm.training.trainer import Trainer

TASKS, STEPS, ROWS, RESTARTS = 2, 2, 2, 2
"""Tasks, steps, rows of a step and searches of a task: each can be wrong from the second on."""
FASTER = 10.0
"""Times the rate of a search, at which the loss also rises, so that the last context is not always the best."""
ANY_LOSS = 1e9
"""A loss per token that every context is below."""
EXACT = 1e-3
"""Largest relative difference of what is computed from given contexts, apart from rounding."""
FITTED = 1e-2
"""The same of what follows from steps of Adam: a step is as long for a gradient that is rounding, of either sign."""
BEYOND = 10.0
"""Times the largest of the sampled roundings that a departure must be: contexts of noise amplify rounding, and few
samples of so wide a distribution are far from its largest value."""


def compare_fits(trainer: Trainer) -> list[Departure]:
    """Fit a model to a few held-out tasks as ``etrm evaluate --adapt`` and ``--search`` do, and compare.

    Args:
        trainer: the run, whose model the reference covers.

    Raises:
        DataError: the held-out tasks cannot be read.
    """
    config = with_settings(
        trainer.config,
        evaluate={
            "adapt": {"steps": STEPS, "batch_size": ROWS},
            "search": {"restarts": RESTARTS, "steps": 1, "stop_loss": 0.0},
        },
    )
    fitting = [task for task in load_held_out_tasks(config) if len(set(task.demos)) > 1]
    tasks = sorted(fitting, key=lambda task: sum(grid.size for grid in task.grids))[:TASKS]
    if not tasks:
        return []
    found = list[Departure]()
    if config.model.has_encoder:
        found += _compare_adaptation(trainer.model, tasks, config, "weights")
        for adapted in ("encoder", "context"):
            found += _compare_adaptation(trainer.model, tasks[:1], config, adapted)
    return [*found, *compare_context_updates(), *_compare_search(trainer, tasks, config)]


@contextmanager
def _left_alone(model: Variant, what: str, found: list[Departure]) -> Iterator[None]:
    """A context after which a model must be what it was: weights, gradients, modes and what is trained."""

    def describe() -> tuple[object, ...]:
        gradients = [
            (name, None if p.grad is None else p.grad.clone()) for name, p in model.named_parameters()
        ]
        trained = [(name, p.requires_grad) for name, p in model.named_parameters()]
        return gradients, trained, [module.training for module in model.modules()]

    weights, rest = _copy_weights(model), describe()
    yield
    wrong = [name for name, value in model.state_dict().items() if not torch.equal(value, weights[name])]
    if wrong or not _equal(rest, describe()):
        found.append(
            Departure(
                PipelineStage.WEIGHTS,
                wrong[0] if wrong else "state of the model",
                max(1, len(wrong)) / len(weights),
                0.0,
                f"after {what}",
            )
        )


def _equal(one: object, other: object) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    return one == other


def _copy_weights(model: Variant) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _depart(name: str, size: float, limit: float, where: str = "") -> list[Departure]:
    size = math.inf if math.isnan(size) else size
    return [] if size <= limit else [Departure(PipelineStage.ANSWERS, name, size, limit, where)]


# -- adapted weights ------------------------------------------------------------------------------


def _compare_adaptation(
    model: Variant, tasks: Sequence[Task], config: Config, adapted: AdaptedPart
) -> list[Departure]:
    found = list[Departure]()
    kept = _copy_weights(model)
    weights = {name: value.float() for name, value in kept.items()}
    names = list_trained([name for name, _ in model.named_parameters()], adapted)
    start = {name: weights[name] for name in names}
    if adapted == "context":
        start = {OFFSET: torch.zeros(model.context_shape, device=model.device)}
    for task in tasks:
        with (
            compare_optimizer(config.evaluate.adapt.rate, found),
            _left_alone(model, "adapting", found),
            adapt(model, task, config, adapted) as fitted,
        ):
            moved = _copy_weights(fitted.model)
        others = [name for name in moved if name not in start and not _equal(moved[name], kept[name])]
        found += _depart("weights that are not adapted", float(len(others)), 0.0, ", ".join(others[:1]))
        moved = {name: value for name, value in moved.items() if name in start}
        wanted = adapt_weights(weights, start, task, config)

        def differ(real: AdaptedWeights, wanted: AdaptedWeights = wanted) -> dict[str, float]:
            return _measure_adaptation(real, wanted, start)

        def sample(seed: int, task: Task = task) -> AdaptedWeights:
            return adapt_weights(_dither(weights, seed), _dither(start, seed), task, config)

        found += _depart_beyond_rounding(
            differ(AdaptedWeights(fitted.losses, moved)), lambda seed: differ(sample(seed)), f"task {task.id}"
        )
    return found


def _measure_adaptation(
    real: AdaptedWeights, wanted: AdaptedWeights, start: Mapping[str, Tensor]
) -> dict[str, float]:
    """The differences of losses, and those of weights as a share of the way to go, by name."""
    if len(real.losses) != len(wanted.losses):
        return {"steps of adapting": math.inf}
    pairs = zip(real.losses, wanted.losses, strict=True)
    sizes = {"losses of adapting": max(abs(one - other) / abs(other) for one, other in pairs)}
    if real.weights:
        apart, way = (
            math.sqrt(sum(float((end[name] - wanted.weights[name]).double().square().sum()) for name in end))
            for end in (real.weights, start)
        )
        sizes["weights while adapted"] = apart / way if way else apart
    return sizes


def _dither(values: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: dither(value, torch.float32, generator) if value.is_floating_point() else value
        for name, value in values.items()
    }


def _depart_beyond_rounding(
    sizes: Mapping[str, float],
    sample: Callable[[int], Mapping[str, float]],
    where: str = "",
    limit: float = FITTED,
) -> list[Departure]:
    """Departures that are larger than the limit, and than several sampled roundings explain."""
    beyond = {name: size for name, size in sizes.items() if not size <= limit}
    for seed in range(SAMPLES):
        if not beyond:
            return []
        low = sample(seed)
        beyond = {name: size for name, size in beyond.items() if not size <= BEYOND * low.get(name, 0.0)}
    return [one for name, size in beyond.items() for one in _depart(name, size, limit, where)]


# -- searched contexts ----------------------------------------------------------------------------


def _compare_search(trainer: Trainer, tasks: Sequence[Task], config: Config) -> list[Departure]:
    """Compare a search with that of the reference from the same start, and the answers from what a search returns."""
    found, model = list[Departure](), trainer.model
    whole = replace(load_held_out_tasks(config), tasks=tuple(tasks))
    asked = build_evaluation_samples(whole, config.data, 1, config.train.seed, variant=config.model.variant)
    samples = list({sample.task_id: sample for sample in asked}.values())
    with _left_alone(model, "searching", found):
        found += _compare_starts(trainer, samples, config)
        found += _compare_fit(model, samples, config)
        found += compare_known_shares(model, samples[0], config)
        search = ContextSearch(model, config, trainer.tasks)
        contexts = search.search(samples).context
        answers = search.answer([_hide_answer(sample) for sample in samples])
        found += _compare_votes(answers)
    repeated = [sample for sample in samples for _ in range(RESTARTS)]
    recorded = [
        RecordedAnswer(
            sample.task_id,
            sample.query,
            sample.name,
            plain_row(sample),
            np.array(given.prediction.tokens),
            given.prediction.q_halt,
        )
        for sample, given in zip(repeated, answers, strict=True)
    ]
    return [*found, *_compare_given(_copy_weights(model), config, recorded, list(contexts))]


def _compare_starts(trainer: Trainer, samples: Sequence[Sample], config: Config) -> list[Departure]:
    """Compare the first contexts of searches, which a search returns if any loss is low enough to stop at once.

    Each sample is a batch of its own: so few would be a single one, which shows nothing that goes wrong later.
    """
    stopping = with_settings(
        config, evaluate={"batch_size": RESTARTS, "search": {"steps": STEPS, "stop_loss": ANY_LOSS}}
    )
    found = _search_in_turn(ContextSearch(trainer.model, stopping, trainer.tasks), samples)
    contexts = torch.cat([one.context for one in found])
    weights = {name: value.float() for name, value in _copy_weights(trainer.model).items()}
    rows = [SearchedRow(sample.name, plain_row(sample)) for sample in samples]

    def start(weights: Mapping[str, Tensor]) -> Tensor:
        return start_contexts(weights, stopping, trainer.tasks, rows)

    wanted, name = start(weights), "first context of a search"
    departed = _depart_beyond_rounding(
        {name: _find_farthest(contexts, wanted)},
        lambda seed: {name: _find_farthest(start(_dither(weights, seed)), wanted)},
        limit=EXACT,
    )
    taken = [steps for one in found for steps in one.steps.tolist()]
    return [*departed, *_depart("steps of a search", float(max(taken)), 0.0, f"{taken}")]


def _search_in_turn(search: ContextSearch, samples: Sequence[Sample]) -> list[FittedContexts]:
    """The contexts from which each sample is answered, in batches of one sample."""
    calls, find = list[FittedContexts](), search.search

    def record(shown: Sequence[Sample]) -> FittedContexts:
        calls.append(find(shown))
        return calls[-1]

    search.search = record  # type: ignore[method-assign]
    places = [place for answers in search.answer_in_turn(samples, samples) for place in answers]
    return [calls[places.index(place)] for place in range(len(samples))]


def _find_farthest(real: Tensor, wanted: Tensor) -> float:
    """The largest difference of a context (P, D), relative to the usual norm."""
    if real.shape != wanted.shape:
        return math.inf
    norms = wanted.flatten(1).norm(dim=1)
    return float((real - wanted).flatten(1).norm(dim=1).max() / norms.square().mean().sqrt().clamp(min=1e-12))


def _compare_given(
    weights: Mapping[str, Tensor],
    config: Config,
    answers: Sequence[RecordedAnswer],
    contexts: Sequence[Tensor],
) -> list[Departure]:
    """Compare answers from given contexts (P, D), apart from rounding: contexts of noise are read like no others."""
    model, early = config.model, config.evaluate.halting == "early"
    found = [
        one for one in compare_answers(weights, model, answers, early, contexts) if not one.size <= FITTED
    ]
    for seed in range(SAMPLES if found else 0):
        low, rounded = _dither(weights, seed), list[RecordedAnswer]()
        for one, context in zip(answers, contexts, strict=True):
            with torch.no_grad():
                logits, q_halt = answer(low, model, one.row, early, context)
            rounded.append(replace(one, tokens=to_host(logits.argmax(-1)).numpy(), q_halt=q_halt))
        sizes = {one.tensor: one.size for one in compare_answers(weights, model, rounded, early, contexts)}
        found = [one for one in found if not one.size <= BEYOND * sizes.get(one.tensor, 0.0)]
    return found


def _compare_votes(answers: Sequence[SearchedAnswer]) -> list[Departure]:
    """Compare which searches vote, where those of a sample answer other shares of its demonstrations, or the same."""
    shares = [(0.0, 1.0), (0.5, 0.5)]
    known = [
        replace(answer, fitted=shares[place // RESTARTS % len(shares)][place % RESTARTS])
        for place, answer in enumerate(answers)
    ]
    groups = [known[first : first + RESTARTS] for first in range(0, len(known), RESTARTS)]
    wanted = [one for group in groups for one in group if one.fitted == max(each.fitted for each in group)]
    votes = {id(prediction) for prediction in choose_votes(known)}
    if votes == {id(one.prediction) for one in wanted}:
        return []
    return [Departure(PipelineStage.VOTES, "searches that vote", 1.0, 0.0)]


def _hide_answer(sample: Sample) -> Sample:
    """The same sample without its labels, which a search must not read."""
    return replace(sample, labels=np.full_like(sample.labels, IGNORE), target=None)


def _compare_fit(model: Variant, samples: Sequence[Sample], config: Config) -> list[Departure]:
    """Search from a random start, where the second context of each task leaves a demonstration out.

    Some searches stop before the others, which must not notice that.
    """
    settings, train = config.model, config.train
    rate, steps = FASTER * config.evaluate.search.rate, settings.halt.max_steps
    sets = [pose_demonstrations(sample) for sample in samples for _ in range(RESTARTS)]
    left_out = [0 if place % RESTARTS and len(own) > 1 else None for place, own in enumerate(sets)]
    random = torch.Generator().manual_seed(train.seed)
    start = to_device(torch.randn(len(sets), *model.context_shape, generator=random), model.device)

    shown = [[(demo.tokens, demo.positions) for demo in sample.demos] for sample in samples]
    posed = pose([own for own in shown for _ in range(RESTARTS)], config.data, model.device)
    held = [index == left for own, left in zip(sets, left_out, strict=True) for index in range(len(own))]
    held_out = torch.tensor(held, device=model.device)
    core = {name: value.float() for name, value in part(_copy_weights(model), "core").items()}

    def search(weights: Mapping[str, Tensor]) -> SearchedContexts:
        return search_contexts(weights, settings, train, start, posed, held_out, steps=STEPS, rate=rate)

    searched = search(core)
    stop = _choose_stop(searched.course)
    order = searched.stopped_below(
        stop
    ).steps.argsort()  # those that stop first come first, so that the others move up
    demos = PosedDemos.collated([sets[i] for i in order], [left_out[i] for i in order], model.device)
    moved = fit_contexts(model, start[order], demos, steps=STEPS, rate=rate, stop_loss=stop, kind=train.loss)
    back = order.argsort()
    context, loss = moved.context[back], moved.loss[back]

    @torch.no_grad()
    def measure(weights: Mapping[str, Tensor]) -> Tensor:
        answered = answer_demos(weights, settings, train, context, posed, steps)
        return average_watched(answered.losses, posed.owner, held_out, len(start))

    found = _compare_losses("loss of a searched context", loss, measure(core), measure, core, EXACT)
    return found or _compare_losses(
        "lowest loss of a search",
        loss,
        searched.stopped_below(stop).losses,
        lambda weights: search(weights).stopped_below(stop).losses,
        core,
        FITTED,
    )


def _choose_stop(course: Tensor) -> float:
    """Return a loss that some searches are below at their start and others never are, far from every loss.

    Args:
        course: (steps + 1, R), the losses; those after the last step stop nothing.

    Returns:
        the loss; 0, which stops no search, where there is none or rounding could move a loss across it.
    """
    values = course[:-1].flatten().sort().values
    low, high = course[0].min(), course[:-1].min(0).values.max()
    between = values[(values >= low) & (values <= high)]
    if len(between) < 2:
        return 0.0
    place = int(between.diff().argmax())
    below, above = between[place : place + 2].tolist()
    return (below + above) / 2 if above - below > 2 * FITTED * above else 0.0


def _compare_losses(
    name: str,
    real: Tensor,
    wanted: Tensor,
    compute: Callable[[Mapping[str, Tensor]], Tensor],
    core: Mapping[str, Tensor],
    limit: float,
) -> list[Departure]:
    """Compare losses (R,) with those that a function of the weights of the core gives."""
    return _depart_beyond_rounding(
        {name: _find_largest(real, wanted)},
        lambda seed: {name: _find_largest(compute(_dither(core, seed)), wanted)},
        limit=limit,
    )


def _find_largest(real: Tensor, wanted: Tensor) -> float:
    """The largest relative difference."""
    return float(((real - wanted).abs() / wanted.abs()).max())
