"""New tokens and a cache in, what they find in it and among themselves out."""

import math

import jax
import jax.numpy as jnp
from jax import lax

from jaxllm.config import GPTConfig
from jaxllm.models import positions
from jaxllm.models.cache import LayerCache, slot_positions, write_cache
from jaxllm.types import Array


def attend_cached(
    query: Array, key: Array, value: Array, cache: LayerCache, cfg: GPTConfig
) -> tuple[Array, LayerCache]:
    """Add the keys and values of new tokens to a cache, then let them attend to it.

    The same as `attention.attend` over all tokens at once.

    Args:
      query: (B, T, N, H).
      key, value: (B, T, K, H).

    Returns:
      context (B, T, N, H), and the cache, whose length is left alone.
    """
    B, T, N, H = query.shape
    K = key.shape[2]
    new_positions = cache.length[:, None] + jnp.arange(T)[None]
    cache = write_cache(cache, key, value)
    keys, values = cache.key, cache.value  # (B·K, S, H)
    S = keys.shape[1]

    # The heads of a group read the same keys: they are rows of one product.
    groups = query.reshape(B, T, K, N // K, H).transpose(0, 2, 3, 1, 4)
    scores = lax.dot_general(
        groups.reshape(B * K, -1, H),
        keys,
        (((2,), (2,)), ((0,), (0,))),
        preferred_element_type=jnp.float32,
    ).reshape(B, N, T, S) / math.sqrt(H)
    slots = slot_positions(cache, T)
    distance = new_positions[:, :, None] - slots[:, None]  # (B, T, S)
    if cfg.positions == "alibi":
        slopes = positions.alibi_slopes(N)[None, :, None, None]
        scores = scores - slopes * distance[:, None].astype(jnp.float32)
    mask = (distance >= 0) & (slots >= 0)[:, None]
    if cfg.attention_window is not None:
        mask &= distance < cfg.attention_window
    # A token sees itself, so no row is empty, and -inf leaves no NaN.
    weights = jax.nn.softmax(jnp.where(mask[:, None], scores, -jnp.inf), axis=-1)
    context = lax.dot_general(
        weights.reshape(B * K, -1, S).astype(values.dtype),
        values,
        (((2,), (1,)), ((0,), (0,))),
    ).reshape(B, K, N // K, T, H)
    return context.transpose(0, 3, 1, 2, 4).reshape(B, T, N, H), cache
