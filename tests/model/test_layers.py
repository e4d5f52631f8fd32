from __future__ import annotations

import math
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from etrm.model.forward_context import products_in
from etrm.model.layers import (
    Attention,
    Block,
    BlockSettings,
    CrossAttentionBlock,
    Linear,
    MixerBlock,
    RotaryPositions,
    Rotation,
    SwiGLU,
    TokenEmbedding,
    attend,
    key_mask,
    multi_head,
    rms_norm,
    truncated_normal_,
)
from tests.launches import Launches

STD_OF_CUT_NORMAL = 0.87962566103423978  # of a unit normal cut at two sigma, published


# -- initial values -----------------------------------------------------------------------------------


@pytest.mark.parametrize("std", [1.0, 0.02])
def test_the_stated_std_is_that_after_the_cut(std: float) -> None:
    drawn = truncated_normal_(torch.empty(200_000), std)
    assert drawn.std().item() == pytest.approx(std, rel=0.01)
    assert drawn.mean().item() == pytest.approx(0, abs=0.01 * std)
    assert drawn.abs().max().item() == pytest.approx(2 * std / STD_OF_CUT_NORMAL, rel=1e-3)


def test_a_linear_map_starts_with_the_std_of_its_fan_in_and_no_bias() -> None:
    linear = Linear(64, 2048, bias=True)
    assert linear.weight.std().item() == pytest.approx(1 / 8, rel=0.01)
    assert not linear.bias.any()
    assert Linear(2, 2).bias is None


def test_token_vectors_have_unit_length_on_average() -> None:
    assert TokenEmbedding(4000, 64).embedding_weight.std().item() == pytest.approx(1 / 8, rel=0.01)


# -- norm ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1.0, 1e-3])  # at 1e-3 the epsilon carries the result
def test_rms_norm_is_its_formula(size: float) -> None:
    x = size * torch.randn(3, 8, dtype=torch.float64)
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(rms_norm(x.float()).double(), expected, rtol=1e-5, atol=1e-6)


def test_rms_norm_of_half_precision_is_computed_in_float32() -> None:
    x = 300 * torch.ones(1, 8, dtype=torch.float16)  # its square overflows float16
    normed = rms_norm(x)
    assert normed.dtype == torch.float16
    torch.testing.assert_close(normed, torch.ones_like(x))


# -- rotation -----------------------------------------------------------------------------------------


def turned_as_complex(x: Tensor, positions: Tensor) -> Tensor:
    """(B, L, H, E): the two halves as real and imaginary part, times e^(i p 10000^(-2k / E))."""
    half = x.shape[-1] // 2
    rates = 10_000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = positions.double()[:, :, None, None] * rates
    turned = torch.complex(x[..., :half].double(), x[..., half:].double()) * torch.polar(
        torch.ones_like(angles), angles
    )
    return torch.cat((turned.real, turned.imag), dim=-1)


def test_rotation_multiplies_by_a_complex_phase() -> None:
    positions = torch.tensor([[0, 1, 29, 915], [1799, 30, 2, 2]])
    x = torch.randn(2, 4, 3, 8)
    rotated = RotaryPositions(1800, 8)(positions)(x)
    torch.testing.assert_close(rotated.double(), turned_as_complex(x, positions), rtol=0, atol=5e-4)


def test_the_gradient_of_a_rotation_is_rotated_back() -> None:
    positions = torch.tensor([[3, 41, 7]])
    x, weight = torch.randn(1, 3, 2, 8, requires_grad=True), torch.randn(1, 3, 2, 8)
    (gradient,) = torch.autograd.grad((weight * RotaryPositions(50, 8)(positions)(x)).sum(), x)
    torch.testing.assert_close(gradient.double(), turned_as_complex(weight, -positions), rtol=0, atol=1e-5)


def test_rotated_products_depend_on_the_distance_alone() -> None:
    table = RotaryPositions(100, 8)
    query, key = torch.randn(2, 1, 1, 1, 8)

    def product(q: int, k: int) -> Tensor:
        return (table(torch.tensor([[q]]))(query) * table(torch.tensor([[k]]))(key)).sum()

    torch.testing.assert_close(product(12, 5), product(97, 90), rtol=1e-4, atol=1e-4)
    assert not torch.isclose(product(12, 5), product(12, 6))


