"""Logits in, token ids out.

Filters are functions from logits to logits, to be chained; the draw comes last. A token
that a filter rules out has the logit -inf.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from jaxllm.errors import ConfigError
from jaxllm.types import Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen.

    >>> Sampling(top_p=1.5)
    Traceback (most recent call last):
    ...
    jaxllm.errors.ConfigError: top_p must be in (0, 1], got 1.5
    """

    temperature: float = 1.0
    """Divides the logits; 0 takes the likeliest token (greedy)."""
    top_k: int | None = None
    """Draw among the k likeliest tokens only."""
    top_p: float | None = None
    """Draw among the fewest tokens whose probabilities sum to p or more."""

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ConfigError(f"temperature must be >= 0, got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(f"top_k must be >= 1, got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p must be in (0, 1], got {self.top_p}")


def keep_top_k(logits: Array, k: int) -> Array:
    """Rule out all but the k largest logits of each row; ties with the k-th stay.

    Args:
      logits: (..., V). A k beyond V keeps all.

    >>> keep_top_k(jnp.array([1.0, 3.0, 2.0]), 2).tolist()
    [-inf, 3.0, 2.0]
    """
    largest, _ = jax.lax.top_k(logits, min(k, logits.shape[-1]))
    return jnp.where(logits >= largest[..., -1:], logits, -jnp.inf)


def keep_top_p(logits: Array, p: float) -> Array:
    """Rule out the tail: keep the fewest tokens that hold a probability of p or more.

    Nucleus sampling, Holtzman et al. 2020, section 3.1. The likeliest token always
    stays.

    Args:
      logits: (..., V).

    >>> kept = keep_top_p(jnp.log(jnp.array([0.5, 0.2, 0.3])), 0.6)
    >>> jnp.isfinite(kept).tolist()
    [True, False, True]
    """
    falling = jnp.flip(jnp.sort(logits, axis=-1), axis=-1)
    probabilities = jax.nn.softmax(falling, axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    threshold = jnp.where(before < p, falling, jnp.inf).min(axis=-1, keepdims=True)
    return jnp.where(logits >= threshold, logits, -jnp.inf)


def filtered(logits: Array, sampling: Sampling) -> Array:
    """Apply temperature (> 0), top-k and top-p, in that order."""
    logits = logits / sampling.temperature
    if sampling.top_k is not None:
        logits = keep_top_k(logits, sampling.top_k)
    if sampling.top_p is not None:
        logits = keep_top_p(logits, sampling.top_p)
    return logits


def sample(logits: Array, sampling: Sampling, noise: Array) -> Array:
    """Choose one token per row, each row with randomness of its own.

    A draw is the largest of filtered logits plus Gumbel noise (Maddison et al. 2014,
    section 2), so randomness that was recorded elsewhere can stand in for a key.

    Args:
      logits: (B, V).
      noise: (B,) random keys, or the (B, V) Gumbel noise itself. A row's token depends
        on its own noise and logits only; temperature 0 needs none.

    Returns:
      (B,) int32.

    >>> logits = jnp.array([[0.1, 0.9]])
    >>> sample(logits, Sampling(), jnp.array([[1.0, 0.0]])).tolist()
    [0]
    """
    if sampling.temperature > 0:
        if jnp.issubdtype(noise.dtype, jax.dtypes.prng_key):
            draw = functools.partial(jax.random.gumbel, shape=logits.shape[1:])
            noise = jax.vmap(draw)(noise)
        logits = filtered(logits, sampling) + noise
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)
