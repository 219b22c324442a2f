"""The cascade and the flex form (the kernels: test_native.py) against attention with an explicit mask, values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from aifeedback.inference.prefix_tree import Layout, Pack, build_tree, layout, walk
from aifeedback.inference.tree_attention import Cascade, KeyValue, Plan, _flex, blocks_of, cascade

SEQUENCES = [[1, 2, 3, 4], [1, 2, 3, 5, 6], [1, 2, 7], [1, 2, 7, 8, 9], [4, 4], [1, 2]]
SEQUENCES += [[1, 2, 9, 9, 9, 9], [1, 2, 8, 8, 8], [4, 4, 4, 4, 4], [4, 4, 1, 1, 1, 1]]


@pytest.fixture(params=["alone", "together"])
def short_blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block in a call of its own, or short ones padded into shared calls."""
    if request.param == "alone":
        monkeypatch.setattr("aifeedback.inference.tree_attention.LONGEST_SHORT", 0)


def tree_layout(sequences: list[list[int]] = SEQUENCES) -> Layout:
    tree = build_tree(sequences)
    return layout(Pack((), [s for root in tree.roots for s in walk(root)], False))


def states(tokens: int, heads: int, kv_heads: int) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(1, tokens, h, 8, generator=draw).transpose(1, 2) for h in (heads, kv_heads, kv_heads)]


def expected(query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    return torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=visible, scale=0.3)


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("before", [0, 5])
@pytest.mark.parametrize("form", ["cascade", "flex"])
@pytest.mark.filterwarnings("ignore:flex_attention called without")
def test_equals_an_explicit_mask(kv_heads: int, before: int, form: str, short_blocks: None) -> None:
    where = tree_layout()
    total = len(where.tokens_T)
    query, key, value = states(before + total, 4, kv_heads)
    plan = Plan(where, chain_tokens=before)
    chain = KeyValue(key[:, :, :before], value[:, :, :before]) if before else None
    parts = query[:, :, before:], key[:, :, before:], value[:, :, before:]
    result = (
        cascade(*parts, blocks_of(where.blocks), 0.3, chain)[0]
        if form == "cascade"
        else _flex(*parts, chain, plan, 0.3)
    )
    torch.testing.assert_close(
        result, expected(parts[0], key, value, plan.visible(None, query.device)), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_gradients_equal_those_of_an_explicit_mask(kv_heads: int, short_blocks: None) -> None:
    where = tree_layout()
    leaves = [x.requires_grad_() for x in states(len(where.tokens_T), 4, kv_heads)]
    weights = torch.randn(1, 4, len(where.tokens_T), 8, generator=torch.Generator().manual_seed(1))
    cascaded = torch.autograd.grad((Cascade.apply(*leaves, blocks_of(where.blocks), 0.3) * weights).sum(), leaves)
    masked = expected(*leaves, Plan(where).visible(None, torch.device("cpu")))
    for result, wanted in zip(cascaded, torch.autograd.grad((masked * weights).sum(), leaves), strict=True):
        torch.testing.assert_close(result, wanted, atol=1e-5, rtol=0)


def test_gradients_against_finite_differences(short_blocks: None) -> None:
    where = tree_layout([[1, 2, 2, 2], [1, 3, 3, 3, 3]])
    leaves = [x.double().requires_grad_() for x in states(len(where.tokens_T), 2, 1)]
    assert torch.autograd.gradcheck(lambda q, k, v: Cascade.apply(q, k, v, blocks_of(where.blocks), 0.3), leaves)


def test_short_blocks_of_about_equal_length_share_a_call() -> None:
    lengths = [4, 3, 60, 4, 1]
    starts = [sum(lengths[:n]) for n in range(len(lengths))]
    result = blocks_of([(start, start + n, start + n) for start, n in zip(starts, lengths, strict=True)])
    assert [block.stop - block.start for block in result.alone] == [60, 1]
    assert [group.blocks for group in result.groups] == [3]
    assert sorted(result.groups[0].places.tolist()) == [0, 1, 2, 3, 4, 5, 6, 6, 67, 68, 69, 70]


def test_window_hides_what_is_too_far_back() -> None:
    tree = build_tree([[1, 2, 3]])
    plan = Plan(layout(Pack((), tree.roots, False)), chain_tokens=0)
    assert plan.visible(2, torch.device("cpu")).tolist() == [
        [True, False, False],
        [True, True, False],
        [False, True, True],
    ]
