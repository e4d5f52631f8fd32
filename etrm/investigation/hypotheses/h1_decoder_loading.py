"""H1: the pretrained decoder is not loaded unchanged.

Mechanistic and without training: the model is built as a run would build it, then compared with the checkpoint of its
decoder, tensor by tensor and by the logits it computes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import torch

from etrm.checkpoints.decoder_loading import SETTINGS, DecoderSource, read_source
from etrm.config import SIDE, Config, ModelConfig, with_settings
from etrm.device import to_device, to_host
from etrm.errors import CheckpointError, NonFiniteError
from etrm.investigation.controls import inspected_arms
from etrm.investigation.evidence.reasons import InspectionFacts, VerdictReason
from etrm.investigation.evidence.table import Direction, EvidenceRow, Instrument, Metric
from etrm.investigation.evidence.words import format_seeds
from etrm.investigation.hypotheses.hypothesis import Hypothesis, Statement
from etrm.investigation.hypotheses.inspection import describe_scope, inspect_controls, judge
from etrm.investigation.judgement import CommonReason
from etrm.investigation.records import Arm, InstrumentCheck, NotMeasured, Value
from etrm.investigation.result import HypothesisResult
from etrm.investigation.runs.measured_run import training_queries
from etrm.investigation.session import Investigation
from etrm.model.core import Core
from etrm.model.recursive import RecursiveModel, recursive_core
from etrm.training.freeze_schedule import FrozenSpan
from etrm.training.scoring.predictor import make_batch
from etrm.training.trainer import Trainer

STATEMENT = Statement(
    id="H1",
    title="Decoder loading",
    statement="The pretrained decoder is not loaded unchanged, or changes although it is frozen.",
    refuted_by=(
        "Every core tensor is found and equals the tensor of the checkpoint (difference at most 1e-5), the settings "
        "without weights are equal, and with the same context the decoder computes the same logits as the TRM in the "
        "checkpoint (difference at most 1e-4). While the decoder is frozen, none of its bits change."
    ),
    mechanism=(
        "The encoder cannot use the decoder if loading is skipped, matches no key or takes other weights than "
        "intended, or if the decoder runs with other cycles than in its training. Training continues without an "
        "error."
    ),
    kind="mechanistic",
    would_change="One core tensor, setting or logit that differs by more than its threshold.",
)
VALUE_TOLERANCE = 1e-5
"""Largest difference of a weight that was loaded: above the rounding of float32, far below any other weight."""
LOGIT_TOLERANCE = 1e-4
"""Largest difference of a logit, ten times that of a weight because differences add up over the layers."""
ACT_STEPS = 2
"""ACT steps of the functional test: the second starts from states that the first computed."""

FROZEN_STEPS = 6
"""Steps after which weight decay shows in every tensor."""


class LoadingReason(StrEnum):
    """How the decoder differs from its checkpoint."""

    TENSORS_EQUAL = "h1.tensors-equal"
    TENSORS_DIFFER = "h1.tensors-differ"
    SETTINGS_DIFFER = "h1.settings-differ"
    LOGITS_EQUAL = "h1.logits-equal"
    LOGITS_DIFFER = "h1.logits-differ"
    FROZEN_TENSORS_MOVED = "h1.frozen-tensors-moved"


@dataclass(frozen=True)
class LoadingFacts(InspectionFacts):
    """A model that was built, compared with the checkpoint of its decoder."""

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
        """The number of tensors that changed in a decoder that is meant to be frozen."""
        frozen = self.frozen
        return 0 if frozen is None or frozen.part != "decoder" else frozen.total - frozen.matched

    @property
    def holds(self) -> bool:
        """Whether the hypothesis holds: the decoder was not loaded unchanged, or did not stay unchanged."""
        arrives = self.matched == self.total and not self.settings and self.logits <= LOGIT_TOLERANCE
        return not arrives or self.moved > 0

    @property
    def reasons(self) -> list[VerdictReason]:
        """How the decoder compares with the checkpoint, and what else is wrong."""
        equal = LoadingReason.TENSORS_EQUAL if self.matched == self.total else LoadingReason.TENSORS_DIFFER
        found = [
            VerdictReason(equal, f"{self.matched}/{self.total} core tensors equal those of the checkpoint")
        ]
        found += [
            VerdictReason(LoadingReason.SETTINGS_DIFFER, f"{name} is {ours}, and in training it was {theirs}")
            for name, theirs, ours in self.settings
        ]
        alike = self.logits <= LOGIT_TOLERANCE
        words = f"logits differ by at most {self.logits:.2g} with the same context"
        found.append(
            VerdictReason(LoadingReason.LOGITS_EQUAL if alike else LoadingReason.LOGITS_DIFFER, words)
        )
        if self.frozen is not None and self.moved:
            words = f"{self.moved}/{self.frozen.total} tensors of the frozen decoder changed in "
            words += f"{self.frozen.last_step} steps, by up to {self.frozen.largest:.2g}"
            found.append(VerdictReason(LoadingReason.FROZEN_TENSORS_MOVED, words))
        return found


def compare_with_checkpoint(config: Config, decoder: Path) -> LoadingFacts:
    """Build a model as a run would, and compare it with the TRM in the run folder ``decoder``.

    Raises:
        EtrmError: the model cannot be built.
    """
    trainer = Trainer(config)
    source = read_source(decoder, config.train.decoder_weights)
    theirs = to_device(_rebuild_trm(source), trainer.device)
    ours = recursive_core(trainer.model)
    differences = {
        name: float((to_host(tensor) - source.tensors[name]).abs().max())
        for name, tensor in ours.state_dict().items()
        if name in source.tensors and source.tensors[name].shape == tensor.shape
    }
    total = len(ours.state_dict())
    contexts, logits = _compare_logits(trainer, theirs)
    return LoadingFacts(
        matched=sum(value <= VALUE_TOLERANCE for value in differences.values()),
        total=total,
        missing=total - len(differences),
        largest=max(differences.values(), default=float("inf")),
        other_weights_matched=_count_equal_to_other_weights(ours, decoder, config),
        settings=_compare_settings(ours, source),
        logits=logits,
        contexts=contexts,
        frozen=_track_frozen_part(config),
    )


def _track_frozen_part(config: Config) -> FrozenSpan | None:
    """What changed, over a few steps, in a part that the config freezes; None where it freezes none."""
    trainer = Trainer(with_settings(config, monitor={"enabled": False}))
    steps = min(FROZEN_STEPS, trainer.config.train.freeze_decoder_steps)
    try:
        for _ in range(steps):
            trainer.train_step()
    except NonFiniteError:  # an update was refused; the changes before it are reported
        pass
    trainer.stage.close(trainer.step)
    return trainer.stage.span


class DecoderLoading(Hypothesis):
    """H1."""

    statement = STATEMENT
    precedence = 30
    controls = ("decoder-not-loaded", "decoder-raw-for-ema", "decoder-cycles-mismatch", "decoder-moves")
    next_step = (
        "Fix the loading first: compare key names, EMA and cycles with the checkpoint (page H1), then run the same "
        "command again."
    )

    def arms(self, investigation: Investigation) -> tuple[Arm, ...]:
        """The config under test and the controls, which are inspected."""
        return inspected_arms(self.study, investigation.subject, self.controls)

    def decide(self, investigation: Investigation) -> HypothesisResult:
        """Compare the model of every seed, and the controls, with the checkpoint."""
        if not investigation.subject.model.has_encoder and investigation.subject.train.decoder is None:
            words = "The model is a TRM that starts from no checkpoint: nothing is loaded."
            return self.not_run(CommonReason.NOT_APPLICABLE, words)
        if not investigation.subject.model.recursive:
            words = "The model is the symbolic solver: it takes no weights of a TRM."
            return self.not_run(CommonReason.NOT_APPLICABLE, words)
        if investigation.subject.model.own_variant and not investigation.takes_decoder:
            words = "The core of the variant has other weights than that of a TRM, so none can be loaded."
            return self.not_run(CommonReason.NOT_APPLICABLE, words)
        began = time.perf_counter()
        decoder, control_decoder = investigation.brief_decoder, investigation.control_decoder
        subjects, error = investigation.inspect_seeds(
            self.id,
            investigation.starting_from(decoder),
            lambda config: compare_with_checkpoint(config, decoder),
        )
        controls = inspect_controls(
            investigation,
            self.study,
            self.controls,
            lambda config: compare_with_checkpoint(config, control_decoder),
        )
        worst = max(subjects, key=lambda f: (f.holds, f.logits), default=None)
        return self.statement.decided(
            judge(worst, error, controls, describe_scope(len(investigation.seeds))),
            arms=self.arms(investigation),
            evidence=_make_rows(worst, len(subjects)) if worst else (),
            controls=controls,
            instruments=_check_instruments(investigation),
            wall_s=round(time.perf_counter() - began, 1),
        )


def _rebuild_trm(source: DecoderSource) -> RecursiveModel:
    """The TRM of the checkpoint, with its own settings and table."""
    if not source.settings or source.puzzle_table is None:
        raise CheckpointError(
            "checkpoint.no-settings",
            f"{source.path} has no record of its training settings",
            allowed="a run folder of `etrm train --set model.variant=trm`",
            next_step="--set train.decoder=RUN, or none: the investigation then trains a decoder",
        )
    settings = ModelConfig.model_validate(source.settings)
    model = RecursiveModel(settings, puzzles=len(source.puzzle_table), side=SIDE)
    model.core.load_state_dict(source.tensors)
    assert model.puzzle_table is not None
    with torch.no_grad():
        model.puzzle_table.weights.copy_(source.puzzle_table)
    return model.eval()


@torch.no_grad()
def _compare_logits(trainer: Trainer, theirs: RecursiveModel) -> tuple[int, float]:
    """The number of contexts, and the largest difference of logits with contexts of the table and random ones."""
    assert theirs.puzzle_table is not None
    batch = make_batch(theirs, training_queries(trainer)[:16])
    rows = torch.arange(batch.size, device=theirs.device) % len(theirs.puzzle_table.weights)
    known = theirs.puzzle_table(rows)
    # Its own random numbers: no token is zero, as in the context of an encoder.
    noise = to_device(torch.randn(known.shape, generator=torch.Generator().manual_seed(0)), theirs.device)
    ours = trainer.model.eval()
    largest = 0.0
    for context in (known, noise):
        carries = [ours.initial_carry(batch.size), theirs.initial_carry(batch.size)]
        for _ in range(ACT_STEPS):
            # A variant from outside may use its core in another way: its own step is no matter of loading.
            carries[0], mine = RecursiveModel.step(ours, carries[0], batch, context)  # type: ignore[arg-type]
            carries[1], wanted = theirs.step(carries[1], batch, context)
            difference = (mine.logits - wanted.logits).abs()
            if batch.valid is not None:
                difference = difference * batch.valid.unsqueeze(-1)
            largest = max(largest, float(difference.nan_to_num(nan=float("inf")).max()))
            # Both continue from their states, however many steps the halting of each allows.
            carries = [replace(carry, halted=torch.zeros_like(carry.halted)) for carry in carries]
    return 2 * batch.size, largest


def _compare_settings(core: Core, source: DecoderSource) -> tuple[tuple[str, Any, Any], ...]:
    """The settings of the core as it runs, not as a config has them, that differ from those of the checkpoint."""
    pairs = ((name, source.settings[name], getattr(core, name)) for name in SETTINGS)
    return tuple(pair for pair in pairs if pair[1] != pair[2])


def _count_equal_to_other_weights(core: Core, decoder: Path, config: Config) -> Value:
    """The number of tensors that equal the other kind of weights (raw where EMA is meant, and the reverse)."""
    other: Literal["ema", "raw"] = "raw" if config.train.decoder_weights == "ema" else "ema"
    source = read_source(decoder, other)
    if source.weights == "unknown":
        return NotMeasured(absent="the checkpoint holds one kind of weights")
    same = [
        bool((to_host(tensor) - source.tensors[name]).abs().max() <= VALUE_TOLERANCE)
        for name, tensor in core.state_dict().items()
    ]
    return float(sum(same))


TENSORS_EQUAL = Metric("h1.tensors-equal", "core tensors equal to those of the checkpoint", Direction.EQUAL)
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


def _make_rows(facts: LoadingFacts, seeds: int) -> tuple[EvidenceRow, ...]:
    n = f"{facts.total} tensors, {format_seeds(seeds)}"
    within = f"all {facts.total}, within {VALUE_TOLERANCE:g}"
    differ = "; ".join(f"{name}: trained with {a}, runs with {b}" for name, a, b in facts.settings)
    names = f"0 of {len(SETTINGS)}: {', '.join(SETTINGS)}"
    rows = [
        TENSORS_EQUAL.expect_all(facts.matched, facts.total, n, threshold=within),
        TENSORS_MISSING.expect_none(facts.missing, n),
        WEIGHT_DIFFERENCE.expect_at_most(facts.largest, VALUE_TOLERANCE, n),
        OTHER_WEIGHTS.row(
            facts.other_weights_matched,
            threshold="only H_init and L_init are equal in both, because they are not trained",
            n=n,
        ),
        SETTINGS_DIFFER.expect_none(len(facts.settings), n, threshold=names, note=differ),
        LOGIT_DIFFERENCE.expect_at_most(
            facts.logits,
            LOGIT_TOLERANCE,
            f"{facts.contexts} contexts x {ACT_STEPS} ACT steps",
            note="half of the contexts are the puzzle vectors of the TRM, half are random",
        ),
    ]
    if facts.frozen is not None and facts.frozen.part == "decoder":
        frozen = facts.frozen
        rows.append(FROZEN_UNCHANGED.expect_all(frozen.matched, frozen.total, f"{frozen.last_step} steps"))
    return tuple(rows)


DECODER_TRAINED = Instrument("h1.decoder-was-trained", "the decoder was trained")
HAS_SETTINGS = Instrument("h1.checkpoint-has-settings", "the checkpoint has its training settings")


def _check_instruments(investigation: Investigation) -> tuple[InstrumentCheck, ...]:
    """The comparison means something only with a decoder that was trained and has its settings."""
    source = read_source(investigation.brief_decoder, investigation.subject.train.decoder_weights)
    settings = source.settings
    table = source.puzzle_table
    trained = table is not None and bool(table.abs().max() > 0)
    moved = "has moved from its zero start" if trained else "is still zero everywhere"
    return (
        DECODER_TRAINED.check(trained, f"puzzle table of {0 if table is None else len(table)} rows {moved}"),
        HAS_SETTINGS.check(bool(settings), ", ".join(f"{name} {settings.get(name)}" for name in SETTINGS)),
    )


HYPOTHESIS = DecoderLoading()
