"""The cache: what is written stands where it was asked to, and nowhere else."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import random_params

from jaxllm.config import GPTConfig
from jaxllm.models import cache, gpt


def test_writing_to_the_cache_touches_the_asked_slots_only():
    slots = jnp.zeros((6, 5, 4))
    empty = cache.LayerCache(slots, slots, jnp.array([0, 2, 3]))
    key, value = 1 + np.random.default_rng(0).random((2, 3, 2, 2, 4), np.float32)
    written = jax.jit(cache.write_cache)(empty, key, value)
    for slots, tokens in ((written.key, key), (written.value, value)):
        rows = np.asarray(slots).reshape(3, 2, 5, 4)
        for row, start in enumerate([0, 2, 3]):
            np.testing.assert_array_equal(
                rows[row, :, start : start + 2], tokens[row].swapaxes(0, 1)
            )
        assert int((rows != 0).sum()) == 3 * 2 * 2 * 4


CFG = GPTConfig(vocab_size=37, context_length=40, emb_dim=24, n_heads=4, n_layers=2)

apply = jax.jit(gpt.apply, static_argnums=2)


@jax.jit(static_argnames="cfg")
def read_on(params, tokens, cfg, past):
    hidden, past = gpt.hidden_states(params, tokens, cfg, cache=past)
    return gpt.unembed(params, hidden, cfg), past


pieces = given(
    kind=st.sampled_from(["learned", "sinusoidal", "rotary", "alibi"]),
    n_kv_heads=st.sampled_from([1, 2, 4]),
    window=st.sampled_from([None, 1, 5]),
    batch_size=st.sampled_from([1, 3, 8]),
    widths=st.lists(st.sampled_from([1, 4, 7]), min_size=2, max_size=5),
    seed=st.integers(0, 99),
)


@settings(max_examples=2, deadline=None)  # each compiles for seconds
@pieces
def test_reading_piece_by_piece_with_a_cache_equals_reading_at_once(
    kind, n_kv_heads, window, batch_size, widths, seed
):
    check_pieces(kind, n_kv_heads, window, batch_size, widths, seed)


@pytest.mark.long
@settings(max_examples=40, deadline=None)
@pieces
def test_reading_piece_by_piece_equals_reading_at_once_in_many_shapes(
    kind, n_kv_heads, window, batch_size, widths, seed
):
    check_pieces(kind, n_kv_heads, window, batch_size, widths, seed)


def check_pieces(kind, n_kv_heads, window, batch_size, widths, seed):
    cfg = dataclasses.replace(
        CFG, positions=kind, n_kv_heads=n_kv_heads, attention_window=window
    )
    params = random_params(cfg, seed)
    shape = batch_size, sum(widths)
    tokens = np.random.default_rng(seed).integers(0, 37, shape, np.int32)
    past = cache.init_cache(cfg, batch_size, sum(widths), widest=max(widths))
    if window is not None:
        assert past.key[0].shape[1] <= cache.ring_slots(window, max(widths))
    parts, start = [], 0
    for width in widths:
        logits, past = read_on(params, tokens[:, start : start + width], cfg, past)
        parts.append(logits)
        start += width
    np.testing.assert_allclose(
        np.concatenate(parts, axis=1), apply(params, tokens, cfg), rtol=1e-4, atol=1e-4
    )


def test_a_grown_cache_holds_what_it_held():
    params = random_params(CFG)
    tokens = np.random.default_rng(1).integers(0, 37, (2, 9), np.int32)
    _, past = read_on(params, tokens[:, :5], CFG, cache.init_cache(CFG, 2, 6))
    logits, _ = read_on(params, tokens[:, 5:], CFG, cache.grow_cache(past, 16))
    np.testing.assert_allclose(
        logits, np.asarray(apply(params, tokens, CFG))[:, 5:], rtol=1e-4, atol=1e-4
    )


def test_a_compiled_loop_fills_the_cache_in_place():
    cfg = dataclasses.replace(CFG, n_layers=1)
    params = random_params(cfg)

    def loop(n, past):
        def step(_, past):
            token = jnp.zeros((1, 1), jnp.int32)
            return gpt.hidden_states(params, token, cfg, cache=past)[1]

        return jax.lax.fori_loop(0, n, step, past)

    compiled = jax.jit(loop, donate_argnums=1).lower(3, cache.init_cache(cfg, 1))
    text = str(compiled.compile().as_text())
    assert "f32[4,40,6]" in text
    assert not re.search(r"f32\[4,40,6\]\S* copy\(", text)


def test_one_block_is_traced_for_all(monkeypatch):
    cfg = dataclasses.replace(CFG, n_layers=5)
    params = jax.eval_shape(lambda: gpt.init_params(jax.random.key(0), cfg))
    made, block = [], gpt.Block
    monkeypatch.setattr(
        gpt, "Block", lambda cfg, **how: made.append(cfg) or block(cfg, **how)
    )
    tokens = jnp.zeros((2, 3), jnp.int32)
    past = jax.eval_shape(lambda: cache.init_cache(cfg, 2, 6))
    jax.eval_shape(
        lambda params, past: gpt.hidden_states(params, tokens, cfg, cache=past),
        params,
        past,
    )
    assert len(made) == 1
