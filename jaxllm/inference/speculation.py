"""Windows of text in, the greedy tokens behind them out, several per step.

Text repeats itself. What followed the last two tokens before is a guess of what follows
now (Saxena 2023, prompt lookup); reading the guesses costs little more than reading one
token, since the weights are read once for all. Only guesses that greedy decoding would
have drawn are kept, so the text is the same: in float32, and in fewer bits up to tokens
that all but tie, since a product with more vectors rounds differently.
"""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxllm.inference import decoding, sampling
from jaxllm.inference.decoding import Draws, Request
from jaxllm.models import cache, gpt, packed
from jaxllm.types import Array, Params

# Steps per dispatch.
_STEPS = 8


def speculate_windows(
    params: Params, windows: list[np.ndarray], n: int, request: Request
) -> Iterator[Draws]:
    """Yield (B, 1), (B, some), ... tokens up to n, as greedy decoding draws them."""
    cfg, n_guesses = request.cfg, request.lookahead
    lengths = np.array([len(window) for window in windows], np.int32)
    filled, last = decoding.prefill(params, windows, cfg)
    token = decoding.compiled(_first)(params, last, request)
    text = np.zeros((len(windows), cfg.context_length + n_guesses + 2), np.int32)
    for row, window in zip(text, windows, strict=True):
        row[: len(window)] = window
    text = jnp.asarray(text).at[np.arange(len(windows)), lengths].set(token)
    state = _Speculating(filled, text, jnp.asarray(lengths + 1))
    yield Draws(np.asarray(token)[:, None], None)
    done = 1
    while done < n:
        longest = int(state.length.max())
        filled = decoding.with_room(state.cache, cfg, longest, n_guesses + 1)
        steps = min(_STEPS, decoding.room(filled, cfg, longest) // (n_guesses + 1))
        state = decoding.compiled(_speculate)(
            params, state._replace(cache=filled), steps, lengths + n, request
        )
        read = np.asarray(state.length) - lengths
        text = np.asarray(state.text)
        if (ready := read.min()) > done:
            pairs = zip(text, lengths, strict=True)
            new = [row[start + done : start + ready] for row, start in pairs]
            yield Draws(np.stack(new), None)
            done = ready


def look_up(text: Array, length: Array, n: int) -> Array:
    """Guess n tokens: what followed the last two tokens when they last stood together.

    Args:
      text: (C,) int32, of which `length` tokens count; n more of any value follow.

    >>> look_up(jnp.array([5, 6, 7, 8, 5, 6, 0, 0, 0]), jnp.array(6), 3).tolist()
    [7, 8, 5]
    """
    first, second = text[length - 2], text[length - 1]
    place = jnp.arange(1, text.shape[0])
    same = (text[:-1] == first) & (text[1:] == second) & (place < length - 1)
    found = jnp.max(jnp.where(same, place, 0))  # of the second token; 0: nowhere
    return lax.dynamic_slice(text, (found + 1,), (n,))


class _Speculating(NamedTuple):
    cache: cache.Cache
    text: Array  # (B, C + guesses + 2) int32
    length: Array  # (B,) int32, tokens of the text; all but the last are in the cache


def _first(params, hidden: Array, request: Request) -> Array:
    """Find the likeliest token behind what was read, (B,)."""
    return _likeliest(params, hidden[:, None], request)[:, 0]


def _speculate(
    params, state: _Speculating, steps, goal, request: Request
) -> _Speculating:
    """Take steps of 1 to n_guesses + 1 tokens each, for each row up to its goal."""
    B, n_guesses = state.text.shape[0], request.lookahead
    rows = jnp.arange(B)

    def step(i: Array, state: _Speculating) -> _Speculating:
        tied = packed.anchored(params, jnp.minimum(i, 0))
        guesses = jax.vmap(look_up, in_axes=(0, 0, None))(
            state.text, state.length, n_guesses
        )
        token = state.text[rows, state.length - 1]
        tokens = jnp.concatenate([token[:, None], guesses], axis=1)
        hidden, extended = gpt.hidden_states(
            tied, tokens, request.cfg, cache=state.cache
        )
        best = _likeliest(tied, hidden, request)  # (B, n_guesses + 1)
        right = jnp.cumprod(best[:, :-1] == guesses, axis=1).sum(axis=1)
        new = jnp.minimum(right + 1, goal - state.length)
        places = state.length[:, None] + jnp.arange(n_guesses + 1)[None]
        # What is wrong lies beyond the length, where it is overwritten.
        text = state.text.at[rows[:, None], places].set(best, mode="drop")
        return _Speculating(
            extended._replace(length=state.cache.length + new), text, state.length + new
        )

    return lax.fori_loop(0, steps, step, state)


def _likeliest(params, hidden: Array, request: Request) -> Array:
    """(B, T, D) to (B, T)."""
    logits = gpt.unembed(params, hidden, request.cfg)
    bias = request.settings.bias
    best = logits if bias is None else logits + bias[:, None]
    return sampling.where_finite(jnp.argmax(best, axis=-1), logits)
