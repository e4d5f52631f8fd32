"""Planted drifts and spikes are found at their steps; noise alone is quiet."""

import math

import pytest
import torch

from diagnostics.measures.drift import FEW_PROBES, REFERENCE_INCOMPLETE, REFERENCE_WITHOUT_SPREAD, DriftProbe
from diagnostics.measures.series import DriftEvent, robust_spikes, series_events
from tests.diagnostics.refusals import refused


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def probed(offset, *, n=60, every=10, jitter=0.02, scale=lambda i: 1.0, seed=0, **options):
    """A probe fed with one batch (8, 4, 16) that moves by `offset(i)` reference spreads and is jittered."""
    base = normal(8, 4, 16, seed=seed)
    probe = DriftProbe(**options)
    for i in range(n):
        moved = base * scale(i) + offset(i) * base.std()
        probe.add(i * every, moved + jitter * normal(8, 4, 16, seed=1000 * seed + i + 1))
    return probe


# the record


def test_shift_and_spread_are_in_reference_spreads():
    base = normal(32, 8)
    probe = DriftProbe(reference_window=1)
    probe.add(0, base)
    spread = float(base.var(dim=0, unbiased=False).mean().sqrt())
    record = probe.add(1, 2 * base + 3 * spread - base.mean(dim=0))
    assert record.shift == pytest.approx(3, rel=1e-6)
    assert record.spread_ratio == pytest.approx(2, rel=1e-6)


def test_the_same_output_has_not_moved():
    base = normal(8, 4, 16)
    probe = DriftProbe(reference_window=2)
    for step in range(4):
        record = probe.add(step, base)
    assert (record.shift, record.wasserstein, record.turn) == (0, 0, 0)
    assert record.spread_ratio == pytest.approx(1)


def test_turn_is_one_minus_cosine_to_the_last_probe():
    probe = DriftProbe(reference_window=1)
    assert probe.add(0, torch.tensor([[1.0, 0.0], [0.0, 0.0]])).turn is None
    assert probe.add(1, torch.tensor([[0.0, 3.0], [0.0, 0.0]])).turn == pytest.approx(1)
    assert probe.add(2, torch.tensor([[0.0, -3.0], [0.0, 0.0]])).turn == pytest.approx(2)
    assert probe.add(3, torch.zeros(2, 2)).turn is None


def test_wasserstein_of_a_shift_along_one_channel():
    # a rigid shift d has W1 = |d . direction| on every line; over random directions in D = 2 the mean is 2|d|/pi
    base = normal(64, 2)
    probe = DriftProbe(reference_window=1, projections=4000)
    probe.add(0, base)
    spread = float(base.var(dim=0, unbiased=False).mean().sqrt())
    record = probe.add(1, base + torch.tensor([5 * spread, 0.0]))
    assert record.wasserstein == pytest.approx(10 / math.pi, rel=0.03)


def test_wasserstein_ignores_the_order_of_rows():
    base = normal(64, 4)
    probe = DriftProbe(reference_window=1)
    probe.add(0, base)
    assert probe.add(1, base.flip(0)).wasserstein == pytest.approx(0, abs=1e-12)


def test_movement_of_the_decoder_divides_the_shift():
    probe = DriftProbe(reference_window=1)
    probe.add(0, normal(8, 4))
    record = probe.add(1, normal(8, 4) + 1, movement=0.5)
    assert record.shift_per_movement == pytest.approx(record.shift / 0.5)
    assert probe.add(2, normal(8, 4), movement=0.0).shift_per_movement is None
    assert probe.add(3, normal(8, 4)).shift_per_movement is None


def test_global_random_numbers_are_untouched():
    before = torch.get_rng_state()
    probed(lambda i: 0.0, n=10).events()
    assert torch.equal(torch.get_rng_state(), before)


def test_outputs_are_not_kept_alive_or_changed():
    output = normal(4, 3).requires_grad_()
    probe = DriftProbe(reference_window=1)
    probe.add(0, output * 1)
    with torch.no_grad():
        output.mul_(2)
    assert probe.add(1, output).spread_ratio == pytest.approx(2)


def test_probes_of_one_seed_agree():
    one, two = probed(lambda i: i / 10), probed(lambda i: i / 10)
    assert one.records == two.records


# what cannot be measured says so


def test_unavailable_until_the_reference_is_there():
    probe = DriftProbe(reference_window=3)
    record = probe.add(0, normal(4, 3))
    assert (record.shift, record.wasserstein) == (None, None)
    assert probe.blocked == REFERENCE_INCOMPLETE.of(probes=1, window=3)
    assert probe.events() == []
    probe.add(1, normal(4, 3))
    assert probe.add(2, normal(4, 3)).shift == pytest.approx(0, abs=1e-12)
    assert probe.blocked == FEW_PROBES
    for step in range(3, 8):
        probe.add(step, normal(4, 3))
    assert probe.blocked == FEW_PROBES
    for step in range(8, 12):
        probe.add(step, normal(4, 3))
    assert probe.blocked is None


