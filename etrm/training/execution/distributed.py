"""Several processes that train one model: the data that they exchange, and what happens when one dies.

Every process holds the whole model and a contiguous share of the rows of the global batch. Gradients
are summed here and not by torch's DistributedDataParallel, which expects the same parameters to have a
gradient on every process in every step and reduces while the backward pass runs. Here a cached context
gives the encoder a gradient only if rows begin, a frozen part unfreezes in the middle of a run, a puzzle
table has sparse rows, and a parameter without gradient on every process must keep none, or an
optimiser would decay it. The models have few parameters and long steps, so little could be overlapped.

Data that the host needs (flags, sizes) is exchanged between the hosts; only gradients and the sums of the
step are exchanged between the devices.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from etrm import rank as processes
from etrm.errors import ConfigError, ProcessError

PATIENCE = timedelta(minutes=10)
"""The time after which a silent process counts as lost (our choice); one that dies is noticed at once."""
_LONGEST_WORK = timedelta(days=30)
"""The longest time for which the others wait for work that one process does alone, such as an evaluation."""
_NONE, _DENSE, _SPARSE = 0, 1, 2


class World:
    """One process that trains alone; nothing is exchanged."""

    rank = 0
    size = 1

    @property
    def leader(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    @property
    def group(self) -> dist.ProcessGroup | None:
        """The processes, for the toolkit; None for one."""
        return None

    def share(self, rows: int) -> range:
        """Return this process's rows of the global batch.

        Raises:
            ConfigError: they cannot be split evenly.
        """
        if rows % self.size:
            raise ConfigError(
                "train.indivisible-batch",
                f"train.batch_size {rows} cannot be split over {self.size} processes",
                allowed=f"a multiple of {self.size}: the batch is the global one",
                next_step=f"--set train.batch_size={max(1, rows // self.size) * self.size}",
            )
        each = rows // self.size
        return range(self.rank * each, (self.rank + 1) * each)

    def gather_flags(self, flags: list[bool]) -> list[bool]:
        """Gather the flags of all rows, in their order, from those of this process."""
        return flags

    def most(self, *numbers: int) -> tuple[int, ...]:
        """Return the maximum of each number over the processes."""
        return numbers

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set on any process."""
        return bool(self.most(int(flag))[0])

    def sum(self, numbers: Tensor) -> Tensor:
        """Sum over the processes, on the device."""
        return numbers

    def gather_rows(self, tensor: Tensor) -> Tensor:
        """Gather the rows (leading dimension) of all processes, in their order."""
        return tensor

    def tell(self, value: Any) -> Any:
        """Send the leader's value to every process; it must be picklable."""
        return self.gather(value)[0]

    def gather(self, value: Any) -> list[Any]:
        """Gather the values of all processes on each; they must be picklable."""
        return [value]

    def wait_for_all(self) -> None:
        """Wait until all processes call this, even if one of them works longer than :data:`PATIENCE` before."""

    def reduce_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum each parameter's gradient over the processes; one that has none on any keeps none."""


ALONE = World()


