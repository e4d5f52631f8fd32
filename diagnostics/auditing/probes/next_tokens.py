"""Whether the targets of a model of sequences are the tokens at the right distance, and it does not see them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diagnostics.auditing.observed_step import ObservedStep
from diagnostics.auditing.probes.operations.loss_targets import NOT_SHIFTED, SHIFTED_AGAIN
from diagnostics.auditing.probes.operations.operation_checks import LOSS003
from diagnostics.auditing.tracing.recorded_calls import LossCall
from diagnostics.causes import Cause
from diagnostics.findings import Finding
from diagnostics.recording.tensors import tensors_in
from diagnostics.rules.rule import CRITICAL, WARNING, Rule
from diagnostics.testing.trials import untouched

SEES_TARGET = Cause(
    "sees-target",
    "the target at a position is the input {shift} later, and the output there depends on it",
    remedy="Mask the later positions; a mask that is True where it should be False is inverted.",
)
LEAK002 = Rule(
    "LEAK002",
    CRITICAL,
    "The model sees the token that it predicts",
    "operations",
    "Hide later positions from the model.",
    source="audit",
    arguments="audit",
    causes=(SEES_TARGET,),
    what="The integer targets of a loss are the inputs of the model some positions later. An audit changes the inputs"
    " after a position, and the output at it changes; a monitor sees that every attention of the step shows it.",
    why="The loss falls to nearly zero, and the model cannot generate.",
    example="A causal mask that is inverted, or not given to the attention.",
    false_alarms="None known.",
    rank=5,
)
_VOCABULARY = 8  # fewer tokens may be classes, which a tagger predicts in place
_TARGETS = 16  # that count, from which it is no chance that each is the token
_CHANGED = 1e-6
"""Relative change of an output from which it depends on an input: rounding may differ with the shapes of kernels."""


def check_next_tokens(model: nn.Module, steps: Sequence[ObservedStep]) -> list[Finding]:
    """The findings in the tokens of repeated steps; random numbers are restored, and the mode of the model is not."""
    if not steps:
        return []
    seen, unshifted = _find_seen_target(model, steps[0]), _find_unshifted(model, steps[0])
    again = _find_shifted_again(model, steps)
    return [
        *([] if seen is None else [LEAK002.found_once("", seen)]),
        *([] if unshifted is None else [LOSS003.found_once("", unshifted)]),
        *([] if again is None else [LOSS003.found_once("", again, WARNING)]),
    ]


def _find_seen_target(model: nn.Module, step: ObservedStep) -> Cause | None:
    """Whether the output at some position depends on the later input that is its target."""
    given = _find_tokens(step)
    if given is None:
        return None
    for call in step.trace.losses.compared:
        if call.target.numel() != given.numel():
            continue
        target = call.target.reshape(given.shape)
        counted = torch.ones_like(target, dtype=torch.bool) if target.is_floating_point() else target >= 0
        shift = _find_shift(given, [target]) if counted.all() else _find_counted_shift(given, target, counted)
        if shift is not None and _depends_on_later(model, step, given, counted):
            return SEES_TARGET.of(shift=shift)
    return None


def check_unmasked(steps: Sequence[ObservedStep]) -> list[Finding]:
    """LEAK002 without another call of the model: each place attends to the next token, which is its target."""
    shifts = [_find_shift_without_mask(step) for step in steps]
    if not shifts or any(each is None for each in shifts):
        return []
    return [LEAK002.found_once("", SEES_TARGET.of(shift=shifts[0]))]


def _find_shift_without_mask(step: ObservedStep) -> int | None:
    """By how many places the targets come before the tokens, if all attentions of the step show so many."""
    reaches, losses = step.trace.scores.reaches, step.trace.losses.compared
    reach = min((each for _, each in reaches), default=0)
    if not reach:
        return None  # a decoder, perhaps next to an encoder without a mask
    looked_up = [each for lookups in step.looked_up.values() for each in lookups]
    whole = [call.target for call in losses if not call.target.is_floating_point()]

    def shift_of(tokens: Tensor) -> int | None:
        return _find_shift(tokens, [each for each in whole if each.numel() == tokens.numel()])

    for given in looked_up:
        if given.dim() != 2 or given.shape[1] not in {length for length, _ in reaches}:
            continue
        others = [each for each in looked_up if _is_other_sequence(each, given)]
        if any(shift_of(each) is None for each in others):
            continue  # the keys may be those of an encoder; other parts of a batch have targets of their own
        shift = shift_of(given)
        if shift is not None and shift <= reach:
            return shift
    return None


def _is_other_sequence(tokens: Tensor, given: Tensor) -> bool:
    """Whether these are other tokens of the same shape, and not the positions, which are equal in all rows."""
    alike = tokens.shape == given.shape and not torch.equal(tokens, given)
    return alike and not torch.equal(tokens, tokens[:1].expand_as(tokens))


def follows_along(given: Tensor, step: ObservedStep) -> int | None:
    """The dimension of tokens along which the targets of a loss come after them, None where it is none or both."""
    targets = [call.target for call in step.trace.losses.compared if not call.target.is_floating_point()]
    whole = [each.reshape(given.shape) for each in targets if each.numel() == given.numel()]
    along = [
        dim
        for dim in (0, 1)
        if _find_shift(_along(given, dim), [_along(each, dim) for each in whole]) is not None
    ]
    return along[0] if len(along) == 1 else None


def _along(tokens: Tensor, dim: int) -> Tensor:
    """Tokens (A, B) with one of the dimensions as the last."""
    return tokens if dim else tokens.T


def _find_unshifted(model: nn.Module, step: ObservedStep) -> Cause | None:
    """Whether each target is the token at its place, and the model looks at no later one, as for the next token."""
    given = _find_tokens(step)
    copied = next((call for call in step.trace.losses.compared if call.copied), None)
    if given is None or copied is None or copied.target.numel() != given.numel():
        return None
    if len(given.unique()) < _VOCABULARY or _depends_on_later(model, step, given):
        return None
    return NOT_SHIFTED.of(operation=copied.operation)


def _find_shifted_again(model: nn.Module, steps: Sequence[ObservedStep]) -> Cause | None:
    """Whether each output of a causal model has the token after the next one as its target, in every step."""
    found = [_find_lags(step) for step in steps]
    known = [lags for lags in found if lags]
    if len(known) < len(steps) or any(1 in lags for lags in known):
        return None
    (lag, call), *_ = known[0].items()
    tokens = _find_tokens(steps[0])
    if not all(lag in lags for lags in known) or tokens is None or _depends_on_later(model, steps[0], tokens):
        return None
    return SHIFTED_AGAIN.of(lag=lag, operation=call.operation)


def _find_lags(step: ObservedStep) -> dict[int, LossCall]:
    """By how many places the targets of a loss are after the outputs that they meet -> that loss."""
    tokens = _find_tokens(step)
    scores = None if tokens is None else _find_scores(step.output, tokens.shape)
    found: dict[int, LossCall] = {}
    if tokens is None or scores is None or len(tokens.unique()) < _VOCABULARY:
        return found
    samples, length = tokens.shape
    for call in step.trace.losses.compared:
        met = call.target.numel() // samples
        if call.target.is_floating_point() or not 0 < met <= length or call.target.numel() % samples:
            continue
        target, values = call.target.reshape(samples, met), _with_classes_last(call)
        starts = range(length - met + 1) if values.numel() == samples * met * scores.shape[2] else ()
        shown = values.reshape(samples, met, -1) if starts else values
        start = next((each for each in starts if torch.equal(scores[:, each : each + met], shown)), None)
        lag = None if start is None else _find_lag(tokens, target, start, call.ignored)
        if lag is not None:
            found[lag] = call
    return found


def _with_classes_last(call: LossCall) -> Tensor:
    return call.values.movedim(1, -1) if call.values.dim() > 2 else call.values


def _find_lag(tokens: Tensor, target: Tensor, start: int, ignored: int | None) -> int | None:
    """The number of places, 1 to 3, after which each target that counts is the token."""
    length, met = tokens.shape[1], target.shape[1]
    for lag in (1, 2, 3):
        wanted = tokens[:, start + lag : start + lag + met]
        given = target[:, : wanted.shape[1]]
        kept = (given >= 0) & (given != (-100 if ignored is None else ignored))
        if length > lag and int(kept.sum()) >= _TARGETS and bool((given == wanted)[kept].all()):
            return lag
    return None


def _find_scores(returned: Any, places: torch.Size) -> Tensor | None:
    """What a model returned for each token, as (B, T, D).

    Args:
        returned: (B, T, D), (B, D, T) as convolutions give it, or (B * T, D).
        places: (B, T).
    """
    every = [each.detach() for each in tensors_in(returned) if each.is_floating_point()]
    scores = [_by_place(each, places) for each in every if each.dim() in (2, 3)]
    return next((each for each in scores if each is not None), None)


def _by_place(scores: Tensor, places: torch.Size) -> Tensor | None:
    if scores.dim() == 3 and scores.shape[:2] == places:
        return scores
    if scores.dim() == 3 and (scores.shape[0], scores.shape[2]) == places:
        return scores.transpose(1, 2)
    return scores.unflatten(0, places) if len(scores) == places.numel() and scores.dim() == 2 else None


def _find_tokens(step: ObservedStep) -> Tensor | None:
    """The (B, T) tokens that the model was given, if it returned scores for each.

    Of several integers, as with labels and a mask next to them, those that an embedding looks up; of several of
    these, those that are the targets.
    """
    tokens = [each for each in step.inputs if not each.is_floating_point() and each.dim() == 2]
    if len(tokens) > 1:
        looked_up = [each for lookups in step.looked_up.values() for each in lookups]
        tokens = [each for each in tokens if any(torch.equal(each, one) for one in looked_up)]
    if len(tokens) > 1:  # a decoder is given the words written so far, next to the source
        copied = [call.target.flatten() for call in step.trace.losses.compared if call.copied]
        tokens = [each for each in tokens if any(torch.equal(each.flatten(), one) for one in copied)]
    if step.call is None or len(tokens) != 1:
        return None
    given = tokens[0]
    return given if given.shape[1] > 1 and _find_scores(step.output, given.shape) is not None else None


def _depends_on_later(
    model: nn.Module, step: ObservedStep, given: Tensor, counted: Tensor | None = None
) -> bool:
    """Whether the output in the first half of the positions changes with the tokens in the second half.

    Args:
        counted: (B, T), the positions whose output counts. A prompt that is not learnt may see all of itself.
    """
    call = step.call
    assert call is not None
    was, half = given.clone(), given.shape[1] // 2

    def run() -> Tensor:
        scores = _find_scores(_call_in_evaluation(model, call), given.shape)
        assert scores is not None
        return scores

    with torch.no_grad():
        before = run()
        try:  # the tensor is the user's
            given[:, half:] = given[:, half:].flip(0) if len(given) > 1 else given[:, half:].flip(1)
            after = run()
        finally:
            given.copy_(was)
    change = (after - before)[:, :half].abs()
    seen = change if counted is None else change[counted[:, :half]]
    return bool(seen.numel()) and float(seen.amax()) > _CHANGED * float(before.abs().amax())


def _call_in_evaluation(model: nn.Module, call: Callable[[], Any]) -> Any:
    """The result of a call, which leaves no state in the model for the next one."""
    with untouched(model):
        model.eval()
        return call()


def _find_shift(given: Tensor, targets: Sequence[Tensor]) -> int | None:
    """By how many positions the targets come before the inputs that they equal."""
    for target in targets:
        expected = target.reshape(given.shape)
        for shift in (1, 2, 3):
            if shift < given.shape[1] // 2 and torch.equal(expected[:, :-shift], given[:, shift:]):
                return shift if len(given.unique()) > 2 else None
    return None


def _find_counted_shift(given: Tensor, target: Tensor, counted: Tensor) -> int | None:
    """The same where some targets are left out of the loss, as those of a prompt: negative ones, -100 by default."""
    for shift in (1, 2, 3):
        kept, wanted, tokens = counted[:, :-shift], target[:, :-shift], given[:, shift:]
        evidence = int(kept.sum()) >= _TARGETS and len(wanted[kept].unique()) > 2
        if shift < given.shape[1] // 2 and evidence and bool((wanted == tokens)[kept].all()):
            return shift
    return None
