from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from etrm.batch import IGNORE
from etrm.config import TrainConfig
from etrm.model.recursive import StepOutput
from etrm.training import loss as losses
from etrm.training.loss import LOG_PROBABILITIES, Loss, act_loss, log_softmax, log_stablemax


def loss_of(logits: Tensor, q_halt: list[float], labels: list[list[int]]) -> Loss:
    context = torch.zeros(len(labels), 1, 1)
    return act_loss(StepOutput(logits, torch.tensor(q_halt), context), torch.tensor(labels))


def sure_of(tokens: list[list[int]]) -> Tensor:
    """Logits whose argmax is ``tokens``."""
    return 5 * torch.nn.functional.one_hot(torch.tensor(tokens), 12).float()


# -- log-stablemax ------------------------------------------------------------------------------------


def test_log_stablemax_in_closed_form() -> None:
    # s(1) = 2, s(0) = 1, s(-1) = 1/2, s(-3) = 1/4: together 15/4.
    found = log_stablemax(torch.tensor([1.0, 0.0, -1.0, -3.0]))
    shares = torch.tensor([8 / 15, 4 / 15, 2 / 15, 1 / 15], dtype=torch.float64)
    torch.testing.assert_close(found, shares.log())


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=12))
def test_log_stablemax_is_a_finite_distribution_in_the_order_of_its_input(values: list[float]) -> None:
    found = log_stablemax(torch.tensor(values))
    assert found.dtype == torch.float64
    assert found.isfinite().all()
    assert found.exp().sum().item() == pytest.approx(1, rel=1e-9)
    order = torch.tensor(values).argsort()
    assert (found[order].diff() >= -1e-12).all()


@pytest.mark.parametrize("x", [-1e30, -2.0, 0.0, 1.0, 2.0, 1e30])
def test_the_gradient_of_log_stablemax_is_finite_everywhere(x: float) -> None:
    logits = torch.tensor([x, 0.5], requires_grad=True)
    log_stablemax(logits)[1].backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_the_gradient_of_log_stablemax_in_closed_form() -> None:
    """d log(s0 / (s0 + s1)): s' / s less s' / sum, with s'(x) = 1 above 0 and s^2 below."""
    logits = torch.tensor([2.0, -1.0], requires_grad=True)
    log_stablemax(logits)[0].backward()
    expected = torch.tensor([1 / 3 - 1 / 3.5, -(0.25) / 3.5])
    torch.testing.assert_close(logits.grad, expected)


