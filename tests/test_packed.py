"""Packed matrices: products as with the matrix itself, up to what its bits lose."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import apply, random_params

from jaxllm.config import GPTConfig
from jaxllm.errors import ConfigError
from jaxllm.inference import weights
from jaxllm.models import packed

pack = jax.jit(packed.pack, static_argnames=("outputs", "weights", "panels"))
product = jax.jit(packed.product)


@settings(max_examples=15, deadline=None)
@given(
    n_vectors=st.sampled_from([1, 3, 8, 9]),
    n_in=st.sampled_from([5, 16, 50]),
    n_out=st.sampled_from([1, 127, 130]),
    kind=st.sampled_from(["float32", "bfloat16", "int8"]),
    panels=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_product_is_off_by_what_rounding_the_weights_may_cost(
    n_vectors, n_in, n_out, kind, panels, seed
):
    normal = np.random.default_rng(seed).normal
    x = normal(size=(n_vectors, n_in)).astype(np.float32)
    matrix = normal(size=(n_out, n_in)).astype(np.float32)
    y = np.asarray(product(x, pack(matrix, (n_out,), kind, panels=panels)))
    assert y.shape == (n_vectors, n_out)
    # Half a step for each weight: of 1/127 of the output's largest, or of 8 bits.
    largest = np.abs(matrix).max(axis=1)
    off = {
        "float32": 0 * matrix,
        "bfloat16": np.abs(matrix) * 2**-8,
        "int8": np.broadcast_to((largest / 254)[:, None], matrix.shape),
    }
    bound = np.abs(x) @ off[kind].T + 1e-4
    assert (np.abs(y - x @ matrix.T) <= bound).all()


@pytest.mark.parametrize("kind", ["bfloat16", "int8"])
def test_panels_hold_the_same_numbers_as_rows(kind):
    matrix = np.random.default_rng(0).normal(size=(200, 21)).astype(np.float32)
    panels, rows = (
        pack(matrix, (200,), kind, panels=panels) for panels in (True, False)
    )
    np.testing.assert_array_equal(
        packed.rows(panels, 21)[:200].astype(jnp.float32),
        rows.values.astype(jnp.float32),
    )


def test_an_output_without_weights_is_zero():
    matrix = np.array([[1, 0, 0], [0, 0, 0]], np.float32)
    y = product(np.ones((1, 3), np.float32), pack(matrix, (2,), "int8", panels=True))
    np.testing.assert_allclose(y, [[1, 0]], rtol=1e-6)


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("tied_head", [True, False])
def test_packed_and_rounded_parameters_give_the_same_logits(kind, tied_head):
    cfg = GPTConfig(
        vocab_size=31,
        context_length=12,
        emb_dim=24,
        n_heads=4,
        n_kv_heads=2,
        n_layers=2,
        tied_head=tied_head,
    )
    params = random_params(cfg)
    tokens = np.random.default_rng(2).integers(0, 31, (2, 12), np.int32)
    expected = apply(weights.rounded_params(params, kind), tokens, cfg)
    logits = apply(weights.decoding_params(params, cfg, kind), tokens, cfg)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    if kind == "float32":
        np.testing.assert_allclose(
            logits, apply(params, tokens, cfg), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("kind", ["float32", "int8"])
@pytest.mark.parametrize("tied_head", [True, False])
def test_donated_parameters_give_the_same_and_hold_one_form_only(kind, tied_head):
    cfg = GPTConfig(
        vocab_size=31, emb_dim=24, n_heads=4, n_layers=2, tied_head=tied_head
    )
    params = random_params(cfg)
    expected = weights.decoding_params(params, cfg, kind)
    prepared = weights.decoding_params(params, cfg, kind, donate=True)
    assert jax.tree.structure(prepared) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, prepared, expected)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(params["blocks"]))
    head_is_kept = tied_head or kind == "float32"
    assert params.get("head", params["token_embedding"])["embedding"].is_deleted() == (
        not head_is_kept
    )


def test_a_head_in_float32_is_not_copied():
    cfg = GPTConfig(vocab_size=31, emb_dim=24, n_heads=4, n_layers=1)
    params = random_params(cfg)
    head = weights.decoding_params(params, cfg)["head"]["embedding"].values
    table = params["token_embedding"]["embedding"]
    assert head.unsafe_buffer_pointer() == table.unsafe_buffer_pointer()


def test_a_compiled_loop_does_not_unpack_ahead():
    matrix = np.random.default_rng(0).normal(size=(128, 16)).astype(np.float32)
    int8 = pack(matrix, (128,), "int8", panels=True)

    def loop(n, x, int8):
        def step(i, x):
            tied = packed.anchored(int8, jnp.minimum(i, 0))
            return packed.product(x, tied)[:, :16]

        return jax.lax.fori_loop(0, n, step, x)

    compiled = jax.jit(loop).lower(3, jnp.ones((1, 16)), int8).compile()
    _, before_the_loop = str(compiled.as_text()).split("ENTRY")
    assert "s8[" in before_the_loop
    assert "f32[1,2,1,128]" not in before_the_loop


def test_parameters_that_are_prepared_stay_in_their_bits():
    cfg = GPTConfig(vocab_size=31, emb_dim=24, n_heads=4, n_layers=1)
    params = random_params(cfg)
    for kind in ("float32", "int8"):
        prepared = weights.decoding_params(params, cfg, kind)
        for same in (None, kind):
            assert weights.decoding_params(prepared, cfg, same) is prepared
        with pytest.raises(ConfigError, match=f"prepared in {kind}: .* got .*bfloat16"):
            weights.decoding_params(prepared, cfg, "bfloat16")