def test_rotation_keeps_the_type_of_its_input() -> None:
    rotation = RotaryPositions(10, 4)(torch.tensor([[3]]))
    assert rotation(torch.ones(1, 1, 1, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16


# -- SwiGLU -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hidden", "expansion", "inner"),
    [(512, 4, 1536), (128, 4, 512), (64, 4, 256), (384, 1, 256), (8, 1, 256)],
)
def test_the_inner_width_is_the_next_multiple_of_256(hidden: int, expansion: float, inner: int) -> None:
    assert SwiGLU(hidden, expansion).down_proj.weight.shape == (hidden, inner)


def test_swiglu_is_the_fused_formula_with_the_gate_in_front() -> None:
    layer, x = SwiGLU(8, 1.0), torch.randn(2, 3, 8)
    gate, up = (x @ layer.gate_up_proj.weight.T).split(256, dim=-1)
    expected = (gate * gate.sigmoid() * up) @ layer.down_proj.weight.T
    torch.testing.assert_close(layer(x), expected)


# -- attention ----------------------------------------------------------------------------------------


def by_hand(q: Tensor, k: Tensor, v: Tensor, heads: int, qk_norm: bool = False) -> Tensor:
    """(Lq, D) over (Lk, D), one head and one query at a time, in float64."""
    out = []
    for q_head, k_head, v_head in zip(*(t.double().chunk(heads, dim=-1) for t in (q, k, v)), strict=True):
        if qk_norm:
            q_head, k_head = (t / (t.square().mean(-1, keepdim=True) + 1e-5).sqrt() for t in (q_head, k_head))
        scores = q_head @ k_head.T / math.sqrt(q_head.shape[-1])
        out.append(scores.softmax(-1) @ v_head)
    return torch.cat(out, dim=-1)


@pytest.mark.parametrize("qk_norm", [False, True])
def test_multi_head_attention_is_one_softmax_per_head(qk_norm: bool) -> None:
    q, k, v = torch.randn(1, 2, 8), torch.randn(1, 5, 8), torch.randn(1, 5, 8)
    ours = multi_head(q, k, v, 4, None, qk_norm)
    torch.testing.assert_close(ours[0].double(), by_hand(q[0], k[0], v[0], 4, qk_norm), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("qk_norm", [False, True])
def test_self_attention_is_the_formula_with_q_then_k_then_v(qk_norm: bool) -> None:
    layer, x = Attention(16, 2, qk_norm), torch.randn(1, 5, 16)
    positions = torch.tensor([[0, 3, 4, 9, 30]])
    q, k, v = (x[0] @ layer.qkv_proj.weight.T).split(16, dim=-1)
    if qk_norm:
        q, k = (rms_norm(t.view(5, 2, 8)).view(5, 16) for t in (q, k))
    q, k = (turned_as_complex(t.view(1, 5, 2, 8), positions).view(5, 16) for t in (q, k))
    expected = by_hand(q, k, v, 2) @ layer.o_proj.weight.T.double()
    ours = layer(x, RotaryPositions(40, 8)(positions), None)
    torch.testing.assert_close(ours[0].double(), expected, rtol=1e-4, atol=1e-5)


@given(st.lists(st.booleans(), min_size=2, max_size=8).filter(any), st.integers(0, 99))
def test_a_mask_is_attention_on_what_it_leaves(exists: list[bool], seed: int) -> None:
    torch.manual_seed(seed)
    layer, table = Attention(8, 2, False), RotaryPositions(60, 4)
    valid = torch.tensor([exists])
    x, positions = torch.randn(1, len(exists), 8), torch.randint(0, 60, (1, len(exists)))
    masked = layer(x, table(positions), key_mask(valid, x))[valid]
    left = layer(x[valid][None], table(positions[valid][None]), None)[0]
    torch.testing.assert_close(masked, left, rtol=1e-4, atol=1e-6)


def test_with_qk_norm_the_size_of_queries_and_keys_does_not_matter() -> None:
    x, rotation = torch.randn(1, 4, 16), RotaryPositions(4, 8)(torch.arange(4)[None])
    changes = []
    for qk_norm in (True, False):
        layer = Attention(16, 2, qk_norm)
        before = layer(x, rotation, None)
        with torch.no_grad():
            layer.qkv_proj.weight[:32] *= 5
        changes.append((layer(x, rotation, None) - before).abs().max().item())
    assert changes[0] < 1e-4 < 1e-2 < changes[1]


# -- blocks -------------------------------------------------------------------------------------------


def rms(x: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()


def draw_scales(
    block: Block | CrossAttentionBlock, layer_scale: float
) -> tuple[Tensor | float, Tensor | float]:
    """Different factors per channel; 1 where the block has none."""
    if layer_scale == 0:
        assert block.gamma_1 is None
        assert block.gamma_2 is None
        return 1.0, 1.0
    assert block.gamma_1 is not None
    assert block.gamma_2 is not None
    for gamma in (block.gamma_1, block.gamma_2):
        assert (gamma == layer_scale).all()
        gamma.data.normal_()
    return block.gamma_1, block.gamma_2


@pytest.mark.parametrize("layer_scale", [0.0, 0.1])
@pytest.mark.parametrize("pre_norm", [False, True])
def test_a_block_is_its_formula(pre_norm: bool, layer_scale: float) -> None:
    block = Block(BlockSettings(8, 2, 1.0, pre_norm, layer_scale))
    g1, g2 = draw_scales(block, layer_scale)
    h, rotation = 3 * torch.randn(2, 4, 8), RotaryPositions(4, 4)(torch.arange(4).expand(2, -1))

    def attention(x: Tensor) -> Tensor:
        return block.self_attn(x, rotation, None)

    if pre_norm:
        middle = h + g1 * attention(rms(h))
        expected = middle + g2 * block.mlp(rms(middle))
    else:
        middle = rms(h + g1 * attention(h))
        expected = rms(middle + g2 * block.mlp(middle))
    torch.testing.assert_close(block(h, rotation, None), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer_scale", [0.0, 0.1])
@pytest.mark.parametrize("pre_norm", [False, True])
def test_a_cross_attention_block_norms_its_queries_and_never_the_set(
    pre_norm: bool, layer_scale: float
) -> None:
    block = CrossAttentionBlock(BlockSettings(8, 2, 1.0, pre_norm, layer_scale))
    g1, g2 = draw_scales(block, layer_scale)
    h, items = 3 * torch.randn(1, 3, 8), 3 * torch.randn(1, 5, 8)

    def attention(x: Tensor) -> Tensor:
        q, k, v = (x @ block.q_proj.weight.T, items @ block.k_proj.weight.T, items @ block.v_proj.weight.T)
        return by_hand(q[0], k[0], v[0], 2)[None].float() @ block.o_proj.weight.T

    if pre_norm:
        middle = h + g1 * attention(rms(h))
        expected = middle + g2 * block.mlp(rms(middle))
    else:
        middle = rms(h + g1 * attention(h))
        expected = rms(middle + g2 * block.mlp(middle))
    torch.testing.assert_close(block(h, items, None), expected, rtol=1e-4, atol=1e-5)


def test_qk_norm_reaches_the_attention_of_every_block() -> None:
    rotation = RotaryPositions(3, 4)(torch.arange(3)[None])
    h, items = torch.randn(1, 3, 8), torch.randn(1, 2, 8)
    for make, args in ((Block, (rotation, None)), (CrossAttentionBlock, (items, None))):
        plain, normed = (make(BlockSettings(8, 2, 1.0, qk_norm=qk_norm)) for qk_norm in (False, True))
        normed.load_state_dict(plain.state_dict())
        assert not torch.allclose(plain(h, *args), normed(h, *args), atol=1e-3)


def test_a_rotation_may_stand_for_all_rows_of_a_batch() -> None:
    one = RotaryPositions(4, 4)(torch.arange(4)[None])
    x = torch.randn(3, 4, 2, 4)
    each = Rotation(one.cos.expand(3, -1, -1, -1), one.sin.expand(3, -1, -1, -1))
    torch.testing.assert_close(one(x), each(x), rtol=0, atol=0)


@pytest.mark.parametrize("length", [1, 8, 13])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_key_mask_is_that_of_torch_for_a_mask_of_bool(length: int, dtype: torch.dtype) -> None:
    """To the bit, and with rows at multiples of eight, of which a GPU makes no copies."""
    valid = torch.arange(length) < torch.tensor([[1], [length]])
    query, key, value = torch.randn(3, 2, 4, length, 6, dtype=dtype)
    mask = key_mask(valid, value)
    assert mask is not None
    assert (mask.shape, mask.dtype) == ((2, 1, 1, length), dtype)
    assert [stride % 8 for stride in mask.stride()] == [0, 0, 0, 1]
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=valid[:, None, None])
    assert torch.equal(attend(query, key, value, mask), expected)
    assert key_mask(None, value) is None


def test_a_key_mask_has_the_precision_of_attention() -> None:
    """That of the arguments of torch's kernel: else it would be cast in each call."""
    valid = torch.ones(1, 3, dtype=torch.bool)
    low = torch.zeros(1, 3, 4, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):  # attention is in float32 on a CPU
        mask = key_mask(valid, low)
    assert mask is not None
    assert mask.dtype == torch.float32


def test_a_layer_makes_no_mask_of_its_own() -> None:
    """Without a kernel for attention, as here, the mask is added in one operation."""
    with torch.device("meta"):
        block, x, valid = Block(BlockSettings(8, 2, 1.0)), torch.empty(2, 5, 8), torch.ones(2, 5).bool()
    started = []
    for mask in (None, key_mask(valid, x), valid[:, None, None]):
        with Launches() as launches, torch.no_grad():
            block(x, None, mask)
        started.append(len(launches.found))
    without, ours, of_bool = started
    assert ours == without + 1
    assert of_bool > ours


# -- mixing tokens ------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm_tokens", [False, True])
def test_a_mixer_block_is_its_formula(norm_tokens: bool) -> None:
    """SwiGLU over the tokens of each channel, RMS over channels or tokens, SwiGLU over channels, RMS."""
    block, h = MixerBlock(5, 4, 1.0, norm_tokens), torch.randn(2, 5, 4)

    def swiglu(module: SwiGLU, x: Tensor) -> Tensor:
        gate, up = (module.gate_up_proj.weight @ x).chunk(2)
        return module.down_proj.weight @ (gate * gate.sigmoid() * up)

    found = block(h, None, None)
    for row in range(2):
        mixed = torch.stack([swiglu(block.mlp_t, h[row, :, channel]) for channel in range(4)], dim=1)
        total = h[row] + mixed
        state = total / (total.square().mean(0 if norm_tokens else 1, keepdim=True) + 1e-5).sqrt()
        expected = rms_norm(state + torch.stack([swiglu(block.mlp, token) for token in state]))
        torch.testing.assert_close(found[row], expected, rtol=1e-4, atol=1e-5)


def test_the_inner_width_of_a_mixer_block_follows_the_number_of_tokens() -> None:
    with torch.device("meta"):
        block = MixerBlock(tokens=916, hidden_size=512, expansion=4.0, norm_tokens=True)
    assert block.mlp_t.down_proj.weight.shape == (916, 2560)  # round(4 * 916 * 2 / 3) = 2443
    assert block.mlp.down_proj.weight.shape == (512, 1536)


def test_attention_without_rotation_ignores_the_order_of_the_tokens() -> None:
    attention, x = Attention(8, 2, qk_norm=False), torch.randn(1, 5, 8)
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(
        attention(x, None, None)[:, order], attention(x[:, order], None, None), rtol=1e-4, atol=1e-5
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, of its compiler
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_block_is_one_graph_for_a_compiler(dtype: torch.dtype | None) -> None:
    """``fullgraph`` raises at whatever the compiler cannot follow; its backend runs the graph without a compiler."""
    block = Block(BlockSettings(16, 2, 2.0, qk_norm=True))
    rotation = RotaryPositions(5, 8)(torch.arange(5)[None])
    x = torch.randn(2, 5, 16)
    with nullcontext() if dtype is None else products_in(dtype):
        compiled = torch.compile(block, backend="eager", fullgraph=True)(x, rotation, None)
    assert torch.allclose(compiled, block(x, rotation, None), atol=1e-6)


def test_attention_keeps_a_higher_precision() -> None:
    torch.manual_seed(0)
    attention, x = Attention(8, 2, qk_norm=False).double(), torch.randn(2, 5, 8, dtype=torch.float64)
    exact = attention(x, None, None).detach()
    assert exact.dtype is torch.float64
    rounded = attention.float()(x.float(), None, None).detach().double()
    assert 0 < float((exact - rounded).abs().max()) < 1e-5
