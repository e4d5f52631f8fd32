"""The callback in a real `Trainer.fit`: the same records as a monitor in a plain loop, and nothing changed."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

lightning = pytest.importorskip("lightning.pytorch", reason="the extra `lightning` is not installed")

from diagnostics import Monitor, Severity, StepScalars, read_steps  # noqa: E402 - after the skip
from diagnostics.lightning import LightningCallback  # noqa: E402
from tests.diagnostics.refusals import refused  # noqa: E402

pytestmark = pytest.mark.filterwarnings("default")  # lightning warns of workers, loggers and its own future


class Net(lightning.LightningModule):
    def __init__(self, cut: bool = False) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(4, 8), nn.Linear(8, 3)
        self.cut = cut

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        context = self.encoder(batch[0]).tanh()
        return nn.functional.cross_entropy(self.decoder(context.detach() if self.cut else context), batch[1])

    def training_step(self, batch: Any, index: int) -> Tensor:
        if batch[0].shape[0] == 1:
            raise RuntimeError("a batch of one")
        return self.loss(batch)

    def validation_step(self, batch: Any, index: int) -> None:
        self.loss(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), 1e-2)


def batches(samples: int = 6, count: int = 12) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    return [
        (torch.randn(samples, 4, generator=generator), torch.randint(3, (samples,), generator=generator))
        for _ in range(count)
    ]


def fit(module: Net, folder: Path, *callbacks: Any, data: Any = None, **options: Any) -> None:
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=list(callbacks),
        **options,
    )
    trainer.fit(module, loader(data or batches()), loader(batches(count=2)))


def loader(data: list[Any]) -> torch.utils.data.DataLoader[Any]:
    return torch.utils.data.DataLoader(data, batch_size=None)  # a list would be one loader per batch


def net(cut: bool = False) -> Net:
    torch.manual_seed(0)
    return Net(cut)


def test_the_records_are_those_of_a_plain_loop_and_the_weights_those_of_a_plain_fit(tmp_path: Path) -> None:
    watched, bare, looped = net(), net(), net()
    callback = LightningCallback(log=tmp_path / "steps.jsonl")
    fit(watched, tmp_path, callback, val_check_interval=4)
    fit(bare, tmp_path, val_check_interval=4)
    optimizer = looped.configure_optimizers()
    monitor = Monitor(looped, optimizer)
    for batch in batches():
        with monitor.step(samples=6):
            looped.loss(batch).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert all(map(torch.equal, watched.parameters(), bare.parameters()))
    assert all(map(torch.equal, watched.parameters(), looped.parameters()))
    assert [_seen(r) for r in callback.monitor.history] == [_seen(r) for r in monitor.history]
    assert len(read_steps(tmp_path / "steps.jsonl")["step"]) == 12 * 2
    assert not watched.encoder._forward_hooks


def _seen(record: StepScalars) -> dict[str, Any]:
    """Without the gradient that the optimiser found: Lightning runs forward and backward inside its step."""
    return {
        name: {key: value for key, value in scalars.items() if key != "grad_norm_post_clip"}
        for name, scalars in record.modules.items()
    }


def test_names_a_cut_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    callback = LightningCallback(watch=["encoder", "decoder"])
    with caplog.at_level(logging.WARNING, "diagnostics"):
        fit(net(cut=True), tmp_path, callback)
    above = [f for f in callback.findings(ignore=["decoder"]) if f.severity > Severity.NOTE]
    assert [(f.rule, f.module) for f in above] == [("GRAD001", "encoder")]
    assert "GRAD001  encoder" in caplog.text


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_healthy_fit_is_silent(tmp_path: Path, caplog: pytest.LogCaptureFixture, accumulate: int) -> None:
    callback = LightningCallback()
    fit(net(), tmp_path, callback, data=batches(count=24), accumulate_grad_batches=accumulate)
    assert "diagnostics" not in {record.name for record in caplog.records}
    assert len(callback.monitor.history) == 24
    assert all(record.modules["encoder"]["coverage"] == 1.0 for record in callback.monitor.history)


def test_a_batch_whose_tensors_differ_in_size_is_watched_too(tmp_path: Path) -> None:
    callback = LightningCallback()
    data = [(*batch, torch.ones(9)) for batch in batches()]
    fit(net(), tmp_path, callback, data=data)
    assert [record.samples for record in callback.monitor.history] == [6] * 12


def test_an_exception_leaves_no_hook_and_no_half_step(tmp_path: Path) -> None:
    module, callback = net(), LightningCallback(log=tmp_path / "steps.jsonl")
    with pytest.raises(RuntimeError, match="a batch of one"):
        fit(module, tmp_path, callback, data=[*batches(count=3), *batches(samples=1, count=1)])
    assert not module.encoder._forward_hooks
    assert len(callback.monitor.history) == 3
    fit(module, tmp_path, callback)
    assert len(callback.monitor.history) == 12


def test_there_is_no_monitor_before_training() -> None:
    with refused(LookupError, "loop.not-begun"):
        LightningCallback().findings()
