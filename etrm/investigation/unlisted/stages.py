"""Which stage of the pipeline a place of the code belongs to, and which hypotheses are right about that stage.

Stages are those of :class:`etrm.reference.departure.PipelineStage`, by their names.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple

HYPOTHESES: Mapping[str, tuple[str, ...]] = {
    "loading": ("H1",),
    "schedule": ("H4",),
    "data": ("H5",),
    "context": ("H3",),
    "carry": ("H1",),
    "core": ("H1",),
    "halting": ("H5",),
    "labels": ("H5",),
    "loss": ("H5",),
    "gradient": ("H2",),
    "clipping": ("H4",),
    "update": ("H4",),
    "average": ("H6",),
    "queries": ("H6",),
    "weights": ("H6",),
    "answers": ("H6",),
    "votes": ("H6",),
    "score": ("H6",),
}
"""The hypotheses that name a stage, by stage, in the order of the pipeline."""


class StageRow(NamedTuple):
    """A rule of the table; the first that fits a place decides.

    Attributes:
        path: the file, relative to the folder of the packages.
        function: the qualified names of functions, with ``*`` for any text.
        fragment: a text that the expression or its statement contains; empty for all of them.
        stages: the stages that are right, most exact first; none where a change is no fault of a stage.
    """

    path: str
    function: str
    fragment: str
    stages: tuple[str, ...]


def find_row(path: str, function: str, expression: str, statement: str) -> StageRow | None:
    """Return the row of a place, or None where a change is no fault of a stage, such as in what is only logged."""
    for row in STAGES:
        if (
            row.path == path
            and fnmatchcase(function, row.function)
            and (row.fragment in expression or row.fragment in statement)
        ):
            return row if row.stages else None
    return None


def _rows(path: str, *rows: tuple[str, str, str]) -> tuple[StageRow, ...]:
    return tuple(
        StageRow(f"etrm/{path}", function, fragment, tuple(stages.split()))
        for function, fragment, stages in rows
    )


IN_ENCODERS = (
    *("*.forward", "*.encode", "*.embed", "*._pool", "*.read", "*.pair_sets", "*.refine", "*._cycle"),
    *("*._blocks", "*.sample", "*.begin", "mean_of_set", "_shortened"),
    *("*.lay_out", "_join_cells", "_fitted", "_lengthened"),
)
"""Functions of encoders that compute a context."""

STAGES: tuple[StageRow, ...] = (
    *_rows(
        "training/trainer.py",
        ("Trainer.__init__", "load_decoder", "loading"),
        ("Trainer.__init__", "build_optimizers", "update"),
        ("Trainer.__init__", "Ema(", "average"),
        ("Trainer.__init__", "Slots(", "data"),
        ("Trainer.__init__", "initial_carry", "carry"),
        ("Trainer.__init__", "Stage(", "schedule"),
        ("Trainer.advance", "schedule(", "schedule"),
        ("Trainer.advance", "set_rates", "schedule"),
        ("Trainer.advance", "stage.enter", "schedule"),
        ("Trainer.advance", "self.state.bucket", "data"),
        ("Trainer.advance", "gather_flags", "data carry"),
        ("Trainer.advance", "refill", "data"),
        ("Trainer.advance", "self.carries[bucket], self._slices", "carry data"),
        # Without an update the encoder does not move.
        ("Trainer.advance", "recipe.update", "update gradient"),
        ("Trainer.advance", "zero_grad", "gradient"),
        ("Trainer.advance", "ema.update", "average"),
        ("Trainer.advance", "carry, halted", "carry halting"),
        ("Trainer._forward_and_backward", "halted.append", "halting"),
        ("Trainer._forward_and_backward", "carries.append", "carry"),
        ("Trainer._forward_and_backward", "recipe.labels(", "labels loss"),
        ("Trainer._forward_and_backward", "recipe.weigh", "loss"),
        ("Trainer._forward_and_backward", "self.model(", "context core carry halting"),
        ("Trainer._forward_and_backward", "backward(", "gradient"),
        ("Trainer._forward_and_backward", "Carry.join", "carry"),
        ("Trainer._clip", "", "clipping"),
    ),
    *_rows(
        "training/slots.py",
        ("Slots.refill", "", "data"),
        ("Slots.batch", "", "data"),
        ("Slots._sample", "", "data"),
    ),
    *_rows(
        "training/micro_batches.py",
        ("build_micro_batches", "carry.rows", "carry"),
        ("build_micro_batches", "minimum", "halting"),
        ("build_micro_batches", "noise", "context"),
        ("build_micro_batches", "carry", "carry"),
        ("build_micro_batches", "", "data"),
        ("split", "", "data carry gradient"),
    ),
    *_rows(
        "training/loss.py",
        ("log_*", "", "loss"),
        ("Loss.terms", "", "loss"),
        ("Loss.total", "", "loss"),
        ("_TargetLogProbability.forward", "save_for_backward", "gradient"),
        ("_TargetLogProbability.forward", "", "loss"),
        ("_TargetLogProbability.backward", "", "gradient"),
        ("_pick", "", "loss"),
        ("act_loss", "is_scored", "labels loss"),
        ("act_loss", "", "loss"),
    ),
    *_rows(
        "training/optim.py",
        ("AdamATan2.*", "", "update"),
        ("SignSGD.*", "", "update"),
        ("build_optimizers", "rate", "update schedule"),
        # Without its group the encoder does not train.
        ("build_optimizers", "model.encoder", "update gradient"),
        ("build_optimizers", "", "update"),
        ("schedule", "", "schedule"),
        ("set_rates", "", "schedule"),
    ),
    *_rows("training/ema.py", ("Ema.*", "", "average"), ("_floats", "", "average")),
    *_rows(
        "training/freeze_schedule.py",
        ("Stage.__init__", "", "schedule gradient"),
        ("Stage.enter", "", "schedule"),
    ),
    *_rows(
        "training/recipe.py",
        ("load_decoder", "", "loading"),
        ("freeze", "", "schedule gradient"),
        ("update", "", "update gradient"),
        ("draw", "", "data"),
        ("labels", "", "labels"),
        ("weigh", "", "loss"),
    ),
    *_rows("training/task_sets.py", ("load_held_out_tasks", "", "queries")),
    *_rows(
        "model/act.py",
        ("Carry.rows", "", "carry"),
        ("Carry.join", "", "carry"),
        ("Carry.begin", "self.steps", "halting carry"),
        ("Carry.begin", "", "carry"),
        ("_fit", "", "carry"),
        ("explore", "", "halting"),
        ("halts", "", "halting"),
    ),
    *_rows(
        "model/core.py",
        ("ReasoningModule.forward", "", "core"),
        ("Core.__init__", "config.H_cycles, config.L_cycles", "core"),
        ("Core.forward", "q_head", "core halting"),
        ("Core.forward", "context", "core context"),
        ("Core.forward", "", "core"),
        ("Core._embed", "", "core context"),
        ("Core._*", "", "core"),
    ),
    *_rows(
        "model/recursive.py",
        ("look_up_puzzle", "", "context"),
        ("encode_every_step", "", "context"),
        ("RecursiveModel.draw_minimum", "", "halting"),
        ("RecursiveModel.draw_noise", "", "context"),
        ("RecursiveModel.step", "StepOutput", "core halting context"),
        ("RecursiveModel.step", "steps", "halting carry"),
        ("RecursiveModel.step", "run_part(", "core carry context"),
        ("RecursiveModel.step", "carry", "carry"),
        ("RecursiveModel.step", "length", "carry"),
    ),
    *_rows(
        "model/variant.py",
        ("Variant.forward", "context_policy", "context"),
        ("Variant.forward", "given.context", "context carry"),
        ("Variant.forward", "carry", "carry"),
        ("Variant.forward", "", "context"),
    ),
    *_rows(
        "model/layers.py",
        *((function, "", "context core") for function in ("rms_norm", "*.forward")),
        ("Rotation.__call__", "", "context core"),
        ("Residual.*", "", "context core"),
        ("RotaryPositions.__init__", "rates", "context core"),
        ("RotaryPositions.__init__", "angles", "context core"),
        ("key_mask", "", "context core"),
        ("multi_head", "", "context core"),
        ("attend", "", "context core"),
        ("cast_for_attention", "", "context core"),
    ),
    *_rows("model/lengths.py", ("*", "", "context")),
    *(
        StageRow(f"etrm/model/encoders/{name}.py", function, "", ("context",))
        for name in ("base", "carried", "lpn", "pairs", "standard", "variational")
        for function in IN_ENCODERS
    ),
    *_rows("model/puzzle.py", ("PuzzleTable.forward", "", "context")),
    *_rows("model/solve.py", ("*", "", "answers")),
    *_rows(
        "data/episodes.py",
        ("*", "_stream(", ""),  # another stream of random numbers is as good
        ("Episodes.bucket_at", "", "data"),
        ("Episodes.stage_at", "", "schedule"),
        ("Episodes._list_edges", "", "schedule"),
        ("Episodes.sample", "", "data"),
        ("Episodes._augmentation", "rng", ""),
        ("Episodes._augmentation", "", "data"),
        ("_bucketed", "", "data"),
        ("build_evaluation_samples", "", "queries"),
        ("find_puzzle_rows", "", "queries"),
        ("_all_queries", "", "data queries"),
    ),
    *_rows(
        "data/sample.py",
        ("Query.region", "", "data queries"),
        ("list_queries", "", "data queries"),
        ("build", "", "data queries"),
        ("_query_canvases", "", "data queries"),
        ("_demos", "", "data queries"),
        ("_demo_pair", "", "data queries"),
    ),
    *_rows("data/collate.py", ("*", "", "data queries")),
    *_rows("data/region.py", ("*", "", "data queries")),
    *_rows(
        "data/augment.py",
        ("Augmentation.inverted", "", "votes"),
        ("Augmentation.inverse", "", "votes"),
        ("list_augmentations", "", "queries data"),
        ("draw_augmentation", "", "data"),
        ("dihedral", "", "data queries votes"),
        ("Augmentation.apply", "", "data queries votes"),
        ("Augmentation.pair", "", "data queries"),
        ("Augmentation._table", "", "data queries votes"),
    ),
    *_rows(
        "data/tokens.py",
        ("to_canvas", "", "data queries"),
        ("read_labels", "", "data labels"),
        ("read_grid", "", "votes"),
    ),
    *_rows(
        "evaluation/passk.py",
        ("evaluate", "samples", "queries answers"),
        ("evaluate", "", "queries"),
        ("predict", "", "answers"),
        ("rank_candidates", "", "votes"),
        ("score", "rank_candidates", "votes"),
        ("score", "", "score"),
        ("_result", "", "score"),
        ("_place", "", "score"),
        ("_pass_at", "", "score"),
        ("_token_share", "", "score"),
    ),
    *_rows("evaluation/voting.py", ("*", "", "votes")),
    *_rows("evaluation/submission.py", ("build_submission", "", "score"), ("_attempts", "", "score")),
    *_rows(
        "training/scoring/predictor.py",
        ("evaluate_tasks", "", "queries"),
        ("make_predictor.answer", "", "answers"),
        ("make_batch", "", "answers"),
        ("solve_samples", "", "answers"),
        ("load_model", "load_weights", "weights"),
        ("load_model", "found[-1]", "weights"),
    ),
    *_rows(
        "training/scoring/opened_run.py",
        ("open_run", "chosen.weights", "weights"),
        ("open_run", "load_model(folder", "weights"),
    ),
    *_rows("training/train_state.py", ("TrainState.capture", "averaged = ", "weights average")),
    *_rows("checkpoints/weights.py", ("load_weights", "load_state_dict", "weights")),
    *_rows("checkpoints/decoder_loading.py", ("read_source", "", "loading"), ("load_decoder", "", "loading")),
)
"""The table."""
