"""The keys and values of tokens read before, so that they need not be read again."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxllm.config import GPTConfig
from jaxllm.types import Array


class Cache(NamedTuple):
    """The keys and values of every token read so far.

    Slot s of a row holds the token at position s, and a query at position p sees the
    slots up to p. So rows of different lengths need no shifting: what padding wrote
    beyond a row's length is overwritten before anything can see it.
    """

    key: Array  # (L, B, N, S, H)
    value: Array  # (L, B, N, S, H)
    length: Array  # (B,) int32, tokens in each row


def init_cache(cfg: GPTConfig, batch_size: int, max_length: int | None = None) -> Cache:
    """Make an empty cache of `max_length` slots, by default the context length.

    >>> cfg = GPTConfig(emb_dim=8, n_heads=2, n_layers=3, context_length=16)
    >>> init_cache(cfg, batch_size=5).key.shape
    (3, 5, 2, 16, 4)
    """
    slots = cfg.context_length if max_length is None else max_length
    shape = (cfg.n_layers, batch_size, cfg.n_heads, slots, cfg.head_dim)
    return Cache(
        jnp.zeros(shape, cfg.dtype),
        jnp.zeros(shape, cfg.dtype),
        jnp.zeros(batch_size, jnp.int32),
    )


def write_cache(cache: Cache, layer: Array, key: Array, value: Array) -> Cache:
    """Write the keys and values of T tokens behind what each row holds already.

    Args:
      layer: () int32.
      key, value: (B, T, N, H).

    The length is left alone: it grows once per forward pass, not once per layer.
    """

    def put(slots: Array, tokens: Array, start: Array) -> Array:
        # (L, N, S, H), (T, N, H), (): one row of the batch
        return lax.dynamic_update_slice(
            slots, tokens.swapaxes(0, 1)[None].astype(slots.dtype), (layer, 0, start, 0)
        )

    put_rows = jax.vmap(put, in_axes=(1, 0, 0), out_axes=1)
    return cache._replace(
        key=put_rows(cache.key, key, cache.length),
        value=put_rows(cache.value, value, cache.length),
    )
