"""A frozen module is proved frozen bit by bit, and each way of moving it is named."""

import copy

import pytest
import torch
from torch import nn

from diagnostics.measures.frozen import compare, fingerprint


def decoder(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3))


def backward(module):
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
    module(x).square().mean().backward()


def causes(report):
    return {t.name: t.cause for t in report.moved}


# bitwise


def test_untouched_module_matches_whole():
    module = decoder()
    report = compare(fingerprint(module), module)
    assert report.count == "6/6"
    assert report.frozen
    assert report.cause is None
    assert report.moved == ()
    assert all((t.largest, t.mean) == (0, 0) for t in report.tensors)


def test_fourteen_of_fourteen():
    module = nn.ModuleList([nn.Linear(2, 2) for _ in range(7)])
    assert compare(fingerprint(module), module).count == "14/14"


def test_fingerprint_is_a_copy():
    module = decoder()
    before = fingerprint(module)
    with torch.no_grad():
        module[0].weight[0, 0] += 1
    report = compare(before, module)
    assert report.count == "5/6"
    assert not report.frozen
    (moved,) = report.moved
    assert moved.name == "0.weight"
    assert moved.largest == pytest.approx(1, rel=1e-5)
    assert moved.mean == pytest.approx(1 / 48, rel=1e-5)


@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.complex64],
)
def test_every_dtype_is_compared(dtype):
    module = nn.Module()
    module.register_buffer("b", torch.ones(3, dtype=dtype))
    before = fingerprint(module)
    assert compare(before, module).frozen
    module.b[1] = 0
    (moved,) = compare(before, module).moved
    assert (moved.largest, moved.mean) == (1, pytest.approx(1 / 3))


def with_buffer(*values):
    module = nn.Module()
    module.register_buffer("b", torch.tensor(values))
    return module


def test_the_same_nan_is_equal():
    module = with_buffer(float("nan"), float("inf"), 1.0)
    report = compare(fingerprint(module), module)
    assert report.frozen
    assert report.tensors[0].largest == 0


def test_negative_zero_differs():
    report = compare(fingerprint(with_buffer(0.0)), with_buffer(-0.0))
    assert not report.frozen
    assert report.tensors[0].largest == 0


def test_a_new_nan_is_an_infinite_difference():
    report = compare(fingerprint(with_buffer(1.0, 2.0)), with_buffer(float("nan"), 2.0))
    assert report.tensors[0].largest == float("inf")


def test_one_bit_is_enough():
    report = compare(fingerprint(with_buffer(1.0)), with_buffer(1.0 + 2**-23))
    assert report.count == "0/1"
    assert report.tensors[0].largest == pytest.approx(2**-23)


def test_memory_order_does_not_matter():
    module = nn.Linear(3, 4)
    before = fingerprint(module)
    module.weight.data = module.weight.data.t().contiguous().t()
    assert compare(before, module).frozen


def test_scalars_and_empty_tensors():
    module = nn.Module()
    module.register_buffer("scalar", torch.tensor(2.0))
    module.register_buffer("empty", torch.zeros(0, 3))
    report = compare(fingerprint(module), module)
    assert report.count == "2/2"
    assert [t.largest for t in report.tensors] == [0, None]


def test_shape_and_dtype_changes_are_no_match():
    report = compare(fingerprint(nn.Linear(2, 2)), nn.Linear(3, 2))
    assert next(t for t in report.tensors if t.name == "weight").largest is None
    module = nn.Linear(2, 2)
    assert compare(fingerprint(module), copy.deepcopy(module).double()).matched == 0


def test_missing_and_new_tensors():
    module = decoder()
    report = compare(
        fingerprint(module), nn.Sequential(module[0], nn.Identity(), nn.Identity(), nn.Linear(8, 3))
    )
    assert set(report.missing) == {"1.weight", "1.bias", "2.weight", "2.bias"}
    assert set(report.new) == {"3.weight", "3.bias"}
    assert report.count == "2/6"
    assert not report.frozen


def test_a_module_without_tensors_proves_nothing():
    assert not compare(fingerprint(nn.Identity()), nn.Identity()).frozen


def test_tied_tensors_count_once():
    module = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    module["b"].weight = module["a"].weight
    assert compare(fingerprint(module), module).count == "3/3"


# causes


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD, torch.optim.Adam])
def test_zeroed_gradients_and_weight_decay(kind):
    module = decoder()
    optimizer = kind(module.parameters(), lr=1e-2, weight_decay=0.1)
    before = fingerprint(module, [optimizer])
    for _ in range(20):
        backward(module)
        for p in module.parameters():
            p.grad.zero_()
        optimizer.step()
    report = compare(before, module, [optimizer])
    assert report.cause == "weight decay"
    assert set(causes(report).values()) == {"weight decay"}
    assert {t.weight_decay for t in report.tensors} == {0.1}
    assert {t.gradient for t in report.tensors} == {"zero"}


def test_weight_decay_is_known_by_its_shrinking_when_gradients_are_gone():
    module = decoder()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, weight_decay=0.1)
    before = fingerprint(module, [optimizer])
    for _ in range(20):
        for p in module.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    report = compare(before, module, [optimizer])
    assert report.cause == "weight decay"
    assert all(t.gradient == "none" and t.has_state for t in report.tensors)


