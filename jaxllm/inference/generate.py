"""Parameters and prompts in, the tokens that follow out.

A prompt is read once into the cache (prefill); then one compiled loop feeds each token
back (decode), several per call, so the host is asked only now and then. Widths are
rounded up to powers of two: few compilations serve all lengths.
"""

import codecs
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.config import GPTConfig
from jaxllm.data.tokenizers import Tokenizer
from jaxllm.errors import ConfigError, DataError
from jaxllm.inference.sampling import Sampling, sample
from jaxllm.models import cache, gpt
from jaxllm.types import Array, Params

Overflow = Literal["error", "slide"]

# Tokens per dispatch of the decode loop: enough to hide the host, few enough to stream.
_CHUNK = 16


def generate(
    params: Params,
    prompts: Sequence,
    cfg: GPTConfig,
    *,
    max_new_tokens: int = 50,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    stop_tokens: Sequence[int] = (),
    overflow: Overflow = "error",
    key: Array | None = None,
) -> np.ndarray | list[np.ndarray]:
    """Continue prompts, token by token.

    Args:
      prompts: the token ids of one prompt, or a sequence of prompts of any lengths.
      max_new_tokens: tokens to add at most.
      temperature: 0 is greedy and needs no key.
      top_k, top_p: see `Sampling`.
      stop_tokens: ids that end a row; they are left out of the result.
      overflow: what to do where prompt and new tokens exceed the context length:
        "error" refuses; "slide" forgets all but the last half context of a row that
        has outgrown it, reads that again and goes on.
      key: one key, which each row folds with its place; a key per row; or Gumbel noise
        (max_new_tokens, B, V), as `sample` takes it.

    Returns:
      The prompt and what follows it, int32; a list of such for several prompts.

    >>> cfg = GPTConfig(vocab_size=7, emb_dim=4, n_heads=1, n_layers=1)
    >>> params = gpt.init_params(jax.random.key(0), cfg)
    >>> generate(params, [1, 2], cfg, max_new_tokens=3, temperature=0).shape
    (5,)
    """
    rows, single = _as_rows(prompts)
    pieces = stream(
        params,
        rows,
        cfg,
        max_new_tokens=max_new_tokens,
        sampling=Sampling(temperature=temperature, top_k=top_k, top_p=top_p),
        stop_tokens=stop_tokens,
        overflow=overflow,
        key=key,
    )
    for piece in pieces:
        rows = [np.concatenate(pair) for pair in zip(rows, piece, strict=True)]
    return rows[0] if single else rows


def stream(
    params: Params,
    prompts: Sequence,
    cfg: GPTConfig,
    *,
    max_new_tokens: int,
    sampling: Sampling,
    stop_tokens: Sequence[int] = (),
    overflow: Overflow = "error",
    key: Array | None = None,
) -> Iterator[list[np.ndarray]]:
    """Yield the new tokens of each row as they come; arguments as for `generate`.

    Each item has one int32 array per row, empty for rows that have ended. The first
    item has one token per row.
    """
    rows, _ = _as_rows(prompts)
    _check(rows, cfg, max_new_tokens, overflow)
    keys = _row_keys(key, sampling, len(rows))
    stop_tokens = tuple(int(token) for token in stop_tokens)
    ended = np.zeros(len(rows), bool)
    left = max_new_tokens
    while left and not ended.all():
        rows = [_window(row, cfg.context_length) for row in rows]
        room = cfg.context_length - max(map(len, rows))
        for tokens in _decode_windows(
            params,
            rows,
            cfg,
            sampling,
            keys,
            max_new_tokens - left,
            min(left, room + 1),
        ):
            piece = []
            for i, row_tokens in enumerate(tokens):
                kept, stopped = _until_stop(row_tokens, stop_tokens)
                piece.append(kept[:0] if ended[i] else kept)
                ended[i] |= stopped
            rows = [np.concatenate(pair) for pair in zip(rows, piece, strict=True)]
            left -= tokens.shape[1]
            yield piece
            if ended.all():
                break


