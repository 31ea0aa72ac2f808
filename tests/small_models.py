"""A model small enough for a test, and data for it, made without compiling anything."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.config import GPTConfig
from jaxllm.models import gpt
from jaxllm.types import Batch

CFG = GPTConfig(vocab_size=16, context_length=8, emb_dim=16, n_heads=2, n_layers=2)


apply = jax.jit(gpt.apply, static_argnums=2)


def logits_of(params, ids, cfg: GPTConfig = CFG):
    """Logits (T, V) of one text, compiled once for all lengths.

    What follows a token does not change its logits.
    """
    padded = np.zeros((1, cfg.context_length), np.int32)
    padded[0, : len(ids)] = ids
    return apply(params, padded, cfg)[0, : len(ids)]


def random_params(cfg: GPTConfig = CFG, seed: int = 0):
    """Parameters of the model's shapes; larger than initial ones, so that they matter.

    `init_params` would compile a random generator per parameter, for seconds.
    """
    normal = np.random.default_rng(seed).normal
    shapes = jax.eval_shape(lambda: gpt.init_params(jax.random.key(0), cfg))
    return jax.tree.map(
        lambda leaf: jnp.asarray(0.2 * normal(size=leaf.shape), leaf.dtype), shapes
    )


def random_batch(B: int, T: int = 8, seed: int = 0, cfg: GPTConfig = CFG) -> Batch:
    ids = np.random.default_rng(seed).integers(0, cfg.vocab_size, (B, T + 1), np.int32)
    return Batch(ids[:, :-1], ids[:, 1:])