def test_a_reference_without_spread_is_reported():
    probe = DriftProbe(reference_window=1)
    probe.add(0, torch.full((4, 3), 0.1))
    assert probe.add(1, torch.full((4, 3), 0.2)).shift is None
    assert probe.blocked == REFERENCE_WITHOUT_SPREAD


def test_non_finite_outputs_are_recorded_and_passed_over():
    probe = DriftProbe(reference_window=1)
    probe.add(0, normal(4, 3))
    record = probe.add(1, torch.full((4, 3), float("nan")))
    assert not record.finite
    assert record.shift is None
    assert probe.add(2, normal(4, 3)).turn == 0


def test_misuse_is_named():
    probe = DriftProbe()
    probe.add(5, normal(4, 3))
    with refused(ValueError, "drift.step-not-later", got=5, last=5):
        probe.add(5, normal(4, 3))
    with refused(ValueError, "drift.shape-changed", expected=(4, 3), got=(5, 3)):
        probe.add(6, normal(5, 3))
    with refused(ValueError, "drift.count-below-1", window=0, projections=32):
        DriftProbe(reference_window=0)
    with refused(ValueError, "drift.negative-threshold", noise=-1):
        DriftProbe(noise=-1)
    with refused(ValueError, "drift.output-shape", got=(4,)):
        DriftProbe().add(0, torch.zeros(4))


# planted drifts and spikes


def test_a_slow_drift_is_found_at_its_steps():
    probe = probed(lambda i: 4 * min(max((i - 20) / 20, 0), 1))  # steps 200 to 400
    (event,) = probe.events()
    assert event.kind == "drift"
    assert event.first_step == pytest.approx(200, abs=40)
    assert event.last_step == pytest.approx(400, abs=40)
    assert event.size > event.threshold >= 1


def test_a_growing_spread_is_a_drift():
    (event,) = probed(lambda i: 0.0, scale=lambda i: 1 + 4 * min(max((i - 20) / 20, 0), 1)).events()
    assert event.kind == "drift"
    assert event.first_step == pytest.approx(200, abs=50)


def test_spikes_are_no_drift():
    planted = {12, 37, 38}
    events = probed(lambda i: 0.0, scale=lambda i: 40.0 if i in planted else 1.0).events()
    assert [(e.kind, e.first_step, e.last_step) for e in events] == [("spike", 120, 120), ("spike", 370, 380)]


def test_spikes_on_top_of_a_drift_are_kept_apart():
    events = probed(lambda i: 4 * min(max((i - 20) / 20, 0), 1) + (30 if i in (30, 50) else 0)).events()
    assert [e.kind for e in events] == ["drift", "spike", "spike"]
    assert [(e.first_step, e.last_step) for e in events[1:]] == [(300, 300), (500, 500)]


def test_a_jump_is_a_drift_of_one_probe():
    (event,) = probed(lambda i: 3.0 if i >= 30 else 0.0).events()
    assert (event.kind, event.first_step, event.last_step) == (
        "drift",
        pytest.approx(290, abs=10),
        pytest.approx(300, abs=10),
    )


def test_small_movement_is_no_event_unless_asked_for():
    def ramp(i):
        return 0.5 * min(max((i - 20) / 20, 0), 1)

    assert probed(ramp, jitter=0.001).events() == []
    (event,) = probed(ramp, jitter=0.001, min_size=0.1).events()
    assert event.kind == "drift"


@pytest.mark.parametrize("jitter", [0.01, 0.3])
def test_noise_alone_is_quiet_in_a_probe(jitter):
    assert [probed(lambda i: 0.0, n=40, jitter=jitter, seed=s, min_size=0.0).events() for s in range(20)] == [
        []
    ] * 20


@pytest.mark.parametrize("n", [20, 50, 200])
def test_normal_noise_alone_is_quiet_in_a_series(n):
    found = [s for s in range(300) if series_events(range(n), normal(n, seed=s).tolist())]
    assert found == []


def test_short_normal_series_are_nearly_always_quiet():
    found = [n for s in range(100) for n in range(8, 20) if robust_spikes(normal(n, seed=s).tolist())]
    assert len(found) <= 6  # of 1200


def test_noise_around_a_ramp_is_no_spike():
    ramp = torch.arange(100) / 5
    assert all(robust_spikes((ramp + normal(100, seed=s)).tolist()) == [] for s in range(50))


# series


