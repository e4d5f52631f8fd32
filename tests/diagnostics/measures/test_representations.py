"""Closed forms and invariances of the measures of a context."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diagnostics.measures.representations import (
    cross_sample_share,
    effective_rank,
    representation,
    task_retrieval,
)
from tests.diagnostics.refusals import refused


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


shapes = st.tuples(st.integers(2, 6), st.integers(1, 4), st.integers(1, 5))
seeds = st.integers(0, 10_000)


# share and variance


@pytest.mark.parametrize("b", [2, 5, 16])
def test_one_hot_rows_share_all_but_their_mean(b):
    # mean square 1/B per element; the mean row is 1/B everywhere: 1 - 1/B is left
    assert cross_sample_share(torch.eye(b)) == pytest.approx(1 - 1 / b)


@pytest.mark.parametrize("value", [0.0, 0.1, -3.7e5])
def test_equal_samples_have_share_zero_exactly(value):
    assert cross_sample_share(torch.full((7, 3, 4), value)) == 0.0
    row = normal(1, 3, 4).expand(7, 3, 4)
    assert cross_sample_share(row) == 0.0
    assert representation(row).rank_over_samples == 0.0


def test_share_is_the_formula_of_the_docs():
    c = normal(5, 3, 4, dtype=torch.float64) + 2
    expected = (c - c.mean(0)).square().mean() / c.square().mean()
    assert representation(c).share == pytest.approx(float(expected), rel=1e-12)
    assert representation(c).cross_sample_var == pytest.approx(float(c.var(0, unbiased=False).mean()))


def test_share_sees_differences_far_below_the_mean():
    c = torch.full((2, 8), 1.0)
    c[1, 0] += 2**-20
    assert cross_sample_share(c) == pytest.approx((2**-21) ** 2 / 8, rel=1e-5)


@settings(deadline=None, max_examples=60)
@given(shapes, seeds, st.floats(1e-3, 1e3), st.floats(-10, 10))
def test_share_and_cosine_keep_their_bounds_and_ignore_scale(shape, seed, scale, offset):
    c = normal(*shape, seed=seed, dtype=torch.float64) + offset
    one, other = representation(c), representation(c * scale)
    assert 0 <= one.share <= 1
    assert -1 <= one.mean_cosine <= 1
    for name in ("share", "mean_cosine", "rank_over_samples"):
        assert getattr(other, name) == pytest.approx(getattr(one, name), rel=1e-6, abs=1e-9)
    assert 0 <= one.rank_over_samples <= min(shape[0] - 1, shape[1] * shape[2]) + 1e-6


def test_mean_cosine_agrees_with_all_pairs():
    c = normal(6, 2, 3, dtype=torch.float64) + 0.5
    u = c.flatten(1) / c.flatten(1).norm(dim=1, keepdim=True)
    pairs = [float(u[i] @ u[j]) for i in range(6) for j in range(6) if i != j]
    assert representation(c).mean_cosine == pytest.approx(sum(pairs) / len(pairs))


def test_published_figures():
    c = normal(4, 3, 5) * 2 + 1
    r = representation(c)
    assert r.mean == pytest.approx(float(c.mean()), rel=1e-5)
    assert r.std == pytest.approx(float(c.std()), rel=1e-5)
    assert r.norm == pytest.approx(float(c.norm(dim=-1).mean()), rel=1e-5)
    assert r.std_over_samples == pytest.approx(float(c.std(dim=0).mean()), rel=1e-5)


def test_across_token_variance():
    c = torch.tensor([[[0.0], [2.0]], [[5.0], [5.0]]])
    assert representation(c).across_token_var == pytest.approx(0.5)


# absent values


def test_single_sample_has_no_figures_over_samples():
    r = representation(normal(1, 3, 4))
    over = {"cross_sample_var", "share", "rank_over_samples", "mean_cosine", "std_over_samples"}
    assert r.absent == dict.fromkeys(over, "the batch has a single sample")
    assert cross_sample_share(normal(1, 3, 4)) is None


def test_single_token_has_no_figures_over_tokens():
    r = representation(normal(3, 4))
    assert r.tokens == 1
    assert r.absent == dict.fromkeys(
        ["rank_over_tokens", "across_token_var"], "the context has a single token"
    )


def test_zero_rows_have_no_cosine():
    r = representation(torch.zeros(3, 2, 2))
    assert r.absent == {"mean_cosine": "fewer than two samples are non-zero"}
    assert r.share == 0.0


def test_non_finite_context_has_no_figures_and_says_so():
    c = normal(3, 2, 4)
    c[0, 0, 0], c[1, 1, 1] = float("nan"), float("inf")
    r = representation(c)
    assert r.non_finite == 2
    assert len(r.absent) == 10
    assert "share" in r.absent
    assert cross_sample_share(c) is None


@pytest.mark.parametrize("c", [torch.zeros(3), torch.zeros(0, 4), torch.zeros(1, 1, 1, 1)])
def test_wrong_shape_is_named(c):
    with refused(ValueError, "representations.context-shape", got=tuple(c.shape)):
        representation(c)


def test_wrong_dtype_is_named():
    with refused(ValueError, "representations.context-dtype", got=torch.int64):
        representation(torch.ones(2, 3, dtype=torch.long))


def test_graph_is_left_alone():
    c = normal(3, 2, 4).requires_grad_()
    representation(c * 2)
    assert c.grad is None


def test_half_precision_is_measured_in_double():
    c = (normal(64, 4, 32) * 100).to(torch.bfloat16)
    assert representation(c).share == pytest.approx(representation(c.double()).share, rel=1e-12)


# effective rank


@pytest.mark.parametrize("k", [1, 2, 5])
def test_rank_k_with_equal_singular_values_has_effective_rank_k(k):
    left = torch.linalg.qr(normal(9, k, dtype=torch.float64)).Q
    right = torch.linalg.qr(normal(12, k, seed=1, dtype=torch.float64)).Q
    assert effective_rank(3.7 * left @ right.T) == pytest.approx(k, abs=1e-6)


def test_orthogonal_rows_have_effective_rank_b():
    assert effective_rank(torch.eye(6, 10)) == pytest.approx(6, abs=1e-9)
    # centring takes one direction away
    assert effective_rank(torch.eye(6, 10), centred=True) == pytest.approx(5, abs=1e-9)
    assert representation(torch.eye(6, 10)).rank_over_samples == pytest.approx(5, abs=1e-9)


def test_effective_rank_is_the_exponential_of_the_entropy():
    # singular values 3 and 1: p = 3/4, 1/4
    assert effective_rank(torch.diag(torch.tensor([3.0, 1.0]))) == pytest.approx(
        (4 / 3) ** 0.75 * 4**0.25, rel=1e-9
    )


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 7), st.integers(1, 7), seeds)
def test_effective_rank_agrees_with_svd(n, m, seed):
    matrix = normal(n, m, seed=seed, dtype=torch.float64)
    s = torch.linalg.svdvals(matrix)
    p = s / s.sum()
    assert effective_rank(matrix) == pytest.approx(float(torch.special.entr(p).sum().exp()), rel=1e-5)


def test_effective_rank_of_nothing_and_of_nan():
    assert effective_rank(torch.zeros(3, 4)) == 0.0
    assert effective_rank(torch.full((3, 4), float("nan"))) is None
    assert effective_rank(torch.eye(3, dtype=torch.float64) * 1e-200) == pytest.approx(3)


def test_rank_over_tokens_averages_the_samples():
    c = torch.stack([torch.eye(4), torch.ones(4, 4)])  # centred ranks 3 and 0
    assert representation(c).rank_over_tokens == pytest.approx(1.5)


# retrieval


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 12), seeds)
def test_equal_halves_are_always_found(n, seed):
    half = normal(n, 3, 8, seed=seed)
    assert task_retrieval(half, half.clone() * 5).accuracy == 1.0


def test_halves_are_found_under_a_huge_common_part():
    half = 1e4 + normal(20, 16, dtype=torch.float64) * 1e-3
    assert task_retrieval(half, half.clone()).accuracy == 1.0


def test_a_collapsed_encoder_retrieves_at_chance_exactly():
    row = normal(1, 3, 8).expand(10, 3, 8)
    result = task_retrieval(row, row)
    assert result.accuracy == pytest.approx(0.1)
    assert (result.chance, result.n) == (0.1, 10)


def test_random_halves_are_found_at_chance():
    scores = [
        task_retrieval(normal(20, 8, seed=s), normal(20, 8, seed=1000 + s)).accuracy for s in range(100)
    ]
    assert sum(scores) / 100 == pytest.approx(0.05, abs=0.02)  # standard error 0.005


def test_retrieval_refuses_what_it_cannot_rank():
    with refused(ValueError, "representations.halves-differ", first=(3, 2), second=(4, 2)):
        task_retrieval(torch.ones(3, 2), torch.ones(4, 2))
    with refused(ValueError, "representations.too-few-tasks", got=1):
        task_retrieval(torch.ones(1, 2), torch.ones(1, 2))
    with refused(ValueError, "representations.not-finite"):
        task_retrieval(torch.full((2, 2), float("nan")), torch.ones(2, 2))
