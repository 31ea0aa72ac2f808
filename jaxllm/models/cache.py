"""The keys and values of tokens read before, so that they need not be read again."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp

from jaxllm.config import GPTConfig
from jaxllm.types import Array


class Cache(NamedTuple):
    """The keys and values of the tokens read so far.

    A row's token at position p is in slot p, or p modulo the slots where a window lets
    them be few. A query sees positions up to its own. So rows of different lengths need
    no shifting: what padding wrote beyond a row's length is overwritten before anything
    can see it.

    An array for each layer, rows and heads on one axis: so XLA fills it in place, and
    multiplies it as it is.
    """

    key: tuple[Array, ...]  # L times (B x K, S, H)
    value: tuple[Array, ...]  # L times (B x K, S, H)
    length: Array  # (B,) int32, tokens in each row

    def layer(self, i: int) -> "LayerCache":
        """Give the part of one layer."""
        return LayerCache(self.key[i], self.value[i], self.length)


class LayerCache(NamedTuple):
    """What a block reads and writes of a cache."""

    key: Array  # (B x K, S, H)
    value: Array  # (B x K, S, H)
    length: Array  # (B,) int32


def joined_layers(layers: Sequence[LayerCache]) -> Cache:
    """Put the parts of all layers together."""
    keys, values, lengths = zip(*layers, strict=True)
    return Cache(keys, values, lengths[0])


def init_cache(
    cfg: GPTConfig, batch_size: int, max_length: int | None = None, *, widest: int = 0
) -> Cache:
    """Make an empty cache for `max_length` tokens, by default the context length.

    Args:
      widest: if the model looks through a window: the most tokens that are read at a
        time. Then there are no more slots than the window and these need.

    >>> cfg = GPTConfig(emb_dim=8, n_heads=2, n_layers=3, context_length=16)
    >>> [key.shape for key in init_cache(cfg, batch_size=5).key]
    [(10, 16, 4), (10, 16, 4), (10, 16, 4)]
    """
    slots = cfg.context_length if max_length is None else max_length
    if cfg.attention_window is not None and widest:
        slots = min(slots, ring_slots(cfg.attention_window, widest))
    shape = (batch_size * cfg.kv_heads, slots, cfg.head_dim)
    return Cache(
        tuple(jnp.zeros(shape, cfg.dtype) for _ in range(cfg.n_layers)),
        tuple(jnp.zeros(shape, cfg.dtype) for _ in range(cfg.n_layers)),
        jnp.zeros(batch_size, jnp.int32),
    )


def take_rows(cache: Cache, rows: Array) -> Cache:
    """Take rows of the batch, in any order and as often as they are named."""
    B = cache.length.shape[0]

    def take(layers: tuple[Array, ...]) -> tuple[Array, ...]:
        return tuple(
            layer.reshape(B, -1, *layer.shape[1:])[rows].reshape(-1, *layer.shape[1:])
            for layer in layers
        )

    return Cache(take(cache.key), take(cache.value), cache.length[rows])


def ring_slots(window: int, widest: int) -> int:
    """Count the slots with which no token overwrites what it or another still sees.

    With `widest` tokens at a time, the first of them looks back over window - 1 more.

    >>> ring_slots(window=4, widest=1)
    4
    """
    return window + widest - 1


def grow_cache(cache: Cache, slots: int) -> Cache:
    """Add empty slots; not where positions have begun to wrap around."""
    more = slots - cache.key[0].shape[1]

    def grow(layers: tuple[Array, ...]) -> tuple[Array, ...]:
        return tuple(jnp.pad(layer, ((0, 0), (0, more), (0, 0))) for layer in layers)

    return cache._replace(key=grow(cache.key), value=grow(cache.value))


def write_cache(cache: LayerCache, key: Array, value: Array) -> LayerCache:
    """Write the keys and values of T tokens behind what each row holds already.

    Args:
      key, value: (B, T, K, H).

    The length is left alone: it grows once per forward pass, not once per layer.
    """
    B, T, K, H = key.shape
    row = jnp.arange(B)[:, None]
    position = cache.length[:, None] + jnp.arange(T)[None]

    def write(slots: Array, tokens: Array) -> Array:
        S = slots.shape[1]
        rows = slots.reshape(B, K, S, H)
        tokens = tokens.astype(slots.dtype)
        rows = rows.at[row, :, position % S].set(tokens, mode="promise_in_bounds")
        return rows.reshape(B * K, S, H)

    return cache._replace(key=write(cache.key, key), value=write(cache.value, value))


def slot_positions(cache: LayerCache, n_new: int) -> Array:
    """Tell the position of what each slot holds once n_new tokens are written.

    Returns:
      (B, S) int32; negative where a slot is empty.

    >>> row = jnp.zeros((1, 4, 1))
    >>> slot_positions(LayerCache(row, row, jnp.array([5])), n_new=1).tolist()
    [[4, 5, 2, 3]]
    """
    S = cache.key.shape[1]
    last = cache.length[:, None] + n_new - 1
    return last - (last - jnp.arange(S)[None]) % S
