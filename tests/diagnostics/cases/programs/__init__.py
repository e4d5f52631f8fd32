"""Whole training scripts as people write them, which are audited as they are.

Those in `faulty` have two faults each, which the environment variable FAULT plants, 1 or 2; those in `healthy` look
unusual. Each prints a number at its end that every weight changes.
"""

from __future__ import annotations

import io
import os
import runpy
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

from diagnostics import Finding
from diagnostics.auditing.scripts.script import STEPS, audit_script
from tests.diagnostics.cases.case import Answer, Case

FOLDER = Path(__file__).parent
HEALTHY = {
    f"{path.stem.replace('_', ' ')}, a script": path for path in sorted((FOLDER / "healthy").glob("*.py"))
}


def audit_program(made: dict[str, Any], to_end: bool) -> Sequence[Finding]:
    """The findings of an audit of 20 steps, or of the whole program.

    Args:
        made: `script`, its path, and `fault`, the number of the fault.
    """
    with patch.dict(os.environ, FAULT=str(made["fault"])), redirect_stderr(io.StringIO()):
        return audit_script(made["script"], steps=None if to_end else STEPS).findings


def run_healthy_program(path: Path) -> tuple[Sequence[Finding], bool]:
    """The findings of the whole program, and whether it prints at its end what it prints without an audit."""
    plain, watched = io.StringIO(), io.StringIO()
    with redirect_stdout(plain):
        runpy.run_path(str(path), run_name="__main__")
    with redirect_stderr(watched):
        findings = audit_script(path, steps=None).findings
    return findings, plain.getvalue().splitlines()[-1:] == watched.getvalue().splitlines()[-1:] != []


def _case(script: str, fault: int, name: str, sentence: str, *answers: Answer) -> Case:
    path = FOLDER / "faulty" / f"{script}.py"
    return Case(name, lambda broken: {"script": path, "fault": fault if broken else 0}, sentence, answers)


