"""Reads the causes of baseline files of version 1, which had no codes: the sentences of that version, frozen.

Nothing here follows the sentences of today; do not reword or extend it.
"""

from __future__ import annotations

from diagnostics.rules.registry import built_in_rules

_CODES: tuple[tuple[str, tuple[str, ...]], ...] = (
    # with facts in front: these come first
    ("it is the first in order of execution, and the same at", ("first-equal",)),
    ("is the first watched module, in order of execution, that mixes samples", ("mixes-samples",)),
    ("an output is a view, and it or its base was changed in place", ("changed-view",)),
    ("does not lead with the", ("other-leading-size",)),
    ("cannot be looked into", ("opaque-output",)),
    ("an output is a scalar, which belongs to no sample", ("scalar-output",)),
    ("it returns its own input, whose gradient is not its alone", ("returns-input",)),
    ("a hidden state leads with the layers", ("hidden-state",)),
    ("it is sequence-first (batch_first=False)", ("sequence-first",)),
    ("checkpointing repeated one of several calls with different rows", ("recomputed-rows",)),
    ("declared rows name samples outside 0..", ("rows-out-of-range",)),
    ("no output is a floating tensor", ("no-floating-output",)),
    ("its parameters receive gradient by another way than its forward", ("other-way",)),
    # coverage, waste and calls
    ("all watched modules have this coverage", ("loss-without-gradient",)),
    ("it computes only part of the batch in a step", ("part-of-batch",)),
    ("between its output and the loss the other samples are cut", ("samples-cut",)),
    ("the outputs of these rows are replaced or detached", ("rows-dropped",)),
    ("no_grad: it runs only inside torch.no_grad()", ("no-grad",)),
    ("detached: .item(), .data, detach()", ("detached",)),
    ("cut inside: .item(), argmax, detach()", ("cut-inside",)),
    ("its output meets a factor of zero on the way to the loss", ("zero-factor",)),
    ("a tiny factor between its output and the loss", ("tiny-factor",)),
    ("requires_grad is False for all of its parameters", ("requires-grad-false",)),
    ("the other calls run with gradients disabled, as declared", ("calls-without-grad-declared",)),
    ("the other calls run with gradients disabled", ("calls-without-grad",)),
    ("what the other calls return is cut on the way to the loss", ("calls-cut",)),
    ("other calls run with gradients disabled, and what others", ("calls-without-grad-and-cut",)),
    ("it is not used, or its results of an earlier step are cached", ("not-used",)),
    ("eval() was called, for an evaluation perhaps", ("left-in-evaluation",)),
    ("zero at its initialisation: gradient arrives once", ("zero-at-start",)),
    # parameters
    ("the model holds another tensor in its place", ("replaced-parameter",)),
    ("it takes no part in the loss, or its result is detached", ("not-in-loss",)),
    ("a dead unit, a mask, or a neighbouring weight", ("dead-unit",)),
    ("a dead unit, or a mask or a frozen weight", ("dead-unit",)),
    ("is the first that is not finite", ("overflow-in-output",)),
    ("no output of a watched module shows it", ("overflow-elsewhere",)),
    ("the logarithm of zero in forward or backward", ("overflow",)),
    ("it cannot change the loss: a bias before a normalisation", ("no-effect",)),
    ("layers in a plain list, dictionary or other object", ("unregistered-layers",)),
    ("a tensor that asks for gradient was set as an attribute", ("plain-tensor",)),
    ("zero_grad() is not called between updates", ("zero-grad-missing",)),
    # movement
    ("it is in no group of the optimisers", ("in-no-group",)),
    ("the learning rate of its group is 0", ("zero-rate",)),
    ("its gradient was cleared between the backward pass", ("cleared-gradient",)),
    ("the optimiser stepped without changing a bit of it", ("rounded-or-set-back",)),
    ("its weights were set back after the optimiser's step", ("set-back",)),
    ("no gradient arrives at it", ("no-gradient",)),
    ("its gradient is all zero", ("zero-gradient",)),
    ("its gradient is not finite, and the step may have been skipped", ("skipped-step",)),
    (
        "gradient arrives: it is in no group of the optimiser",
        ("in-no-group", "zero-rate", "cleared-gradient"),
    ),
    ("no update of any trainable parameter", ("no-update",)),
    ("its optimiser never stepped inside the monitored step", ("no-step-inside",)),
    ("what is left of it is below the optimiser's eps of", ("below-eps",)),
    ("what is left of it moves the weights by less than they are rounded", ("below-rounding",)),
    ("weights are written after the optimiser's step", ("overwritten",)),
    ("weight decay", ("weight-decay",)),
    ("optimiser state: its gradient is zero", ("optimizer-state",)),
    ("stale momentum", ("optimizer-state",)),
    ("still applies it (requires_grad is False)", ("stale-gradient-frozen",)),
    ("stale gradients: .grad holds a gradient", ("stale-gradient",)),
    ("stale gradients", ("stale-gradient-frozen",)),
    ("outside the optimiser", ("outside-optimizer",)),
    ("training: it receives gradient and the optimiser applies it", ("trained",)),
    ("training: it receives gradient", ("trained-elsewhere",)),
    ("unfrozen", ("trained",)),
    ("running statistics: its layer is in training mode", ("running-statistics",)),
    ("buffer update", ("running-statistics",)),
    ("written in its forward, or copied into", ("written-buffer",)),
    ("unknown: give assert_frozen the optimizers", ("unknown",)),
    ("the same tensor stands in", ("shared-tensor",)),
    # outputs, and rules that did not run
    ("the input is swamped by a constant", ("swamped",)),
    ("it starts like this: with the weights moved a little", ("equal-at-start",)),
    ("it arises here: modules before it", ("output-spikes", "gradient-spikes")),
    ("it was under way when the reference ended", ("under-way",)),
    ("its weights, or a state that it keeps: the probe batch", ("own-weights",)),
    ("fewer steps were recorded than the rules need", ("few-steps",)),
    ("is recorded, and they need each", ("steps-left-out",)),
    ("the monitor was given no optimiser", ("no-optimizer",)),
    ("no output on a fixed batch was given to Monitor.probe", ("no-probe",)),
    ("drift: the reference has", ("reference-incomplete",)),
    ("drift: the rows of the reference are all equal", ("reference-without-spread",)),
    ("drift: fewer than eight probes were measured", ("few-probes",)),
    # the loss, and the probes of an audit
    ("parameters did not move", ("some-still",)),
    ("all parameters move", ("all-move",)),
    ("the context is cut off, the same for all samples", ("context-lost",)),
    ("samples are dropped or repeated on the way", ("dropped-or-repeated",)),
    ("the same samples in another order", ("reordered",)),
    ("other samples: a carry or a cache", ("other-samples",)),
    ("padding is counted, predictions and labels are shifted", ("labels-below-one", "wrong-above-zero")),
    ("it is trained on other rows than it speaks of", ("logit-uninformed",)),
    ("its weights are zero and nothing trains them", ("logit-constant",)),
    ("rows ask to end and are made to go on", ("held",)),
    ("the halting logit is never positive", ("never-positive",)),
    ("the halting logit starts at or above its threshold", ("starts-positive",)),
    ("as measured", ("as-measured",)),
    ("what the modules compute", ("module-cost",)),
)
"""A part of the sentence -> the codes that it has today; the first that fits counts."""


def codes_of(rule: str, cause: str) -> tuple[str, ...]:
    """Find the codes of a sentence of version 1.

    Returns:
        ("",) for a rule of the user's own, which has no codes; () where a rule of the toolkit never had the sentence.
    """
    known = next((each for each in built_in_rules() if each.id == rule), None)
    if known is None:
        return ("",)
    allowed = {each.code for each in known.causes}
    fitting = (codes for part, codes in _CODES if part in cause and allowed.issuperset(codes))
    return next(fitting, ())
