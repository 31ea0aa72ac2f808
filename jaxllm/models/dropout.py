"""Values in, values with some set to zero out.

Randomness comes in as an argument, in one of three forms: None for no dropout, a random
key, or the masks themselves, so that a caller who has masks from elsewhere (a test, a
recorded run, another generator) can hand them over.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxllm.types import Array

# None, a random key, a boolean mask (True = keep), or nested dicts of such masks.
Noise = Any


def dropout(x: Array, rate: float, noise: Noise) -> Array:
    """Zero values with probability `rate` and scale the others by 1 / (1 - rate).

    Args:
      x: any shape.
      noise: None, a random key, or a boolean mask of x's shape, True = keep.

    >>> dropout(jnp.array([1.0, 2.0, 3.0]), 0.5, jnp.array([True, False, True]))
    Array([2., 0., 6.], dtype=float32)
    """
    if noise is None or rate == 0:
        return x
    keep = noise
    if not is_mask(noise):
        keep = jax.random.bernoulli(noise, 1 - rate, x.shape)
    return jnp.where(keep, x / (1 - rate), 0)


def is_mask(noise: Noise) -> bool:
    return jnp.issubdtype(noise.dtype, jnp.bool_)


def branch(noise: Noise, name: str, names: tuple[str, ...]) -> Noise:
    """Give the part of `noise` that belongs to `name`, one of `names`.

    A key is folded with the name's place, so each name has a stream of its own.
    """
    if noise is None or isinstance(noise, Mapping):
        return noise and noise[name]
    return jax.random.fold_in(noise, names.index(name))


def per_layer(noise: Noise, n_layers: int) -> Noise:
    """Give noise a leading layer axis: a key for each; masks have it already."""
    if noise is None or isinstance(noise, Mapping):
        return noise
    return jax.random.split(noise, n_layers)
