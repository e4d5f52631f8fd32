"""Run by one process or several: a toy trains on a share of each batch; the monitor's records are saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from diagnostics import Absent, Monitor

ROWS, STEPS = 6, 12
ENCODED = ([0, 1, 2, 3, 4, 5], [0, 2], [], [1, 4], [3])
"""Rows whose context is computed in a step, as a cache would leave them; in some steps by one process alone."""


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(3, 4), nn.Tanh())
        self.core = nn.Linear(7, 5)
        self.core.dropout = nn.Dropout(0.5)  # never called: it would draw otherwise on each process
        self.unused = nn.Linear(2, 2)
        self.dead = nn.Linear(5, 1)

    def forward(self, x: Tensor, rows: list[int]) -> Tensor:
        context = torch.zeros(len(x), 4)
        if rows:
            context = context.index_put((torch.tensor(rows),), self.encoder(x[rows]))
        h = self.core(torch.cat((x, context), 1)) + self.core(torch.cat((x, context.detach()), 1))
        return h.square().sum(1) + 0 * self.dead(h).squeeze(1)


def number(value: Any) -> Any:
    return f"absent: {value.reason}" if isinstance(value, Absent) else value


def train_share(rank: int, size: int, out: Path) -> None:
    """Train as one process of ``size``, which meet at a file in ``out``; write the records there."""
    torch.set_num_threads(1)
    if size > 1:
        dist.init_process_group("gloo", init_method=f"file://{out / 'store'}", rank=rank, world_size=size)
    torch.manual_seed(0)
    model, batches = Toy(), [torch.randn(ROWS, 3) * 3**step for step in range(STEPS)]
    if rank == size - 1:
        model.core.eval()  # on one process alone, as by an evaluation of the first rank's
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-9, weight_decay=0.1)
    each = ROWS // size
    encoded: list[int] = []
    monitor = Monitor(
        model,
        optimizer,
        rows={"encoder": lambda args, kwargs, output: torch.tensor(encoded)},
        group=dist.group.WORLD if size > 1 else None,
    )
    lines = []
    for step, x in enumerate(batches):
        x = x[rank * each : (rank + 1) * each]
        encoded[:] = [row - rank * each for row in ENCODED[step % 5] if row // each == rank]
        with monitor.step(samples=each):
            loss = model(x, encoded).sum() / ROWS
            loss.backward()
            if size > 1:
                for p in model.parameters():
                    held = torch.tensor(float(p.grad is not None))
                    dist.all_reduce(held)
                    if held:
                        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
                        dist.all_reduce(p.grad)
            monitor.gradients_reduced()
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
            optimizer.zero_grad()
        record = monitor.last
        lines.append(
            {
                "samples": record.samples,
                "order": list(record.order),
                "modules": {
                    name: {key: number(value) for key, value in module.scalars().items()}
                    | {"state": module.state, "evaluating": list(module.evaluating)}
                    | {"rows": [number(call.rows) for call in module.calls]}
                    | {"of calls": [[call.raw, call.checkpointed, *call.passes] for call in module.calls]}
                    | {
                        "sizes": [
                            call.row_gradients.tolist() if isinstance(call.row_gradients, Tensor) else "none"
                            for call in module.calls
                        ]
                    }
                    for name, module in record.modules.items()
                },
                "reach": {
                    name: [item.reach.kind, number(item.reach.norm), item.changed, number(item.leftover)]
                    for name, item in record.parameters.items()
                },
            }
        )
    findings = [
        [
            finding.rule,
            finding.module,
            finding.evidence.value,
            finding.evidence.first_step,
            [[follows.rule, follows.module] for follows in finding.consequences],
        ]
        for finding in monitor.findings()
    ]
    (out / f"{size}-{rank}.json").write_text(json.dumps({"steps": lines, "findings": findings}))
    if size > 1:
        dist.destroy_process_group()
