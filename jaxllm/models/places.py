"""Rows of tokens in, where each token stands and which others it sees out."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxllm.config import GPTConfig
from jaxllm.types import Array


class Places(NamedTuple):
    """Where the T tokens of each row stand. A pytree, the same for every layer."""

    position: Array  # (B or 1, T) int32, in the token's own text
    slot: Array  # (B or 1, T) int32, in the row, behind what a cache holds
    segment: Array | None = None  # (B, T) int32, the text; None: a row is one text


def in_rows(length: int, start: Array | None = None) -> Places:
    """Place T tokens of one text per row, behind the `start` (B,) tokens before them.

    >>> in_rows(3, jnp.array([0, 5])).position.tolist()
    [[0, 1, 2], [5, 6, 7]]
    """
    slot = jnp.arange(length)[None]
    if start is not None:
        slot = start[:, None] + slot
    return Places(slot, slot)


def in_segments(segments: Array) -> Places:
    """Place the tokens of several texts per row, each text in one piece.

    Args:
      segments: (B, T) int32; tokens with the same number belong to the same text.

    >>> in_segments(jnp.array([[1, 1, 1, 2, 2, 0]])).position.tolist()
    [[0, 1, 2, 0, 1, 0]]
    """
    slot = jnp.arange(segments.shape[1])[None]
    same = segments[:, 1:] == segments[:, :-1]
    first = jnp.where(jnp.pad(same, ((0, 0), (1, 0))), 0, slot)
    return Places(slot - jax.lax.cummax(first, axis=1), slot, segments)


def visible(
    places: Places, slots: slice, cfg: GPTConfig, segments: Array | None = None
) -> Array:
    """Find out which of a row's slots each token may attend to.

    It sees itself and, of its own text, what precedes it, or everything where attention
    is not causal; of that, what is less than cfg.attention_window tokens away.

    Args:
      slots: from where to where to look: S slots.
      segments: (B, all slots), where rows hold several texts.

    Returns:
      (B or 1, 1, T, S) bool, True = may attend.

    >>> cfg = GPTConfig(attention_window=2)
    >>> segments = jnp.array([[1, 1, 1, 2]])
    >>> visible(in_segments(segments), slice(0, 4), cfg, segments)[0, 0].astype(int)
    Array([[1, 0, 0, 0],
           [1, 1, 0, 0],
           [0, 1, 1, 0],
           [0, 0, 0, 1]], dtype=int32)
    """
    distance = places.slot[:, :, None] - jnp.arange(slots.start, slots.stop)[None, None]
    mask = distance >= 0 if cfg.causal else jnp.ones_like(distance, bool)
    if cfg.attention_window is not None:
        mask &= jnp.abs(distance) < cfg.attention_window
    if places.segment is not None and segments is not None:
        mask &= places.segment[:, :, None] == segments[:, None, slots]
    return mask[:, None]