@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_stale_gradients(kind, decay):
    module = decoder()
    optimizer = kind(module.parameters(), lr=1e-2, weight_decay=decay)
    backward(module)
    module.requires_grad_(False)
    before = fingerprint(module, [optimizer])
    for _ in range(10):
        optimizer.step()
    report = compare(before, module, [optimizer])
    assert report.cause == "stale gradients"
    assert all(t.stale_gradient and not t.requires_grad for t in report.moved)


def test_stale_gradients_since_cleared_show_in_the_optimizer_state():
    module = decoder()
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    backward(module)
    optimizer.step()
    module.requires_grad_(False)
    before = fingerprint(module, [optimizer])
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    report = compare(before, module, [optimizer])
    assert report.cause == "stale gradients"
    assert all(t.state_grew for t in report.moved)


def test_optimizer_state_that_stayed_as_it_was_explains_no_movement():
    module = decoder()
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    backward(module)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    module.requires_grad_(False)
    before = fingerprint(module, [optimizer])
    module.load_state_dict(decoder(seed=1).state_dict())
    report = compare(before, module, [optimizer])
    assert report.cause == "outside the optimiser"
    assert [t.state_grew for t in report.tensors] == [False] * 6


def test_a_stale_gradient_is_seen_before_it_moves_anything():
    module = decoder()
    backward(module)
    module.requires_grad_(False)
    report = compare(fingerprint(module), module)
    assert report.frozen
    assert all(t.stale_gradient for t in report.tensors)


@pytest.mark.parametrize(("factor", "stale"), [(1.0, True), (0.0, False)])
def test_a_stale_sparse_gradient_is_one_too(factor, stale):
    table = nn.Embedding(5, 2, sparse=True)
    (factor * table(torch.tensor([1, 3])).sum()).backward()
    report = compare(fingerprint(table.requires_grad_(False)), table)
    assert report.frozen
    assert [t.stale_gradient for t in report.tensors] == [stale]


def test_unfrozen():
    module = decoder().requires_grad_(False)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2, weight_decay=0.01)
    before = fingerprint(module, [optimizer])
    module.requires_grad_(True)
    for _ in range(5):
        optimizer.zero_grad()
        backward(module)
        optimizer.step()
    report = compare(before, module, [optimizer])
    assert report.cause == "unfrozen"
    assert all(t.requires_grad and not t.requires_grad_before for t in report.tensors)


def test_stale_momentum():
    module = decoder()
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    backward(module)
    optimizer.step()
    before = fingerprint(module, [optimizer])
    for p in module.parameters():
        p.grad.zero_()
    optimizer.step()
    assert compare(before, module, [optimizer]).cause == "stale momentum"


def test_outside_the_optimizer():
    module = decoder().requires_grad_(False)
    others = [nn.Parameter(torch.ones(1))]
    optimizer = torch.optim.AdamW(others, lr=1e-2)
    before = fingerprint(module, [optimizer])
    module.load_state_dict(decoder(seed=1).state_dict())
    report = compare(before, module, [optimizer])
    assert report.cause == "outside the optimiser"
    assert not any(t.in_optimizer for t in report.tensors)
    assert report.tensors[0].weight_decay is None


def test_a_skipped_member_was_moved_from_outside():
    module = decoder().requires_grad_(False)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2, weight_decay=0.1)
    before = fingerprint(module, [optimizer])
    optimizer.step()  # no gradients: skips all
    assert compare(before, module, [optimizer]).frozen
    module.load_state_dict(decoder(seed=1).state_dict())
    assert compare(before, module, [optimizer]).cause == "outside the optimiser"


def test_buffers_move_in_training_mode():
    module = nn.BatchNorm1d(4).requires_grad_(False)
    before = fingerprint(module)
    module(torch.randn(8, 4, generator=torch.Generator().manual_seed(0)))
    report = compare(before, module)
    assert report.cause == "buffer update"
    assert {t.name for t in report.moved} == {"running_mean", "running_var", "num_batches_tracked"}
    assert report.count == "2/5"


def test_the_cause_of_parameters_goes_first():
    module = nn.BatchNorm1d(4)
    before = fingerprint(module)
    module(torch.ones(8, 4))
    with torch.no_grad():
        module.weight += 1
    assert compare(before, module).cause == "outside the optimiser"


def test_two_optimizers_and_their_decay():
    module = nn.Linear(2, 2)
    first = torch.optim.SGD([module.weight], lr=0.1)
    second = torch.optim.SGD([{"params": [module.weight], "weight_decay": 0.3}], lr=0.1)
    weight = compare(fingerprint(module), module, [first, second]).tensors[0]
    assert (weight.in_optimizer, weight.weight_decay) == (True, 0.3)


def test_comparison_changes_nothing():
    module = decoder()
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    compare(fingerprint(module, [optimizer]), module, [optimizer])
    assert len(optimizer.state) == 0
    assert all(p.grad is None for p in module.parameters())


def test_an_average_copy_is_compared_by_the_same_call():
    module = decoder()
    assert compare(fingerprint(module), copy.deepcopy(module)).frozen
