"""The variational encoders: what is sampled, when, and how far it is from the unit normal."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from etrm.batch import Batch
from etrm.config import ModelConfig
from etrm.model.encoders import Encoder, build_encoder
from etrm.model.encoders.variational import Latent
from etrm.model.layers import rms_norm
from etrm.model.solve import solve

KINDS = ("lpn_variational", "hybrid_variational")
PAIRS = [((2, 2), (3, 1)), ((1, 4), (2, 2)), ((1, 1), (1, 1))]


def encoder_of(world: Any, kind: str, **encoder: Any) -> Encoder:
    return world.model(world.config(encoder={"kind": kind, **encoder})).encoder


@pytest.fixture
def batch(world: Any) -> Batch:
    return world.batch([world.row((2, n), PAIRS[:n], seed=n) for n in (1, 3, 2)])


def divergence(mu: Tensor, logvar: Tensor) -> Tensor:
    """By torch's own formula of two normals."""
    normal = torch.distributions.Normal
    return torch.distributions.kl_divergence(normal(mu, (0.5 * logvar).exp()), normal(0.0, 1.0)).sum(-1)


# -- the latent ---------------------------------------------------------------------------------------


def drawn_latent(size: int = 5) -> Latent:
    latent = Latent(4, size)
    with torch.no_grad():
        for parameter in latent.parameters():
            parameter.normal_(std=0.5)
    return latent


def test_a_latent_starts_with_unit_variance_whatever_it_reads() -> None:
    latent = Latent(4, 5)
    assert not latent.logvar_proj.weight.any()
    assert not latent.logvar_proj.bias.any()
    assert latent.mu_proj.weight.any()
    assert not latent.mu_proj.bias.any()
    mu, kl = latent.eval()(torch.randn(2, 4))
    torch.testing.assert_close(kl, mu.square().sum(-1) / 2)  # of N(mu, 1) from N(0, 1)


def test_the_divergence_is_that_of_two_normals() -> None:
    latent, x = drawn_latent(), torch.randn(3, 2, 4)
    _, kl = latent(x)
    assert kl.shape == (3, 2)
    torch.testing.assert_close(kl, divergence(latent.mu_proj(x), latent.logvar_proj(x)), rtol=1e-4, atol=1e-5)


def test_the_divergence_is_that_of_two_normals_with_products_in_bfloat16(world: Any, batch: Batch) -> None:
    latent, x = Latent(64, 64), torch.randn(8, 64)
    with torch.no_grad():  # near the unit normal, where the terms of the divergence cancel
        latent.mu_proj.weight.mul_(0.05)
        latent.logvar_proj.weight.normal_(std=0.003)
    exact = divergence(latent.mu_proj(x), latent.logvar_proj(x))
    encoder = encoder_of(world, "lpn_variational")
    kl = encoder.latent(encoder.pair_sets(batch.demos)[0])[1][1].mean()
    with torch.autocast("cpu", torch.bfloat16):
        found = latent(x)[1]
        low = encoder.read(*encoder.pair_sets(batch.demos)).kl
    torch.testing.assert_close(found, exact, rtol=0.01, atol=0)
    assert found.dtype == low.dtype == torch.float32
    torch.testing.assert_close(low[1], kl, rtol=0.02, atol=0)


def test_a_sample_is_the_mean_and_the_spread_times_noise_of_the_global_generator() -> None:
    latent, x = drawn_latent(), torch.randn(3, 4)
    torch.manual_seed(7)
    z, _ = latent(x)
    torch.manual_seed(7)
    noise = torch.randn(3, 5)
    expected = latent.mu_proj(x) + (latent.logvar_proj(x) / 2).exp() * noise
    torch.testing.assert_close(z, expected)


def test_evaluation_takes_the_mean_and_draws_nothing() -> None:
    latent, x = drawn_latent().eval(), torch.randn(3, 4)
    before = torch.get_rng_state()
    assert torch.equal(latent(x)[0], latent.mu_proj(x))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("bias", "held"), [(40.0, 10.0), (-40.0, -10.0)])
def test_the_log_variance_is_held_within_ten(bias: float, held: float) -> None:
    latent = Latent(4, 1)
    with torch.no_grad():
        latent.logvar_proj.bias.fill_(bias)
        latent.mu_proj.weight.zero_()
    _, kl = latent(torch.randn(2, 4))
    torch.testing.assert_close(kl, torch.full((2,), -0.5 * (1 + held - math.exp(held))))


