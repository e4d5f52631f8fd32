"""Call every function of an adapter once, before any hypothesis is tested: a wrong one is refused in seconds."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from diagnostics.testing.trials import untouched
from etrm.errors import ExtensionError
from etrm.extensions import describe
from etrm.investigation.own_model import adapter_errors as examples
from etrm.investigation.own_model.adapter_errors import call_adapter, refuse_adapter
from etrm.investigation.own_model.adapter_functions import (
    FUNCTIONS,
    LOADING,
    compute_loss,
    compute_sample_losses,
    make_predictions,
)
from etrm.investigation.own_model.batch_rows import are_equal, list_ids, list_tensor_keys, make_wrong
from etrm.investigation.own_model.loss_probe import LossProbe, are_close
from etrm.investigation.own_model.model_factory import ModelFactory, seed_everything
from etrm.investigation.own_model.model_under_test import ModelUnderTest, RowBatch
from etrm.investigation.own_model.short_runs import MUCH_LONGER
from etrm.investigation.own_model.training_trial import INSPECTED_STEPS, TrainingTrial

BATCHES_READ = range(INSPECTED_STEPS)
"""Training batches that are read: all that an inspection reads."""
HELD_OUT_READ = (0, 1)
"""Held-out batches that are read, as for H5."""
SAMPLES_READ = 2
"""Rows of the first batch whose samples are compared with them."""


def check_adapter(factory: ModelFactory) -> ModelUnderTest:
    """Call every function of the adapter, and return a model under test, which is not trained.

    Raises:
        ExtensionError: something is not what it must be; the message shows lines that would work.
    """
    subject = factory.build(0)
    _check_parts(subject)
    batch = _check_batches(subject)
    _check_keys(subject, batch)
    with untouched(subject.model):
        compute_loss(subject, batch)
        if subject.sample_losses is not None:
            compute_sample_losses(subject, batch)
    _check_keys_read(subject, batch)
    with untouched(subject.model):
        _check_evaluation(subject, batch)
    _check_samples(subject, batch)
    _check_pretrained(subject)
    _check_training(factory, subject)
    return subject


def _check_parts(subject: ModelUnderTest) -> None:
    """Whether each part that is named exists."""
    modules = [name for name, _ in subject.model.named_modules()]
    tensors = [name for name, _ in (*subject.model.named_parameters(), *subject.model.named_buffers())]
    named: dict[str, tuple[str, ...]] = {
        "context_module": (subject.context_module,),
        "context_consumer": (subject.context_consumer,),
        "frozen": subject.frozen,
        "approximate": subject.approximate,
        "pretrained.part": (subject.pretrained.part,) if subject.pretrained else (),
    }
    for what, parts in named.items():
        known = [*modules, *tensors] if what in ("frozen", "approximate") else modules
        for part in parts:
            if part and part not in known:
                raise refuse_adapter(
                    "adapter.no-such-part",
                    f"{what} names a module that does not exist",
                    got=repr(part),
                    expected=f"a name of model.named_modules(){_list_known(part, known)}",
                    example=examples.EXAMPLE_PARTS,
                )


def _check_batches(subject: ModelUnderTest) -> RowBatch:
    """Whether every batch that will be read can be read, with the same keys; returns the first one."""
    first, again = (_read(subject.batch, 0) for _ in range(2))
    if not are_equal(first, again):
        raise _refuse_batch("batch(0)", "another batch at a second call", "the same at every call")
    for index in BATCHES_READ[1:]:
        _compare_keys(f"batch({index})", _read(subject.batch, index), first)
    if subject.held_out is not None:
        for index in HELD_OUT_READ:
            _compare_keys(f"held_out({index})", _read(subject.held_out, index), first)
    return first


def _read(make: Callable[[int], RowBatch], index: int) -> RowBatch:
    seed_everything(0)
    return make(index)


def _compare_keys(what: str, batch: RowBatch, first: RowBatch) -> None:
    if batch.keys() != first.keys():
        got, wanted = (", ".join(map(str, one)) for one in (batch, first))
        raise _refuse_batch(what, f"the keys {got}", f"the keys of batch(0): {wanted}")


def _refuse_batch(what: str, got: str, expected: str) -> ExtensionError:
    return refuse_adapter(
        "adapter.unlike-batch",
        f"{what} returned a batch that does not fit",
        got=got,
        expected=expected,
        example=examples.EXAMPLE_BATCH,
    )


def _check_keys(subject: ModelUnderTest, batch: RowBatch) -> None:
    """Whether each key that is named is in the batch, with a value for each row."""
    named = {"labels": (subject.labels,), "ids": (subject.ids,), "demonstrations": subject.demonstrations}
    for what, keys in named.items():
        for key in filter(None, keys):
            if key not in batch:
                raise refuse_adapter(
                    "adapter.no-such-key",
                    f"{what} names a key that the batch does not have",
                    got=repr(key),
                    expected=f"a key of the batch{_list_known(key, batch)}",
                    example=examples.EXAMPLE_BATCH,
                )
            if not isinstance(batch[key], (Tensor, list) if what == "ids" else Tensor):
                raise refuse_adapter(
                    "adapter.no-tensor",
                    f"{what} names a key of the batch whose value is no tensor",
                    got=f"{key}: {describe(batch[key])}",
                    expected="a tensor with the rows as first dimension" + ", or a list" * (what == "ids"),
                    example=examples.EXAMPLE_BATCH,
                )


def _check_keys_read(subject: ModelUnderTest, batch: RowBatch) -> None:
    """Whether the step reads the labels and demonstrations that are named, and no copy of them under another key."""
    named = {"labels": (subject.labels,), "demonstrations": subject.demonstrations}
    known = {subject.labels, subject.ids, *subject.demonstrations}
    others = [key for key in list_tensor_keys(batch) if key not in known]
    probe = LossProbe(subject)
    for what, keys in named.items():
        for key in filter(None, keys):
            copies = [other for other in others if _holds(batch[other], batch[key])]
            if not copies or _is_read(probe, batch, key):
                continue
            if read := [copy for copy in copies if _is_read(probe, batch, copy)]:
                raise refuse_adapter(
                    "adapter.unread-key",
                    f"{what} names a key that the step does not read",
                    got=f"the step reads {', '.join(map(repr, read))}, which holds the values of {key!r}",
                    expected="the keys that the step reads",
                    example=examples.EXAMPLE_STEP,
                )


def _holds(whole: Tensor, part: Tensor) -> bool:
    """Whether each row of a tensor holds the values of the same row of another one; integers only if both are equal."""
    if whole.dtype != part.dtype:
        return False
    if not part.is_floating_point():
        return torch.equal(whole, part)
    return all(bool(torch.isin(own, row).all()) for own, row in zip(part, whole, strict=True))


def _is_read(probe: LossProbe, batch: RowBatch, key: str) -> bool:
    """Whether other values of a key change the step's loss; also where it refuses them."""
    try:
        own = probe.step_loss(batch)
        others = (batch[key].roll(1, 0), make_wrong(batch[key]))
        return not all(are_close(own, probe.step_loss({**batch, key: other})) for other in others)
    except ExtensionError:
        return True


