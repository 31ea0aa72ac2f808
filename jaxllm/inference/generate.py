"""Parameters and prompts in, the tokens that follow out: at once, or as they come."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.config import GPTConfig
from jaxllm.errors import ConfigError, DataError
from jaxllm.inference import sampling as samplers
from jaxllm.inference.decoding import PIECE, Draws, decode_windows
from jaxllm.inference.sampling import Logprobs, Sampling, Settings
from jaxllm.inference.speculation import speculate_windows
from jaxllm.inference.weights import decoding_params
from jaxllm.models import gpt
from jaxllm.types import Array, Params

Overflow = Literal["error", "keep_last", "slide"]
Finish = Literal["stop", "length"]


class Piece(NamedTuple):
    """Some tokens that follow a prompt; those of a `complete` are all of them."""

    tokens: np.ndarray  # (T,) int32, without the prompt and the stop token
    logprobs: Logprobs | None  # chosen (T,), top and top_tokens (T, n), if asked for
    finish: Finish | None  # what ended the row, if it has ended


def generate(
    params: Params,
    prompts: Sequence,
    cfg: GPTConfig,
    *,
    max_new_tokens: int = 50,
    sampling: Sampling | Sequence[Sampling] | None = None,
    stop_tokens: Sequence[int] = (),
    overflow: Overflow = "error",
    lookahead: int = 0,
    key: Array | None = None,
    **how: Any,
) -> np.ndarray | list[np.ndarray]:
    """Continue prompts, token by token.

    Args:
      prompts: the token ids of one prompt, or a sequence of prompts of any lengths.
      max_new_tokens: tokens to add at most.
      sampling: how tokens are chosen, for all prompts or for each.
      **how: or the fields of `Sampling` by name, such as temperature=0.8, top_k=40.
      stop_tokens: ids that end a row; they are left out of the result.
      overflow: what to do where prompt and new tokens exceed the context length:
        "error" refuses; "keep_last" reads only so much of the end of a prompt that the
        new tokens fit; "slide" forgets all but the last half context of a row that has
        outgrown it, reads that again and goes on.
      lookahead: tokens that a step of greedy decoding guesses ahead, by looking up what
        followed the last two before: the same text, in fewer steps where it repeats.
      key: one key, which each row folds with its place; a key per row; or Gumbel noise
        (max_new_tokens, B, V), as `draw` takes it. A temperature of 0 needs none.

    Returns:
      The prompt and what follows it, int32; a list of such for several prompts.

    Raises:
      ConfigError: options do not go together, or a draw has no key.
      DataError: a prompt is empty or has ids that the model does not know, or exceeds
        the context with the new tokens where overflow="error".

    >>> cfg = GPTConfig(vocab_size=7, emb_dim=4, n_heads=1, n_layers=1)
    >>> params = gpt.init_params(jax.random.key(0), cfg)
    >>> generate(params, [1, 2], cfg, max_new_tokens=3, temperature=0).shape
    (5,)
    """
    rows, single = as_rows(prompts)
    pieces = stream(
        params,
        rows,
        cfg,
        max_new_tokens=max_new_tokens,
        sampling=_asked(sampling, how),
        stop_tokens=stop_tokens,
        overflow=overflow,
        lookahead=lookahead,
        key=key,
    )
    for piece in pieces:
        rows = [np.concatenate(pair) for pair in zip(rows, piece, strict=True)]
    return rows[0] if single else rows


def complete(
    params: Params,
    prompts: Sequence,
    cfg: GPTConfig,
    *,
    logprobs: int | None = None,
    sampling: Sampling | Sequence[Sampling] | None = None,
    max_new_tokens: int = 50,
    stop_tokens: Sequence[int] = (),
    overflow: Overflow = "error",
    lookahead: int = 0,
    key: Array | None = None,
    **how: Any,
) -> Piece | list[Piece]:
    """Continue prompts as `generate` does, and say more of what follows them.

    Args:
      logprobs: how many of the likeliest tokens to give with their log-probabilities,
        beside that of the chosen one; None gives none.

    >>> cfg = GPTConfig(vocab_size=7, emb_dim=4, n_heads=1, n_layers=1)
    >>> params = gpt.init_params(jax.random.key(0), cfg)
    >>> piece = complete(params, [1, 2], cfg, logprobs=2, temperature=0)
    >>> piece.tokens.shape, piece.logprobs.top_tokens.shape, piece.finish
    ((50,), (50, 2), 'length')
    """
    rows, single = as_rows(prompts)
    pieces = stream_pieces(
        params,
        rows,
        cfg,
        logprobs=logprobs,
        max_new_tokens=max_new_tokens,
        sampling=_asked(sampling, how),
        stop_tokens=stop_tokens,
        overflow=overflow,
        lookahead=lookahead,
        key=key,
    )
    wholes = [join_pieces(row) for row in zip(*pieces, strict=True)]
    return wholes[0] if single else wholes


def join_pieces(pieces: Sequence[Piece]) -> Piece:
    """Join what followed one prompt, in the order in which it came."""
    arrays = [Draws(piece.tokens, piece.logprobs) for piece in pieces]
    joined: Draws = jax.tree.map(lambda *parts: np.concatenate(parts), *arrays)
    return Piece(joined.tokens, joined.logprobs, pieces[-1].finish)


def stream(
    params: Params,
    prompts: Sequence,
    cfg: GPTConfig,
    *,
    max_new_tokens: int = 50,
    sampling: Sampling | Sequence[Sampling] | None = None,
    stop_tokens: Sequence[int] = (),
    overflow: Overflow = "error",
    lookahead: int = 0,
    key: Array | None = None,
    **how: Any,
) -> Iterator[list[np.ndarray]]:
    """Yield the new tokens of each row as they come; arguments as for `generate`.

    Each item has one int32 array per row, empty for rows that have ended. The first
    item has a token of each row that does not end at once.

    >>> cfg = GPTConfig(vocab_size=7, emb_dim=4, n_heads=1, n_layers=1)
    >>> params = gpt.init_params(jax.random.key(0), cfg)
    >>> pieces = stream(params, [[1, 2]], cfg, max_new_tokens=3, temperature=0)
    >>> sum(len(piece) for (piece,) in pieces)
    3
    """
    pieces = stream_pieces(
        params,
        prompts,
        cfg,
        max_new_tokens=max_new_tokens,
        sampling=_asked(sampling, how),
        stop_tokens=stop_tokens,
        overflow=overflow,
        lookahead=lookahead,
        key=key,
    )
    for rows in pieces:
        yield [piece.tokens for piece in rows]


def stream_pieces(
    params: Params,
    prompts: Sequence,
    cfg: GPTConfig,
    *,
    max_new_tokens: int,
    sampling: Sampling | Sequence[Sampling],
    logprobs: int | None = None,
    stop_tokens: Sequence[int] = (),
    overflow: Overflow = "error",
    lookahead: int = 0,
    key: Array | None = None,
) -> Iterator[list[Piece]]:
    """Yield a piece of each row as they come; arguments as for `complete`."""
    rows, windows = checked_rows(prompts, cfg, max_new_tokens, overflow)
    if logprobs is not None and not 0 <= logprobs <= cfg.vocab_size:
        raise ConfigError(
            f"logprobs must be in 0..{cfg.vocab_size}, the vocabulary, got {logprobs}"
        )
    B, V = len(rows), cfg.vocab_size
    stop_tokens = tuple(int(token) for token in stop_tokens)
    settings = samplers.make_settings(sampling, B, V, stop_tokens)
    _check_lookahead(lookahead, settings, logprobs)
    keys = _row_keys(key, settings, B, max_new_tokens)
    lengths = [len(row) for row in rows]
    params = decoding_params(params, cfg)
    finishes: list[Finish | None] = [None] * B
    left = max_new_tokens
    while not all(finishes):
        windows = [_window(window, cfg.context_length) for window in windows]
        room = cfg.context_length - max(map(len, windows))
        drawn = max_new_tokens - left
        history = samplers.make_history(settings, rows, lengths, V, drawn)
        n = min(left, room + 1)
        if lookahead:
            tokens = speculate_windows(params, windows, cfg, n, lookahead)
            batches = (Draws(drawn, None) for drawn in tokens)
        else:
            batches = decode_windows(
                params, windows, cfg, settings, keys, history, n, logprobs
            )
        for draws in batches:
            left -= draws.tokens.shape[1]
            pieces = [
                _piece(draws, i, stop_tokens, finish, last=left == 0)
                for i, finish in enumerate(finishes)
            ]
            finishes = [piece.finish for piece in pieces]
            new = [piece.tokens for piece in pieces]
            rows = [np.concatenate(pair) for pair in zip(rows, new, strict=True)]
            windows = [np.concatenate(pair) for pair in zip(windows, new, strict=True)]
            yield pieces
            if all(finishes):
                break


def checked_rows(
    prompts: Sequence, cfg: GPTConfig, max_new_tokens: int, overflow: Overflow
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Give the tokens of each prompt, and what of them is to be read at first."""
    rows, _ = as_rows(prompts)
    C = cfg.context_length
    if max_new_tokens < 1:
        raise ConfigError(f"max_new_tokens must be >= 1, got {max_new_tokens}")
    if overflow == "keep_last" and max_new_tokens >= C:
        raise ConfigError(
            f"max_new_tokens must be < {C}, the context, so that a part of the prompt "
            f"can be kept, got {max_new_tokens}"
        )
    for row in rows:
        if not len(row):
            raise DataError("a prompt must have at least one token, got none")
        gpt.check_tokens(row[-C:], cfg)
        if overflow == "error" and len(row) + max_new_tokens > C:
            raise DataError(
                f"a prompt of {len(row)} tokens and {max_new_tokens} new ones exceed "
                f"the context of {C}; shorten one of them, read the end of the prompt "
                'with overflow="keep_last", or let the window slide with "slide"'
            )
    kept = C - max_new_tokens if overflow == "keep_last" else 0
    return rows, [row[-kept:] for row in rows]


