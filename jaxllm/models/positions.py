"""Positions in; what tells the model the order of tokens out.

Learned and sinusoidal positions are vectors added to the token embeddings, rotary
positions turn queries and keys, ALiBi adds a bias to the attention scores.
"""

import math

import jax.numpy as jnp
import numpy as np

from jaxllm.types import Array


def sinusoidal_table(length: int, emb_dim: int) -> np.ndarray:
    """Tabulate the sinusoids of Vaswani et al. 2017, section 3.5.

    Returns:
      (length, emb_dim) float32; even columns hold sines, odd columns cosines, with
      wavelengths from 2 pi to 10,000 x 2 pi.

    >>> print(sinusoidal_table(2, 4).round(3))
    [[0.    1.    0.    1.   ]
     [0.841 0.54  0.01  1.   ]]
    """
    columns = np.arange(0, emb_dim, 2)
    angles = np.arange(length)[:, None] / 10_000 ** (columns / emb_dim)
    table = np.zeros((length, emb_dim), np.float32)
    table[:, 0::2] = np.sin(angles)
    table[:, 1::2] = np.cos(angles)[:, : emb_dim // 2]
    return table


def rotate(x: Array, positions: Array) -> Array:
    """Turn each pair of features by an angle that grows with the position.

    Rotary positions, Su et al. 2021, equation 34, with feature i paired with feature
    i + H/2. The product of a rotated query and key depends on their distance only.

    Args:
      x: (B, T, N, H) queries or keys, H even.
      positions: (B or 1, T) integers.

    >>> turned = rotate(jnp.ones((1, 2, 1, 2)), jnp.array([[0, 1]]))
    >>> print(np.asarray(turned)[0, :, 0].round(3))
    [[ 1.     1.   ]
     [-0.301  1.382]]
    """
    H = x.shape[-1]
    frequencies = np.float32(10_000) ** (-np.arange(0, H, 2, dtype=np.float32) / H)
    where = positions[:, :, None, None].astype(jnp.float32)
    angles = where * frequencies[None, None, None]
    cos, sin = jnp.cos(angles), jnp.sin(angles)  # (B or 1, T, 1, H/2)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = (first * cos - second * sin, second * cos + first * sin)
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)


def alibi_slopes(n_heads: int) -> np.ndarray:
    """Give each head its slope, Press et al. 2022, section 3 and footnote 5.

    For a power of two, 2^(-8/n), 2^(-16/n), ...; otherwise the slopes of the next
    lower power, then every other slope of the next higher one.

    >>> alibi_slopes(8)[:3].tolist()
    [0.5, 0.25, 0.125]
    """

    def geometric(n: int) -> list[float]:
        return [2.0 ** (-8 * (i + 1) / n) for i in range(n)]

    lower = 2 ** math.floor(math.log2(n_heads))
    slopes = geometric(lower) + geometric(2 * lower)[0::2][: n_heads - lower]
    return np.array(slopes, np.float32)


def alibi_bias(query_positions: Array, key_positions: Array, n_heads: int) -> Array:
    """Penalise distance: -slope x |query position - key position| per head.

    Args:
      query_positions: (B or 1, T) integers.
      key_positions: (S,) integers.

    Returns:
      (B or 1, N, T, S) float32, to be added to the scores.

    >>> alibi_bias(jnp.array([[2]]), jnp.arange(3), 1)[0, 0, 0].tolist()
    [-0.0078125, -0.00390625, -0.0]
    """
    distance = jnp.abs(query_positions[:, :, None] - key_positions[None, None])
    slopes = alibi_slopes(n_heads)[None, :, None, None]
    return -slopes * distance[:, None].astype(jnp.float32)