def text_of(tokens: Iterable[int], tokenizer: Tokenizer) -> Iterator[str]:
    """Decode tokens as they come into text of whole characters.

    A token may end inside a character; its bytes wait for the next one. Bytes that are
    no text become U+FFFD.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for token in tokens:
        if text := decoder.decode(tokenizer.token_bytes(int(token))):
            yield text
    if text := decoder.decode(b"", final=True):
        yield text


class _Decoding(NamedTuple):
    cache: cache.Cache
    token: Array  # (B,) int32, drawn and not yet read
    drawn: Array  # () int32, tokens drawn for each row since its prompt


def _decode_windows(
    params: Params,
    windows: list[np.ndarray],
    cfg: GPTConfig,
    sampling: Sampling,
    keys: Array,
    drawn: int,
    n: int,
) -> Iterator[np.ndarray]:
    """Prefill, then yield (B, 1), (B, _CHUNK), ... tokens until there are n of them."""
    lengths = np.array([len(window) for window in windows], np.int32)
    width = _bucket(lengths.max(), cfg.context_length)
    slots = _bucket(lengths.max() + n - 1, cfg.context_length)
    prompts = np.zeros((len(windows), width), np.int32)
    for row, window in zip(prompts, windows, strict=True):
        row[: len(window)] = window
    state = _prefill(params, prompts, lengths, drawn, keys, cfg, sampling, slots)
    yield np.asarray(state.token)[:, None]
    left = n - 1
    while left:
        step = min(left, _CHUNK)
        state, tokens = _decode(params, state, step, keys, cfg, sampling)
        yield np.asarray(tokens)[:, :step]
        left -= step


@functools.partial(jax.jit, static_argnames=("cfg", "sampling", "slots"))
def _prefill(params, prompts, lengths, drawn, keys, cfg, sampling, slots) -> _Decoding:
    B = prompts.shape[0]
    empty = cache.init_cache(cfg, B, slots)
    hidden, filled = gpt.hidden_states(params, prompts, cfg, cache=empty)
    last = jnp.take_along_axis(hidden, lengths[:, None, None] - 1, axis=1)[:, 0]
    token = _draw(params, last, drawn, keys, cfg, sampling)
    return _Decoding(filled._replace(length=lengths), token, drawn + 1)


@functools.partial(
    jax.jit, static_argnames=("cfg", "sampling"), donate_argnames=("state",)
)
def _decode(params, state, n, keys, cfg, sampling) -> tuple[_Decoding, Array]:
    B = state.token.shape[0]

    def step(i, carry):
        state, tokens = carry
        hidden, extended = gpt.hidden_states(
            params, state.token[:, None], cfg, cache=state.cache
        )
        token = _draw(params, hidden[:, 0], state.drawn, keys, cfg, sampling)
        return _Decoding(extended, token, state.drawn + 1), tokens.at[:, i].set(token)

    tokens = jnp.zeros((B, _CHUNK), jnp.int32)
    return jax.lax.fori_loop(0, n, step, (state, tokens))


def _draw(params, hidden, drawn, keys, cfg, sampling) -> Array:
    logits = gpt.unembed(params, hidden, cfg)  # (B, V)
    if keys.ndim == 1:
        noise = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, drawn)
    else:
        noise = keys[drawn]  # (B, V)
    return sample(logits, sampling, noise)


def _as_rows(prompts: Sequence) -> tuple[list[np.ndarray], bool]:
    if not len(prompts):
        raise DataError("a prompt must have at least one token, got none")
    single = np.ndim(prompts[0]) == 0
    rows = [prompts] if single else list(prompts)
    return [np.asarray(row, np.int32) for row in rows], single


def _check(rows, cfg: GPTConfig, max_new_tokens: int, overflow: Overflow) -> None:
    if max_new_tokens < 1:
        raise ConfigError(f"max_new_tokens must be >= 1, got {max_new_tokens}")
    for row in rows:
        if not len(row):
            raise DataError("a prompt must have at least one token, got none")
        gpt.check_tokens(row[-cfg.context_length :], cfg)
        if overflow == "error" and len(row) + max_new_tokens > cfg.context_length:
            raise DataError(
                f"a prompt of {len(row)} tokens and {max_new_tokens} new ones exceed "
                f"the context of {cfg.context_length}; shorten one of them, or let the "
                'window slide with overflow="slide"'
            )


def _row_keys(key: Array | None, sampling: Sampling, n_rows: int) -> Array:
    if key is None:
        if sampling.temperature > 0:
            raise ConfigError(
                f"a temperature of {sampling.temperature} draws at random: give a key, "
                "or temperature=0"
            )
        key = jax.random.key(0)
    if key.ndim:
        return jnp.asarray(key)
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(n_rows))


def _window(row: np.ndarray, context_length: int) -> np.ndarray:
    """What a row remembers: all of it while it fits, else its last half context."""
    if len(row) <= context_length:
        return row
    return row[-max(1, context_length // 2) :]


def _bucket(size: int, limit: int) -> int:
    return min(limit, max(16, 1 << int(size - 1).bit_length()))


def _until_stop(tokens: np.ndarray, stops: tuple[int, ...]) -> tuple[np.ndarray, bool]:
    at = np.flatnonzero(np.isin(tokens, stops))
    return (tokens[: at[0]], True) if at.size else (tokens, False)