def _asked(sampling: Sampling | Sequence[Sampling] | None, how: dict[str, Any]):
    if sampling is None:
        return Sampling(**how)
    if how:
        raise ConfigError(
            f"give sampling or its fields by name, got sampling and {', '.join(how)}"
        )
    return sampling


def as_rows(prompts: Sequence) -> tuple[list[np.ndarray], bool]:
    """Give the tokens of each prompt, and tell whether one stood by itself."""
    if not len(prompts):
        raise DataError("a prompt must have at least one token, got none")
    single = np.ndim(prompts[0]) == 0
    rows = [prompts] if single else list(prompts)
    return [_ids(row) for row in rows], single


def _ids(row: Any) -> np.ndarray:
    given = np.asarray(row)
    with np.errstate(invalid="ignore"):  # a NaN is none, and is found below
        ids = given.astype(np.int32)
    if not np.array_equal(ids, given):
        raise DataError(f"token ids must be whole numbers of 32 bits, got {given}")
    return ids


def _check_lookahead(lookahead: int, settings: Settings, logprobs: int | None) -> None:
    if not 0 <= lookahead < PIECE:
        raise ConfigError(f"lookahead must be in [0, {PIECE}), got {lookahead}")
    asked = [name for name, value in settings._asdict().items() if value is not None]
    if lookahead and (asked or logprobs is not None):
        raise ConfigError(
            "lookahead needs plain greedy decoding, temperature=0, got "
            + ", ".join(asked or ["logprobs"])
        )


