"""Faults of H3: the decoder does not get the context that the encoder computed. Also faults of no hypothesis."""

from __future__ import annotations

from dataclasses import replace

import torch

from etrm.batch import Batch
from etrm.model.act import Carry
from etrm.model.recursive import recursive_core
from etrm.model.variant import ContextPolicy, Given, Variant
from etrm.training.faults.seam import Fault, change_context, change_model, wrap_policy
from etrm.training.recipe import Recipe

SCALE = 30.0
"""The factor on the context: our choice, far outside the scales that H3 tries."""
NEVER = -50.0
"""A halting logit that no input can make positive where the head has no weights."""


def _context_scale(recipe: Recipe) -> Recipe:
    return change_context(recipe, lambda given: replace(given, context=SCALE * given.context))


def _context_nan(recipe: Recipe) -> Recipe:
    def change(given: Given) -> Given:
        first = torch.zeros_like(given.context, dtype=torch.bool)
        first[0] = True
        return replace(given, context=given.context.masked_fill(first, float("nan")))

    return change_context(recipe, change)


def _context_ignored(recipe: Recipe) -> Recipe:
    return change_context(recipe, lambda given: replace(given, context=torch.zeros_like(given.context)))


def _context_collapsed(recipe: Recipe) -> Recipe:
    def change(given: Given) -> Given:
        return replace(given, context=given.context.mean(0, keepdim=True).expand_as(given.context))

    return change_context(recipe, change)


def _encode_all_discard(recipe: Recipe) -> Recipe:
    def wrap(policy: ContextPolicy) -> ContextPolicy:
        def twice(model: Variant, carry: Carry, batch: Batch) -> Given:
            kept, again = policy(model, carry, batch), policy(model, carry, batch)
            begins = carry.halted[:, None, None]
            return replace(kept, context=torch.where(begins, again.context, kept.context))

        return twice

    return wrap_policy(recipe, wrap)


def _halting_stuck(recipe: Recipe) -> Recipe:
    def change(model: Variant) -> None:
        head = recursive_core(
            model
        ).q_head  # whatever weights a pretrained decoder brings, they stay as they are
        head.register_forward_hook(lambda head, given, logits: torch.full_like(logits, NEVER))
        head.requires_grad_(False)

    return change_model(recipe, change)


FAULTS = (
    Fault(
        "context-scale",
        "the context is multiplied by 30",
        "H3",
        "Low-performance investigation, hypothesis 3",
        _context_scale,
    ),
    Fault(
        "context-nan",
        "the context of one row of the batch is NaN",
        "H3",
        "Low-performance investigation, hypothesis 3",
        _context_nan,
    ),
    Fault(
        "context-ignored",
        "the decoder gets zeros instead of the context",
        "H3",
        "Low-performance investigation, hypothesis 3",
        _context_ignored,
    ),
    Fault(
        "context-collapsed",
        "every row gets the mean context of the batch",
        "H3",
        "a variant of a broken broadcast over the batch",
        _context_collapsed,
    ),
    Fault(
        "encode-all-discard",
        "every row is encoded twice, and half of the results are discarded",
        "cost",
        "the published cache: 256 rows are encoded and only those that reset are used",
        _encode_all_discard,
    ),
    Fault(
        "halting-stuck",
        "the halting logit is always -50",
        "halting",
        "Progress summary: phase 1 never ends",
        _halting_stuck,
        models="recursive",
    ),
)
