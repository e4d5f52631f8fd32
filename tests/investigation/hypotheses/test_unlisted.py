"""Faults that nobody listed: the first look in the order that finds something must be the right one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from etrm.batch import Batch, Demos
from etrm.checkpoints.format import Checkpoint, WeightsKind
from etrm.config import SIDE, Config, load, with_settings
from etrm.data import DemoPair, Episodes, Sample, TaskSet
from etrm.data.sample import CELLS
from etrm.data.tokens import FIRST_COLOUR
from etrm.evaluation import Answer, EvaluationReport, Predictor
from etrm.investigation.comparison.gradient_check import check_slope
from etrm.investigation.hypotheses import h1_decoder_loading as h1
from etrm.investigation.hypotheses import h5_data as h5
from etrm.investigation.hypotheses import h6_evaluator as h6
from etrm.investigation.measurements.context_path import trace_context
from etrm.model.act import Carry
from etrm.model.recursive import ContextPolicy, Given, RecursiveModel, StepOutput
from etrm.training.faults import FAULTS, Fault
from etrm.training.faults.seam import change_context, change_model, wrap_policy
from etrm.training.micro_batches import MicroBatch
from etrm.training.recipe import Recipe
from etrm.training.slots import Slots

pytestmark = pytest.mark.slow

Apply = Callable[[Recipe], Recipe]
IGNORED = -100


def drawn(change: Callable[[Sample], Sample]) -> Apply:
    """Every sample is changed on its way from the loader."""

    def apply(recipe: Recipe) -> Recipe:
        def draw(episodes: Episodes, bucket: int, index: int) -> Sample:
            return change(recipe.draw(episodes, bucket, index))

        return replace(recipe, draw=draw)

    return apply


def paired(change: Callable[[DemoPair], DemoPair]) -> Apply:
    return drawn(lambda sample: replace(sample, demos=tuple(change(demo) for demo in sample.demos)))


def output_as_input(sample: Sample) -> Sample:
    shown = np.where(sample.labels == IGNORED, sample.tokens, sample.labels)
    return replace(sample, tokens=shown.astype(sample.tokens.dtype))


def recoloured_input(demo: DemoPair) -> DemoPair:
    here = (demo.positions < CELLS) & (demo.tokens >= FIRST_COLOUR)
    other = FIRST_COLOUR + (demo.tokens - FIRST_COLOUR + 1) % 10
    return replace(demo, tokens=np.where(here, other, demo.tokens).astype(demo.tokens.dtype))


def without_output(demo: DemoPair) -> DemoPair:
    first = demo.positions < CELLS
    return DemoPair(demo.tokens[first], demo.positions[first])


def turned_round(demo: DemoPair) -> DemoPair:
    first = demo.positions < CELLS
    there = np.where(first, demo.positions + CELLS, demo.positions - CELLS)
    return replace(demo, positions=there.astype(demo.positions.dtype))


def labelled(change: Callable[[Tensor], Tensor]) -> Apply:
    def apply(recipe: Recipe) -> Recipe:
        def labels(slots: Slots, part: MicroBatch) -> Tensor:
            return change(recipe.labels(slots, part).clone())

        return replace(recipe, labels=labels)

    return apply


def unscored(labels: Tensor) -> Tensor:
    labels[::2] = IGNORED
    return labels


def loaded(change: Callable[[RecursiveModel], None]) -> Apply:
    """The model is changed after its decoder was loaded."""

    def apply(recipe: Recipe) -> Recipe:
        def load(model: RecursiveModel, config: Config) -> None:
            recipe.load_decoder(model, config)
            with torch.no_grad():
                change(model)

        return replace(recipe, load_decoder=load)

    return apply


def embedding_to_zero(model: RecursiveModel) -> None:
    next(p for name, p in model.core.named_parameters() if "emb" in name).zero_()


def noise_on_the_decoder(model: RecursiveModel) -> None:
    for parameter in model.core.parameters():
        parameter.add_(1e-3 * torch.randn_like(parameter))


def gradients_times(factor: float) -> Apply:
    def change(model: RecursiveModel) -> None:
        assert model.encoder is not None
        for parameter in model.encoder.parameters():
            parameter.register_hook(lambda gradient: factor * gradient)

    return lambda recipe: change_model(recipe, change)


def half_frozen(model: RecursiveModel) -> None:
    assert model.encoder is not None
    parameters = list(model.encoder.parameters())
    for parameter in parameters[: len(parameters) // 2]:
        parameter.requires_grad_(False)


def given(change: Callable[[Tensor], Tensor]) -> Apply:
    return lambda recipe: change_context(
        recipe, lambda found: replace(found, context=change(found.context.clone()))
    )


def evaluated(change: Callable[..., EvaluationReport]) -> Apply:
    def apply(recipe: Recipe) -> Recipe:
        def evaluate(tasks: TaskSet, predictor: Predictor, **options: Any) -> EvaluationReport:
            return change(recipe, tasks, predictor, **options)

        return replace(recipe, evaluate=evaluate)

    return apply


def first_query_alone(
    recipe: Recipe, tasks: TaskSet, predictor: Predictor, **options: Any
) -> EvaluationReport:
    cut = replace(tasks, tasks=tuple(replace(task, tests=task.tests[:1]) for task in tasks))
    return recipe.evaluate(cut, predictor, **options)


def answers_of_the_next(
    recipe: Recipe, tasks: TaskSet, predictor: Predictor, **options: Any
) -> EvaluationReport:
    def shifted(samples: Sequence[Sample]) -> list[Answer]:
        answers = predictor(samples)
        return answers[1:] + answers[:1]

    return recipe.evaluate(tasks, shifted, **options)


def one_vote(recipe: Recipe, tasks: TaskSet, predictor: Predictor, **options: Any) -> EvaluationReport:
    return recipe.evaluate(tasks, predictor, **(options | {"augmentations": 1}))


def demonstrations_of_the_next_task(
    recipe: Recipe, tasks: TaskSet, predictor: Predictor, **options: Any
) -> EvaluationReport:
    following = tasks.tasks[1:] + tasks.tasks[:1]
    crossed = tuple(
        replace(task, demos=other.demos) for task, other in zip(tasks.tasks, following, strict=True)
    )
    return recipe.evaluate(replace(tasks, tasks=crossed), predictor, **options)


def one_demonstration_when_asked(
    recipe: Recipe, tasks: TaskSet, predictor: Predictor, **options: Any
) -> EvaluationReport:
    def less(samples: Sequence[Sample]) -> list[Answer]:
        return predictor([replace(sample, demos=sample.demos[:1]) for sample in samples])

    return recipe.evaluate(tasks, less, **options)


def any_vote(recipe: Recipe, tasks: TaskSet, predictor: Predictor, **options: Any) -> EvaluationReport:
    votes = options["augmentations"]
    report = recipe.evaluate(tasks, predictor, **(options | {"ks": (1, 2, votes)}))
    return replace(report, pass_at={1: report.pass_at[votes], 2: report.pass_at[votes]})


def average_never_taken(recipe: Recipe) -> Recipe:
    """What is evaluated as the average is the start."""
    start: dict[str, Tensor] = {}

    def build(config: Config, episodes: Episodes) -> RecursiveModel:
        model = recipe.build_model(config, episodes)
        for name, tensor in model.state_dict().items():
            start.setdefault(name, tensor.clone())
        return model

    def load_weights(model: RecursiveModel, checkpoint: Checkpoint, kind: WeightsKind) -> None:
        model.load_state_dict(start)

    return replace(recipe, build_model=build, load_weights=load_weights)


def second_as_first(recipe: Recipe, tasks: TaskSet, predictor: Predictor, **options: Any) -> EvaluationReport:
    report = recipe.evaluate(tasks, predictor, **options)
    return replace(report, pass_at=dict.fromkeys(report.pass_at, report.pass_at[max(report.pass_at)]))


def queries_moved(sample: Sample) -> Sample:
    return replace(sample, tokens=np.roll(sample.tokens, 1))


def outputs_of_the_next(sample: Sample) -> Sample:
    def crossed(demo: DemoPair, following: DemoPair) -> DemoPair:
        first, second = demo.positions < CELLS, following.positions >= CELLS
        return DemoPair(
            np.concatenate([demo.tokens[first], following.tokens[second]]),
            np.concatenate([demo.positions[first], following.positions[second]]),
        )

    demos = sample.demos
    return replace(
        sample, demos=tuple(crossed(*pair) for pair in zip(demos, demos[1:] + demos[:1], strict=True))
    )


def asked_for(change: Callable[[int], int]) -> Apply:
    """Another place of the stream is drawn than the one that was asked for."""

    def apply(recipe: Recipe) -> Recipe:
        def draw(episodes: Episodes, bucket: int, index: int) -> Sample:
            return recipe.draw(episodes, bucket, change(index))

        return replace(recipe, draw=draw)

    return apply


def trained_on(change: Callable[[Tensor], Tensor]) -> Apply:
    def apply(recipe: Recipe) -> Recipe:
        return replace(recipe, weigh=lambda loss, step: change(recipe.weigh(loss, step)))

    return apply


def noise_in_place(model: RecursiveModel) -> None:
    assert model.encoder is not None
    for parameter in model.encoder.parameters():
        parameter.register_hook(lambda g: torch.randn_like(g) * g.norm() / g.numel() ** 0.5)


def one_cycle(model: RecursiveModel) -> None:
    model.core.H_cycles = 1


def halting_turned_round(model: RecursiveModel) -> None:
    for name, parameter in model.core.named_parameters():
        if "q_head" in name:
            parameter.neg_()


def use_a_copy(model: RecursiveModel) -> None:
    """What the decoder is given comes from a copy of the encoder, which nothing trains."""
    twin, policy = copy.deepcopy(model.encoder), model.context_policy

    def spoken(asked: RecursiveModel, carry: Carry, batch: Batch) -> Given:
        own = asked._modules["encoder"]
        asked._modules["encoder"] = twin
        try:
            return policy(asked, carry, batch)
        finally:
            asked._modules["encoder"] = own

    model.context_policy = spoken


def transposed(demo: DemoPair) -> DemoPair:
    place = demo.positions % CELLS
    there = place % SIDE * SIDE + place // SIDE + demo.positions - place
    return replace(demo, positions=there.astype(demo.positions.dtype))


def without_black(demo: DemoPair) -> DemoPair:
    seen = demo.tokens != FIRST_COLOUR
    return DemoPair(demo.tokens[seen], demo.positions[seen])


def black_is_blue(labels: Tensor) -> Tensor:
    return labels.where(labels != FIRST_COLOUR, torch.full_like(labels, FIRST_COLOUR + 1))


def exchanged_in_training(policy: ContextPolicy) -> ContextPolicy:
    def exchanged(model: RecursiveModel, carry: Carry, batch: Batch) -> Given:
        found = policy(model, carry, batch)
        return replace(found, context=found.context.roll(1, 0)) if model.training else found

    return exchanged


def first_demonstration_alone(model: RecursiveModel) -> None:
    assert model.encoder is not None
    whole = model.encoder.pair_sets

    def cut(demos: Demos) -> tuple[Tensor, Tensor]:
        pairs, mask = whole(demos)
        return pairs, mask & (torch.arange(mask.shape[1]) == 0)

    model.encoder.pair_sets = cut  # type: ignore[method-assign]


def colours_alike(model: RecursiveModel) -> None:
    assert model.encoder is not None
    reader = model.encoder.grid_encoder
    whole = reader.embed
    reader.embed = lambda demos: whole(  # type: ignore[method-assign]
        replace(demos, tokens=demos.tokens.clamp(max=FIRST_COLOUR))
    )


def ending(change: Callable[[Tensor], Tensor]) -> Apply:
    """Rows end otherwise than the model says."""

    def put(model: RecursiveModel) -> None:
        whole = model.forward

        def forward(carry: Carry, batch: Batch, minimum: Tensor | None = None) -> tuple[Carry, StepOutput]:
            carry, output = whole(carry, batch, minimum)
            return replace(carry, halted=change(carry.halted)), output

        model.forward = forward  # type: ignore[method-assign]

    return lambda recipe: change_model(recipe, put)


def later(change: Callable[[Tensor], Tensor]) -> Apply:
    """The context of rows that go on is changed, that of rows that begin is not."""

    def wrap(policy: ContextPolicy) -> ContextPolicy:
        def changed(model: RecursiveModel, carry: Carry, batch: Batch) -> Given:
            found = policy(model, carry, batch)
            begins = carry.halted[:, None, None]
            return replace(found, context=torch.where(begins, found.context, change(found.context)))

        return changed

    return lambda recipe: wrap_policy(recipe, wrap)


UNLISTED: dict[str, tuple[str | None, Apply]] = {
    "demonstrations in another order": (None, drawn(lambda s: replace(s, demos=s.demos[::-1]))),
    "the first demonstration alone": ("H5", drawn(lambda s: replace(s, demos=s.demos[:1]))),
    "one demonstration again and again": (
        "H5",
        drawn(lambda s: replace(s, demos=s.demos[:1] * len(s.demos))),
    ),
    "the output in place of the query": ("H5", drawn(output_as_input)),
    "other colours in the inputs alone": ("H5", paired(recoloured_input)),
    "demonstrations without outputs": ("H5", paired(without_output)),
    "outputs in place of inputs": ("H5", paired(turned_round)),
    "queries moved by one place": ("H5", drawn(queries_moved)),
    "outputs of the next demonstration": ("H5", drawn(outputs_of_the_next)),
    "every sample twice": ("H5", asked_for(lambda index: index - index % 2)),
    "eight samples for ever": ("H5", asked_for(lambda index: index % 8)),
    "rows that never end": ("H5", ending(torch.zeros_like)),
    "rows that end at every step": ("H5", ending(torch.ones_like)),
    "half of the rows not scored": ("H5", labelled(unscored)),
    "labels of the row above": ("H5", labelled(lambda labels: labels.roll(1, 0))),
    "one query of each task": ("H6", evaluated(first_query_alone)),
    "answers of the next query": ("H6", evaluated(answers_of_the_next)),
    "demonstrations transposed": ("H5", paired(transposed)),
    "demonstrations without black": ("H5", paired(without_black)),
    "a colour of the labels": ("H5", labelled(black_is_blue)),
    "demonstrations of the next task when asked": ("H6", evaluated(demonstrations_of_the_next_task)),
    "one demonstration when asked": ("H6", evaluated(one_demonstration_when_asked)),
    "any vote that is right": ("H6", evaluated(any_vote)),
    "a halting head turned round": ("H1", loaded(halting_turned_round)),
    "a copy of the encoder is used": ("H2", lambda recipe: change_model(recipe, use_a_copy)),
    "rows exchanged in training alone": ("H3", lambda recipe: wrap_policy(recipe, exchanged_in_training)),
    "a little of the batch's mean": ("H3", given(lambda c: 0.98 * c + 0.02 * c.mean(0, keepdim=True))),
    "the second answer counts as the first": ("H6", evaluated(second_as_first)),
    "one vote": ("H6", evaluated(one_vote)),
    "an average that is never taken": ("H6", average_never_taken),
    "an embedding of zeros": ("H1", loaded(embedding_to_zero)),
    "one H cycle": ("H1", loaded(one_cycle)),
    "a little noise on the decoder": ("H1", loaded(noise_on_the_decoder)),
    "gradients times 1e-6": ("H2", gradients_times(1e-6)),
    "gradients turned round": ("H2", gradients_times(-1.0)),
    "noise of the gradient's size": ("H2", lambda recipe: change_model(recipe, noise_in_place)),
    "a loss turned round": ("H2", trained_on(lambda loss: -loss)),
    "a loss of 0": ("H2", trained_on(lambda loss: 0 * loss)),
    "half of the encoder frozen": ("H2", lambda recipe: change_model(recipe, half_frozen)),
    "the context plus 5": ("H3", given(lambda context: context + 5)),
    "the context of the row above": ("H3", given(lambda context: context.roll(1, 0))),
    "the context in bfloat16": (None, given(lambda context: context.bfloat16().float())),
    "the context's tokens in another order": ("H3", given(lambda context: context.roll(1, 1))),
    "the context clipped": ("H3", given(lambda context: context.clamp(-1, 1))),
    "the first demonstration read alone": (
        "H3",
        lambda recipe: change_model(recipe, first_demonstration_alone),
    ),
    "colours that are read alike": ("H3", lambda recipe: change_model(recipe, colours_alike)),
    "the context of rows that go on times 30": ("H3", later(lambda context: 30 * context)),
    "the context of rows that go on from the row above": ("H3", later(lambda context: context.roll(1, 0))),
    "no context for rows that go on": ("H3", later(torch.zeros_like)),
    "the context turned round": ("H3", given(lambda context: -context)),
    "no context for half of the rows": ("H3", given(lambda c: c * (torch.arange(len(c)) % 2)[:, None, None])),
    "the last token missing": (
        "H3",
        given(lambda c: c * (torch.arange(c.shape[1]) < c.shape[1] - 1)[:, None]),
    ),
}


@pytest.mark.parametrize("name", UNLISTED)
def test_the_first_look_that_finds_something_is_the_right_one(
    name: str, decoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cause, apply = UNLISTED[name]
    monkeypatch.setitem(FAULTS, "unlisted", Fault("unlisted", "", cause or "", "", apply))
    subject = with_settings(load("smoke"), train={"threads": 1}, faults=("unlisted",))
    looks: dict[str, Callable[[], Any]] = {
        "H5": lambda: h5.inspect_data(subject),
        "H6": lambda: h6.inspect_evaluator(subject),
        "H1": lambda: h1.compare_with_checkpoint(with_settings(subject, train={"decoder": decoder}), decoder),
        "H2": lambda: check_slope(subject),
        "H3": lambda: trace_context(subject),
    }
    assert next((id for id, look in looks.items() if look().holds), None) == cause
