"""The evaluate.search and evaluate.adapt sections: what a trained model may fit to a task's demonstrations."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from etrm.config.section import Section

AdaptedPart = Literal["weights", "encoder", "context"]
"""What adaptation trains: all weights, those of the encoder, or an offset of the context."""


class ContextSearchConfig(Section):
    """Gradient search over the context of a task, with frozen weights (`etrm evaluate --search`)."""

    start: Literal["encoder", "mean", "noise"] = Field(
        "noise",
        description="first context: that of the encoder (trm: the row of the table), the mean over training tasks, "
        "or noise",
    )
    noise: float = Field(
        1.0,
        ge=0,
        le=1e3,
        description="size of the noise of a start, in standard deviations of contexts of training tasks; the first "
        "start from the encoder or the mean has none",
    )
    restarts: int = Field(
        12, ge=1, le=1000, description="number of searches per vote, each with a vote of its own"
    )
    steps: int = Field(50, ge=1, description="largest number of gradient steps of a search")
    rate: float = Field(0.1, gt=0, le=1e3, description="learning rate of Adam on the context")
    hold_out: bool = Field(
        False,
        description="whether each search leaves one demonstration out in turn, and keeps the context that answers it "
        "best",
    )
    stop_loss: float = Field(
        0.0,
        ge=0,
        description="loss per token of the demonstrations below which a search stops; 0 for all steps",
    )
    control: bool = Field(
        True,
        description="whether the same search is also fitted to the demonstrations of another task, as a control",
    )


class AdaptationConfig(Section):
    """Training on the augmented demonstrations of one task at test time (`etrm evaluate --adapt`)."""

    steps: int = Field(50, ge=1, description="number of optimizer steps per task")
    batch_size: int = Field(8, ge=1, description="number of samples per optimizer step")
    rate: float = Field(3e-4, gt=0, le=1e3, description="learning rate of AdamW, without weight decay")