def _check_evaluation(subject: ModelUnderTest, batch: RowBatch) -> None:
    """Whether the evaluator takes what ``predict`` returns."""
    predictions = subject.predict(subject.model, batch) if subject.predict else None
    if subject.evaluate is None or not subject.labels:
        return
    answers = batch[subject.labels]
    known = make_predictions(subject, answers)
    if predictions is not None and predictions.shape != known.shape:
        raise refuse_adapter(
            "adapter.unlike-predictions",
            "predict and the right answers do not have the same form, so that known answers cannot be evaluated",
            got=f"predict: {tuple(predictions.shape)}; answers: {tuple(known.shape)}",
            expected="the same shape; as_predictions turns answers into predictions",
            example=examples.EXAMPLE_ANSWERS,
        )
    _check_best_score(subject, known, answers)


def _check_best_score(subject: ModelUnderTest, known: Tensor, answers: Tensor) -> None:
    """Whether the best score is not the worst one, as where ``evaluate`` returns an error and the ends are defaults."""
    assert subject.evaluate is not None
    best, worst = subject.best_score, subject.worst_score
    right = float(subject.evaluate(known, answers))
    wrong = float(subject.evaluate(make_predictions(subject, make_wrong(answers)), answers))
    got = ""
    if best == worst:
        got = f"best_score and worst_score are both {best:g}"
    elif right == worst and wrong > right and best > right:
        got = f"right answers get {right:.4g}, wrong ones {wrong:.4g}, and best_score is {best:g}"
    if got:
        raise refuse_adapter(
            "adapter.error-as-score",
            "best_score is not the score of right answers; evaluate seems to return an error",
            got=got,
            expected="the score of right answers as best_score, and that of wrong ones as worst_score",
            example=examples.EXAMPLE_ERROR,
        )


