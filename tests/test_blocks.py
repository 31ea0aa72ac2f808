"""Norms, non-linearity, embeddings, projections: the parts of a block."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.config import GPTConfig
from jaxllm.models import blocks, dropout, embeddings, places
from jaxllm.models.linear import Linear, linear


def test_layer_norm_gives_mean_zero_and_unit_variance(new_key):
    x = 3 + 7 * jax.random.normal(new_key(), (2, 5, 64))
    y = blocks.layer_norm(x, jnp.ones(64), jnp.zeros(64))
    np.testing.assert_allclose(y.mean(-1), np.zeros((2, 5)), atol=1e-6)
    np.testing.assert_allclose(y.var(-1), np.ones((2, 5)), rtol=1e-4)


def test_layer_norm_forgets_shift_and_size_of_its_input(new_key):
    x = jax.random.normal(new_key(), (3, 32))
    scale, bias = (
        jax.random.normal(new_key(), (32,)),
        jax.random.normal(new_key(), (32,)),
    )
    plain = blocks.layer_norm(x, scale, bias)
    moved = blocks.layer_norm(x * 100 + 5, scale, bias)
    np.testing.assert_allclose(plain, moved, rtol=1e-3, atol=1e-3)


def test_layer_norm_of_a_constant_is_its_bias():
    y = blocks.layer_norm(jnp.full((1, 4), 5.0), jnp.ones(4), jnp.arange(4.0))
    np.testing.assert_allclose(y, [[0, 1, 2, 3]])


def test_layer_norm_in_bfloat16_counts_in_float32(new_key):
    x = 100 + jax.random.normal(new_key(), (2, 64))
    half = blocks.layer_norm(x.astype(jnp.bfloat16), jnp.ones(64), jnp.zeros(64))
    assert half.dtype == jnp.bfloat16
    full = blocks.layer_norm(
        x.astype(jnp.bfloat16).astype(jnp.float32), jnp.ones(64), jnp.zeros(64)
    )
    np.testing.assert_allclose(half.astype(jnp.float32), full, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("x", [-3.0, -0.5, 0.0, 0.7, 4.0])
def test_gelu_is_the_formula_of_its_paper(x):
    exact = x * 0.5 * (1 + math.erf(x / math.sqrt(2)))
    near = 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    assert float(blocks.gelu(jnp.float32(x), approximate=False)) == pytest.approx(
        exact, abs=1e-6
    )
    assert float(blocks.gelu(jnp.float32(x))) == pytest.approx(near, abs=1e-6)


def test_a_block_with_zero_projections_passes_its_input_on(new_key):
    cfg = GPTConfig(emb_dim=8, n_heads=2, n_layers=1)
    x = jax.random.normal(new_key(), (2, 5, 8))
    args = ((x, None), None, places.in_rows(5))
    params = blocks.Block(cfg).init(new_key(), *args)["params"]
    for part, name in (("attention", "out"), ("mlp", "down")):
        params[part][name] = jax.tree.map(jnp.zeros_like, params[part][name])
    (y, _), _ = blocks.Block(cfg).apply({"params": params}, *args)
    np.testing.assert_array_equal(x, y)


def test_looking_up_equals_one_hot_times_the_table_with_its_gradient(new_key):
    table = jax.random.normal(new_key(), (6, 3))
    tokens = jnp.array([2, 3, 5, 1, 2])

    def looked_up(table):
        return jnp.square(table[tokens]).sum()

    def multiplied(table):
        return jnp.square(jax.nn.one_hot(tokens, 6) @ table).sum()

    np.testing.assert_allclose(looked_up(table), multiplied(table), rtol=1e-6)
    np.testing.assert_allclose(
        jax.grad(looked_up)(table), jax.grad(multiplied)(table), rtol=1e-6
    )


def test_the_head_is_the_embedding_unless_it_has_its_own():
    embedding, head = {"embedding": jnp.eye(2)}, {"embedding": 2 * jnp.eye(2)}
    cfg = GPTConfig(vocab_size=2, emb_dim=2, n_heads=1)
    hidden = jnp.array([[1.0, 3.0]])
    tied, untied = {"token_embedding": embedding}, {"token_embedding": embedding}
    untied["head"] = head
    np.testing.assert_array_equal(embeddings.unembed(tied, hidden, cfg), [[1, 3]])
    np.testing.assert_array_equal(embeddings.unembed(untied, hidden, cfg), [[2, 6]])


def test_linear_contracts_several_axes():
    x, kernel = jnp.ones((2, 3, 4, 5)), jnp.ones((4, 5, 6))
    y = linear(x, kernel, jnp.arange(6.0), 2, jnp.dtype("float32"))
    np.testing.assert_array_equal(y, np.broadcast_to(20 + np.arange(6), (2, 3, 6)))


def test_linear_without_bias_has_no_bias(new_key):
    layer = Linear(GPTConfig(), (4,), (2, 3), bias=False)
    params = layer.init(new_key(), jnp.ones((1, 4)))["params"]
    assert jax.tree.map(jnp.shape, params) == {"kernel": (4, 2, 3)}


def test_dropout_keeps_the_expectation(new_key):
    y = dropout.dropout(jnp.ones((400, 400)), 0.25, new_key())
    assert float(y.mean()) == pytest.approx(1, abs=0.01)
    assert float((y == 0).mean()) == pytest.approx(0.25, abs=0.01)
    np.testing.assert_allclose(y[y != 0], 4 / 3, rtol=1e-6)


def test_names_draw_apart_from_one_key(new_key):
    key, names = new_key(), ("a", "b")
    a, b = (dropout.branch(key, name, names) for name in names)
    assert not np.array_equal(jax.random.key_data(a), jax.random.key_data(b))