# -- the encoders -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("latent_size", [None, 5])
def test_the_latent_has_the_width_that_was_asked_for(world: Any, kind: Any, latent_size: int | None) -> None:
    encoder = encoder_of(world, kind, latent_size=latent_size)
    assert encoder.latent.mu_proj.weight.shape == (latent_size or 16, 16)
    assert encoder.output_proj.weight.shape == (3 * 16, latent_size or 16)
    assert encoder.output_proj.bias is None


def test_a_new_encoder_starts_with_unit_variance(world: Any) -> None:
    for kind in KINDS:
        encoder = build_encoder(ModelConfig(encoder={"kind": kind}, hidden_size=16, num_heads=2), side=6)
        assert not any(p.any() for p in encoder.latent.logvar_proj.parameters())


def test_lpn_variational_is_the_mean_of_the_latents_of_its_real_pairs(world: Any, batch: Batch) -> None:
    encoder = encoder_of(world, "lpn_variational").eval()
    vectors = encoder.grid_encoder(batch.demos)
    mu, logvar = encoder.latent.mu_proj(vectors), encoder.latent.logvar_proj(vectors)
    encoded = encoder(batch.demos)
    for row, own in enumerate((slice(0, 1), slice(1, 4), slice(4, 6))):
        context = (encoder.output_proj.weight @ mu[own].mean(0)).view(3, 16)
        torch.testing.assert_close(encoded.context[row], context, rtol=1e-4, atol=1e-5)
        kl = divergence(mu[own], logvar[own]).mean()
        torch.testing.assert_close(encoded.kl[row], kl, rtol=1e-4, atol=1e-5)


def test_lpn_variational_samples_every_pair_by_itself(world: Any, batch: Batch) -> None:
    encoder = encoder_of(world, "lpn_variational").train()
    torch.manual_seed(3)
    found = encoder(batch.demos).context
    torch.manual_seed(3)
    pairs, mask = encoder.pair_sets(batch.demos)
    z = encoder.latent.mu_proj(pairs)
    z = z + (encoder.latent.logvar_proj(pairs) / 2).exp() * torch.randn(z.shape)
    for row in range(3):
        expected = (encoder.output_proj.weight @ z[row][mask[row]].mean(0)).view(3, 16)
        torch.testing.assert_close(found[row], expected, rtol=1e-4, atol=1e-5)


def test_hybrid_variational_reads_one_latent_from_the_mean_token(world: Any, batch: Batch) -> None:
    encoder = encoder_of(world, "hybrid_variational").eval()
    x = rms_norm(encoder.set_encoder(*encoder.pair_sets(batch.demos)).mean(1))
    mu, logvar = encoder.latent.mu_proj(x), encoder.latent.logvar_proj(x)
    encoded = encoder(batch.demos)
    expected = (mu @ encoder.output_proj.weight.T).view(3, 3, 16)
    torch.testing.assert_close(encoded.context, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(encoded.kl, divergence(mu, logvar), rtol=1e-4, atol=1e-5)


# -- in the model -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_training_samples_anew_at_every_step_and_evaluation_never(
    world: Any, batch: Batch, kind: str
) -> None:
    model = world.model(world.config(encoder={"kind": kind}))
    start = model.initial_carry(3)
    first, second = (model(start, batch)[1] for _ in range(2))
    assert not torch.allclose(first.context, second.context, atol=1e-3)
    assert torch.equal(first.kl, second.kl)
    model.eval()
    assert torch.equal(solve(model, batch).context, solve(model, batch).context)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cached_context_has_a_divergence_for_the_rows_that_begin_alone(
    world: Any, batch: Batch, kind: str
) -> None:
    model = world.model(world.config("etrm_cached", encoder={"kind": kind}))
    carry, output = model(model.initial_carry(3), batch)
    whole = output.kl
    assert (whole > 0).all()
    halted = torch.tensor([False, True, False])
    _, output = model(type(carry)(carry.z_H, carry.z_L, carry.steps, halted, carry.context), batch)
    torch.testing.assert_close(output.kl, whole * halted, rtol=1e-4, atol=1e-5)
    _, output = model(type(carry)(carry.z_H, carry.z_L, carry.steps, ~whole.bool(), carry.context), batch)
    assert output.kl is None


def test_other_encoders_have_no_divergence(world: Any, batch: Batch) -> None:
    for kind in ("standard", "lpn_standard", "hybrid_standard"):
        model = world.model(world.config(encoder={"kind": kind}))
        assert model(model.initial_carry(3), batch)[1].kl is None
