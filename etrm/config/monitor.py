"""The monitor section: what training measures."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from etrm.config.code_names import Named
from etrm.config.section import Section


class MonitorConfig(Section):
    """Measurements that the trainer records. Training is bit-identical with and without them."""

    enabled: bool = Field(True, description="whether measurements are recorded during training")
    every: int = Field(1, ge=1, description="number of steps between two records of coverage and movement")
    probe_every: int = Field(
        25, ge=1, description="number of steps between two measurements on the fixed probe batch"
    )
    probe_tasks: int = Field(16, ge=2, description="number of tasks in the probe batch")
    reference_every: int | None = Field(
        50,
        ge=1,
        description="number of steps of which one is compared with an independent implementation of the step, besides "
        "the first of each bucket and phase; none for no comparison",
    )
    layers: bool = Field(
        False, description="whether the gradient norm of each layer is recorded too, before clipping"
    )
    rules: tuple[Annotated[str, Named("rules")], ...] = Field(
        (), description="diagnostics rules of your own, as code such as my_code.py:MY_RULE"
    )
