"""Gradients by hand are those that JAX derives from the plain forms."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parameters import quick
from small_models import CFG, random_batch, random_params

from jaxllm.models import blocks, gradients, linear
from jaxllm.training import losses

LIMITS = {"float32": 1e-5, "bfloat16": 2e-2}


def both(fast, plain, arguments, weights):
    """Value and gradients of two functions, of their results' weighted sums."""

    def summed(function):
        return lambda *a: (function(*a).astype(jnp.float32) * weights).sum()

    every = tuple(range(len(arguments)))
    for function in (fast, plain):
        yield (
            jax.jit(function)(*arguments),
            jax.jit(jax.grad(summed(function), every))(*arguments),
        )


def assert_alike(fast, plain, arguments, weights, limit):
    got, expected = both(fast, plain, arguments, weights)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        np.testing.assert_allclose(a, b, rtol=limit, atol=limit * np.abs(b).max())


@pytest.mark.parametrize("rows", [1, 6])
@pytest.mark.parametrize("dtype", LIMITS)
def test_layer_norm(new_key, rows, dtype):
    x = 3 + 2 * jax.random.normal(new_key(), (rows, 8), dtype)
    scale, bias, weights = (
        jax.random.normal(new_key(), shape) for shape in ((8,), (8,), (rows, 8))
    )

    def fast(*arguments):
        return gradients.layer_norm(*arguments, 1e-5)

    assert_alike(fast, blocks.layer_norm, (x, scale, bias), weights, LIMITS[dtype])


def test_gelu(new_key):
    x = 3 * jax.random.normal(new_key(), (3, 50))
    weights = jax.random.normal(new_key(), x.shape)
    assert_alike(gradients.gelu_tanh, blocks.gelu, (x,), weights, 1e-5)


def test_gelu_in_bfloat16_is_computed_in_float32(new_key):
    x = 3 * jax.random.normal(new_key(), (3, 50), "bfloat16")
    exact = blocks.gelu(x.astype(jnp.float32)).astype("bfloat16")
    bent = jax.jit(gradients.gelu_tanh)(x).astype(jnp.float32)
    np.testing.assert_allclose(bent, exact.astype(jnp.float32), rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [((6,), [(2, 5)]), ((2, 3), [(4,)]), ((6,), [(1,), (2, 3)]), ((6,), 3 * [(2, 2)])],
    ids=["heads_out", "heads_in", "unlike_side_by_side", "alike_side_by_side"],
)
def test_linear(new_key, inputs, outputs, dtype, bias):
    x = jax.random.normal(new_key(), (3, 4, *inputs), dtype)
    layers = [
        (
            jax.random.normal(new_key(), inputs + shape),
            jax.random.normal(new_key(), shape) if bias else None,
        )
        for shape in outputs
    ]
    n_out = sum(math.prod(shape) for shape in outputs)
    weights = jax.random.normal(new_key(), (3, 4, n_out))

    how = len(inputs), jnp.dtype(dtype)

    def joined(ys):
        return jnp.concatenate([y.reshape(3, 4, -1) for y in ys], axis=-1)

    def fast(x, layers):
        return joined(linear.fast_linears(x, layers, *how))

    def plain(x, layers):
        return joined([linear.linear(x, *layer, *how) for layer in layers])

    assert_alike(fast, plain, (x, layers), weights, LIMITS[dtype])


def test_what_accelerators_compute_is_the_same(new_key, monkeypatch):
    """There, layers side by side share the products of their gradients."""
    x, layers = jax.random.normal(new_key(), (6, 8)), []
    for _ in range(3):
        shapes = ((8, 2, 3), (2, 3))
        layers.append(tuple(jax.random.normal(new_key(), shape) for shape in shapes))
    weights = jax.random.normal(new_key(), (3, 6, 2, 3))

    def run():
        def total(x, layers):
            ys = linear.fast_linears(x, layers, 1, jnp.dtype("float32"))
            return (jnp.stack(ys) * weights).sum()

        return jax.jit(jax.grad(total, (0, 1)))(x, layers)

    expected = run()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    for a, b in zip(*map(jax.tree.leaves, (run(), expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


VARIANTS = {
    "dropout": {"drop_rate": 0.5},
    "grouped": {"n_kv_heads": 1, "positions": "rotary", "qkv_bias": False},
    "alibi": {"positions": "alibi", "tied_head": False, "activation": "gelu_erf"},
    "window": {"attention_window": 3, "remat": "dots"},
    "both_ways": {"causal": False, "remat": "block"},
}


@pytest.mark.parametrize("changes", quick(VARIANTS.values(), count=2))
def test_a_model_learns_the_same_whoever_writes_the_gradients(new_key, changes):
    fast = dataclasses.replace(CFG, gradients="written", **changes)
    plain = dataclasses.replace(
        fast, gradients="derived", attention="plain", remat="none"
    )
    params, batch, key = random_params(fast), random_batch(3, cfg=fast), new_key()
    step = jax.jit(
        jax.value_and_grad(losses.next_token_loss, has_aux=True), static_argnums=2
    )
    (loss, _), gradient = step(params, batch, fast, key=key)
    (same, _), expected = step(params, batch, plain, key=key)
    np.testing.assert_allclose(loss, same, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        gradient,
        expected,
    )


def test_a_model_learns_the_same_as_accelerators_compute(monkeypatch):
    params, batch = random_params(), random_batch(3)

    def run():
        def loss(params):
            return losses.next_token_loss(params, batch, CFG)[0]

        return jax.jit(jax.value_and_grad(loss))(params)

    expected = run()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    for a, b in zip(*map(jax.tree.leaves, (run(), expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_derived_gradients_know_forward_mode():
    cfg = dataclasses.replace(CFG, gradients="derived", attention="plain")
    params, batch = random_params(cfg), random_batch(2)

    def loss(params):
        return losses.next_token_loss(params, batch, cfg)[0]

    along = jax.tree.map(jnp.ones_like, params)
    _, slope = jax.jit(lambda p: jax.jvp(loss, (p,), (along,)))(params)
    gradient = jax.jit(jax.grad(loss))(params)
    expected = sum(float(leaf.sum()) for leaf in jax.tree.leaves(gradient))
    np.testing.assert_allclose(slope, expected, rtol=1e-4)


def test_parameters_in_bfloat16_have_gradients_in_bfloat16():
    cfg = dataclasses.replace(CFG, dtype="bfloat16")
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), random_params(cfg))

    def loss(params):
        return losses.next_token_loss(params, random_batch(2, 8, cfg=cfg), cfg)[0]

    gradient = jax.jit(jax.grad(loss))(params)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(gradient)} == {"bfloat16"}
