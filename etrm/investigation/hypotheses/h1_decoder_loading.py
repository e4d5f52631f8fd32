"""H1: the pretrained decoder does not arrive as it was.

Mechanistic and without training: the subject is built just as a run would build it, then compared
with the checkpoint it came from, tensor by tensor and by what it computes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import torch

from etrm.checkpoints.decoder_loading import SETTINGS, DecoderSource, read_source
from etrm.config import SIDE, Config, ModelConfig, with_overrides
from etrm.device import to_device, to_host
from etrm.errors import CheckpointError, NonFiniteError
from etrm.investigation.evidence import Found, Instrument, Metric, Reason
from etrm.investigation.hypotheses.structural_verdict import inspected_controls, judged, worst_of
from etrm.investigation.protocol import (
    CommonReason,
    Investigation,
    Statement,
    control_arms,
    not_run,
    seeds_in_words,
)
from etrm.investigation.result import (
    Absent,
    Direction,
    Evidence,
    Hypothesis,
    InstrumentCheck,
    Value,
)
from etrm.investigation.runs.measured_run import training_queries
from etrm.model.core import Core
from etrm.model.recursive import RecursiveModel, recursive_core
from etrm.training.freeze_schedule import FrozenSpan
from etrm.training.scoring.predictor import make_batch
from etrm.training.trainer import Trainer

STATEMENT = Statement(
    id="H1",
    title="Decoder loading",
    statement="The pretrained decoder does not arrive as it was, or does not stay so where it is frozen.",
    refuted_by=(
        "Every core tensor is found and equal to the checkpoint's (difference at most 1e-5), the settings that have "
        "no weights are equal, and given the same context the decoder computes the same logits as the TRM that it "
        "came from (difference at most 1e-4). Where it is frozen, not a bit of it changes."
    ),
    mechanism=(
        "A load that is skipped, matches no key, takes other weights than meant, or is followed by other cycles than "
        "in training leaves a decoder that the encoder cannot use, while training goes on without an error."
    ),
    kind="mechanistic",
    would_change="One core tensor, setting or logit that differs by more than the thresholds.",
)
VALUE_TOLERANCE = 1e-5
LOGIT_TOLERANCE = 1e-4
ACT_STEPS = 2
"""ACT steps of the functional test: the second one starts from states that the first one made."""

FROZEN_STEPS = 6
"""Steps after which weight decay shows in every tensor."""
POSITIVE = ("decoder-not-loaded", "decoder-raw-for-ema", "decoder-cycles-mismatch", "decoder-moves")


class LoadingReason(StrEnum):
    """What became of the pretrained decoder."""

    TENSORS_EQUAL = "h1.tensors-equal"
    TENSORS_DIFFER = "h1.tensors-differ"
    SETTINGS_DIFFER = "h1.settings-differ"
    LOGITS_EQUAL = "h1.logits-equal"
    LOGITS_DIFFER = "h1.logits-differ"
    FROZEN_TENSORS_MOVED = "h1.frozen-tensors-moved"


@dataclass(frozen=True)
class Facts(Found):
    """One built subject against the checkpoint of its decoder."""

    matched: int
    total: int
    missing: int
    largest: float
    other_weights_matched: Value
    settings: tuple[tuple[str, Any, Any], ...]
    logits: float
    contexts: int
    frozen: FrozenSpan | None = None

    @property
    def moved(self) -> int:
        """Tensors of a decoder that is meant to be frozen, and moved."""
        frozen = self.frozen
        return 0 if frozen is None or frozen.part != "decoder" else frozen.total - frozen.matched

    @property
    def holds(self) -> bool:
        """Whether the hypothesis holds: the decoder did not arrive, or did not stay, as it was."""
        arrives = self.matched == self.total and not self.settings and self.logits <= LOGIT_TOLERANCE
        return not arrives or self.moved > 0

    @property
    def reasons(self) -> list[Reason]:
        """How the decoder arrived, sound or not, and what is wrong beside it."""
        equal = LoadingReason.TENSORS_EQUAL if self.matched == self.total else LoadingReason.TENSORS_DIFFER
        found = [Reason(equal, f"{self.matched}/{self.total} core tensors equal the checkpoint's")]
        found += [
            Reason(LoadingReason.SETTINGS_DIFFER, f"{name} is {ours} and was {theirs} in training")
            for name, theirs, ours in self.settings
        ]
        alike = self.logits <= LOGIT_TOLERANCE
        words = f"logits differ by at most {self.logits:.2g} given the same context"
        found.append(Reason(LoadingReason.LOGITS_EQUAL if alike else LoadingReason.LOGITS_DIFFER, words))
        if self.frozen is not None and self.moved:
            words = f"{self.moved}/{self.frozen.total} tensors of the frozen decoder moved in "
            words += f"{self.frozen.last_step} steps, by up to {self.frozen.largest:.2g}"
            found.append(Reason(LoadingReason.FROZEN_TENSORS_MOVED, words))
        return found


def compare(config: Config, decoder: Path) -> Facts:
    """Build a subject as a run would and compare it with the TRM in ``decoder``.

    Raises:
        EtrmError: the subject cannot be built.
    """
    trainer = Trainer(config)
    source = read_source(decoder, config.train.decoder_weights)
    theirs = to_device(_trm(source), trainer.device)
    ours = recursive_core(trainer.model)
    differences = {
        name: float((to_host(tensor) - source.tensors[name]).abs().max())
        for name, tensor in ours.state_dict().items()
        if name in source.tensors and source.tensors[name].shape == tensor.shape
    }
    total = len(ours.state_dict())
    contexts, logits = _functional(trainer, theirs)
    return Facts(
        matched=sum(value <= VALUE_TOLERANCE for value in differences.values()),
        total=total,
        missing=total - len(differences),
        largest=max(differences.values(), default=float("inf")),
        other_weights_matched=_other_weights(ours, decoder, config),
        settings=_live_settings(ours, source),
        logits=logits,
        contexts=contexts,
        frozen=_frozen(config),
    )


def _frozen(config: Config) -> FrozenSpan | None:
    """What moved in a decoder that the subject means to freeze, over a few steps; None where it does not."""
    trainer = Trainer(with_overrides(config, ("monitor.enabled=false",)))
    steps = min(FROZEN_STEPS, trainer.config.train.freeze_decoder_steps)
    try:
        for _ in range(steps):
            trainer.train_step()
    except NonFiniteError:  # an update was refused; what moved before it is told
        pass
    trainer.stage.close(trainer.step)
    return trainer.stage.span


def decide(investigation: Investigation) -> Hypothesis:
    """Compare the subject of every seed and the controls."""
    if investigation.subject.model.variant == "trm" and investigation.subject.train.decoder is None:
        words = "The subject is a TRM that starts from no other: nothing is loaded."
        return not_run(STATEMENT, CommonReason.NOT_APPLICABLE, words)
    began = time.perf_counter()
    decoder = investigation.brief_decoder
    subject = investigation.starting_from(decoder)
    subjects, error = investigation.each_seed("H1", subject, lambda config: compare(config, decoder))
    control_decoder = investigation.control_decoder
    controls = inspected_controls(
        investigation, "h1", POSITIVE, lambda config: compare(config, control_decoder)
    )
    worst = max(subjects, key=lambda f: (f.holds, f.logits), default=None)
    return STATEMENT.decided(
        judged(worst, error, controls, worst_of(len(investigation.seeds))),
        arms=control_arms("h1", investigation.subject, POSITIVE),
        evidence=_evidence(worst, len(subjects)) if worst else (),
        controls=controls,
        instruments=_instruments(investigation),
        wall_s=round(time.perf_counter() - began, 1),
    )


def _trm(source: DecoderSource) -> RecursiveModel:
    """The TRM that the decoder came from, with its own settings and table."""
    if not source.settings or source.puzzle_table is None:
        raise CheckpointError(
            "checkpoint.no-settings",
            f"{source.path} does not say with which settings it was trained",
            allowed="a run folder of `etrm train --set model.variant=trm`",
        )
    settings = ModelConfig.model_validate(source.settings)
    model = RecursiveModel(settings, puzzles=len(source.puzzle_table), side=SIDE)
    model.core.load_state_dict(source.tensors)
    assert model.puzzle_table is not None
    with torch.no_grad():
        model.puzzle_table.weights.copy_(source.puzzle_table)
    return model.eval()


@torch.no_grad()
def _functional(trainer: Trainer, theirs: RecursiveModel) -> tuple[int, float]:
    """Largest difference of logits over ACT steps, given the table's contexts and random ones."""
    assert theirs.puzzle_table is not None
    batch = make_batch(theirs, training_queries(trainer)[:16])
    rows = torch.arange(batch.size, device=theirs.device) % len(theirs.puzzle_table.weights)
    known = theirs.puzzle_table(rows)
    # Its own random numbers: every token carries something, as an encoder's context does.
    noise = to_device(torch.randn(known.shape, generator=torch.Generator().manual_seed(0)), theirs.device)
    ours = trainer.model.eval()
    largest = 0.0
    for context in (known, noise):
        carries = [ours.initial_carry(batch.size), theirs.initial_carry(batch.size)]
        for _ in range(ACT_STEPS):
            carries[0], mine = ours.step(carries[0], batch, context)
            carries[1], wanted = theirs.step(carries[1], batch, context)
            difference = (mine.logits - wanted.logits).abs()
            if batch.valid is not None:
                difference = difference * batch.valid.unsqueeze(-1)
            largest = max(largest, float(difference.nan_to_num(nan=float("inf")).max()))
            # Both go on from their states, however many steps the halting of each allows.
            carries = [replace(carry, halted=torch.zeros_like(carry.halted)) for carry in carries]
    return 2 * batch.size, largest


