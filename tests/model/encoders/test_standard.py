from __future__ import annotations

from dataclasses import replace
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from etrm.batch import Demos
from etrm.config import EncoderConfig, ModelConfig
from etrm.model.encoders import ENCODERS as KINDS
from etrm.model.encoders import StandardEncoder, as_sets
from etrm.model.forward_context import Shapes, rounded_to
from etrm.model.lengths import split_by_length
from tests.model.conftest import World
from tests.sampled import one_in

POOLINGS = ("mean", "weighted", "attention")
ENCODERS = (
    *({"pooling": pooling} for pooling in POOLINGS),
    *({"pooling": pooling, "layout": "cells"} for pooling in (*POOLINGS, "none")),
    {"pooling": "none"},
    {"kind": "lpn_standard", "layout": "cells"},
)
WORLD = World()
sides = st.integers(1, 5)
sizes = st.tuples(sides, sides)
pairs_of_a_row = st.lists(st.tuples(sizes, sizes), min_size=1, max_size=4)


@pytest.mark.parametrize(("layers", "size"), [(2, 10_506_240), (4, 17_321_984)])
def test_the_encoder_has_its_published_size(layers: int, size: int) -> None:
    with torch.device("meta"):
        encoder = StandardEncoder(ModelConfig(encoder=EncoderConfig(layers=layers)), side=30)
    assert sum(p.numel() for p in encoder.parameters()) == size


