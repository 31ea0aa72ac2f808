"""Attention by blocks is plain attention, and keeps nothing of size T x T."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parameters import quick

from jaxllm.config import GPTConfig
from jaxllm.models import attention, blocked_attention, places, positions

CFG = GPTConfig(emb_dim=16, n_heads=4)
VARIANTS = {
    "causal": {},
    "window": {"attention_window": 37},
    "narrow": {"attention_window": 1},
    "both_ways": {"causal": False},
    "near_both_ways": {"causal": False, "attention_window": 70},
    "grouped": {"n_kv_heads": 2},
    "alibi": {"positions": "alibi", "n_kv_heads": 2},
}


def plain(query, key, value, where, cfg):
    slots, bias = slice(0, key.shape[1]), None
    if cfg.positions == "alibi":
        bias = positions.alibi_bias(where.slot, jnp.arange(slots.stop), cfg.n_heads)
    mask = places.visible(where, slots, cfg, where.segment)
    return attention.attend(query, key, value, mask, bias=bias)[0]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("T", quick([130, 1]))
def test_blocks_give_what_the_whole_gives(new_key, T, changes, packed):
    cfg = dataclasses.replace(CFG, **changes)
    query, weights = (jax.random.normal(new_key(), (2, T, 4, 4)) for _ in range(2))
    key, value = (
        jax.random.normal(new_key(), (2, T, cfg.kv_heads, 4)) for _ in range(2)
    )
    where = places.in_rows(T)
    if packed:
        ends = jnp.array([[40], [T]])
        where = places.in_segments((jnp.arange(T)[None] >= ends).astype(jnp.int32) + 1)

    def run(attend):
        def total(*inputs):
            context = attend(*inputs, where, cfg)
            return (context * weights).sum(), context

        step = jax.value_and_grad(total, (0, 1, 2), has_aux=True)
        (_, context), gradient = jax.jit(step)(query, key, value)
        return context, *gradient

    for a, b in zip(run(blocked_attention.attend), run(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_bfloat16_stays_close_to_float32():
    inputs = np.random.default_rng(0).normal(size=(3, 2, 130, 4, 4)).astype(np.float32)

    @jax.jit
    def both(*inputs):
        where = places.in_rows(130)
        half = [x.astype(jnp.bfloat16) for x in inputs]
        return plain(*inputs, where, CFG), blocked_attention.attend(*half, where, CFG)

    exact, context = both(*inputs)
    assert context.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(context), exact, atol=2e-2)


@pytest.mark.parametrize(("T", "causal", "window"), [(1000, True, None), (7, True, 3)])
def test_blocks_cover_every_query_once_and_every_key_that_it_may_see(T, causal, window):
    cfg = dataclasses.replace(CFG, causal=causal, attention_window=window)
    cut = blocked_attention.blocks(T, cfg)
    assert [q.start for q, _ in cut[1:]] == [q.stop for q, _ in cut[:-1]]
    assert (cut[0][0].start, cut[-1][0].stop) == (0, T)
    mask = np.array(places.visible(places.in_rows(T), slice(0, T), cfg))[0, 0]
    for rows, columns in cut:
        mask[rows, columns] = False
    assert not mask.any()


def test_nothing_of_size_t_times_t_is_kept():
    T = 512
    x = jax.ShapeDtypeStruct((1, T, 4, 4), jnp.float32)

    def kept(attend):
        def total(*inputs):
            return attend(*inputs, places.in_rows(T), CFG).sum()

        _, pull_back = jax.eval_shape(lambda *inputs: jax.vjp(total, *inputs), x, x, x)
        return max(leaf.size for leaf in jax.tree.leaves(pull_back))

    assert kept(plain) >= 4 * T * T
    assert kept(blocked_attention.attend) <= 4 * T * 4
