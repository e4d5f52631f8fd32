"""Errors of an adapter: what was expected, what was found, and lines that would work."""

from __future__ import annotations

import textwrap
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeGuard

import etrm
from etrm.errors import EtrmError, ExtensionError

EXAMPLE_FACTORY = """\
    import torch
    from etrm.investigation.own_model import ModelUnderTest

    def make_model(seed):
        rows = lambda index: torch.arange(8 * index, 8 * index + 8) % len(inputs)  # any index is allowed
        return ModelUnderTest(
            model=MyModel(),
            step=lambda model, batch: torch.nn.functional.mse_loss(model(batch["x"]), batch["y"]),
            batch=lambda index: {"x": inputs[rows(index)], "y": targets[rows(index)]},
        )"""
EXAMPLE_STEP = """\
    def step(model, batch):
        loss = torch.nn.functional.mse_loss(model(batch["x"]), batch["y"])
        return loss  # a tensor of one element with its graph: no .item(), no backward()

    # or, for a function that calls backward() itself, until_backward of etrm.investigation.own_model:
    # step=until_backward(train_step)"""
EXAMPLE_BATCH = """\
    def batch(index):  # the same index gives the same batch
        rows = torch.arange(8 * index, 8 * index + 8) % len(inputs)  # any index is allowed
        return {"x": inputs[rows], "y": targets[rows]}  # rows first, as many in each tensor"""
EXAMPLE_PARTS = """\
    ModelUnderTest(
        context_module="encoder",  # a name of model.named_modules()
        context_consumer="decoder",
        frozen=("decoder.embedding",),  # a tuple, also of one name
        demonstrations=("demos",),  # keys of the batch
        labels="label",
        ...
    )"""
EXAMPLE_LOSSES = """\
    def sample_losses(model, batch):
        errors = (model(batch["x"]) - batch["y"]).square()
        return errors.flatten(1).mean(1)  # one loss per row"""
EXAMPLE_EVALUATION = """\
    def predict(model, batch):
        model.eval()
        with torch.no_grad():
            predictions = model(batch["x"]).argmax(-1)
        model.train()
        return predictions

    def evaluate(predictions, answers):  # answers are batch[labels]
        return (predictions == answers).float().mean().item()"""
EXAMPLE_ANSWERS = """\
    as_predictions=lambda answers: torch.nn.functional.one_hot(answers, classes).float()"""
EXAMPLE_ERROR = """\
    evaluate=lambda predictions, answers: (predictions - answers).square().mean().item(),
    best_score=0.0,
    worst_score=None,  # an error has no worst value"""
EXAMPLE_OPTIMIZER = """\
    optimizer=lambda model: torch.optim.AdamW(model.parameters(), 1e-3)"""
EXAMPLE_UPDATE = """\
    def update(model, optimizer, loss):
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()"""
EXAMPLE_SCHEDULE = """\
    schedule=lambda optimizer: torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=10)"""
EXAMPLE_PRETRAINED = """\
    Pretrained(
        part="decoder",
        load=lambda model: model.decoder.load_state_dict(torch.load("decoder.pt")),
        original=lambda: make_trained_decoder(),
        inputs=lambda: (torch.randn(4, 16),),
    )"""
EXAMPLE_SAMPLE = """\
    def sample(id):  # an entry of batch[ids]
        return {"x": inputs[id], "y": targets[id]}  # keys of the batch; a row without the first dimension"""
_OURS = Path(etrm.__file__).parents[1]


def refuse_adapter(code: str, what: str, *, got: str, expected: str, example: str) -> ExtensionError:
    """The error for an adapter that cannot be used.

    Args:
        code: the code of the error.
        what: a description of the problem.
        got: the value that was found.
        expected: a description of what is expected.
        example: lines that would work.
    """
    lines = f"change it, for instance to\n\n{example}\n"
    return ExtensionError(code, what, got=got, allowed=expected, next_step=lines)


def is_refusal(error: BaseException) -> TypeGuard[ExtensionError]:
    """Whether an error is about the adapter, as those of this module are."""
    return isinstance(error, ExtensionError) and error.code.startswith("adapter.")


@contextmanager
def call_adapter(code: str, what: str, *, expected: str, example: str) -> Iterator[None]:
    """Run code of the adapter; whatever it raises becomes an error that shows the line of the user's code.

    Raises:
        ExtensionError: the code raised an exception or called ``sys.exit``. Errors of this project pass unchanged.
    """
    try:
        yield
    except EtrmError:
        raise
    except (Exception, SystemExit) as error:
        got = describe_exception(error)
        raise refuse_adapter(code, what, got=got, expected=expected, example=example) from error


def describe_exception(error: BaseException) -> str:
    """The kind and the first line of an exception, and the innermost line of the user's code, if there is one."""
    first = (str(error).splitlines() or [""])[0]
    places = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not Path(frame.filename).is_relative_to(_OURS / "etrm") and "site-packages" not in frame.filename
    ]
    place = f" ({Path(places[-1].filename).name}, line {places[-1].lineno})" if places else ""
    return f"{type(error).__name__}: {textwrap.shorten(first, 300)}{place}"