def _row_keys(key: Any, settings: Settings, n_rows: int, max_new_tokens: int) -> Array:
    """Give a key of each row, or the noise (max_new_tokens, B, V) that is given."""
    if key is None:
        if settings.temperature is not None:
            raise ConfigError(
                f"a temperature of {settings.temperature.max()} draws at random: give "
                "a key, or temperature=0"
            )
        key = jax.random.key(0)
    if jnp.issubdtype(key.dtype, jnp.uint32):  # as jax.random.PRNGKey makes them
        key = jax.random.wrap_key_data(key)
    noise = not jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if noise and (key.ndim != 3 or len(key) < max_new_tokens or key.shape[1] != n_rows):
        raise ConfigError(
            f"noise must be ({max_new_tokens} or more, {n_rows}, vocabulary), a row of "
            f"it for each token and each prompt, got {key.shape}"
        )
    if not noise and key.ndim and key.shape != (n_rows,):
        raise ConfigError(
            f"key must be one key, or one for each of {n_rows} prompts, got {key.shape}"
        )
    if key.ndim:
        return jnp.asarray(key)
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(n_rows))


def _window(row: np.ndarray, context_length: int) -> np.ndarray:
    """What a row remembers: all of it while it fits, else its last half context."""
    if len(row) <= context_length:
        return row
    return row[-max(1, context_length // 2) :]


def _piece(
    draws: Draws, i: int, stops: tuple[int, ...], finish: Finish | None, *, last: bool
) -> Piece:
    """Cut a row of draws before its first stop token; nothing follows one."""
    tokens = draws.tokens[i]
    at = np.flatnonzero(np.isin(tokens, stops))
    n = 0 if finish else at[0] if at.size else len(tokens)
    kept: Draws = jax.tree.map(lambda leaf: leaf[i, :n], draws)
    finish = finish or ("stop" if at.size else "length" if last else None)
    return Piece(kept.tokens, kept.logprobs, finish)
