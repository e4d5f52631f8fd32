"""Fits at test time against the reference: healthy ones depart nowhere, planted faults of each part do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch

from etrm.config import Config, with_settings
from etrm.data import TaskSet
from etrm.investigation.reference_comparison import fitted_to_tasks
from etrm.investigation.reference_comparison.fitted_to_tasks import compare_fits
from etrm.model.variant import Variant
from etrm.reference.departure import Departure, PipelineStage
from etrm.reference.evaluation import search_starts
from etrm.training.context_fit import ContextAdam, _Search
from etrm.training.scoring import adaptation, context_search
from etrm.training.scoring.context_search import ContextSearch
from etrm.training.trainer import Trainer
from tests.reference.training.test_step import config_of


def small_trainer(**changes: Any) -> Trainer:
    """A new trainer of two steps per sample."""
    small = config_of(data={"max_side": 5}, model={"halt": {"max_steps": 2}})
    return Trainer(with_settings(small, **changes))


def fit(**changes: Any) -> list[Departure]:
    trainer = small_trainer(**changes)
    for _ in range(4):
        trainer.advance()
    return compare_fits(trainer)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(
            {}, marks=pytest.mark.slow
        ),  # planted faults below are the only departures of the same fits
        pytest.param(
            {"model": {"encoder": {"kind": "recurrent"}}, "evaluate": {"search": {"start": "mean"}}},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {
                "model": {"encoder": {"kind": "lpn_variational"}},
                "train": {"kl_weight": 0.01, "loss": "softmax"},
            },
            marks=pytest.mark.slow,
        ),
        {
            "model": {"variant": "etrm_cached"},
            "evaluate": {"halting": "early", "search": {"hold_out": True, "start": "encoder"}},
        },
    ],
)
def test_healthy_fits_depart_nowhere(changes: dict[str, Any]) -> None:
    assert fit(**changes) == []


@pytest.fixture
def adapted_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only adapted weights are compared, of one task: a fault of adapting is none of the search."""
    monkeypatch.setattr(fitted_to_tasks, "TASKS", 1)
    monkeypatch.setattr(fitted_to_tasks, "_compare_search", lambda *args: [])


@pytest.fixture
def searched_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only searched contexts are compared: a fault of the search is none of adapting."""
    monkeypatch.setattr(fitted_to_tasks, "_compare_adaptation", lambda *args: [])


@pytest.mark.usefixtures("adapted_only")
def test_weights_that_stay_adapted_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = adaptation.adapt

    @contextmanager
    def kept(model: Any, *args: Any) -> Iterator[Any]:
        with whole(model, *args) as adapted:
            moved = {name: value.clone() for name, value in model.state_dict().items()}
            yield adapted
        model.load_state_dict(moved)

    monkeypatch.setattr(fitted_to_tasks, "adapt", kept)
    assert fit()[0].stage is PipelineStage.WEIGHTS


@pytest.mark.usefixtures("adapted_only")
def test_a_model_that_stays_frozen_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def frozen(model: torch.nn.Module) -> Iterator[None]:
        model.eval().requires_grad_(False)
        yield

    monkeypatch.setattr(adaptation, "frozen_for_answers", frozen)
    assert [(found.stage, found.tensor) for found in fit()][:1] == [
        (PipelineStage.WEIGHTS, "state of the model")
    ]


@pytest.mark.usefixtures("adapted_only")
def test_another_optimiser_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adaptation, "BETAS", (0.5, 0.95))
    assert {found.tensor for found in fit()} == {"weights while adapted", "optimizer of adapting"}


@pytest.mark.usefixtures("adapted_only")
def test_weights_that_are_not_to_be_adapted_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them are trained where the encoder alone is asked for."""
    choose = adaptation._choose
    monkeypatch.setattr(
        adaptation, "_choose", lambda model, part: choose(model, "weights" if part == "encoder" else part)
    )
    assert "weights that are not adapted" in {found.tensor for found in fit()}


@pytest.mark.usefixtures("searched_only")
def test_votes_of_the_searches_that_fit_worst_are_the_votes(monkeypatch: pytest.MonkeyPatch) -> None:
    def choose(answers: Sequence[Any]) -> list[Any]:
        return [one.prediction for one in answers if one.fitted <= 0.5]

    monkeypatch.setattr(fitted_to_tasks, "choose_votes", choose)
    assert [(found.stage, found.tensor) for found in fit()] == [(PipelineStage.VOTES, "searches that vote")]


