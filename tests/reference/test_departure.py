"""Departures: the stages are in the order in which a step computes them."""

from etrm.reference.departure import Departure, Stage


def test_stages_are_in_the_order_of_a_step() -> None:
    order = list(Stage)
    assert (
        order.index(Stage.DATA)
        < order.index(Stage.CONTEXT)
        < order.index(Stage.CORE)
        < order.index(Stage.LOSS)
    )
    assert (
        order.index(Stage.LOSS)
        < order.index(Stage.GRADIENT)
        < order.index(Stage.UPDATE)
        < order.index(Stage.AVERAGE)
    )


def test_departures_with_the_same_values_are_equal() -> None:
    assert Departure(Stage.LOSS, "lm", 0.5, 1e-4, step=3) == Departure(Stage.LOSS, "lm", 0.5, 1e-4, step=3)
