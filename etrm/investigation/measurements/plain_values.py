"""Samples and batches as plain values for the reference, which knows none of their classes."""

from __future__ import annotations

from torch import Tensor

from etrm.batch import Batch
from etrm.data import Sample
from etrm.device import to_host
from etrm.reference.loaded_rows import LoadedRow


def plain_row(sample: Sample) -> LoadedRow:
    """Return a sample as the reference compares it."""
    demos = [(demo.tokens, demo.positions) for demo in sample.demos]
    return LoadedRow(sample.tokens, sample.positions, sample.labels, demos, sample.puzzle_id, sample.serial)


def plain_tensors(batch: Batch) -> dict[str, Tensor | None]:
    """Return the tensors of a batch on the host, by the names of :func:`etrm.reference.loaded_rows.compare_batch`."""
    demos = batch.demos
    tensors = {
        "inputs": batch.inputs,
        "positions": batch.positions,
        "labels": batch.labels,
        "valid": batch.valid,
        "puzzle_ids": batch.puzzle_ids,
        "sample_ids": batch.sample_ids,
        "demos.tokens": demos.tokens,
        "demos.positions": demos.positions,
        "demos.valid": demos.valid,
        "demos.owner": demos.owner,
    }
    return {name: None if values is None else to_host(values) for name, values in tensors.items()}