@pytest.mark.parametrize("settings", one_in(3, [*({"kind": kind} for kind in KINDS), *ENCODERS[3:]]), ids=str)
@given(shapes=st.lists(pairs_of_a_row, min_size=1, max_size=5))
@hypothesis.settings(max_examples=8, deadline=None)
def test_few_shapes_change_a_context_and_its_gradient_by_rounding_alone(
    world: Any, settings: dict[str, Any], shapes: list[list[Any]]
) -> None:
    torch.manual_seed(0)
    encoder = world.model(world.config(encoder=settings)).encoder.eval()
    rows = [world.row((1, 1), pairs, seed=number) for number, pairs in enumerate(shapes)]
    demos = world.batch(rows).demos
    found = []
    for rounding in Shapes:
        encoder.zero_grad()
        with rounded_to(rounding):
            context = encoder(demos, encoder.begin(None, torch.ones(len(rows), dtype=torch.bool))).context
        context.square().sum().backward()
        found.append([context.detach(), *(p.grad for p in encoder.parameters() if p.grad is not None)])
    for plain, *rounded in zip(*found, strict=True):
        for each in rounded:
            torch.testing.assert_close(each, plain, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("settings", ENCODERS)
@pytest.mark.parametrize("norm", ["post", "pre"])
def test_a_pairs_vectors_are_the_same_alone_and_in_any_group(
    world: Any, settings: dict[str, Any], norm: str
) -> None:
    encoder = world.model(world.config(encoder={**settings, "norm": norm})).encoder
    shapes = [((1, 1), (5, 5)), ((5, 5), (5, 5)), ((1, 1), (1, 1)), ((2, 2), (2, 3)), ((5, 4), (5, 5))]
    pairs = world.row((1, 1), shapes).pairs
    together = world.demos(pairs, [0] * 5, 1, padding=3)
    laid = encoder.grid_encoder.lay_out(together)
    assert len(split_by_length(laid.valid.sum(1).tolist())) > 1
    sets, exists = encoder.pair_sets(together)
    found = [encoder.pair_sets(world.demos([pair], [0], 1)) for pair in pairs]
    alone = torch.cat([vectors[0, there[0]] for vectors, there in found])
    torch.testing.assert_close(sets[0, exists[0]], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("settings", ENCODERS)
def test_a_context_is_the_same_alone_and_in_a_batch(world: Any, settings: dict[str, Any]) -> None:
    encoder = world.model(world.config(encoder=settings)).encoder
    rows = [world.row((1, 1), [((n, n), (n, 5))] * n, seed=n) for n in (1, 5, 2)]
    alone = torch.cat([encoder(world.batch([row]).demos).context for row in rows])
    together = encoder(world.batch(rows, demo_padding=4).demos).context
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", ["sequence", "cells"])
def test_sizes_that_the_host_knows_change_no_bit(world: Any, layout: str) -> None:
    encoder = world.model(world.config(encoder={"layout": layout})).encoder
    rows = [world.row((1, 1), [((n, n), (n, 5))] * n, seed=n) for n in (1, 5, 2, 4)]
    asked = world.batch(rows).demos
    lengths = tuple(len(tokens) for row in rows for tokens, _ in row.pairs)
    cells = tuple(len(set((at % world.side**2).tolist())) for row in rows for _, at in row.pairs)
    assert len(split_by_length(lengths)) > 1
    known = replace(asked, lengths=lengths, cells=cells, most=5)
    assert torch.equal(encoder(known).context, encoder(asked).context)


# -- pooling ------------------------------------------------------------------------------------------


@pytest.fixture(params=POOLINGS)
def pooled(world: Any, request: pytest.FixtureRequest) -> Any:
    return world.model(world.config(encoder={"pooling": request.param})).encoder.grid_encoder


def test_pooling_is_over_the_real_tokens_alone(pooled: Any) -> None:
    torch.manual_seed(0)
    h, real = torch.randn(2, 6, 16), torch.tensor([[1, 1, 0, 1, 0, 0], [1] * 6]).bool()
    found = pooled._pool(h, real)
    for row in range(2):
        left = h[row][real[row]][None]
        everything = torch.ones(left.shape[:2], dtype=torch.bool)
        torch.testing.assert_close(found[row], pooled._pool(left, everything)[0], rtol=1e-4, atol=1e-6)


def test_no_gradient_reaches_the_tokens_that_are_not_pooled(pooled: Any) -> None:
    torch.manual_seed(0)
    h = torch.randn(1, 4, 16, requires_grad=True)
    pooled._pool(h, torch.tensor([[True, True, False, True]])).square().sum().backward()
    assert h.grad is not None
    assert h.grad.any(-1).tolist() == [[True, True, False, True]]


def test_poolings_are_their_formulas(world: Any) -> None:
    torch.manual_seed(0)
    h, real = torch.randn(1, 4, 16), torch.tensor([[True, True, False, True]])
    left = h[0, [0, 1, 3]]
    found = {}
    for pooling in POOLINGS:
        encoder = world.model(world.config(encoder={"pooling": pooling}, num_heads=1)).encoder.grid_encoder
        found[pooling] = (encoder, encoder._pool(h, real)[0])
    torch.testing.assert_close(found["mean"][1], left.mean(0))
    encoder, vector = found["weighted"]
    shares = (left @ encoder.pool_weight_proj.weight[0]).exp()
    torch.testing.assert_close(vector, (shares / shares.sum()) @ left, rtol=1e-4, atol=1e-6)
    encoder, vector = found["attention"]
    query = encoder.pool_query[0] @ encoder.pool_q_proj.weight.T
    shares = (left @ encoder.pool_k_proj.weight.T @ query / 4).exp()
    mixed = (shares / shares.sum()) @ (left @ encoder.pool_v_proj.weight.T)
    torch.testing.assert_close(vector, encoder.pool_o_proj.weight @ mixed, rtol=1e-4, atol=1e-6)


# -- embedding and canvas -----------------------------------------------------------------------------


def bare(world: Any) -> Any:
    """A grid encoder whose blocks change nothing but the norm, and whose pooling is the mean."""
    encoder = world.model(world.config()).encoder.grid_encoder
    with torch.no_grad():
        for block in encoder.layers:
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
        encoder.pool_proj.weight.copy_(torch.eye(16))
    return encoder


def test_input_and_output_grids_have_their_own_embeddings(world: Any) -> None:
    encoder = bare(world)
    area = world.side**2
    demos = world.demos([(torch.tensor([3, 3]), torch.tensor([4, area + 4]))], [0], 1)
    rows = (encoder.input_embed.embedding_weight[3], encoder.output_embed.embedding_weight[3])
    expected = torch.stack([4 * row / ((4 * row).square().mean() + 1e-5).sqrt() for row in rows]).mean(0)
    torch.testing.assert_close(encoder(demos)[0], expected, rtol=1e-4, atol=1e-5)


def test_a_cell_has_the_embeddings_of_both_grids(world: Any) -> None:
    encoder = world.model(world.config(encoder={"layout": "cells"})).encoder.grid_encoder
    area = world.side**2
    places = torch.tensor([2, 5, area + 5, area + 9])
    laid = encoder.lay_out(world.demos([(torch.tensor([3, 4, 6, 8]), places)], [0], 1))
    assert laid.positions.tolist() == [[2, 5, 9]]
    given, wanted = encoder.input_embed.embedding_weight, encoder.output_embed.embedding_weight
    cells = torch.stack((given[3] + wanted[0], given[4] + wanted[6], given[0] + wanted[8]))
    torch.testing.assert_close(encoder.embed(laid)[0], 4 * cells / 2**0.5)


@given(pairs_of_a_row, st.integers(0, 3))
def test_cells_are_those_of_both_grids_in_the_order_of_the_canvas(
    shapes: list[tuple[tuple[int, int], tuple[int, int]]], padding: int
) -> None:
    world = WORLD
    pairs = world.row((1, 1), shapes).pairs
    encoder = world.model(world.config(encoder={"layout": "cells"})).encoder.grid_encoder
    laid = encoder.lay_out(world.demos(pairs, [0] * len(pairs), 1, padding))
    area = world.side**2
    for number, (tokens, positions) in enumerate(pairs):
        held = dict(zip(positions.tolist(), tokens.tolist(), strict=True))
        cells = sorted({place % area for place in held})
        there = laid.valid[number]
        assert laid.positions[number][there].tolist() == cells
        codes = [12 * held.get(cell, 0) + held.get(area + cell, 0) for cell in cells]
        assert laid.tokens[number][there].tolist() == codes
        assert not laid.tokens[number][~there].any()


def full_canvas(world: Any, pad_share: float) -> Demos:
    """Two pairs on the whole canvas in the published layout."""
    torch.manual_seed(2)
    area = world.side**2
    tokens = torch.randint(1, 12, (2, 2 * area))
    tokens[torch.rand(tokens.shape) < pad_share] = 0
    positions = torch.arange(2 * area).expand(2, -1)
    return Demos(tokens, positions, None, torch.tensor([0, 1]), torch.arange(2))


def with_all_valid(demos: Demos) -> Demos:
    valid = torch.ones_like(demos.tokens, dtype=torch.bool)
    return Demos(demos.tokens, demos.positions, valid, demos.owner, demos.slots)


@pytest.mark.parametrize("settings", ENCODERS)
def test_a_full_canvas_is_the_same_published_and_as_a_region(world: Any, settings: dict[str, Any]) -> None:
    encoder = world.model(world.config(encoder=settings)).encoder
    demos = full_canvas(world, pad_share=0)
    published, region = encoder(demos).context, encoder(with_all_valid(demos)).context
    torch.testing.assert_close(published, region, rtol=1e-4, atol=1e-5)


def test_on_the_published_canvas_pad_is_attended_and_not_pooled(world: Any) -> None:
    demos = full_canvas(world, pad_share=0.5)
    real = demos.tokens != 0

    def changed_by_pad(encoder: Any) -> bool:
        before = encoder(demos)
        with torch.no_grad():
            encoder.input_embed.embedding_weight[0] += 1
        return not torch.allclose(before, encoder(demos), atol=1e-5)

    assert not changed_by_pad(bare(world))  # nothing but the pooling reads tokens here
    assert changed_by_pad(world.model(world.config()).encoder.grid_encoder)
    assert real.any()
    assert not real.all()


# -- the set of pairs ---------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5))
def test_pairs_stand_in_the_set_of_their_owner(counts: list[int]) -> None:
    owner = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    vectors = torch.arange(1.0, len(owner) + 1)[:, None]
    demos = Demos(owner[:, None], owner[:, None], None, owner, torch.arange(len(counts)))
    sets, mask = as_sets(vectors, demos)
    place = 0
    for row, count in enumerate(counts):
        assert sets[row, :count, 0].tolist() == [place + 1 + i for i in range(count)]
        assert mask[row].tolist() == [i < count for i in range(max(counts))]
        place += count


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_the_context_has_unit_rms_and_does_not_depend_on_the_order_of_the_pairs(
    world: Any, norm: str
) -> None:
    encoder = world.model(world.config(encoder={"set_layers": 2, "norm": norm})).encoder
    pairs = world.row((1, 1), [((2, 2), (3, 1)), ((1, 4), (2, 2)), ((1, 1), (1, 1))]).pairs
    context = encoder(world.demos(pairs, [0, 0, 0], 1)).context
    assert context.shape == (1, 3, 16)
    torch.testing.assert_close(context.square().mean(-1), torch.ones(1, 3), rtol=1e-3, atol=1e-3)
    turned = encoder(world.demos(pairs[::-1], [0, 0, 0], 1)).context
    torch.testing.assert_close(context, turned, rtol=1e-4, atol=1e-5)


def test_every_pair_of_a_row_moves_its_context_and_no_other(world: Any) -> None:
    encoder = world.model(world.config()).encoder
    rows = [world.row((1, 1), [((2, 2), (2, 2))] * n, seed=n) for n in (1, 3, 2)]
    pairs, owner = [p for r in rows for p in r.pairs], [0, 1, 1, 1, 2, 2]
    before = encoder(world.demos(pairs, owner, 3)).context
    for place, row in enumerate(owner):
        tokens, positions = pairs[place]
        other = [*pairs[:place], (13 - tokens.clamp(2), positions), *pairs[place + 1 :]]
        moved = (encoder(world.demos(other, owner, 3)).context - before).abs().amax(dim=(1, 2)) > 1e-6
        assert moved.tolist() == [i == row for i in range(3)]


# -- Demos.select -------------------------------------------------------------------------------------


def same(first: Demos, second: Demos) -> None:
    for name in ("tokens", "positions", "valid", "owner", "slots"):
        ours, theirs = getattr(first, name), getattr(second, name)
        assert (ours is None and theirs is None) or torch.equal(ours, theirs), name


@given(st.data())
def test_select_is_the_demos_of_those_rows_alone(world: Any, data: st.DataObject) -> None:
    rows = [
        world.row((1, 1), shapes, seed=i)
        for i, shapes in enumerate(data.draw(st.lists(pairs_of_a_row, min_size=1, max_size=4)))
    ]
    chosen = data.draw(st.lists(st.sampled_from(range(len(rows))), min_size=1, unique=True).map(sorted))
    whole = world.batch(rows).demos
    found = whole.select(torch.tensor(chosen))
    missing = whole.tokens.shape[1] - max(len(t) for i in chosen for t, _ in rows[i].pairs)
    expected = world.batch([rows[i] for i in chosen], demo_padding=missing).demos
    same(
        found,
        Demos(expected.tokens, expected.positions, expected.valid, expected.owner, torch.tensor(chosen)),
    )
    assert found.rows == len(chosen)


def test_select_twice_keeps_the_slots_of_the_batch(world: Any) -> None:
    demos = world.batch([world.row((1, 1), seed=i) for i in range(4)]).demos
    twice = demos.select(torch.tensor([1, 2, 3])).select(torch.tensor([0, 2]))
    same(twice, demos.select(torch.tensor([1, 3])))


def test_select_of_the_published_canvas_has_no_mask(world: Any) -> None:
    found = full_canvas(world, 0.5).select(torch.tensor([1]))
    assert found.valid is None
    assert found.tokens.shape == (1, 2 * world.side**2)


def test_the_encoder_of_a_selection_is_the_selection_of_the_encoder(world: Any) -> None:
    encoder = world.model(world.config()).encoder
    rows = [world.row((1, 1), [((i + 1, 1), (2, i + 1))] * (3 - i), seed=i) for i in range(3)]
    demos = world.batch(rows).demos
    chosen: Tensor = torch.tensor([0, 2])
    selected, whole = encoder(demos.select(chosen)).context, encoder(demos).context
    torch.testing.assert_close(selected, whole[chosen], rtol=1e-4, atol=1e-5)
