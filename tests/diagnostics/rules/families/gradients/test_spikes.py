"""Spikes."""

from __future__ import annotations

from tests.diagnostics.rules.trainings import Cases, changed, spiking, train

CASES: Cases = {
    "SPIKE001": (changed(spiking, steps=60), lambda **o: train(steps=60, **o)),
}
