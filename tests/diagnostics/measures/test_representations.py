"""Closed forms and invariances of the measures of a context."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diagnostics.measures.representations import (
    against_random_start,
    context_use,
    cross_sample_share,
    effective_rank,
    representation,
    sampling_noise_share,
    task_retrieval,
    within_between,
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


# use of the context


def test_a_decoder_that_reads_the_context_pays_for_losing_it():
    c = normal(6, 2, 3)
    use = context_use(lambda x: float((x - c).square().mean()), c)
    assert use.true == 0
    assert use.cost_of_shuffling > use.cost_of_mean > 0
    assert use.cost_of_mean == pytest.approx(representation(c).cross_sample_var, rel=1e-5)
    assert use.cost_of_zeros == pytest.approx(float(c.square().mean()), rel=1e-5)


def test_a_decoder_that_ignores_the_context_pays_nothing():
    use = context_use(lambda x: 0.5, normal(6, 2, 3))
    assert (use.cost_of_shuffling, use.cost_of_mean, use.cost_of_zeros) == (0, 0, 0)


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_shuffling_gives_every_sample_another_task_or_nothing(ids):
    groups = torch.tensor(ids)
    seen = []
    use = context_use(
        lambda x: seen.append(x.clone()) or 0.0, torch.arange(len(ids)).double()[:, None], groups
    )
    most = max(ids.count(i) for i in ids)
    if 2 * most > len(ids):
        assert use.shuffled is None
        assert use.cost_of_shuffling is None
    else:
        order = seen[1][:, 0].long()
        assert sorted(order.tolist()) == list(range(len(ids)))
        assert (groups[order] != groups).all()


def test_one_sample_has_no_other_context():
    use = context_use(lambda x: float(x.sum()), torch.ones(1, 2, 3))
    assert (use.true, use.shuffled, use.mean, use.zeros) == (6, None, None, 0)
    assert use.cost_of_mean is None


def test_the_loss_may_write_into_its_context():
    c = normal(4, 2, 3)
    kept = c.clone()
    context_use(lambda x: float(x.zero_().sum()), c)
    assert torch.equal(c, kept)


def test_groups_must_name_every_sample():
    with refused(ValueError, "representations.groups-shape", expected=(4,), got=(3,)):
        context_use(lambda x: 0.0, torch.ones(4, 2), torch.zeros(3))


# within and between tasks, sampling noise, random start


def test_within_and_between_add_up():
    c = torch.tensor([[0.0], [2.0], [10.0], [12.0], [99.0]])
    result = within_between(c, torch.tensor([7, 7, 3, 3, 1]))  # the last task has one row
    assert (result.within, result.between) == (pytest.approx(1), pytest.approx(25))
    assert result.ratio == pytest.approx(25)
    assert result.f_ratio == pytest.approx(25 * 2 / 1)
    assert (result.tasks, result.rows) == (2, 4)
    assert result.within + result.between == pytest.approx(float(c[:4].var(unbiased=False)))


def test_f_ratio_is_about_one_where_tasks_say_nothing():
    result = within_between(normal(40, 4, 64), torch.arange(20).repeat(2))
    assert result.f_ratio == pytest.approx(1, abs=0.1)


def test_within_between_without_pairs_or_without_noise():
    alone = within_between(normal(3, 4), torch.arange(3))
    assert (alone.within, alone.ratio, alone.rows) == (None, None, 0)
    equal = within_between(torch.tensor([[1.0], [1.0], [2.0], [2.0]]), torch.tensor([0, 0, 1, 1]))
    assert (equal.within, equal.ratio) == (0, None)
    assert equal.between == pytest.approx(0.25)


def test_sampling_noise_share():
    signal = normal(200, 4, 32)
    noisy = [signal + 0.5 * normal(200, 4, 32, seed=s) for s in (1, 2)]
    assert sampling_noise_share(*noisy) == pytest.approx(0.25 / 1.25, rel=0.05)
    assert sampling_noise_share(signal, signal) == 0
    assert sampling_noise_share(normal(200, 4, 32, seed=3), signal) == pytest.approx(1, rel=0.05)
    assert sampling_noise_share(torch.ones(3, 2), torch.ones(3, 2)) is None
    assert sampling_noise_share(torch.ones(1, 2), torch.ones(1, 2)) is None


def test_a_random_start_is_recorded_too():
    start, now = representation(torch.eye(4)), representation(torch.eye(2))
    pair = against_random_start(now, start)
    assert (pair.now, pair.start) == (now, start)
    assert pair.share_ratio == pytest.approx(0.5 / 0.75)
    assert against_random_start(now, representation(torch.ones(3, 2))).share_ratio is None
    assert against_random_start(representation(torch.ones(1, 2)), start).share_ratio is None
