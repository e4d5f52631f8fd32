"""The callback in a real `Trainer.train`: silent on a transformer that learns, right about one that is cut."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="the extra `transformers` is not installed")
pytest.importorskip("accelerate", reason="the extra `transformers` is not installed")

from diagnostics import Severity, read_steps  # noqa: E402 - after the skip
from diagnostics.hugging_face import TransformersCallback  # noqa: E402

pytestmark = pytest.mark.filterwarnings("default")  # transformers warns of its own future


def model(dropout: float = 0.1) -> Any:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=30,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        hidden_dropout_prob=dropout,
    )
    return transformers.BertForSequenceClassification(config)


def data(count: int = 80) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(1)
    return [
        {"input_ids": torch.randint(30, (7,), generator=generator), "labels": index % 2}
        for index in range(count)
    ]


def train(
    chosen: Any,
    folder: Path,
    *callbacks: Any,
    count: int = 80,
    data_collator: Any = None,
    **options: Any,
) -> None:
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=4,
        max_steps=20,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        **options,
    )
    transformers.Trainer(
        chosen,
        arguments,
        data_collator=data_collator,
        train_dataset=data(count),
        eval_dataset=data(8),
        callbacks=list(callbacks),
    ).train()


WATCH = ["bert.embeddings", "bert.encoder.layer", "bert.pooler", "classifier"]


def test_training_is_the_same_and_a_healthy_model_is_silent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watched, bare = model(), model()
    callback = TransformersCallback(watch=WATCH, log=tmp_path / "steps.jsonl")
    with caplog.at_level(logging.WARNING, "diagnostics"):
        train(watched, tmp_path, callback, eval_strategy="steps", eval_steps=5)
    train(bare, tmp_path, eval_strategy="steps", eval_steps=5)
    assert all(map(torch.equal, watched.parameters(), bare.parameters()))
    assert "diagnostics" not in {record.name for record in caplog.records}, caplog.text
    assert len(callback.monitor.history) == 20
    assert all(record.samples == 4 for record in callback.monitor.history)
    assert all(record.modules["classifier"]["coverage"] == 1.0 for record in callback.monitor.history)
    assert callback.monitor.moved("classifier.weight")
    assert len(read_steps(tmp_path / "steps.jsonl")["step"]) == 20 * len(callback.monitor.last.modules)
    assert not watched._forward_pre_hooks


def test_accumulated_batches_are_steps_of_their_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    callback = TransformersCallback(watch=WATCH)
    with caplog.at_level(logging.WARNING, "diagnostics"):
        train(model(), tmp_path, callback, count=120, gradient_accumulation_steps=3)
    assert len(callback.monitor.history) == 60
    assert "diagnostics" not in {record.name for record in caplog.records}, caplog.text


class PatchModel(torch.nn.Module):
    """Like a vision-language model: the patches of all images of a batch in one tensor, with a size per image."""

    def __init__(self) -> None:
        super().__init__()
        self.reader, self.head = torch.nn.Linear(6, 8), torch.nn.Linear(8, 2)

    def forward(self, input_ids: Any, patches: Any, sizes: Any, labels: Any) -> dict[str, Any]:
        images = torch.stack([part.mean(0) for part in self.reader(patches).split(sizes[:, 0].tolist())])
        logits = self.head(images.view(len(input_ids), 2, -1).tanh().mean(1))
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}


def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
    sizes = torch.tensor([[2 + number % 3, 1, 1] for number in range(2 * len(rows))])
    return {
        "input_ids": torch.stack([row["input_ids"] for row in rows]),
        "patches": torch.randn(int(sizes[:, 0].sum()), 6),
        "sizes": sizes,
        "labels": torch.tensor([row["labels"] for row in rows]),
    }


@pytest.mark.parametrize(("samples", "counted"), [(None, 4), (lambda batch: len(batch["sizes"]), 8)])
def test_tensors_of_other_leading_sizes_do_not_end_the_training(
    tmp_path: Path, samples: Any, counted: int
) -> None:
    callback = TransformersCallback(samples=samples)
    train(PatchModel(), tmp_path, callback, data_collator=collate)
    assert [record.samples for record in callback.monitor.history] == [counted] * 20
    assert [each for each in callback.findings() if each.severity > Severity.NOTE] == []


def test_names_a_cut(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    broken = model()
    broken.bert.embeddings.register_forward_hook(lambda module, args, output: output.detach())
    callback = TransformersCallback(watch=WATCH)
    with caplog.at_level(logging.WARNING, "diagnostics"):
        train(broken, tmp_path, callback)
    critical = [f for f in callback.findings() if f.severity is Severity.CRITICAL]
    assert [(f.rule, f.module) for f in critical] == [("GRAD001", "bert.embeddings")]
    assert "GRAD001" in caplog.text


def test_an_exception_leaves_no_half_step_and_training_can_begin_again(tmp_path: Path) -> None:
    chosen, callback = model(), TransformersCallback(watch=WATCH)
    handle = chosen.classifier.register_forward_pre_hook(_third_time_raises())
    with pytest.raises(RuntimeError, match="third"):
        train(chosen, tmp_path, callback)
    handle.remove()
    assert len(callback.monitor.history) == 2
    train(chosen, tmp_path, callback)
    assert len(callback.monitor.history) == 20
    assert not chosen._forward_pre_hooks


def _third_time_raises() -> Any:
    calls: list[None] = []

    def hook(module: Any, args: Any) -> None:
        calls.append(None)
        if len(calls) == 3:
            raise RuntimeError("the third call")

    return hook
