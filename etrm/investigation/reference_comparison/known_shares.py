"""The shares of demonstrations that a search answers, where the labels decide which ones those are.

A model that answers no demonstration has the same shares in all searches, of any context and after any step.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from etrm.batch import IGNORE
from etrm.config import Config
from etrm.data import Sample, pose_demonstrations
from etrm.device import to_device, to_host
from etrm.model.core import VOCABULARY
from etrm.model.variant import Variant
from etrm.reference.data.posed_queries import pose
from etrm.reference.departure import Departure, PipelineStage
from etrm.reference.model.network import part
from etrm.reference.training.context_steps import answer_demos
from etrm.reference.training.stages.differences import dither
from etrm.training.context_fit import PosedDemos, fit_contexts

FAR = 1e3
"""A rate of Adam with which one step leads away from all usual contexts, so that the start mostly stays the best."""
SURE = 0.01
"""The least margin of a scored answer, as a share of the largest logit."""
BEYOND = 100.0
"""The same as a multiple of the largest change of a logit by one sampled rounding, so that none changes an answer."""
LIMIT = 1e-6  # of a share in float32
RIGHT = True, False, True, False
"""Whether the start of each search answers each of the two demonstrations."""
LEFT_OUT = None, 0
"""The demonstration that each search leaves out."""
SHARES = (0.5, math.nan), (0.0, 1.0)
"""The shares of fitted and of held-out demonstrations that follow."""


def compare_known_shares(model: Variant, sample: Sample, config: Config) -> list[Departure]:
    """Compare the shares of two searches for two demonstrations, some of which have answers of the model as labels.

    The first search fits both, and its start answers one. The second one leaves one out, and its start answers only
    that. A search whose step leads to a better context is not compared.

    Args:
        model: the model, whose core the reference covers; its mode and gradients are restored.
        sample: a sample with several demonstrations; with fewer nothing is compared.
        config: the settings of the run.
    """
    settings, train, shown = config.model, config.train, sample.demos[:2]
    if len(shown) < 2:
        return []
    own = pose_demonstrations(replace(sample, demos=shown))
    random = torch.Generator().manual_seed(train.seed)
    start = to_device(torch.randn(2, *model.context_shape, generator=random), model.device)
    posed = pose([[(demo.tokens, demo.positions) for demo in shown]] * 2, config.data, model.device)
    core = {name: value.detach().float() for name, value in part(model.state_dict(), "core").items()}
    rounded = {name: dither(value, torch.float32, random) for name, value in core.items()}
    with torch.no_grad():
        logits, low = (
            answer_demos(weights, settings, train, start, posed, settings.halt.max_steps).logits
            for weights in (core, rounded)
        )
    best = logits.topk(2).values
    least = max(SURE * float(logits.abs().max()), BEYOND * float((logits - low).abs().max()))
    sure = (posed.labels != IGNORE) & (best[..., 0] - best[..., 1] > least)
    if not bool(sure.any(1).all()):
        return []
    labels = to_host(torch.where(sure, logits.argmax(-1), IGNORE))
    for row, place in enumerate(to_host(sure).int().argmax(1).tolist()):
        if not RIGHT[row]:
            labels[row, place] = VOCABULARY - 1 - labels[row, place]  # which is never the same token
    known = [
        replace(query, labels=row[: len(query.tokens)].astype(query.labels.dtype))
        for query, row in zip([*own, *own], labels.numpy(), strict=True)
    ]
    demos = PosedDemos.collated([known[:2], known[2:]], LEFT_OUT, model.device)
    found = fit_contexts(model, start, demos, steps=1, rate=FAR, kind=train.loss)
    departures = []
    for row, shares in enumerate(SHARES):
        if torch.equal(found.context[row], start[row]):
            real = float(found.fitted[row]), float(found.held_out[row])
            departures += [_compare(*pair) for pair in zip(("fitted", "held-out"), real, shares, strict=True)]
    return [departure for departure in departures if departure is not None]


def _compare(kind: str, real: float, wanted: float) -> Departure | None:
    """Compare a share; of no demonstration it is not a number."""
    if math.isnan(real) and math.isnan(wanted):
        return None
    size = math.inf if math.isnan(real - wanted) else abs(real - wanted)
    if size <= LIMIT:
        return None
    where = f"{real:g} instead of {wanted:g}, of known answers"
    return Departure(PipelineStage.ANSWERS, f"share of {kind} demonstrations", size, LIMIT, where)
