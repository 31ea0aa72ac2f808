"""Prompts in, their most probable continuations out: beam search.

The beams of all prompts are rows of one batch, those of a prompt side by side. In each
step every beam is tried with every token, the best of a prompt's live on, and the rows
of the cache follow them.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxllm.config import GPTConfig
from jaxllm.errors import ConfigError, DivergenceError
from jaxllm.inference import decoding, generate, penalties
from jaxllm.inference import sampling as samplers
from jaxllm.inference.generate import Piece
from jaxllm.inference.penalties import History
from jaxllm.inference.settings import Sampling, Settings, make_settings
from jaxllm.inference.weights import decoding_params
from jaxllm.models import cache, gpt, packed
from jaxllm.types import Array, Params


class Beam(NamedTuple):
    """A continuation, and how good it is."""

    piece: Piece
    score: float  # log-probability / length ** length_penalty


class _Ended(NamedTuple):
    """Of each of P prompts the K best texts that have ended, the best one first."""

    tokens: Array  # (P, K, T) int32, the stop token left out
    lengths: Array  # (P, K) int32
    scores: Array  # (P, K) float32, -inf where there is no text


class _Beams(NamedTuple):
    """Of each of P prompts the K best texts that live, and those that have ended."""

    step: Array  # () int32, tokens in each beam
    cache: cache.Cache  # P x K rows
    history: History  # of as many
    tokens: Array  # (P, K, T) int32
    logprobs: Array  # (P, K) float32, the sum over a beam's tokens
    ended: _Ended


class _Search(NamedTuple):
    """What is searched for."""

    settings: Settings  # of P x K rows
    stops: Array  # (stop tokens,) int32
    length_penalty: Array  # () float32
    n: Array  # () int32, texts of each prompt
    max_new_tokens: Array  # () int32


def beam_search(
    params: Params,
    prompts: Sequence,
    cfg: GPTConfig,
    *,
    beams: int = 4,
    n: int = 1,
    max_new_tokens: int = 50,
    length_penalty: float = 1.0,
    stop_tokens: Sequence[int] = (),
    sampling: Sampling | None = None,
    overflow: Literal["error", "keep_last"] = "error",
) -> list[Any]:
    """Find the n best continuations of each prompt, the best one first.

    A text is scored by log-probability / length ** length_penalty, with its stop token,
    and the search ends when no beam that lives can become better than the n best that
    have ended. With as many beams as there are texts it is exhaustive.

    Args:
      prompts: the token ids of one prompt, or a sequence of prompts of any lengths,
        which are searched side by side.
      beams: texts of a prompt that are followed side by side.
      length_penalty: 0 takes the most probable text, which is short; 1 that with the
        most probable tokens on average.
      sampling: its penalties, biases, bans and min_new_tokens hold; nothing is drawn.

    Returns:
      n `Beam`s, fewer if there are no more texts; a list of such for several prompts.

    Raises:
      ConfigError: n is not in 1..beams, sampling forces tokens, or the window is to
        slide.
      DataError: a prompt is empty, or exceeds the context with the new tokens.
      DivergenceError: a logit is NaN or infinite.

    >>> cfg = GPTConfig(vocab_size=7, emb_dim=4, n_heads=1, n_layers=1)
    >>> params = gpt.init_params(jax.random.key(0), cfg)
    >>> found = beam_search(params, [1, 2], cfg, beams=3, n=2, max_new_tokens=4)
    >>> [beam.piece.tokens.shape for beam in found], found[0].score >= found[1].score
    ([(4,), (4,)], True)
    """
    if not 1 <= n <= beams:
        raise ConfigError(f"n must be in 1..{beams}, the beams, got {n}")
    if overflow not in ("error", "keep_last"):
        raise ConfigError(f'overflow must be "error" or "keep_last", got "{overflow}"')
    sampling = sampling or Sampling()
    if len(sampling.force):
        raise ConfigError(f"beams can't be forced, got force={list(sampling.force)}")
    rows, single = generate.as_rows(prompts)
    windows = generate.first_windows(rows, cfg, max_new_tokens, overflow)
    stops = sorted({int(token) for token in stop_tokens})
    V = cfg.vocab_size
    settings = make_settings(sampling, len(rows) * beams, V, stops)
    repeated = [row for row in rows for _ in range(beams)]
    history = samplers.make_history(settings, repeated, [*map(len, repeated)], V, 0)
    search = _Search(
        settings,
        np.array(stops, np.int32),
        np.float32(length_penalty),
        np.int32(n),
        np.int32(max_new_tokens),
    )
    params = decoding_params(params, cfg)
    filled, last = decoding.prefill(params, windows, cfg)
    longest = max(map(len, windows))
    filled = decoding.with_room(filled, cfg, longest, max_new_tokens - 1)
    room = decoding.bucket(max_new_tokens, cfg.context_length)
    search_all = decoding.compiled(_search)
    found = search_all(params, filled, last, history, search, cfg, beams, room)
    # (P, K) of each, of which the first n are wanted.
    columns = [np.asarray(leaf)[:, :n] for leaf in found]
    if np.isnan(columns[2]).any():
        raise DivergenceError(samplers.NOT_FINITE)
    texts = [_beams_of(*one) for one in zip(*columns, strict=True)]
    return texts[0] if single else texts


def _beams_of(
    tokens: np.ndarray, lengths: np.ndarray, scores: np.ndarray, stopped: np.ndarray
) -> list[Beam]:
    return [
        Beam(
            Piece(row[:length], None, "stop" if has_stopped else "length"), float(score)
        )
        for row, length, score, has_stopped in zip(
            tokens, lengths, scores, stopped, strict=True
        )
        if np.isfinite(score)
    ]


def _search(
    params: Params,
    read: cache.Cache,
    last: Array,
    history: History,
    search: _Search,
    cfg: GPTConfig,
    beams: int,
    room: int,
) -> tuple[Array, Array, Array, Array]:
    """Search behind prompts that have been read; last is (P, D), their last states.

    Returns:
      tokens (P, K, T), lengths, scores, and whether a text has ended, (P, K).
    """
    P, K = last.shape[0], beams
    own = jnp.repeat(jnp.arange(P), K)
    beginning = _Beams(
        step=jnp.int32(0),
        cache=cache.take_rows(read, own),
        history=history,
        tokens=jnp.zeros((P, K, room), jnp.int32),
        # All beams of a prompt begin alike, so only one of them counts.
        logprobs=jnp.broadcast_to(jnp.where(jnp.arange(K) == 0, 0.0, -jnp.inf), (P, K)),
        ended=_Ended(
            jnp.zeros((P, K, room), jnp.int32),
            jnp.zeros((P, K), jnp.int32),
            jnp.full((P, K), -jnp.inf),
        ),
    )

    def may_improve(state: _Beams) -> Array:
        # Log-probabilities only fall: no beam can end with a better score than this.
        penalty = search.length_penalty
        longest = jnp.where(penalty > 0, search.max_new_tokens, state.step + 1)
        bound = state.logprobs.max(axis=1) / longest**penalty
        worst = state.ended.scores[:, search.n - 1]
        # A prompt that is done goes on with the others, and finds nothing better.
        return (state.step < search.max_new_tokens) & (bound > worst).any()

    def step(state: _Beams) -> _Beams:
        tied = packed.anchored(params, jnp.minimum(state.step, 0))
        token = lax.dynamic_slice_in_dim(state.tokens, state.step - 1, 1, axis=2)
        hidden, longer = gpt.hidden_states(
            tied, token.reshape(P * K, 1), cfg, cache=state.cache
        )
        logits = gpt.unembed(tied, hidden[:, 0], cfg)
        return _extend(state._replace(cache=longer), logits, search)

    logits = gpt.unembed(params, last, cfg)
    state = _extend(beginning, logits[own], search)
    state = lax.while_loop(may_improve, step, state)
    # Beams that live at the last step are texts, too; NaN ends a search at once.
    scores = jnp.where(
        (state.step == search.max_new_tokens) | jnp.isnan(state.logprobs),
        state.logprobs / state.step**search.length_penalty,
        -jnp.inf,
    )
    lengths = jnp.full((P, K), state.step)
    both = _joined(state.ended, _Ended(state.tokens, lengths, scores))
    best, places = _best(both, K)
    return *best, places < K


def _extend(state: _Beams, logits: Array, search: _Search) -> _Beams:
    """Try every token behind every beam, and keep the best: (P x K, V) logits."""
    P, K = state.logprobs.shape
    V, stops = logits.shape[1], search.stops
    log_p = jax.nn.log_softmax(
        samplers.adjusted(logits, search.settings, state.history)
    )
    total = state.logprobs[:, :, None] + log_p.reshape(P, K, V)
    # Enough that K of them are no stop tokens.
    best, places = samplers.largest(total.reshape(P, K * V), K * (1 + len(stops)))
    beam, token = places // V, places % V
    is_stop = jnp.isin(token, stops)

    # A text that ends must be among the K best.
    ends = is_stop & (jnp.arange(best.shape[1]) < K)[None]
    length = state.step + 1
    scores = jnp.where(ends, best / length**search.length_penalty, -jnp.inf)
    lengths = jnp.full(best.shape, state.step)
    ended = _joined(state.ended, _Ended(_taken(state.tokens, beam), lengths, scores))
    ended, _ = _best(ended, K)

    logprobs, living = samplers.largest(jnp.where(is_stop, -jnp.inf, best), K)
    beam, token = _taken((beam, token), living)
    rows = (jnp.arange(P)[:, None] * K + beam).reshape(-1)
    history = penalties.take_rows(state.history, rows)
    return _Beams(
        step=length,
        cache=cache.take_rows(state.cache, rows),
        history=penalties.extend_history(history, token.reshape(-1)),
        tokens=_taken(state.tokens, beam).at[:, :, state.step].set(token),
        logprobs=logprobs,
        ended=ended,
    )


def _joined(one: _Ended, other: _Ended) -> _Ended:
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), one, other)


def _best(ended: _Ended, n: int) -> tuple[_Ended, Array]:
    """Take the n best texts of each prompt, and tell their places, (P, n)."""
    scores, places = samplers.largest(ended.scores, n)
    # Where there are fewer texts, a place comes again, with a score of -inf.
    return _taken(ended, places)._replace(scores=scores), places


def _taken(tree, places: Array):
    """Take texts of each prompt, (P, n) places, from leaves (P, K, ...)."""
    rows = jnp.arange(places.shape[0])[:, None]
    return jax.tree.map(lambda leaf: leaf[rows, places], tree)
