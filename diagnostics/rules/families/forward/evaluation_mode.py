"""Modules that are trained while they are in evaluation mode."""

from __future__ import annotations

from collections.abc import Iterator

from diagnostics.causes import Cause
from diagnostics.records import StepRecord
from diagnostics.rules.options import Values
from diagnostics.rules.parameter_checks import first_few
from diagnostics.rules.rule import WARNING, Family, Observation, Rule, lasting, learners

LEFT_IN_EVALUATION = Cause(
    "left-in-evaluation",
    "eval() was called, perhaps for an evaluation, and train() was not called afterwards",
)


def find_evaluation_mode(record: StepRecord, options: Values) -> Iterator[Observation]:
    """MODE001."""
    for name, module in learners(record):
        if module.state == "arrived" and module.evaluating:
            layers = first_few(layer or name for layer in module.evaluating)
            message = f"{name}: it is trained in evaluation mode, which matters for {layers}"
            yield Observation(name, float(len(module.evaluating)), message, LEFT_IN_EVALUATION)


STILL_ADAPTING = Cause(
    "still-adapting", "model.train() puts its layers into training mode, in which every batch changes them"
)


def find_adapting(record: StepRecord, options: Values) -> Iterator[Observation]:
    """MODE002; averages and targets follow the data on purpose."""
    for name, layers in record.adapting.items():
        module = record.modules[name]
        declared = any(each.expect_frozen for each in record.held_by(name))  # FROZEN001
        if module.calls_total and module.params_total and name not in record.copies and not declared:
            text = first_few(layer or name for layer in layers)
            message = f"{name}: its weights are frozen, and its running statistics change ({text})"
            yield Observation(name, float(len(layers)), message, STILL_ADAPTING)


RANDOM_ANSWERS = Cause(
    "frozen-and-random",
    "it is frozen and called without gradient, but its dropout is on, so the same input gives different outputs",
    remedy="Call eval() on it after each train() of the model.",
)
ONE_SAMPLE = Cause(
    "one-sample",
    "the batch has one sample, which is normalised by its own statistics in training and by running averages"
    " in evaluation",
    remedy="Use a larger batch, or a norm without batch statistics: GroupNorm or LayerNorm.",
)
MOMENTUM_ZERO = Cause(
    "momentum-zero",
    "momentum is 0, so the running statistics keep their initial values, and evaluation uses them",
    remedy="Set momentum to 0.1; None averages over all batches.",
)


MOMENTUM_OF_AVERAGE = Cause(
    "momentum-of-average",
    "momentum is the weight of the last batch; with 0.9 or more, evaluation uses the statistics of a single batch",
    remedy="Give 1 - momentum of libraries in which momentum is the weight of the average: 0.1 or 0.01.",
)
_ODD = {each.code: each for each in (ONE_SAMPLE, MOMENTUM_ZERO, MOMENTUM_OF_AVERAGE)}


def find_odd_statistics(record: StepRecord, options: Values) -> Iterator[Observation]:
    """MODE003."""
    for odd in record.odd_statistics:
        cause = _ODD[odd.code]
        text = first_few(layer or odd.module for layer in odd.layers)
        message = f"{odd.module}: training and evaluation normalise differently ({text})"
        yield Observation(odd.module, float(len(odd.layers)), message, cause, key=cause)


MODE003 = Rule(
    "MODE003",
    WARNING,
    "Unreliable batch statistics",
    "layers",
    "Normalise over more than one sample.",
    find_odd_statistics,
    lasting(5, why="the last batch of an epoch may be a single sample"),
    causes=(ONE_SAMPLE, MOMENTUM_ZERO, MOMENTUM_OF_AVERAGE),
    what="A batch norm in training mode sees one sample in each step, or its momentum is 0, or 0.9 and more.",
    why="Evaluation uses other statistics than training.",
    example="`BatchNorm2d(64, momentum=0)`, where TensorFlow's 1.0 was meant.",
    false_alarms="One sample that the model folds into many rows.",
    spreads="together",
)
MODE002 = Rule(
    "MODE002",
    WARNING,
    "A frozen module is in training mode",
    "layers",
    "Call eval() on the frozen module after each train() of the model.",
    find_adapting,
    lasting(5),
    causes=(STILL_ADAPTING, RANDOM_ANSWERS),
    what="No parameter of a module requires gradient, and batch norms in it are in training mode, or it is only called"
    " with gradients disabled, with a dropout in training mode.",
    why="Its outputs drift from those that it was trained for, and differ between training and evaluation.",
    example="`backbone.requires_grad_(False)`, then `model.train()`.",
    false_alarms="Statistics that are adapted to new data on purpose.",
)
MODE001 = Rule(
    "MODE001",
    WARNING,
    "Trained in evaluation mode",
    "layers",
    "Call train() on the model before the step.",
    find_evaluation_mode,
    lasting(5, why="more than one odd step after an evaluation"),
    causes=(LEFT_IN_EVALUATION,),
    what="A module is trained in evaluation mode, and holds layers to which that matters: dropout, batch"
    " statistics, recurrent or attention layers with dropout.",
    why="Dropout does nothing, and batch norms use old statistics.",
    example="`model.eval()` in the evaluation function, and no `model.train()` after it.",
    false_alarms="A backbone that is tuned in evaluation mode on purpose. Single frozen batch norms do not count"
    " while the module around them trains.",
    spreads="together",
    rank=200,
)
FAMILY = Family(80, "Training and evaluation mode", (MODE001, MODE002, MODE003))
