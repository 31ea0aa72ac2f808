"""Logits and the tokens so far in, logits out: what was said is less likely again.

The past is a `History`, counted in arrays of fixed shapes, so that it can live in a
compiled loop; what no row asks for is None there and costs nothing.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxllm.types import Array


class History(NamedTuple):
    """What the rows of a batch have said so far."""

    drawn: Array  # () int32, tokens drawn for each row since its prompt
    seen: Array | None  # (B, V) bool: in the prompt, or behind it
    counts: Array | None  # (B, V) int32: times that a token was drawn


def count_history(
    rows: Sequence[np.ndarray],
    prompt_lengths: Sequence[int],
    vocab_size: int,
    drawn: int,
    *,
    seen: bool,
    counts: bool,
) -> History:
    """Count the tokens of each row, a prompt and what was drawn behind it.

    >>> row = np.array([3, 1, 1])
    >>> history = count_history([row], [2], 4, 1, seen=True, counts=True)
    >>> history.seen.tolist(), history.counts.tolist()
    ([[False, True, False, True]], [[0, 1, 0, 0]])
    """

    def count(parts) -> np.ndarray:
        return np.stack([np.bincount(part, minlength=vocab_size) for part in parts])

    new = [row[n:] for row, n in zip(rows, prompt_lengths, strict=True)]
    return History(
        np.int32(drawn),
        count(rows) > 0 if seen else None,
        count(new).astype(np.int32) if counts else None,
    )


def extend_history(history: History, tokens: Array) -> History:
    """Count the token drawn for each row; (B,) int32."""
    rows = jnp.arange(tokens.shape[0])
    seen, counts = history.seen, history.counts
    return History(
        history.drawn + 1,
        None if seen is None else jnp.asarray(seen).at[rows, tokens].set(True),
        None if counts is None else jnp.asarray(counts).at[rows, tokens].add(1),
    )


def take_rows(history: History, rows: Array) -> History:
    """Take rows of the batch, in any order and as often as they are named."""
    seen, counts = history.seen, history.counts
    return History(
        history.drawn,
        None if seen is None else seen[rows],
        None if counts is None else counts[rows],
    )


def penalise_repetition(logits: Array, seen: Array, penalty: Array) -> Array:
    """Divide positive logits of seen tokens by the penalty, multiply negative ones.

    Keskar et al. 2019 (CTRL), section 4.1, in the form for logits of either sign that
    is in use since.

    Args:
      logits, seen: (B, V).
      penalty: (B,), > 1 against repetition.

    >>> logits, seen = jnp.array([[4.0, -4.0, 4.0]]), jnp.array([[True, True, False]])
    >>> penalise_repetition(logits, seen, jnp.array([2.0])).tolist()
    [[2.0, -8.0, 4.0]]
    """
    factor = penalty[:, None]
    weaker = jnp.where(logits > 0, logits / factor, logits * factor)
    return jnp.where(seen, weaker, logits)


def penalise_presence(logits: Array, counts: Array, penalty: Array) -> Array:
    """Take the penalty off the logits of tokens that were drawn before.

    Args:
      logits, counts: (B, V).
      penalty: (B,).
    """
    return logits - penalty[:, None] * (counts > 0)


def penalise_frequency(logits: Array, counts: Array, penalty: Array) -> Array:
    """Take the penalty off the logits of tokens as often as they were drawn before.

    Args:
      logits, counts: (B, V).
      penalty: (B,).

    >>> counts = jnp.array([[0, 1, 2]])
    >>> penalise_frequency(jnp.zeros((1, 3)), counts, jnp.array([0.5])).tolist()
    [[0.0, -0.5, -1.0]]
    """
    return logits - penalty[:, None] * counts
