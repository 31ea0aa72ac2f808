"""What only an NVIDIA GPU shows: its own kernels agree with the plain forms.

    scripts/gpu.sh, or JAX_PLATFORMS=cuda python -m pytest -m gpu

Comparisons in float32 ask for products of full precision, where a GPU would round to
TF32; those in bfloat16 allow what a different order of roundings gives.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_models import random_batch, random_params

from jaxllm.config import GPTConfig
from jaxllm.inference import generate as generation
from jaxllm.inference import weights
from jaxllm.models import attention, gpt, places
from jaxllm.training import fused_loss, losses, steps
from jaxllm.training.state import init_train_state

pytestmark = pytest.mark.gpu

CFG = GPTConfig(
    vocab_size=1000, context_length=256, emb_dim=128, n_heads=2, n_layers=3,
    dtype="bfloat16",
)  # fmt: skip
VARIANTS = {
    "causal": {},
    "window": {"attention_window": 37},
    "both_ways": {"causal": False},
    "near_both_ways": {"causal": False, "attention_window": 70},
    "grouped": {"n_kv_heads": 1},
    "wide": {"emb_dim": 256},
}


@pytest.fixture(autouse=True)
def _gpu():
    if jax.default_backend() != "gpu":
        pytest.skip("needs an NVIDIA GPU: JAX_PLATFORMS=cuda python -m pytest -m gpu")
    with jax.default_matmul_precision("highest"):
        yield


def exact(cfg: GPTConfig) -> GPTConfig:
    return dataclasses.replace(cfg, dtype="float32", attention="plain")


def relative_error(found, expected) -> float:
    """The length of the difference, over the length of what is expected."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    differences = [(np.asarray(a, np.float64) - b, b) for a, b in pairs]
    off, whole = (
        np.sqrt(sum(np.square(np.asarray(x, np.float64)).sum() for x in side))
        for side in zip(*differences, strict=True)
    )
    return off / whole


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("T", [256, 129])
def test_the_attention_that_is_chosen_is_plain_attention(new_key, T, changes, packed):
    cfg = dataclasses.replace(CFG, **changes)
    shape = (2, T, cfg.emb_dim)
    x, like = (jax.random.normal(new_key(), shape) for _ in range(2))
    where = places.in_rows(T)
    if packed:
        where = places.in_segments(np.arange(T) >= np.array([[40], [T]]))
    init = jax.jit(attention.MultiHeadAttention(cfg).init)
    params = init(new_key(), x, where, None, None)

    def run(params, x, cfg):
        def total(params, x):
            module = attention.MultiHeadAttention(cfg)
            y, _, _ = module.apply(params, x, where, None, None)
            return (y * like).sum()

        return jax.grad(total, (0, 1))(params, x.astype(cfg.dtype))

    rounded = dataclasses.replace(cfg, attention="plain")
    forms = cfg, exact(cfg), rounded
    found, expected, plain = jax.jit(
        lambda *given: [run(*given, cfg) for cfg in forms]
    )(params, x)
    error = relative_error(found, expected)
    assert error < max(0.02, 2 * relative_error(plain, expected))


@pytest.mark.parametrize("T", [64, 1024])
def test_bfloat16_attends_by_nvidias_kernel_and_says_so(new_key, T):
    shape = (2, T, 4, 64)
    query, key, value = (
        jax.random.normal(new_key(), shape, jnp.bfloat16) for _ in range(3)
    )
    assert attention.choose(CFG, dropout=False, kernels=attention.kernels_here()) == (
        "cudnn"
    )
    mask = attention.causal_mask(T)[None, None]
    exactly = (x.astype(jnp.float32) for x in (query, key, value))
    expected, _, _ = attention.attend(*exactly, mask)
    call = jax.jit(attention._attend_cudnn, static_argnums=4)
    found = call(query, key, value, places.in_rows(T), CFG)
    assert relative_error(found, expected) < 0.01


def test_written_gradients_are_the_derived_ones():
    cfg = dataclasses.replace(CFG, dtype="float32")
    params, batch = random_params(cfg), random_batch(2, 256, cfg=cfg)

    def run(cfg):
        def loss(params):
            return losses.next_token_loss(params, batch, cfg)[0]

        return jax.jit(jax.value_and_grad(loss))(params)

    found, expected = run(cfg), run(dataclasses.replace(cfg, gradients="derived"))
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    assert relative_error(found[1], expected[1]) < 1e-4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_loss_in_chunks_is_the_whole_loss(new_key, monkeypatch, dtype):
    monkeypatch.setattr(fused_loss, "_ACCELERATOR_BYTES", 2**18)
    hidden = jax.random.normal(new_key(), (2, 300, 64))
    head = jax.random.normal(new_key(), (1003, 64))
    targets = jax.random.randint(new_key(), (2, 300), 0, 1003)
    mask = jnp.arange(300)[None] < jnp.array([[300], [101]])

    def fused(hidden, head):
        kind = jnp.dtype(dtype)
        return fused_loss.cross_entropy_sum(hidden, head, targets, mask, kind)[0]

    def whole(hidden, head):
        logits = jnp.einsum("btd,vd->btv", hidden, head)
        return losses.cross_entropy_sum(logits, targets, mask)[0]

    found, expected = (
        jax.jit(jax.value_and_grad(loss, (0, 1)))(hidden, head)
        for loss in (fused, whole)
    )
    error = {"float32": 1e-5, "bfloat16": 0.02}[dtype]
    np.testing.assert_allclose(found[0], expected[0], rtol=error)
    assert relative_error(found[1], expected[1]) < error


def test_training_steps_in_bfloat16_follow_those_in_float32():
    optimizer = optax.adamw(1e-3)
    batches = [random_batch(4, 256, seed=i, cfg=CFG) for i in range(8)]

    def run(cfg):
        state = init_train_state(jax.random.key(0), cfg, optimizer)
        step = jax.jit(
            lambda state, batch: steps.train_step(state, batch, cfg, optimizer),
            donate_argnums=0,
        )
        found = []
        for batch in batches:
            state, metrics = step(state, batch)
            found.append(float(metrics["loss"]))
        return found

    np.testing.assert_allclose(run(CFG), run(exact(CFG)), rtol=2e-3)


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8"])
def test_a_cache_never_changes_a_token(kind):
    cfg = exact(CFG)
    params = random_params(cfg)
    rows = [np.arange(n) * 7 % 1000 for n in (1, 20, 100)]
    prepared = weights.decoding_params(params, cfg, kind)
    found = generation.generate(prepared, rows, cfg, max_new_tokens=60, temperature=0)
    read = weights.rounded_params(params, kind)
    apply = jax.jit(gpt.apply, static_argnums=2)
    for row, prompt in zip(found, rows, strict=True):
        padded = np.zeros((1, 256), np.int32)
        padded[0, : len(row)] = row
        logits = np.asarray(apply(read, padded, cfg))[0]
        chosen = logits[np.arange(len(row) - 1), row[1:]]
        shortfall = (logits.max(axis=-1)[: len(row) - 1] - chosen)[len(prompt) - 1 :]
        assert shortfall.max() < 1e-3  # a token of another name only where two tie