@pytest.mark.parametrize("kind", ["stablemax", "softmax"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pieces_are_the_whole_bit_for_bit_and_only_logits_are_kept(
    monkeypatch: pytest.MonkeyPatch, kind: str, dtype: torch.dtype
) -> None:
    """Against autograd through the function itself; the pieces end within rows, and the last is shorter."""
    monkeypatch.setattr(losses, "PIECE", 7)
    torch.manual_seed(0)
    values = (3 * torch.randn(3, 5, 12)).to(dtype)
    labels = torch.randint(0, 12, (3, 5))
    labels[0, 2] = labels[2, 4] = IGNORE
    whole, pieced = (values.clone().requires_grad_() for _ in range(2))
    targets = labels.clamp(min=0).unsqueeze(-1)
    log_p = LOG_PROBABILITIES[kind](whole).gather(-1, targets).squeeze(-1)
    expected = -(log_p * (labels != IGNORE)).sum(1) / (labels != IGNORE).sum(1)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        found = act_loss(StepOutput(pieced, torch.zeros(3), torch.zeros(3, 1, 1)), labels, kind)
    assert torch.equal(found.lm, expected)
    weights = torch.tensor([1.0, 2.0, 3.0])
    (expected * weights).sum().backward()
    (found.lm * weights).sum().backward()
    assert whole.grad is not None
    assert pieced.grad is not None
    assert torch.equal(pieced.grad, whole.grad)
    large = [tensor for tensor in kept if tensor.numel() == values.numel()]
    assert [tensor.dtype for tensor in large] == [dtype]
    assert large[0].data_ptr() == pieced.data_ptr()


# -- the loss of a step -------------------------------------------------------------------------------


def test_lm_is_the_mean_over_each_samples_own_scored_tokens() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(3, 4, 12), torch.randint(0, 12, (3, 4))
    labels[0, 1:] = IGNORE
    labels[1, 3] = IGNORE
    found = loss_of(logits, [0.0] * 3, labels.tolist())
    for row in range(3):
        terms = []
        for place in range(4):
            if labels[row, place] != IGNORE:
                s = [v + 1 if v >= 0 else 1 / (1 - v) for v in logits[row, place].tolist()]
                terms.append(-math.log(s[labels[row, place]] / sum(s)))
        assert found.lm[row].item() == pytest.approx(sum(terms) / len(terms), rel=1e-6)


def test_the_total_is_a_sum_over_samples_with_the_weight_of_halting() -> None:
    found = loss_of(torch.randn(2, 3, 12), [1.0, -2.0], [[1, 2, 3], [4, 5, IGNORE]])
    assert found.total(TrainConfig(q_halt_weight=0.25)).item() == pytest.approx(
        sum(found.lm.tolist()) + 0.25 * sum(found.q_halt.tolist())
    )


def test_q_halt_is_the_cross_entropy_against_everything_right() -> None:
    right, wrong = [[3, 4], [3, 4]], [[3, 4], [3, 5]]
    found = loss_of(sure_of(right), [1.5, 1.5], wrong)
    sigmoid = 1 / (1 + math.exp(-1.5))
    assert found.exact.tolist() == [True, False]
    assert found.q_halt.tolist() == pytest.approx([-math.log(sigmoid), -math.log(1 - sigmoid)], rel=1e-5)


def test_what_is_not_scored_has_no_part_in_being_exact() -> None:
    found = loss_of(sure_of([[3, 4, 5], [3, 4, 5]]), [0.0, 0.0], [[3, IGNORE, IGNORE], [IGNORE, 4, 9]])
    assert found.exact.tolist() == [True, False]
    assert found.token_accuracy.tolist() == [1.0, 0.5]


def test_a_row_without_scored_tokens_counts_nowhere() -> None:
    logits = torch.randn(2, 2, 12, requires_grad=True)
    q_halt = torch.full((2,), -1.0, requires_grad=True)  # predicts "not right": no credit for that
    labels = torch.tensor([[IGNORE, IGNORE], [1, 2]])
    found = act_loss(StepOutput(logits, q_halt, torch.zeros(2, 1, 1)), labels)
    assert found.scored.tolist() == [False, True]
    assert not found.exact[0]
    assert not found.q_correct[0]
    assert [found.lm[0].item(), found.q_halt[0].item(), found.token_accuracy[0].item()] == [0, 0, 0]
    found.total(TrainConfig()).backward()
    assert logits.grad is not None
    assert q_halt.grad is not None
    assert logits.grad.abs().sum((1, 2)).gt(0).tolist() == [False, True]
    assert q_halt.grad.ne(0).tolist() == [False, True]


def test_halting_is_predicted_right_at_zero_and_above() -> None:
    tokens = [[3]] * 4
    labels = [[3], [3], [9], [9]]
    assert loss_of(sure_of(tokens), [0.0, -0.1, 0.0, -0.1], labels).q_correct.tolist() == [
        True,
        False,
        False,
        True,
    ]


def test_pad_may_be_predicted_and_is_then_wrong() -> None:
    assert loss_of(sure_of([[0]]), [0.0], [[1]]).token_accuracy.tolist() == [0.0]


def test_no_gradient_passes_through_correctness() -> None:
    q_halt = torch.zeros(1, requires_grad=True)
    logits = torch.randn(1, 2, 12, requires_grad=True)
    found = act_loss(StepOutput(logits, q_halt, torch.zeros(1, 1, 1)), torch.tensor([[1, 2]]))
    found.q_halt.sum().backward()
    assert logits.grad is None or not logits.grad.any()


# -- softmax, and the divergence of variational encoders ----------------------------------------------


def test_softmax_in_closed_form() -> None:
    found = log_softmax(torch.tensor([0.0, math.log(2), math.log(5)]))
    torch.testing.assert_close(found.exp(), torch.tensor([1 / 8, 2 / 8, 5 / 8]))
    assert log_softmax(torch.tensor([1e4, 0.0])).isfinite().all()


def test_the_loss_is_of_the_probabilities_that_were_asked_for() -> None:
    logits = torch.tensor([[[math.log(3.0), 0.0], [0.0, 2.0]]])
    output = StepOutput(logits, torch.zeros(1), torch.zeros(1, 1, 1))
    labels = torch.tensor([[0, IGNORE]])
    assert act_loss(output, labels, "softmax").lm.item() == pytest.approx(math.log(4 / 3))
    s = 1 + math.log(3)
    assert act_loss(output, labels).lm.item() == pytest.approx(math.log((s + 1) / s))


def test_the_divergence_is_a_weighted_sum_over_the_scored_rows() -> None:
    labels = torch.tensor([[1], [2], [IGNORE]])
    output = StepOutput(
        torch.randn(3, 1, 12), torch.zeros(3), torch.zeros(3, 1, 1), kl=torch.tensor([3.0, 5.0, 7.0])
    )
    found = act_loss(output, labels)
    without = found.total(TrainConfig()).item()
    assert found.total(TrainConfig(kl_weight=0.1)).item() == pytest.approx(without + 0.1 * 8)


@pytest.mark.parametrize("name", ["kl", "entropy"])
def test_terms_in_a_lower_precision_are_added_up_in_float32(name: str) -> None:
    """257 is no number of bfloat16."""
    values = {name: torch.tensor([256.0, 1.0], dtype=torch.bfloat16)}
    output = StepOutput(torch.randn(2, 1, 12), torch.zeros(2), torch.zeros(2, 1, 1), **values)
    weight = TrainConfig(kl_weight=1.0, entropy_weight=1.0)
    assert act_loss(output, torch.tensor([[1], [2]])).terms(weight)[name].item() == 257


def test_the_terms_of_the_total_have_names_and_only_one_reads_the_labels() -> None:
    labels = torch.tensor([[1], [2], [IGNORE]])
    logits = torch.randn(3, 1, 12, requires_grad=True)
    entropy = torch.tensor([3.0, 5.0, 7.0], requires_grad=True)
    found = act_loss(StepOutput(logits, torch.zeros(3), torch.zeros(3, 1, 1), entropy=entropy), labels)
    train = TrainConfig(entropy_weight=0.25)
    terms = found.terms(train)
    assert list(terms) == ["lm", "q_halt", "entropy"]
    assert terms["entropy"].item() == 0.25 * 8
    assert found.total(train).item() == pytest.approx(sum(term.item() for term in terms.values()))
    terms["entropy"].backward()
    assert logits.grad is None
    assert entropy.grad is not None
    assert entropy.grad.tolist() == [0.25, 0.25, 0.0]
    assert "entropy" not in found.terms(TrainConfig())


def test_a_divergence_of_weight_zero_takes_no_part_even_where_it_is_infinite() -> None:
    output = StepOutput(
        torch.randn(1, 1, 12), torch.zeros(1), torch.zeros(1, 1, 1), kl=torch.tensor([math.inf])
    )
    assert act_loss(output, torch.tensor([[1]])).total(TrainConfig()).isfinite()