def _live_settings(core: Core, source: DecoderSource) -> tuple[tuple[str, Any, Any], ...]:
    """Settings of the core as it will run, not as a config says, that differ from the checkpoint's."""
    pairs = ((name, source.settings[name], getattr(core, name)) for name in SETTINGS)
    return tuple(pair for pair in pairs if pair[1] != pair[2])


def _other_weights(core: Core, decoder: Path, config: Config) -> Value:
    """How many tensors equal the other kind of weights (raw where EMA is meant, and the reverse)."""
    other: Literal["ema", "raw"] = "raw" if config.train.decoder_weights == "ema" else "ema"
    source = read_source(decoder, other)
    if source.weights == "unknown":
        return Absent(absent="the checkpoint holds one kind of weights")
    same = [
        bool((to_host(tensor) - source.tensors[name]).abs().max() <= VALUE_TOLERANCE)
        for name, tensor in core.state_dict().items()
    ]
    return float(sum(same))


TENSORS_EQUAL = Metric("h1.tensors-equal", "core tensors equal to the checkpoint's", Direction.EQUAL)
TENSORS_MISSING = Metric("h1.tensors-missing", "core tensors missing or of another shape", Direction.EQUAL)
WEIGHT_DIFFERENCE = Metric("h1.weight-difference", "largest difference of a weight", Direction.EQUAL)
OTHER_WEIGHTS = Metric(
    "h1.tensors-equal-to-other-weights", "tensors equal to the other kind of weights (raw for EMA)"
)
SETTINGS_DIFFER = Metric("h1.settings-differ", "settings without weights that differ", Direction.EQUAL)
LOGIT_DIFFERENCE = Metric(
    "h1.logit-difference", "largest difference of logits, same context", Direction.EQUAL
)
FROZEN_UNCHANGED = Metric(
    "h1.frozen-tensors-unchanged", "tensors of the frozen decoder unchanged, bit for bit", Direction.EQUAL
)