def test_rows_of_a_table_that_others_have_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every third task is typical, and the first rows of the table are read."""

    def compute(model: Variant, config: Config, trained: TaskSet) -> torch.Tensor:
        few = replace(trained, tasks=tuple(trained)[::3])
        return typical(model, config, few)

    typical = context_search.compute_typical_contexts
    monkeypatch.setattr(context_search, "TYPICAL", 2)
    monkeypatch.setattr(search_starts, "TYPICAL", 2)
    trm: dict[str, Any] = {"model": {"variant": "trm"}, "data": {"augmentations": 2}}
    assert fit(**trm) == []
    monkeypatch.setattr(context_search, "compute_typical_contexts", compute)
    assert [found.tensor for found in fit(**trm)] == ["first context of a search"]


@pytest.mark.usefixtures("adapted_only")
def test_other_rows_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adaptation, "hide_answers", lambda task: task)
    monkeypatch.setattr(adaptation, "with_settings", _ask_for_all)
    assert "losses of adapting" in {found.tensor for found in fit()}


def _ask_for_all(config: Any, **changes: Any) -> Any:
    changes["data"]["queries"] = "all"
    return with_settings(config, **changes)


@pytest.mark.usefixtures("searched_only")
def test_a_search_that_goes_on_with_the_moments_of_another_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    select = ContextAdam.select

    def first(adam: ContextAdam, contexts: torch.Tensor) -> None:
        select(adam, torch.arange(len(contexts)) if len(contexts) else contexts)

    monkeypatch.setattr(ContextAdam, "select", first)
    assert "lowest loss of a search" in {found.tensor for found in fit()}


@pytest.mark.usefixtures("searched_only")
def test_a_search_that_returns_the_next_context_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    keep = _Search._keep

    def late(self: _Search, losses: torch.Tensor) -> torch.Tensor:
        self.current = (self.current + 0.1).detach()
        return keep(self, losses)

    monkeypatch.setattr(_Search, "_keep", late)
    found = fit()
    assert {one.stage for one in found} == {PipelineStage.ANSWERS}
    assert {one.tensor for one in found} == {"first context of a search", "loss of a searched context"}


@pytest.mark.usefixtures("searched_only")
def test_a_search_that_keeps_its_start_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    keep = _Search._keep

    def once(self: _Search, losses: torch.Tensor) -> torch.Tensor:
        best, lowest = self.best.clone(), self.best_loss.clone()
        watched = keep(self, losses)
        if bool(lowest.isfinite().all()):
            self.best, self.best_loss = best, lowest
        return watched

    monkeypatch.setattr(_Search, "_keep", once)
    assert [found.tensor for found in fit()] == ["lowest loss of a search"]


@pytest.mark.usefixtures("searched_only")
def test_searches_with_the_same_noise_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = context_search._draw_noise
    monkeypatch.setattr(
        context_search, "_draw_noise", lambda shape, seed, name, restart: draw(shape, seed, name, 0)
    )
    [found] = fit()
    assert (found.stage, found.tensor) == (PipelineStage.ANSWERS, "first context of a search")


@pytest.mark.usefixtures("searched_only")
def test_a_later_batch_with_the_demonstrations_of_the_first_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    answer, first = ContextSearch._answer, dict[ContextSearch, Sequence[Any]]()

    def answer_first(self: ContextSearch, samples: Sequence[Any], shown: Sequence[Any]) -> list[Any]:
        return answer(self, samples, first.setdefault(self, shown)[: len(samples)])

    monkeypatch.setattr(ContextSearch, "_answer", answer_first)
    [found] = fit()
    assert (found.stage, found.tensor) == (PipelineStage.ANSWERS, "first context of a search")


@pytest.mark.usefixtures("searched_only")
def test_answers_in_another_order_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = ContextSearch.answer

    def reversed_(self: ContextSearch, samples: Sequence[Any], shown: Any = None) -> list[Any]:
        return answer(self, list(reversed(samples)), shown)

    monkeypatch.setattr(ContextSearch, "answer", reversed_)
    assert {found.stage for found in fit()} == {PipelineStage.ANSWERS}


def test_rounding_is_no_departure(monkeypatch: pytest.MonkeyPatch) -> None:
    """With limits below rounding, answers and losses are beyond them, and the sampled roundings explain all."""
    monkeypatch.setattr("etrm.reference.evaluation.answers.LOGIT_LIMIT", 0.0)
    monkeypatch.setattr(fitted_to_tasks, "FITTED", 1e-7)
    monkeypatch.setattr(fitted_to_tasks, "TASKS", 1)
    trainer = small_trainer()
    torch.nn.init.normal_(trainer.model.core.q_head.weight)  # type: ignore[union-attr]
    assert compare_fits(trainer) == []
    monkeypatch.setattr(fitted_to_tasks, "SAMPLES", 0)
    assert "halting logit" in {found.tensor for found in compare_fits(trainer)}
