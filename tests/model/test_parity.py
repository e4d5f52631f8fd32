"""Ours computes what the published implementations compute, on arrays that they produced."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from etrm.batch import Batch
from etrm.config import ModelConfig, TrainConfig
from etrm.model.recursive import RecursiveModel
from etrm.training.loss import act_loss

ROOT = Path(__file__).parent.parent / "parity"
CASES = [
    "trm",
    "etrm_standard_mean",
    "etrm_standard_attention_pre",
    "etrm_standard_weighted",
    "etrm_hybrid_standard",
    "etrm_lpn_standard",
]
LPN_BLOCK = re.compile(r"(grid_encoder\.layers\.\d+\.)(qkv_proj|o_proj)")
"""An LPN block is ours with the published one's attention unwrapped."""
PublishedBatch = Callable[[dict[str, np.ndarray]], Batch]


def published_config(case: str) -> tuple[ModelConfig, dict]:
    published = json.loads((ROOT / case / "config.json").read_text())
    config = ModelConfig(
        variant=published["kind"],
        hidden_size=published["hidden_size"],
        num_heads=published["num_heads"],
        expansion=published["expansion"],
        layers=published["L_layers"],
        H_cycles=published["H_cycles"],
        L_cycles=published["L_cycles"],
        context_tokens=published["puzzle_emb_len"],
        encoder={
            "kind": published.get("encoder_type", "standard"),
            "layers": published.get("encoder_num_layers", 2),
            "set_layers": published.get("encoder_set_layers", 1),
            "pooling": published.get("encoder_pooling_method", "mean"),
            "norm": published.get("encoder_norm_style", "post"),
            "layer_scale": published.get("encoder_layer_scale_init", 0.0),
        },
        halt={"max_steps": published["halt_max_steps"], "exploration": 0.0},
    )
    return config, published


def our_name(name: str) -> str:
    name = name.removeprefix("model.").replace("inner.puzzle_emb.", "puzzle_table.")
    return LPN_BLOCK.sub(r"\1self_attn.\2", name.replace("inner.", "core."))


@pytest.mark.parametrize("case", CASES)
def test_matches_the_published_arrays(case: str, published_batch: PublishedBatch) -> None:
    config, published = published_config(case)
    model = RecursiveModel(
        config, puzzles=published.get("num_puzzle_identifiers", 0), side=published["canvas"]
    )
    weights = {our_name(k): v for k, v in load_file(ROOT / case / "weights.safetensors").items()}
    model.load_state_dict(weights, strict=True)
    model.train()

    batches = np.load(ROOT / case / "batches.npz")
    expected = np.load(ROOT / case / "expected.npz")
    carry = model.initial_carry(published["batch_size"])
    current: dict[str, np.ndarray] = {}
    for step in range(published["act_steps"]):
        prefix = f"step{step}."
        new = {k.removeprefix(prefix): batches[k] for k in batches.files if k.startswith(prefix)}
        resets = carry.halted.numpy()
        current = {
            k: np.where(resets.reshape(-1, *[1] * (v.ndim - 1)), v, current.get(k, v)) for k, v in new.items()
        }
        batch = published_batch(current)
        model.zero_grad(set_to_none=True)
        carry, output = model(carry, batch)
        output.context.retain_grad()
        loss = act_loss(output, batch.labels)
        total = loss.total(TrainConfig(q_halt_weight=0.5))
        (total / published["batch_size"]).backward()

        want = {k.removeprefix(prefix): expected[k] for k in expected.files if k.startswith(prefix)}
        tolerance = 1e-4 if step == 0 else 1e-3
        close = {"atol": tolerance, "rtol": 0}
        np.testing.assert_allclose(output.logits.detach(), want["logits"], **close)
        np.testing.assert_allclose(output.q_halt.detach(), want["q_halt_logits"], **close)
        np.testing.assert_allclose(total.item(), want["loss"], rtol=tolerance)
        np.testing.assert_array_equal(output.logits.argmax(-1), want["preds"])
        np.testing.assert_array_equal(carry.steps, want["steps"])
        np.testing.assert_array_equal(carry.halted, want["halted"])
        np.testing.assert_array_equal(batch.labels, want["current_labels"])
        np.testing.assert_allclose(loss.lm.sum().item(), want["metric.lm_loss"], rtol=tolerance)
        np.testing.assert_allclose(loss.q_halt.sum().item(), want["metric.q_halt_loss"], rtol=tolerance)
        rows = carry.halted if case == "trm" else torch.ones_like(carry.halted)
        assert int((rows & loss.scored).sum()) == want["metric.count"]
        np.testing.assert_allclose(loss.token_accuracy[rows].sum(), want["metric.accuracy"], rtol=1e-5)
        assert int(loss.exact[rows].sum()) == want["metric.exact_accuracy"]
        assert int(loss.q_correct[rows].sum()) == want["metric.q_halt_accuracy"]
        if case == "trm":
            relative_close(output.context.grad[:, 0], want["grad.puzzle_emb_local"], f"{prefix}puzzle_emb")
        if step == 0:
            theirs = {
                our_name(k.removeprefix("grad.")): v for k, v in want.items() if k.startswith("grad.model.")
            }
            ours = {k: p.grad for k, p in model.named_parameters() if k != "puzzle_table.weights"}
            assert ours.keys() == theirs.keys()
            for name, gradient in ours.items():
                relative_close(gradient, theirs[name], name)


def relative_close(ours: torch.Tensor, theirs: np.ndarray, name: str) -> None:
    """Within 1e-3 of the tensor's own maximum, with no absolute tolerance."""
    largest = np.abs(theirs).max()
    assert largest > 0, name
    assert np.abs(ours.detach().numpy() - theirs).max() <= 1e-3 * largest, name
