"""The loss in chunks is the loss of the whole, and its gradient too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parameters import quick

from jaxllm.config import MeshConfig
from jaxllm.distributed import mesh as meshes
from jaxllm.distributed import sharding
from jaxllm.training import fused_loss, losses

B, T, D = 4, 10, 8


def drawn(new_key, vocab_size, dtype="float32"):
    hidden = jax.random.normal(new_key(), (B, T, D)).astype(dtype)
    head = jax.random.normal(new_key(), (vocab_size, D))
    targets = jax.random.randint(new_key(), (B, T), 0, vocab_size)
    return hidden, head, targets


def fused(hidden, head, targets, mask):
    return fused_loss.cross_entropy_sum(hidden, head, targets, mask, hidden.dtype)


def plain(hidden, head, targets, mask):
    logits = jnp.einsum(
        "btd,vd->btv",
        hidden,
        head.astype(hidden.dtype),
        preferred_element_type=jnp.float32,
    )
    return losses.cross_entropy_sum(logits, targets, mask)


def run(loss_sum, *arguments):
    step = jax.value_and_grad(loss_sum, (0, 1), has_aux=True)
    (total, count), gradient = jax.jit(step)(*arguments)
    return total, int(count), *gradient


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("chunk_logits", [1, 3 * B * 65, 2**24])
@pytest.mark.parametrize("vocab_size", quick([65, 128]))
@pytest.mark.parametrize("masked", [False, True])
def test_chunks_give_the_whole(
    new_key, monkeypatch, vocab_size, chunk_logits, masked, dtype
):
    monkeypatch.setattr(fused_loss, "_CPU_BYTES", 4 * chunk_logits)
    hidden, head, targets = drawn(new_key, vocab_size, dtype)
    mask = jax.random.bernoulli(new_key(), 0.7, (B, T)) if masked else None
    got = run(fused, hidden, head, targets, mask)
    expected = run(plain, hidden, head, targets, mask)
    limit = 1e-5 if dtype == "float32" else 2e-2
    assert got[1] == expected[1]
    for a, b in zip(got, expected, strict=True):
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        np.testing.assert_allclose(a, b, rtol=limit, atol=limit * np.abs(b).max())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_as_accelerators_store_them_give_the_whole(new_key, monkeypatch, dtype):
    arguments = (*drawn(new_key, 65, dtype), None)
    expected = run(plain, *arguments)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(fused_loss, "_ACCELERATOR_BYTES", 3 * B * 65)
    limit = 1e-5 if dtype == "float32" else 2e-2
    for a, b in zip(run(fused, *arguments), expected, strict=True):
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        np.testing.assert_allclose(a, b, rtol=limit, atol=limit * np.abs(b).max())


def test_without_a_gradient_the_sum_is_the_same(new_key):
    arguments = (*drawn(new_key, 65), None)
    total, count = jax.jit(fused)(*arguments)
    expected, *_ = run(fused, *arguments)
    np.testing.assert_allclose(total, expected, rtol=1e-6)
    assert int(count) == B * T


def test_what_does_not_count_changes_nothing(new_key):
    hidden, head, targets = drawn(new_key, 65)
    mask = jnp.arange(T)[None] < jnp.array([[T], [3], [0], [1]])
    other = jnp.where(mask[..., None], hidden, 1e3)
    for a, b in zip(
        run(fused, hidden, head, targets, mask),
        run(fused, other, head, (targets + ~mask) % 65, mask),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_large_logits_do_not_overflow(new_key):
    hidden, head, targets = drawn(new_key, 65)
    parts = run(fused, 1e4 * hidden, head, targets, None)
    assert all(np.isfinite(part).all() for part in parts)


def test_a_cotangent_scales_the_gradient(new_key):
    arguments = (*drawn(new_key, 65), None)

    def half(*arguments):
        return 0.5 * fused(*arguments)[0]

    gradient = jax.jit(jax.grad(half, (0, 1)))(*arguments)
    for a, b in zip(gradient, run(fused, *arguments)[2:], strict=True):
        np.testing.assert_allclose(a, 0.5 * b, rtol=1e-6)


def test_no_array_holds_all_logits(new_key, monkeypatch):
    monkeypatch.setattr(fused_loss, "_CPU_BYTES", 4 * B * 64)
    arguments = (*drawn(new_key, 64), None)
    step = jax.value_and_grad(fused, (0, 1), has_aux=True)
    text = jax.jit(step).lower(*arguments).as_text()
    assert f"{B}x1x64xf32" in text
    assert f"{B}x{T}x64x" not in text


@pytest.mark.parametrize("vocab_size", quick([65, 64]))
def test_a_mesh_gives_what_one_device_gives(new_key, monkeypatch, vocab_size):
    monkeypatch.setattr(fused_loss, "_CPU_BYTES", 4 * 3 * B * vocab_size)
    arguments = drawn(new_key, vocab_size)
    expected = run(fused, *arguments, None)
    mesh = meshes.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    hidden, head, targets = arguments
    tree = {"head": {"embedding": head}}
    with jax.set_mesh(mesh):
        rows = sharding.place_batch((hidden, targets), mesh)
        tree = jax.device_put(tree, sharding.tree_shardings(tree, mesh))
        got = run(fused, rows[0], tree["head"]["embedding"], rows[1], None)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
