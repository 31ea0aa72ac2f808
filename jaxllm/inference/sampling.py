"""Logits in, token ids out.

Penalties, biases and bans change the logits, filters rule tokens out, and the draw
comes last.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxllm.errors import ConfigError
from jaxllm.inference import filters, penalties
from jaxllm.inference.penalties import History
from jaxllm.inference.settings import Sampling, Settings, make_settings
from jaxllm.types import Array

NOT_FINITE = "logits must be finite, got NaN or infinity: look at the parameters"


class Logprobs(NamedTuple):
    """Log-probabilities, as the model gives them before anything is asked of it."""

    chosen: Array  # (B,) float32, of the token that was chosen
    top: Array  # (B, n) float32, of the n likeliest tokens
    top_tokens: Array  # (B, n) int32, these tokens


def make_history(
    settings: Settings,
    rows: Sequence[np.ndarray],
    prompt_lengths: Sequence[int],
    vocab_size: int,
    drawn: int,
) -> History:
    """Count of the text so far what these settings need; see `count_history`."""
    drawn_before = settings.presence_penalty, settings.frequency_penalty
    return penalties.count_history(
        rows,
        prompt_lengths,
        vocab_size,
        drawn,
        seen=settings.repetition_penalty is not None,
        counts=any(penalty is not None for penalty in drawn_before),
    )


def adjusted(logits: Array, settings: Settings, history: History) -> Array:
    """Apply penalties, biases, bans and min_new_tokens to (B, V) logits."""
    s = settings
    if s.repetition_penalty is not None:
        logits = penalties.penalise_repetition(
            logits, history.seen, s.repetition_penalty
        )
    if s.presence_penalty is not None:
        logits = penalties.penalise_presence(logits, history.counts, s.presence_penalty)
    if s.frequency_penalty is not None:
        logits = penalties.penalise_frequency(
            logits, history.counts, s.frequency_penalty
        )
    if s.bias is not None:
        logits = logits + s.bias
    if s.min_new_tokens is not None:
        too_early = (history.drawn < s.min_new_tokens)[:, None]
        logits = jnp.where(too_early & s.stops, -jnp.inf, logits)
    return logits


def filtered(logits: Array, sampling: Sampling | Settings) -> Array:
    """Apply temperature, top-k, top-p, min-p, typical-p to (..., V), in that order."""
    s = sampling
    if s.temperature is not None:
        logits = filters.divide_by_temperature(logits, s.temperature)
    if s.top_k is not None:
        logits = filters.keep_top_k(logits, s.top_k)
    if s.top_p is not None:
        logits = filters.keep_top_p(logits, s.top_p)
    if s.min_p is not None:
        logits = filters.keep_min_p(logits, s.min_p)
    if s.typical_p is not None:
        logits = filters.keep_typical(logits, s.typical_p)
    return logits


def draw(
    logits: Array, settings: Settings, history: History, noise: Array | None
) -> tuple[Array, History]:
    """Choose one token per row, and count it.

    A draw is the largest of filtered logits plus Gumbel noise (Maddison et al. 2014,
    section 2), so randomness that was recorded elsewhere can stand in for a key.

    Args:
      logits: (B, V).
      noise: (B,) random keys, or the (B, V) Gumbel noise itself. A row's token depends
        on its own noise, settings and logits only; greedy rows need none.

    Returns:
      (B,) int32, -1 where a row of logits is not finite, and the history with it.
    """
    given = logits
    logits = adjusted(logits, settings, history)
    if settings.temperature is not None:
        draws = (settings.temperature > 0)[:, None]
        noise = _gumbel(noise, logits.shape[1])
        logits = jnp.where(draws, filtered(logits, settings) + noise, logits)
    tokens = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    if settings.force is not None:
        place = jnp.minimum(history.drawn, settings.force.shape[1] - 1)
        forced = jnp.take(settings.force, place, axis=1)
        tokens = jnp.where(forced >= 0, forced, tokens)
    tokens = where_finite(tokens, given)
    return tokens, penalties.extend_history(history, tokens)


def where_finite(tokens: Array, logits: Array) -> Array:
    """Keep tokens (...,) whose logits (..., V) have a finite maximum; others are -1.

    So the host finds NaN among what it reads anyway.

    >>> where_finite(jnp.array([0, 1]), jnp.array([[1.0, 0.0], [0.0, jnp.nan]]))
    Array([ 0, -1], dtype=int32)
    """
    return jnp.where(jnp.isfinite(logits.max(axis=-1)), tokens, -1)


def typed_keys(key: Any) -> Array:
    """Give keys of the old form, as jax.random.PRNGKey makes them, their type."""
    if not hasattr(key, "dtype"):
        raise ConfigError(f"key must be like jax.random.key(0), or noise, got {key!r}")
    if jnp.issubdtype(key.dtype, jnp.uint32):
        return jax.random.wrap_key_data(key)
    return key


def are_keys(noise: Array) -> bool:
    """Tell random keys from Gumbel noise."""
    return jnp.issubdtype(noise.dtype, jax.dtypes.prng_key)


def sample(logits: Array, sampling: Sampling, noise: Array | None = None) -> Array:
    """Choose the first token of each row of (B, V) logits.

    Returns:
      (B,) int32; -1 where a row of logits is not finite.

    Args:
      noise: one random key, a key of each row, or Gumbel noise (B, V), as for `draw`; a
        temperature of 0 needs none.

    >>> logits = jnp.array([[0.1, 0.9]])
    >>> sample(logits, Sampling(), jnp.array([[1.0, 0.0]])).tolist()
    [0]
    """
    B, V = logits.shape
    settings = make_settings(sampling, B, V)
    if noise is None:
        if settings.temperature is not None:
            raise ConfigError("a temperature above 0 draws at random: give a key")
    else:
        noise = _row_noise(typed_keys(noise), B, V)
    empty = [np.zeros(0, np.int32)] * B
    history = make_history(settings, empty, [0] * B, V, 0)
    return _draw(logits, settings, history, noise)[0]


_draw = jax.jit(draw)  # Un-jitted callers would else compile it step by step.


def log_probabilities(logits: Array, tokens: Array, n: int) -> Logprobs:
    """Look up the log-probabilities of (B,) tokens and of the n likeliest ones.

    >>> logits = jnp.log(jnp.array([[0.5, 0.2, 0.3]]))
    >>> found = log_probabilities(logits, jnp.array([1]), 2)
    >>> f"{jnp.exp(found.chosen[0]):.2f}", found.top_tokens.tolist()
    ('0.20', [[0, 2]])
    """
    log_p = jax.nn.log_softmax(logits, axis=-1)
    chosen = jnp.take_along_axis(log_p, tokens[:, None], axis=1)[:, 0]
    return Logprobs(chosen, *largest(log_p, n))


@functools.partial(jax.jit, static_argnames="n")
def largest(values: Array, n: int) -> tuple[Array, Array]:
    """Find the n largest of each row of (B, V), falling, and where they are: (B, n).

    Equal ones stand in the order of their places, as in `lax.top_k`. That sorts the
    whole row on a CPU: 10 ms for GPT-2's vocabulary, where a few maxima take 0.1 each.
    """
    rows = jnp.arange(values.shape[0])

    def take(left: Array, _: None) -> tuple[Array, tuple[Array, Array]]:
        place = jnp.argmax(left, axis=1).astype(jnp.int32)
        return left.at[rows, place].set(-jnp.inf), (left[rows, place], place)

    _, (found, places) = lax.scan(take, values, None, length=n)
    return found.T, places.T


def _row_noise(noise: Array, n_rows: int, vocab_size: int) -> Array:
    """Give a key of each row, or the noise of each, if it has the shape of noise."""
    if not noise.ndim:
        noise = jax.random.split(noise, n_rows)
    shape = (n_rows,) if are_keys(noise) else (n_rows, vocab_size)
    if noise.shape != shape:
        raise ConfigError(f"noise of these rows must be {shape}, got {noise.shape}")
    return noise


def _gumbel(noise: Array, vocab_size: int) -> Array:
    if not are_keys(noise):
        return noise
    return jax.vmap(functools.partial(jax.random.gumbel, shape=(vocab_size,)))(noise)
