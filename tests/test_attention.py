"""The variants of the notes: their printed numbers, and what each adds to the last."""

import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.config import GPTConfig
from jaxllm.models import attention

# Six words as vectors of three numbers: the notes' running example.
INPUTS = jnp.array(
    [
        [0.43, 0.15, 0.89],
        [0.55, 0.87, 0.66],
        [0.57, 0.85, 0.64],
        [0.22, 0.58, 0.33],
        [0.77, 0.25, 0.10],
        [0.05, 0.80, 0.55],
    ]
)


def weights_of(new_key, n=3, shape=(3, 4)):
    return [jax.random.normal(new_key(), shape) for _ in range(n)]


def test_simple_attention_gives_the_printed_contexts():
    context, weights = attention.simple_attention(INPUTS)
    np.testing.assert_allclose(
        context,
        [
            [0.4421, 0.5931, 0.5790],
            [0.4419, 0.6515, 0.5683],
            [0.4431, 0.6496, 0.5671],
            [0.4304, 0.6298, 0.5510],
            [0.4671, 0.5910, 0.5266],
            [0.4177, 0.6503, 0.5645],
        ],
        atol=5e-5,
    )
    np.testing.assert_allclose(
        weights[1], [0.1385, 0.2379, 0.2333, 0.1240, 0.1082, 0.1581], atol=5e-5
    )


def test_self_attention_with_identity_weights_is_simple_attention_scaled():
    eye = jnp.eye(3)
    scaled, _ = attention.self_attention(INPUTS, eye * math.sqrt(3), eye, eye)
    simple, _ = attention.simple_attention(INPUTS)
    np.testing.assert_allclose(scaled, simple, rtol=1e-6)


def test_ones_give_uniform_weights_over_what_may_be_seen():
    ones = jnp.ones((3, 2))
    _, everything = attention.self_attention(jnp.ones((4, 3)), ones, ones, ones)
    _, past = attention.causal_attention(jnp.ones((4, 3)), ones, ones, ones)
    np.testing.assert_allclose(everything, np.full((4, 4), 0.25))
    np.testing.assert_allclose(past, np.tril(np.ones((4, 4))) / [[1], [2], [3], [4]])


def test_last_position_sees_the_same_with_and_without_the_mask(new_key):
    weights = weights_of(new_key)
    free, _ = attention.self_attention(INPUTS, *weights)
    causal, _ = attention.causal_attention(INPUTS, *weights)
    np.testing.assert_allclose(free[-1], causal[-1], rtol=1e-6)
    assert not np.allclose(free[0], causal[0])


def test_batch_rows_attend_alone(new_key):
    weights, x = weights_of(new_key), jnp.stack([INPUTS, INPUTS[::-1]])
    context, _ = attention.causal_attention(x, *weights)
    alone, _ = attention.causal_attention(x[1], *weights)
    np.testing.assert_allclose(context[1], alone, rtol=1e-6)


def test_a_mask_of_weights_to_keep_acts_as_dropout(new_key):
    weights = weights_of(new_key)
    keep = jnp.tril(jnp.ones((6, 6), bool), -1)
    _, dropped = attention.causal_attention(INPUTS, *weights, drop_rate=0.5, key=keep)
    _, plain = attention.causal_attention(INPUTS, *weights)
    np.testing.assert_allclose(dropped, np.where(keep, plain * 2, 0), rtol=1e-6)


@pytest.mark.parametrize(("B", "T"), [(1, 1), (3, 6)])
def test_multi_head_equals_stacked_single_heads(new_key, B, T):
    x = jax.random.normal(new_key(), (B, T, 3))
    heads = [weights_of(new_key) for _ in range(5)]
    stacked, stacked_weights = attention.stacked_heads(x, heads)
    side_by_side = [jnp.concatenate(w, axis=1) for w in zip(*heads, strict=True)]
    context, weights = attention.multi_head_attention(x, *side_by_side, n_heads=5)
    np.testing.assert_allclose(context, stacked, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(weights, stacked_weights, rtol=1e-5, atol=1e-6)


def test_one_head_is_causal_attention_and_the_output_projection_mixes(new_key):
    weights, x = weights_of(new_key), INPUTS[None]
    w_out, b_out = jax.random.normal(new_key(), (4, 3)), jnp.arange(3.0)
    single, _ = attention.causal_attention(x, *weights)
    mixed, _ = attention.multi_head_attention(
        x, *weights, n_heads=1, w_out=w_out, b_out=b_out
    )
    np.testing.assert_allclose(mixed, single @ w_out + b_out[None, None], rtol=1e-5)


def test_attend_equals_the_reference_of_jax(new_key):
    query, key, value = (jax.random.normal(new_key(), (2, 5, 3, 4)) for _ in range(3))
    context, _, _ = attention.attend(
        query, key, value, attention.causal_mask(5)[None, None]
    )
    reference = jax.nn.dot_product_attention(query, key, value, is_causal=True)
    np.testing.assert_allclose(context, reference, rtol=1e-5, atol=1e-6)


def test_a_query_that_may_see_nothing_gives_numbers(new_key):
    query, key, value = (jax.random.normal(new_key(), (1, 2, 1, 4)) for _ in range(3))
    context, _, _ = attention.attend(query, key, value, jnp.zeros((1, 1, 2, 2), bool))
    assert np.isfinite(context).all()


@pytest.mark.parametrize(
    ("changes", "whole_rows", "chosen"),
    [
        ({}, True, "cudnn"),
        ({"attention_window": 5}, True, "cudnn"),
        ({"causal": False}, True, "cudnn"),
        ({"causal": False, "attention_window": 5}, True, "plain"),
        ({"positions": "alibi"}, True, "plain"),
        ({"dtype": "float32"}, True, "plain"),
        ({"n_heads": 4}, True, "plain"),
        ({}, False, "plain"),
    ],
)
def test_nvidias_kernel_is_chosen_where_it_can_do_it(changes, whole_rows, chosen):
    cfg = GPTConfig(**({"dtype": "bfloat16"} | changes))
    how = {"dropout": False, "kernels": "cudnn", "whole_rows": whole_rows}
    assert attention.choose(cfg, **how) == chosen
    assert attention.choose(cfg, **(how | {"dropout": True})) == "plain"


@pytest.mark.parametrize(
    ("platform", "capability", "kernels"),
    [
        ("gpu", "7.5", "other"),
        ("gpu", "9.0", "cudnn"),
        ("gpu", "12.0", "cudnn"),
        ("gpu", "gfx90a", "other"),
        ("tpu", "", "other"),
        ("cpu", "", "cpu"),
    ],
)
def test_kernels_are_known_by_the_generation(
    monkeypatch, platform, capability, kernels
):
    device = types.SimpleNamespace(platform=platform, compute_capability=capability)
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    assert attention.kernels_here() == kernels