CASES: Sequence[Case] = (
    _case(
        "images",
        1,
        "applied-while-scaled",
        "optimizer.step() applies gradients that carry the scale of a GradScaler",
        Answer("MOVE007", "", "applied-while-scaled"),
    ),
    _case(
        "images",
        2,
        "train-forgotten",
        "train() is not called after the evaluation of the first epoch",
        Answer("MODE001", "stem"),
    ),
    _case(
        "tagger",
        1,
        "loss-replaced",
        "loss =+ aux replaces the loss by its second term",
        Answer("GRAD001", "tag_head"),
    ),
    _case(
        "tagger",
        2,
        "schedule-of-old-optimizer",
        "a schedule has the optimiser that was replaced",
        Answer("RATE001", "", "schedule-of-idle-optimizer"),
    ),
    _case(
        "autoencoder",
        1,
        "code-copied",
        "the code is copied through Python, so that only the divergence trains the encoder",
        Answer("*", "enc*"),
        Answer("*", "mu"),
    ),
    _case(
        "autoencoder",
        2,
        "average-in-training-mode",
        "the average of the weights is evaluated with dropout",
        Answer("MODE004", "ema", "evaluated-in-training-mode"),
    ),
    _case(
        "agent",
        1,
        "value-broadcast",
        "values (B, 1) are compared with targets (B,)",
        Answer("LOSS003", "", "broadcast"),
    ),
    _case(
        "agent",
        2,
        "target-into-policy",
        "the policy is overwritten with its target network",
        Answer("TARGET001", "*q_target", "copied-backwards"),
    ),
    _case(
        "language_model",
        1,
        "not-causal",
        "the attention of a language model has no causal mask",
        Answer("LEAK002"),
        Answer("LEAK003"),
    ),
    _case(
        "language_model",
        2,
        "gains-in-no-group",
        "the gains of the norms are in no group of the optimiser",
        Answer("MOVE001", "transformer.*", "in-no-group"),
    ),
    _case(
        "adversaries",
        1,
        "parameters-of-other",
        "the generator's optimiser holds the critic's weights",
        Answer("MOVE001", "netG*", "in-no-group"),
        Answer("GRAD004", "netD*", "other-loss"),
    ),
    _case(
        "adversaries",
        2,
        "losses-of-both",
        "both optimisers step after the backward passes of both losses",
        Answer("GRAD004"),
        Answer("LOSS004"),
    ),
    _case(
        "segmentation",
        1,
        "softmax-over-batch",
        "the softmax of the Dice loss is over the samples",
        Answer("SOFTMAX001", "", "over-samples"),
    ),
    _case(
        "segmentation",
        2,
        "evaluated-with-batch-statistics",
        "eval() is not called before the evaluation",
        Answer("MODE004", "", "evaluated-in-training-mode"),
    ),
    _case(
        "contrast",
        1,
        "itself-not-masked",
        "each view competes with itself in the contrastive loss",
        Answer("LOSS003", "", "itself-among-others"),
    ),
    _case(
        "contrast",
        2,
        "warm-up-of-zero",
        "an integer division makes the factor of the warm-up 0",
        Answer("MOVE001", "", "zero-rate"),
    ),
)
LIBRARIES: Sequence[Case] = (
    _case(
        "adapters",
        1,
        "merged-and-not-taken-out",
        "each evaluation adds the adapters to the frozen weights, and never takes them out",
        Answer("FROZEN002", "fc*"),
    ),
    _case(
        "adapters",
        2,
        "best-by-reference",
        "the best state is the memory of the current one",
        Answer("SHARE004"),
    ),
    _case(
        "features",
        1,
        "optimizer-of-each-epoch",
        "each epoch makes a new optimiser, which forgets its averages",
        Answer("STATE002", "", "optimizer-renewed"),
    ),
    _case(
        "features",
        2,
        "hook-keeps-detached",
        "a hook keeps detached features, so that the backbone gets no gradient",
        Answer("GRAD001", "backbone*"),
        Answer("REACH001", "backbone*"),
    ),
)
"""Of the group `libraries`."""
RETRIED: Sequence[Case] = (
    _case(
        "stopping",
        1,
        "best-in-a-dictionary",
        "the best weights are kept in a dictionary, by reference",
        Answer("SHARE004"),
    ),
    _case(
        "stopping",
        2,
        "average-of-one",
        "weights of several epochs are averaged, all of which are the memory of the current ones",
        Answer("SHARE004"),
    ),
    _case(
        "stopping",
        3,
        "optimizer-in-fit",
        "fit(), which is called for each epoch, makes a new optimiser",
        Answer("STATE002", "", "optimizer-renewed"),
    ),
    _case(
        "rounds",
        1,
        "optimizer-and-schedule-of-each-epoch",
        "each epoch makes a new optimiser and a new schedule",
        Answer("STATE002", "", "optimizer-renewed"),
    ),
)
"""Of the group `retried`."""
THREADS: Sequence[Case] = (
    _case(
        "rotation",
        1,
        "matrix-made-anew",
        "a matrix is made of learnt angles by torch.tensor(), which copies their values",
        Answer("GRAD001", "align*"),
        Answer("REACH001", "align*"),
        Answer("GRAD002", "align*"),
    ),
    _case(
        "rotation",
        2,
        "clipping-of-nothing",
        "the iterator of parameters was used up by the optimiser, so that nothing is clipped",
        Answer("MOVE007"),
    ),
    _case(
        "radiance",
        1,
        "field-is-empty",
        "a density starts below 0, where its ReLU has no gradient",
        Answer("GRAD002", "*"),
        Answer("REACH002", "*"),
        Answer("UNITS002", "*"),
        Answer("COLLAPSE001", "*"),
    ),
    _case(
        "radiance",
        2,
        "mask-of-the-mean",
        "the mean over all rays is multiplied with the mask",
        Answer("LOSS003"),
        Answer("COV*"),
    ),
    _case(
        "forces",
        1,
        "forces-without-graph",
        "the slope of the energy has no graph, so that the error of the forces trains nothing",
        Answer("LOSS006"),
    ),
    _case(
        "forces",
        2,
        "parameters-of-the-loss",
        "parameters of the loss are in no optimiser",
        Answer("REACH005"),
        Answer("MOVE001"),
    ),
)
"""Of the group `threads`."""