def _check_samples(subject: ModelUnderTest, batch: RowBatch) -> None:
    """Whether samples have the form of rows of the batch."""
    if subject.sample is None or not subject.ids:
        return
    for row, id in enumerate(list_ids(batch, subject.ids)[:SAMPLES_READ]):
        sample = subject.sample(id)
        rows = {key: batch[key][row] for key in sample if isinstance(batch.get(key), Tensor)}
        wrong = [key for key, own in rows.items() if _shape(sample[key]) != tuple(own.shape)]
        if rows and not wrong:
            continue
        key = wrong[0] if wrong else ""
        keys = ", ".join(key for key in batch if key != subject.ids)
        got = f"{key} of {_name_shape(sample[key])}" if wrong else f"the keys {', '.join(map(str, sample))}"
        raise refuse_adapter(
            "adapter.unlike-sample",
            f"sample({id!r}) does not have the form of a row of the batch",
            got=got,
            expected=f"{key} of {_name_shape(rows[key])}" if wrong else f"some of the keys {keys}",
            example=examples.EXAMPLE_SAMPLE,
        )


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None


def _name_shape(value: Any) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"type {type(value).__name__}"


def _check_pretrained(subject: ModelUnderTest) -> None:
    """Whether the original part takes the inputs of its functional test."""
    if subject.pretrained is None:
        return
    original = subject.pretrained.original()
    if subject.pretrained.inputs is None:
        return
    inputs = subject.pretrained.inputs()
    with call_adapter(
        "adapter.original-refuses-inputs",
        "a call of pretrained.original() with pretrained.inputs() raised an exception",
        expected=LOADING["inputs"].expected,
        example=LOADING["inputs"].example,
    ):
        original(*inputs)


def _check_training(factory: ModelFactory, subject: ModelUnderTest) -> None:
    """Whether a second model is a fresh one, trains a step, and has a schedule for the longest run."""
    trial = TrainingTrial(factory, 0)
    own = {id(p) for p in subject.model.parameters() if p.requires_grad}
    if any(id(p) in own for p in trial.model.parameters()):
        raise refuse_adapter(
            "adapter.same-model",
            f"the factory {factory.name} returned the same model twice",
            got="trained weights that both models share",
            expected="a model that is made in make_model, so that each run starts from a fresh one",
            example=examples.EXAMPLE_FACTORY,
        )
    loss = trial.loss(0, trial.batch(0))
    reached: list[Tensor] = []
    if loss.requires_grad:
        loss.register_hook(reached.append)
    elif any(p.grad is not None for p in trial.model.parameters()):
        raise refuse_adapter(
            "adapter.backward-in-step",
            "step(model, batch) called backward() itself",
            got="gradients, and a loss without a graph",
            expected=FUNCTIONS["step"].expected,
            example=FUNCTIONS["step"].example,
        )
    trial.update(loss)
    if loss.requires_grad and not reached:
        raise refuse_adapter(
            "adapter.no-backward",
            "update(model, optimizer, loss) did not compute the gradient of the loss",
            got="no backward pass",
            expected=FUNCTIONS["update"].expected,
            example=FUNCTIONS["update"].example,
        )
    trial.advance_schedule(max(INSPECTED_STEPS, MUCH_LONGER * subject.steps) - 1)


def _list_known(name: str, known: Iterable[str]) -> str:
    """The names that exist, the nearest first."""
    names = [str(key) for key in known if key != ""]
    names = [*difflib.get_close_matches(name, names, n=3), *names]
    listed = list(dict.fromkeys(names))
    return f": {', '.join(listed[:12])}{', ...' if len(listed) > 12 else ''}"