def _evidence(facts: Facts, seeds: int) -> tuple[Evidence, ...]:
    n = f"{facts.total} tensors, {seeds_in_words(seeds)}"
    rows = [
        TENSORS_EQUAL.row(
            facts.matched,
            control=facts.total,
            threshold=f"all {facts.total}, within {VALUE_TOLERANCE:g}",
            passed=facts.matched == facts.total,
            n=n,
        ),
        TENSORS_MISSING.row(facts.missing, control=0.0, threshold="0", passed=facts.missing == 0, n=n),
        WEIGHT_DIFFERENCE.row(
            facts.largest,
            control=0.0,
            threshold=f"<= {VALUE_TOLERANCE:g}",
            passed=facts.largest <= VALUE_TOLERANCE,
            n=n,
        ),
        OTHER_WEIGHTS.row(
            facts.other_weights_matched,
            threshold="H_init and L_init alone are equal in both, for they never train",
            n=n,
        ),
        SETTINGS_DIFFER.row(
            len(facts.settings),
            control=0.0,
            threshold=f"0 of {len(SETTINGS)}: {', '.join(SETTINGS)}",
            passed=not facts.settings,
            n=n,
            note="; ".join(f"{name}: trained with {a}, runs with {b}" for name, a, b in facts.settings),
        ),
        LOGIT_DIFFERENCE.row(
            facts.logits,
            control=0.0,
            threshold=f"<= {LOGIT_TOLERANCE:g}",
            passed=facts.logits <= LOGIT_TOLERANCE,
            n=f"{facts.contexts} contexts x {ACT_STEPS} ACT steps",
            note="half of the contexts are the TRM's own puzzle vectors, half are random",
        ),
    ]
    if facts.frozen is not None and facts.frozen.part == "decoder":
        unchanged = FROZEN_UNCHANGED.row(
            facts.frozen.matched,
            control=facts.frozen.total,
            threshold=f"all {facts.frozen.total}",
            passed=not facts.moved,
            n=f"{facts.frozen.last_step} steps",
        )
        rows.append(unchanged)
    return tuple(rows)


DECODER_TRAINED = Instrument("h1.decoder-was-trained", "the decoder was trained")
HAS_SETTINGS = Instrument("h1.checkpoint-has-settings", "the checkpoint says how it was trained")


def _instruments(investigation: Investigation) -> tuple[InstrumentCheck, ...]:
    """The functional test must be able to tell: the TRM against itself, and with one cycle more."""
    source = read_source(investigation.brief_decoder, investigation.subject.train.decoder_weights)
    settings = source.settings
    table = source.puzzle_table
    trained = table is not None and bool(table.abs().max() > 0)
    moved = "has moved from its zero start" if trained else "is still all zero"
    return (
        DECODER_TRAINED.check(trained, f"puzzle table of {0 if table is None else len(table)} rows {moved}"),
        HAS_SETTINGS.check(bool(settings), ", ".join(f"{name} {settings.get(name)}" for name in SETTINGS)),
    )
