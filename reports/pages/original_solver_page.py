"""The page of the original solver, repaired stage by stage."""

from __future__ import annotations

from collections.abc import Mapping

from etrm.evaluation import binomial_interval
from etrm.investigation.evidence.figures import Figure
from etrm.investigation.original_solver import HYPOTHESES, StageResult, Story
from etrm.investigation.records import Verdict
from reports.markdown import code, count, escape, number, table
from reports.plots.figures import draw

PAGE, LOSS = "original-solver.md", "loss.png"
VERDICTS: Mapping[Verdict, str] = {
    Verdict.VALIDATED: "yes",
    Verdict.INVALIDATED: "no",
    Verdict.INCONCLUSIVE: "open",
    Verdict.ERROR: "error",
    Verdict.NOT_RUN: "-",
}


def make_page(story: Story) -> str:
    """The story as markdown; its figure is :func:`draw_losses`."""
    first = story.stages[0]
    asked = _read_count(first, "held_out_asked")
    return (
        "\n\n".join(
            (
                "# The original solver, repaired step by step",
                f"{count(len(story.stages), 'stage')}, each with one more repair: {story.steps} training steps, seed "
                f"{story.seed}, {asked} held-out recolouring tasks. {_describe_constant(first)}",
                f"![Loss of every stage]({LOSS})",
                "## What a user sees",
                table(
                    [
                        "stage",
                        "repair",
                        "loss before",
                        "after",
                        "entropy before",
                        "after",
                        "solved",
                        "95 % interval",
                    ],
                    [_score_row(place, stage) for place, stage in enumerate(story.stages)],
                ),
                _describe_baselines(story),
                "## What the instruments say",
                "A verdict is about the statement of the hypothesis (`etrm explain H2`): *yes* means that the fault is "
                "present.",
                table(
                    ["stage", "faults left", "root cause", *HYPOTHESES, "findings of the run"],
                    [_verdict_row(place, stage) for place, stage in enumerate(story.stages)],
                ),
                "## Reproduce",
                f"{code(story.command)}, commit {story.environment['commit'][:7]}, "
                f"torch {story.environment['versions']['torch']}, {escape(str(story.environment['hardware']))}, data "
                f"{story.data_hash[:12]}.",
            )
        )
        + "\n"
    )


def draw_losses(story: Story) -> bytes:
    """The training losses of all stages as a PNG."""
    figure = Figure(
        key="loss",
        title="Training loss after each repair",
        x_label="optimiser step",
        y_label="cross entropy, nats per token",
        caption="",
        y_log=True,
    )
    return draw(figure, story.series, [curve.arm for curve in story.series])


def _describe_constant(stage: StageResult) -> str:
    if stage.loss_before == stage.loss_after:
        return (
            f"The system as found cannot learn: its loss on the training queries is {stage.loss_before!r} before and "
            "after training, equal to the last bit."
        )
    return f"The loss of the system as found goes from {number(stage.loss_before)} to {number(stage.loss_after)}."


def _describe_baselines(story: Story) -> str:
    named = [
        f"{one.name} {one.solved} of {one.evaluated} ({one.token_accuracy:.3f} of the tokens)"
        for one in story.baselines
    ]
    return f"Answers without learning: {', '.join(named)}."


def _read_count(stage: StageResult, key: str) -> int:
    found = stage.run.final[key]
    assert isinstance(found, int | float)  # measured runs have it
    return int(found)


def _score_row(place: int, stage: StageResult) -> list[str]:
    solved, asked = _read_count(stage, "held_out_solved"), _read_count(stage, "held_out_asked")
    low, high = binomial_interval(solved, asked)
    return [
        str(place),
        escape(stage.title),
        number(stage.loss_before),
        number(stage.loss_after),
        number(stage.entropy_before),
        number(stage.entropy_after),
        f"{solved} of {asked}",
        f"{low:.1%} to {high:.1%}",
    ]


def _verdict_row(place: int, stage: StageResult) -> list[str]:
    verdicts = {one.id: VERDICTS[one.verdict] for one in stage.verdicts}
    return [
        str(place),
        escape(", ".join(stage.faults) or "none"),
        stage.root_cause or "none",
        *(verdicts.get(id, "-") for id in HYPOTHESES),
        ", ".join(stage.rules) or "none",
    ]
