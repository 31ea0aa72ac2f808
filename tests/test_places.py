"""Laws of what tokens see: windows, both directions, several texts in one row."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parameters import quick
from small_models import CFG, random_batch, random_params

from jaxllm.errors import ConfigError
from jaxllm.models import gpt
from jaxllm.models.cache import init_cache
from jaxllm.training import losses
from jaxllm.types import Batch

hidden_states = jax.jit(gpt.hidden_states, static_argnums=2)
loss_and_gradient = jax.jit(
    jax.value_and_grad(losses.next_token_loss, has_aux=True), static_argnums=2
)

POSITIONS = ("learned", "sinusoidal", "rotary", "alibi")


def reached_by(cfg, place, T=8):
    """Which tokens the hidden state at `place` depends on, by its gradient."""
    params = random_params(cfg)
    table = params["token_embedding"]["embedding"]
    tokens = jnp.arange(T, dtype=jnp.int32)[None]

    def one_state(rows):
        changed = params | {"token_embedding": {"embedding": rows}}
        return hidden_states(changed, tokens, cfg)[0][0, place, 0]

    gradient = jax.grad(one_state)(table)
    return (jnp.abs(gradient).sum(axis=1) > 0)[:T].tolist()


def test_a_window_reaches_so_many_tokens_back_in_each_layer():
    cfg = dataclasses.replace(CFG, n_layers=1, attention_window=3)
    assert reached_by(cfg, 5) == [False] * 3 + [True] * 3 + [False] * 2
    two = dataclasses.replace(cfg, n_layers=2)
    assert reached_by(two, 5) == [False] + [True] * 5 + [False] * 2


def test_attention_that_is_not_causal_sees_everything_or_a_window_on_either_side():
    free = dataclasses.replace(CFG, n_layers=1, causal=False)
    assert reached_by(free, 2) == [True] * 8
    near = dataclasses.replace(free, attention_window=2)
    assert reached_by(near, 2) == [False] + [True] * 3 + [False] * 4


@pytest.mark.parametrize("positions", quick(POSITIONS, count=2))
def test_a_window_as_wide_as_the_row_changes_nothing(positions):
    cfg = dataclasses.replace(CFG, positions=positions)
    params, batch = random_params(cfg), random_batch(3)
    whole, _ = hidden_states(params, batch.inputs, cfg)
    for window in (8, 9):
        wide = dataclasses.replace(cfg, attention_window=window)
        np.testing.assert_array_equal(
            whole, hidden_states(params, batch.inputs, wide)[0]
        )


def packed_and_alone(cfg):
    """Texts of 3, 4 and 8 tokens packed into two rows, and each in a row of its own."""
    texts = [random_batch(1, T, seed=T, cfg=cfg) for T in (3, 4, 8)]
    # The 6 and 9 behind the short texts are padding, whatever their mask says.
    rows = [
        np.concatenate([short, longer, [[padding]], longest], axis=None).reshape(2, 8)
        for short, longer, longest, padding in zip(
            *(text[:2] for text in texts), (6, 9), strict=True
        )
    ]
    segments = np.array([[1] * 3 + [2] * 4 + [0], [1] * 8], np.int32)
    packed = Batch(*rows, segments=segments)
    return packed, texts


@pytest.mark.parametrize("positions", quick(POSITIONS))
@pytest.mark.parametrize(
    "changes", quick([{"n_kv_heads": 1, "attention_window": 3}, {}])
)
def test_texts_packed_into_rows_give_the_loss_and_gradient_of_each_alone(
    positions, changes
):
    cfg = dataclasses.replace(CFG, positions=positions, **changes)
    params = random_params(cfg)
    packed, texts = packed_and_alone(cfg)
    (loss, metrics), gradient = loss_and_gradient(params, packed, cfg)
    alone = [loss_and_gradient(params, text, cfg) for text in texts]
    share = np.array([3, 4, 8]) / 15
    assert int(metrics["tokens"]) == 15

    def mean(*leaves):
        return sum(w * x for w, x in zip(share, leaves, strict=True))

    np.testing.assert_allclose(
        loss, mean(*(float(loss) for (loss, _), _ in alone)), rtol=1e-5
    )
    expected = jax.tree.map(mean, *(gradient for _, gradient in alone))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        gradient,
        expected,
    )


def test_one_segment_per_row_is_no_segment():
    params, batch = random_params(), random_batch(3)
    one = batch._replace(segments=np.full((3, 8), 7, np.int32))
    (plain, _), (same, _) = (
        loss_and_gradient(params, rows, CFG)[0] for rows in (batch, one)
    )
    np.testing.assert_allclose(plain, same, rtol=1e-6)


def test_a_row_of_padding_counts_nothing_and_gives_numbers():
    params, batch = random_params(), random_batch(2)
    padded = batch._replace(segments=np.array([[1] * 8, [0] * 8], np.int32))
    (loss, metrics), gradient = loss_and_gradient(params, padded, CFG)
    alone = Batch(*(field[:1] for field in batch[:2]))
    (expected, _), _ = loss_and_gradient(params, alone, CFG)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert int(metrics["tokens"]) == 8
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("n_kv_heads", [1, 2])
def test_grouped_heads_are_full_heads_whose_keys_and_values_repeat(n_kv_heads):
    cfg = dataclasses.replace(CFG, n_heads=4, n_kv_heads=n_kv_heads)
    params, tokens = random_params(cfg), random_batch(3).inputs
    attention = params["blocks"]["attention"]
    repeated = {
        name: jax.tree.map(
            lambda leaf: jnp.repeat(leaf, 4 // n_kv_heads, axis=-2), attention[name]
        )
        for name in ("key", "value")
    }
    blocks = params["blocks"] | {"attention": attention | repeated}
    full = dataclasses.replace(cfg, n_kv_heads=None)
    np.testing.assert_allclose(
        hidden_states(params, tokens, cfg)[0],
        hidden_states(params | {"blocks": blocks}, tokens, full)[0],
        rtol=1e-5,
        atol=1e-5,
    )


def test_as_many_heads_of_keys_as_of_queries_changes_nothing():
    params, tokens = random_params(), random_batch(3).inputs
    same = dataclasses.replace(CFG, n_kv_heads=CFG.n_heads)
    np.testing.assert_array_equal(
        hidden_states(params, tokens, CFG)[0], hidden_states(params, tokens, same)[0]
    )


def test_a_window_and_grouped_heads_read_through_a_cache_as_they_do_at_once():
    cfg = dataclasses.replace(CFG, n_kv_heads=1, attention_window=3, positions="rotary")
    params, tokens = random_params(cfg), random_batch(3).inputs
    whole, _ = hidden_states(params, tokens, cfg)
    first, cache = hidden_states(
        params, tokens[:, :5], cfg, cache=init_cache(cfg, 3, 12)
    )
    second, cache = hidden_states(params, tokens[:, 5:], cfg, cache=cache)
    assert cache.key[0].shape[0] == 3 * 1
    np.testing.assert_allclose(
        whole, jnp.concatenate([first, second], axis=1), rtol=1e-4, atol=1e-4
    )


def test_what_a_cache_cannot_hold_is_refused():
    params, tokens = random_params(), random_batch(1).inputs
    cache = init_cache(CFG, 1)
    free = dataclasses.replace(CFG, causal=False)
    with pytest.raises(ConfigError, match="needs causal attention, got causal=False"):
        gpt.hidden_states(params, tokens, free, cache=cache)
    with pytest.raises(ConfigError, match="one text per row, got segments too"):
        gpt.hidden_states(params, tokens, CFG, cache=cache, segments=tokens)