class LaunchedWorld(World):
    """The processes that a launcher started, in step with each other.

    Every method must be called by all of them, in the same order.

    Raises:
        ProcessError: (every method) another process is gone.
    """

    def __init__(self, rank: int, size: int, patient: dist.ProcessGroup | None = None) -> None:
        self.rank, self.size, self._patient = rank, size, patient

    @property
    def group(self) -> dist.ProcessGroup:
        """The processes, for the toolkit."""
        found = dist.group.WORLD
        assert found is not None
        return found

    def gather_flags(self, flags: list[bool]) -> list[bool]:
        """Gather the flags of all rows, in their order, from those of this process."""
        return list(self.gather_rows(torch.tensor(flags)).tolist())

    def most(self, *numbers: int) -> tuple[int, ...]:
        """Return the maximum of each number over the processes."""
        found = torch.tensor(numbers)
        with _peers():
            dist.all_reduce(found, dist.ReduceOp.MAX)
        return tuple(found.tolist())

    def sum(self, numbers: Tensor) -> Tensor:
        """Sum over the processes, on the device."""
        numbers = numbers.clone()
        with _peers():
            dist.all_reduce(numbers)
        return numbers

    def gather_rows(self, tensor: Tensor) -> Tensor:
        """Gather the rows (leading dimension) of all processes, in their order; they may have different numbers."""
        if tensor.dtype == torch.bool:  # which gloo does not know
            return self.gather_rows(tensor.to(torch.uint8)).bool()
        with _peers():
            counts = [torch.zeros(1, dtype=torch.long) for _ in range(self.size)]
            dist.all_gather(counts, torch.tensor([len(tensor)]))
            rows = [int(count) for count in counts]
            padded = tensor.new_zeros(max(rows), *tensor.shape[1:])
            padded[: len(tensor)] = tensor
            parts = [torch.empty_like(padded) for _ in rows]
            dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, rows, strict=True)])

    def gather(self, value: Any) -> list[Any]:
        """Gather the values of all processes on each; they must be picklable."""
        said: list[Any] = [None] * self.size
        with _peers():
            dist.all_gather_object(said, value)
        return said

    def wait_for_all(self) -> None:
        """Wait until all processes call this, even if one of them works longer than :data:`PATIENCE` before."""
        with _peers():
            dist.barrier(self._patient)

    def reduce_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum each parameter's gradient over the processes; one that has none on any keeps none."""
        trained = list(parameters)
        kinds = self.most(*(_kind(parameter.grad) for parameter in trained))
        dense = [p for p, kind in zip(trained, kinds, strict=True) if kind == _DENSE]
        sparse = [p for p, kind in zip(trained, kinds, strict=True) if kind == _SPARSE]
        for parameter in dense:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for dtype in dict.fromkeys(p.dtype for p in dense):
            self._sum_gradients([p.grad for p in dense if p.dtype == dtype and p.grad is not None])
        for parameter in sparse:
            self._join_rows(parameter)

    def _sum_gradients(self, gradients: Sequence[Tensor]) -> None:
        total = self.sum(torch.cat([gradient.flatten() for gradient in gradients]))
        parts = total.split([gradient.numel() for gradient in gradients])
        torch._foreach_copy_(
            list(gradients), [part.view_as(g) for part, g in zip(parts, gradients, strict=True)]
        )

    def _join_rows(self, parameter: nn.Parameter) -> None:
        """Gather the rows of a sparse gradient from all processes; rows of the same index are not summed yet."""
        gradient = parameter.grad
        if gradient is None:
            empty = torch.zeros(1, 0, dtype=torch.long, device=parameter.device)
            gradient = torch.sparse_coo_tensor(
                empty, parameter.new_zeros(0, *parameter.shape[1:]), parameter.shape
            )
        rows = self.gather_rows(gradient._indices()[0])
        values = self.gather_rows(gradient._values())
        # Not coalesced, as autograd leaves it: in the order of the global batch's rows.
        parameter.grad = torch.sparse_coo_tensor(
            rows.unsqueeze(0), values, parameter.shape, check_invariants=False
        )


def _kind(gradient: Tensor | None) -> int:
    if gradient is None:
        return _NONE
    return _SPARSE if gradient.is_sparse else _DENSE


@contextmanager
def _peers() -> Iterator[None]:
    """A context around an exchange, which fails if another process no longer answers."""
    try:
        yield
    except RuntimeError as error:
        raise ProcessError(
            "process.ended",
            "another process of this run has ended",
            got=str(error).splitlines()[0],
            next_step="look for its own message, then resume with --resume, on any number of processes that divides "
            "train.batch_size",
        ) from error


@contextmanager
def join_processes(device: str) -> Iterator[World]:
    """Connect the processes that the launcher started until the block ends; without a launcher, a single process.

    Args:
        device: ``train.device``: gloo joins CPUs, nccl joins GPUs (and gloo their hosts).

    Raises:
        ProcessError: the others cannot be met.
        ConfigError: the device cannot be shared.
    """
    if not processes.is_launched() or os.environ["WORLD_SIZE"] == "1":
        yield ALONE
        return
    rank, size, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    _check_device(device, gpu, local)
    if gpu:
        torch.cuda.set_device(local)
    if rank > 0:  # the leader says what there is to say
        warnings.simplefilter("ignore")
    with _peers():
        store, _, _ = next(iter(rendezvous("env://", timeout=PATIENCE)))
        processes.share_store(store)
        backend = "cpu:gloo,cuda:nccl" if gpu else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
        patient = dist.new_group(timeout=_LONGEST_WORK, backend="gloo")
    yield LaunchedWorld(rank, size, patient)
    # After an error the connections stay open until this process has reported it and ends: see reports_error.
    with _peers():  # the leader may hold the store: nobody leaves before all are done
        dist.barrier()
    dist.destroy_process_group()


def _check_device(device: str, gpu: bool, local: int) -> None:
    if device == "mps" or (device == "auto" and not gpu and torch.backends.mps.is_available()):
        raise ConfigError(
            "process.mps",
            "several processes cannot share train.device mps",
            allowed="cpu, or cuda with a GPU per process",
            next_step="--set train.device=cpu",
        )
    if gpu and local >= torch.cuda.device_count():
        raise ConfigError(
            "process.too-few-gpus",
            f"this machine has {torch.cuda.device_count()} GPUs and at least {local + 1} processes",
            next_step="start as many processes as GPUs: torchrun --nproc-per-node",
        )