@pytest.mark.parametrize("share", [0.04, 0.08])
def test_the_largest_share_of_spikes(share):
    x = 1 + 0.1 * normal(300)
    planted = (
        torch.randperm(300, generator=torch.Generator().manual_seed(1))[: int(share * 300)].sort().values
    )
    x[planted] += 20
    assert robust_spikes(x.tolist()) == planted.tolist()


@pytest.mark.parametrize("seed", range(10))
def test_spikes_on_four_percent_of_steps_are_all_found(seed):
    x = 1 + 0.1 * normal(200, seed=seed)
    planted = torch.randperm(200, generator=torch.Generator().manual_seed(seed))[:8].sort().values
    x[planted] *= 40
    assert (x - x.mean()).abs().max() / x.std() < 6.5  # which is why a z-score does not find them
    assert robust_spikes(x.tolist()) == planted.tolist()


def test_spikes_in_an_otherwise_constant_series_are_found():
    x = [1.0] * 100
    for i in (3, 50, 51, 99):
        x[i] = 40.0
    assert robust_spikes(x) == [3, 50, 51, 99]
    assert robust_spikes([1.0] * 100) == []
    assert robust_spikes([0.0] * 100) == []
    assert robust_spikes([1.0] * 50 + [1.0 + 1e-9] + [1.0] * 49) == []  # rounding


@pytest.mark.parametrize("seed", range(20))
def test_a_series_that_is_zero_two_thirds_of_the_time_is_not_all_spikes(seed):
    x = torch.where(normal(200, seed=seed) > 0.4, normal(200, seed=100 + seed).abs(), 0.0)
    assert robust_spikes(x.tolist()) == []


def test_steps_ramps_and_decays_are_no_spikes():
    t = torch.arange(100, dtype=torch.float64)
    noise = 0.05 * normal(100)
    assert robust_spikes((noise + 3 * (t >= 50)).tolist()) == []
    assert robust_spikes((t / 3).tolist()) == []
    assert robust_spikes((noise + 10 * torch.exp(-t / 10)).tolist()) == []


def test_both_ends_can_be_spikes():
    x = 0.1 * normal(60)
    x[0], x[-1] = 9, -9
    assert robust_spikes(x.tolist()) == [0, 59]


def test_non_finite_values_are_always_spikes():
    assert robust_spikes([1.0, float("nan"), float("inf")]) == [1, 2]
    x = [1.0] * 20 + [float("nan"), 9.0] + [1.0] * 20
    assert robust_spikes(x) == [20, 21]
    assert robust_spikes([]) == []
    assert robust_spikes([1.0, 99.0, 1.0]) == []  # too few to tell


def test_which_came_first_can_be_read_from_two_series():
    steps = range(0, 600, 10)
    drift = [4 * min(max((i - 20) / 10, 0), 1) + 0.02 * float(normal(1, seed=i)) for i in range(60)]
    accuracy = [
        0.8 - 0.6 * min(max((i - 35) / 10, 0), 1) + 0.01 * float(normal(1, seed=99 + i)) for i in range(60)
    ]
    (first,), (second,) = series_events(steps, drift), series_events(steps, accuracy)
    assert first.kind == second.kind == "drift"
    assert first.first_step < first.last_step < second.first_step


def test_series_events_refuses_what_it_cannot_order():
    with refused(ValueError, "series.lengths-differ", steps=2, values=1):
        series_events([0, 1], [0.0])
    with refused(ValueError, "series.not-finite"):
        series_events([0], [float("nan")])
    with refused(ValueError, "series.spike-settings", window=2):
        robust_spikes([1.0], window=2)
    assert series_events([0, 1], [0.0, 9.0]) == []


def test_events_compare_by_value():
    assert DriftEvent("drift", 0, 1, 2.0, 1.0) == DriftEvent("drift", 0, 1, 2.0, 1.0)


def test_a_drift_next_to_learning_begins_where_it_left_a_rest() -> None:
    steps = list(range(46))
    learning = [1 - math.exp(-step / 3) for step in steps]
    (event,) = series_events(steps, [4 * value for value in learning], min_size=1.0)
    assert event.under_way, "fast first and slower then: learning from a random start"
    drifting = [
        value + 3 * min(max(step - 20, 0) / 20, 1) for step, value in zip(steps, learning, strict=True)
    ]
    (event,) = series_events(steps, drifting, min_size=1.0)
    assert not event.under_way
    assert 17 <= event.first_step <= 22


def test_a_rest_with_less_than_the_least_size_to_come_is_no_beginning() -> None:
    steps = list(range(46))
    values = [4 * (1 - math.exp(-step / 3)) + 0.8 * min(max(step - 25, 0) / 10, 1) for step in steps]
    (event,) = series_events(steps, values, min_size=1.0)
    assert event.under_way
