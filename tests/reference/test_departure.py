"""Departures: the stages are in the order in which a step computes them."""

import math

from etrm.reference.departure import Departure, PipelineStage


def test_stages_are_in_the_order_of_a_step() -> None:
    order = list(PipelineStage)
    assert (
        order.index(PipelineStage.DATA)
        < order.index(PipelineStage.CONTEXT)
        < order.index(PipelineStage.CORE)
        < order.index(PipelineStage.LOSS)
    )
    assert (
        order.index(PipelineStage.LOSS)
        < order.index(PipelineStage.GRADIENT)
        < order.index(PipelineStage.UPDATE)
        < order.index(PipelineStage.AVERAGE)
    )


def test_departures_with_the_same_values_are_equal() -> None:
    assert Departure(PipelineStage.LOSS, "lm", 0.5, 1e-4, step=3) == Departure(
        PipelineStage.LOSS, "lm", 0.5, 1e-4, step=3
    )


def test_a_difference_that_is_not_a_number_is_infinite() -> None:
    assert Departure(PipelineStage.AVERAGE, "core.H_init", math.nan, 1e-5).size == math.inf
