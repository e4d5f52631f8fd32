"""Every cause that a finding of the toolkit can name: a stable code and the sentence that people read.

A finding is identified by rule, module and code. Sentences may be reworded at any time; a code never changes its
meaning. A rule registers the causes that it can name (`diagnostics.rules.registry`), and its page lists them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from string import Formatter


@dataclass(frozen=True)
class Cause:
    """A possible cause. Two are equal where code and facts are; the wording does not count.

    Attributes:
        code: Stable name in lower case, unique within a rule.
        sentence: Its text; fields in braces are filled from the facts.
        facts: What was measured, by field.
        addition: Text that follows the sentence, "" for none.
    """

    code: str
    sentence: str = field(compare=False)
    facts: tuple[tuple[str, object], ...] = ()
    addition: str = field(default="", compare=False)

    def of(self, **facts: object) -> Cause:
        """This cause with the facts that its sentence needs."""
        return replace(self, facts=tuple(facts.items()))

    def adding(self, text: str) -> Cause:
        """This cause with a text after its sentence."""
        return replace(self, addition=text)

    @property
    def documented(self) -> str:
        """The sentence for documentation, with each field as its name in capitals."""
        parts = Formatter().parse(self.sentence)
        return "".join(text + (name.upper() if name else "") for text, name, _, _ in parts)

    def __str__(self) -> str:
        return self.sentence.format(**dict(self.facts)) + self.addition


UNKNOWN = Cause("unknown", "not known")

# Coverage, waste and calls of a module.
LOSS_WITHOUT_GRADIENT = Cause(
    "loss-without-gradient",
    "all watched modules have this coverage: the loss itself has no gradient for the other samples",
)
PART_OF_BATCH = Cause(
    "part-of-batch",
    "it computes only part of the batch in a step; the other samples use results of earlier steps"
    " (a carry or a cache), through which no gradient comes back",
)
SAMPLES_CUT = Cause(
    "samples-cut",
    "between its output and the loss the other samples are cut: detach(), where() with a detached"
    " branch, or a cache of earlier outputs",
)
ROWS_DROPPED = Cause(
    "rows-dropped", "the outputs of these rows are replaced or detached before they reach the loss"
)
NO_GRAD = Cause(
    "no-grad", "it runs only inside torch.no_grad() or inference_mode(), before gradients are enabled"
)
DETACHED = Cause(
    "detached",
    "its output is not used, or cut off after it: .item(), .data, detach(), a copy through Python or numpy",
)
CUT_INSIDE = Cause(
    "cut-inside", "its own forward cuts the graph: .item(), argmax, detach() or no_grad() inside it"
)
ZERO_FACTOR = Cause(
    "zero-factor",
    "its output meets a factor of zero on the way to the loss (a mask, gate or weight), or a function"
    " that is flat there: a saturated unit, clamp(), round(), sign()",
)
TINY_FACTOR = Cause(
    "tiny-factor",
    "a tiny factor between its output and the loss: a scale, a gate, a mixture with detach()",
)
REQUIRES_GRAD_FALSE = Cause("requires-grad-false", "requires_grad is False for all of its parameters")
CALLS_WITHOUT_GRAD = Cause("calls-without-grad", "the other calls run with gradients disabled")
CALLS_DECLARED = Cause(
    "calls-without-grad-declared", "the other calls run with gradients disabled, as declared"
)
CALLS_CUT = Cause("calls-cut", "what the other calls return is cut on the way to the loss, or not used")
CALLS_WITHOUT_GRAD_AND_CUT = Cause(
    "calls-without-grad-and-cut",
    "other calls run with gradients disabled, and what others return is cut or not used",
)
NOT_USED = Cause("not-used", "it is not used, or its results of an earlier step are cached")
LEFT_IN_EVALUATION = Cause(
    "left-in-evaluation", "eval() was called, for an evaluation perhaps, and train() not afterwards"
)
ZERO_AT_START = Cause(
    "zero-at-start", "zero at its initialisation: gradient arrives once the weights have moved a little"
)

# Coverage that is not known.
RETURNS_INPUT = Cause("returns-input", "it returns its own input, whose gradient is not its alone")
HIDDEN_STATE = Cause("hidden-state", "a hidden state leads with the layers")
SEQUENCE_FIRST = Cause(
    "sequence-first", "it is sequence-first (batch_first=False); declare rows of shape (T, B)"
)
SCALAR_OUTPUT = Cause("scalar-output", "an output is a scalar, which belongs to no sample")
OTHER_LEADING_SIZE = Cause(
    "other-leading-size", "an output of shape {shape} does not lead with the {rows}; declare its rows"
)
CHANGED_VIEW = Cause(
    "changed-view", "an output is a view, and it or its base was changed in place afterwards"
)
RECOMPUTED_ROWS = Cause(
    "recomputed-rows", "checkpointing repeated one of several calls with different rows; declare rows={{...}}"
)
OPAQUE_OUTPUT = Cause("opaque-output", "an output of type {type} cannot be looked into")
ROWS_OUT_OF_RANGE = Cause("rows-out-of-range", "declared rows name samples outside 0..{last}")
NO_FLOATING_OUTPUT = Cause("no-floating-output", "no output is a floating tensor")
OTHER_WAY = Cause(
    "other-way",
    "its parameters receive gradient by another way than its forward ({state}): it is used through other"
    " methods, its weights are shared, or torch.compile had compiled it before the monitor was made",
)

# Gradients of parameters.
REPLACED_PARAMETER = Cause(
    "replaced-parameter",
    "the model holds another tensor in its place: it was replaced after the monitor was made",
)
NOT_IN_LOSS = Cause(
    "not-in-loss", "it takes no part in the loss, or its result is detached inside the module"
)
DEAD_UNIT = Cause("dead-unit", "a dead unit, a mask, or a neighbouring weight that stays at zero")
OVERFLOW_IN_OUTPUT = Cause(
    "overflow-in-output",
    "overflow, a division by zero or the logarithm of zero: the output of {module} is the first that is"
    " not finite",
)
OVERFLOW_ELSEWHERE = Cause(
    "overflow-elsewhere",
    "overflow, a division by zero or the logarithm of zero: no output of a watched module shows it, so it"
    " arises behind the last of them or in the backward pass",
)
OVERFLOW = Cause("overflow", "overflow, a division by zero or the logarithm of zero in forward or backward")
NO_EFFECT = Cause(
    "no-effect",
    "it cannot change the loss: a bias before a normalisation, or of the keys of an attention",
)
UNREGISTERED_LAYERS = Cause(
    "unregistered-layers",
    "layers in a plain list, dictionary or other object, which does not register them",
)
PLAIN_TENSOR = Cause(
    "plain-tensor", "a tensor that asks for gradient was set as an attribute, without nn.Parameter"
)
ZERO_GRAD_MISSING = Cause(
    "zero-grad-missing",
    "zero_grad() is not called between updates: each applies the sum of all gradients so far",
)

# Movement of parameters and buffers.
IN_NO_GROUP = Cause("in-no-group", "it is in no group of the optimisers")
ZERO_RATE = Cause("zero-rate", "the learning rate of its group is 0")
CLEARED_GRADIENT = Cause(
    "cleared-gradient", "its gradient was cleared between the backward pass and the optimiser's step"
)
SET_BACK = Cause("set-back", "its weights were set back after the optimiser's step")
ROUNDED_OR_SET_BACK = Cause(
    "rounded-or-set-back",
    "the optimiser stepped without changing a bit of it: the update is below the rounding of its type,"
    " or the weights were set back",
)
NO_GRADIENT = Cause("no-gradient", "no gradient arrives at it")
ZERO_GRADIENT = Cause("zero-gradient", "its gradient is all zero")
SKIPPED_STEP = Cause("skipped-step", "its gradient is not finite, and the step may have been skipped")
NOT_APPLIED = Cause(
    "not-applied",
    "gradient arrives: it is in no group of the optimiser, the learning rate is 0, the gradient is"
    " cleared before the step, or the update is below the rounding of its type",
)
NO_UPDATE = Cause("no-update", "no update of any trainable parameter")
NO_STEP_INSIDE = Cause("no-step-inside", "its optimiser never stepped inside the monitored step")
BELOW_EPS = Cause(
    "below-eps",
    "clipping, or a division of the gradient, between the backward pass and the optimiser's step: what is"
    " left of it is below the optimiser's eps of {eps:g}",
)
BELOW_ROUNDING = Cause(
    "below-rounding",
    "clipping, or a division of the gradient, between the backward pass and the optimiser's step: what is"
    " left of it moves the weights by less than they are rounded",
)
OVERWRITTEN = Cause(
    "overwritten", "weights are written after the optimiser's step, with an average (EMA) or an older copy"
)
WEIGHT_DECAY = Cause(
    "weight-decay", "weight decay: its gradient is zero, and group {group} decays all of its weights"
)
OPTIMIZER_STATE = Cause(
    "optimizer-state", "optimiser state: its gradient is zero, and momentum of earlier steps moves it on"
)
STALE_GRADIENT = Cause(
    "stale-gradient",
    "stale gradients: .grad holds a gradient of an earlier step, and the optimiser still applies it",
)
STALE_GRADIENT_FROZEN = Cause(
    "stale-gradient-frozen",
    "stale gradients: .grad holds a gradient of an earlier step, and the optimiser still applies it"
    " (requires_grad is False)",
)
TRAINED = Cause("trained", "training: it receives gradient and the optimiser applies it")
TRAINED_ELSEWHERE = Cause("trained-elsewhere", "training: it receives gradient")
OUTSIDE_OPTIMIZER = Cause(
    "outside-optimizer",
    "outside the optimiser: weights assigned or copied in place (EMA, loading), or another optimiser",
)
RUNNING_STATISTICS = Cause(
    "running-statistics",
    "running statistics: its layer is in training mode and takes in every batch, whatever requires_grad says",
)
WRITTEN_BUFFER = Cause("written-buffer", "written in its forward, or copied into (EMA, loading)")
SHARED_TENSOR = Cause("shared-tensor", "the same tensor stands in {modules}")

# Outputs and their history.
SWAMPED = Cause(
    "swamped",
    "the input is swamped by a constant, a saturated unit, or a loss that rewards equal outputs",
)
EQUAL_AT_START = Cause("equal-at-start", "it starts like this: with the weights moved a little it differs")
FIRST_EQUAL = Cause(
    "first-equal",
    "it is the first in order of execution, and the same at {seeds} further seeds with the weights"
    " moved a little; modules behind it inherit the collapse",
)
OUTPUT_SPIKES = Cause("output-spikes", "it arises here: modules before it are quiet on these steps")
GRADIENT_SPIKES = Cause("gradient-spikes", "it arises here: modules behind it are quiet on these steps")
UNDER_WAY = Cause(
    "under-way",
    "it was under way when the reference ended, as learning from a random start is; begin to probe later"
    " to see other drifts",
)
OWN_WEIGHTS = Cause(
    "own-weights", "its weights, or a state that it keeps: the probe batch is the same every time"
)
MIXES_SAMPLES = Cause(
    "mixes-samples", "{module} is the first watched module, in order of execution, that mixes samples"
)

# Why a rule did not run.
FEW_STEPS = Cause("few-steps", "fewer steps were recorded than the rules need")
STEPS_LEFT_OUT = Cause("steps-left-out", "one step in {every} is recorded, and they need each")
NO_OPTIMIZER = Cause("no-optimizer", "the monitor was given no optimiser")
NO_PROBE = Cause("no-probe", "no output on a fixed batch was given to Monitor.probe")
REFERENCE_INCOMPLETE = Cause("reference-incomplete", "the reference has {probes} of {window} probes")
REFERENCE_WITHOUT_SPREAD = Cause(
    "reference-without-spread", "the rows of the reference are all equal: it has no spread to measure by"
)
FEW_PROBES = Cause("few-probes", "fewer than eight probes were measured against the reference")

# The loss, and what the probes of an audit ask.
SOME_STILL = Cause("some-still", "{still} of {total} parameters did not move")
ALL_MOVE = Cause("all-move", "all parameters move")
CONTEXT_LOST = Cause(
    "context-lost", "the context is cut off, the same for all samples, or not read by what follows it"
)
DROPPED_OR_REPEATED = Cause("dropped-or-repeated", "samples are dropped or repeated on the way")
REORDERED = Cause(
    "reordered",
    "the same samples in another order: one of the tensors was sorted, reshaped or transposed alone",
)
OTHER_SAMPLES = Cause("other-samples", "other samples: a carry or a cache holds those of an earlier batch")
_SCORING = (
    "padding is counted, predictions and labels are shifted against each other, or the denominator is not"
    " the intended one"
)
LABELS_BELOW_ONE = Cause("labels-below-one", _SCORING)
WRONG_ABOVE_ZERO = Cause("wrong-above-zero", _SCORING)
LOGIT_UNINFORMED = Cause(
    "logit-uninformed",
    "it is trained on other rows than it decides about, its input does not reach it, or its sign is negated",
)
LOGIT_CONSTANT = Cause(
    "logit-constant", "its weights are zero and nothing trains them, or its input is the same for every row"
)
HELD = Cause("held", "rows ask to end and are made to continue: exploration, or the logit is not read")
NEVER_POSITIVE = Cause(
    "never-positive",
    "the halting logit is never positive: its bias, its weight in the loss, or nothing trains it",
)
STARTS_POSITIVE = Cause(
    "starts-positive",
    "the halting logit starts at or above its threshold: a zero weight without a negative bias",
)
AS_MEASURED = Cause("as-measured", "as measured")
MODULE_COST = Cause("module-cost", "what the modules compute")
