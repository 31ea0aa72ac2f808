"""Parameters and prompts in, the tokens that follow out: at once, or as they come."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.config import GPTConfig
from jaxllm.errors import ConfigError, DataError, DivergenceError
from jaxllm.inference import sampling as samplers
from jaxllm.inference.decoding import PIECE, Draws, Request, decode_windows
from jaxllm.inference.sampling import Logprobs
from jaxllm.inference.settings import Sampling, Settings, make_settings
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

    A row's text is the same whatever is beside it, in float32; in fewer bits products
    of other shapes round differently, which decides where two tokens all but tie.

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
        followed the last two before: the same text, up to such ties, in fewer steps
        where it repeats itself.
      key: one key, which each row folds with its place; a key per row; or Gumbel noise
        (max_new_tokens, B, V), as `draw` takes it. A temperature of 0 needs none.

    Returns:
      The prompt and what follows it, int32; a list of such for several prompts.

    Raises:
      ConfigError: options do not go together, or a draw has no key.
      DataError: a prompt is empty or has ids that the model does not know, or exceeds
        the context with the new tokens where overflow="error".
      DivergenceError: a logit is NaN or infinite.

    >>> cfg = GPTConfig(vocab_size=7, emb_dim=4, n_heads=1, n_layers=1)
    >>> params = gpt.init_params(jax.random.key(0), cfg)
    >>> generate(params, [1, 2], cfg, max_new_tokens=3, temperature=0).shape
    (5,)
    """
    rows, single = as_rows(prompts)
    pieces = stream_pieces(
        params,
        rows,
        cfg,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        stop_tokens=stop_tokens,
        overflow=overflow,
        lookahead=lookahead,
        key=key,
        **how,
    )
    for new in pieces:
        rows = _extended(rows, new)
    return rows[0] if single else rows


def complete(
    params: Params,
    prompts: Sequence,
    cfg: GPTConfig,
    *,
    logprobs: int | None = None,
    **how: Any,
) -> Piece | list[Piece]:
    """Continue prompts as `generate` does, and say more of what follows them.

    Args:
      logprobs: how many of the likeliest tokens to give with their log-probabilities,
        beside that of the chosen one; None gives none.
      **how: the keyword arguments of `generate`.

    >>> cfg = GPTConfig(vocab_size=7, emb_dim=4, n_heads=1, n_layers=1)
    >>> params = gpt.init_params(jax.random.key(0), cfg)
    >>> piece = complete(params, [1, 2], cfg, logprobs=2, temperature=0)
    >>> piece.tokens.shape, piece.logprobs.top_tokens.shape, piece.finish
    ((50,), (50, 2), 'length')
    """
    rows, single = as_rows(prompts)
    pieces = stream_pieces(params, rows, cfg, logprobs=logprobs, **how)
    wholes = [join_pieces(row) for row in zip(*pieces, strict=True)]
    return wholes[0] if single else wholes


def join_pieces(pieces: Sequence[Piece]) -> Piece:
    """Join what followed one prompt, in the order in which it came."""
    arrays = [Draws(piece.tokens, piece.logprobs) for piece in pieces]
    joined: Draws = jax.tree.map(lambda *parts: np.concatenate(parts), *arrays)
    return Piece(joined.tokens, joined.logprobs, pieces[-1].finish)


def stream(
    params: Params, prompts: Sequence, cfg: GPTConfig, **how: Any
) -> Iterator[list[np.ndarray]]:
    """Yield the new tokens of each row as they come.

    Each item has one int32 array per row, empty for rows that have ended. The first
    item has a token of each row that does not end at once.

    Args:
      **how: the keyword arguments of `generate`.

    >>> cfg = GPTConfig(vocab_size=7, emb_dim=4, n_heads=1, n_layers=1)
    >>> params = gpt.init_params(jax.random.key(0), cfg)
    >>> pieces = stream(params, [[1, 2]], cfg, max_new_tokens=3, temperature=0)
    >>> sum(len(piece) for (piece,) in pieces)
    3
    """
    pieces = stream_pieces(params, as_rows(prompts)[0], cfg, **how)
    return ([piece.tokens for piece in new] for new in pieces)


def stream_pieces(
    params: Params,
    rows: Sequence[np.ndarray],
    cfg: GPTConfig,
    *,
    logprobs: int | None = None,
    max_new_tokens: int = 50,
    sampling: Sampling | Sequence[Sampling] | None = None,
    stop_tokens: Sequence[int] = (),
    overflow: Overflow = "error",
    lookahead: int = 0,
    key: Array | None = None,
    **how: Any,
) -> Iterator[list[Piece]]:
    """Check what is asked for, then yield a piece of each row as they come.

    Args:
      rows: the int32 tokens of each prompt, as `as_rows` gives them.
      **how: and more, as for `complete`.
    """
    windows = first_windows(rows, cfg, max_new_tokens, overflow)
    if logprobs is not None and not 0 <= logprobs <= cfg.vocab_size:
        raise ConfigError(
            f"logprobs must be in 0..{cfg.vocab_size}, the vocabulary, got {logprobs}"
        )
    stops = tuple(int(token) for token in stop_tokens)
    settings = make_settings(
        _asked_sampling(sampling, how), len(rows), cfg.vocab_size, stops
    )
    _check_lookahead(lookahead, settings, logprobs)
    keys = _row_keys(key, settings, (max_new_tokens, len(rows), cfg.vocab_size))
    request = Request(settings, keys, cfg, logprobs, lookahead)
    return _pieces(params, rows, windows, request, max_new_tokens, stops)


def _pieces(
    params: Params,
    rows: Sequence[np.ndarray],
    windows: list[np.ndarray],
    request: Request,
    max_new_tokens: int,
    stops: tuple[int, ...],
) -> Iterator[list[Piece]]:
    cfg, settings = request.cfg, request.settings
    params = decoding_params(params, cfg)
    lengths = [len(row) for row in rows]
    finishes: list[Finish | None] = [None] * len(rows)
    left = max_new_tokens
    while not all(finishes):
        # Nothing follows a row that has ended: one token of it fills its place.
        windows = [
            window[-1:] if finish else _window(window, cfg.context_length)
            for window, finish in zip(windows, finishes, strict=True)
        ]
        n = min(left, cfg.context_length - max(map(len, windows)) + 1)
        if request.lookahead:
            batches = speculate_windows(params, windows, n, request)
        else:
            drawn = max_new_tokens - left
            history = samplers.make_history(
                settings, rows, lengths, cfg.vocab_size, drawn
            )
            batches = decode_windows(params, windows, history, n, request)
        for draws in batches:
            left -= draws.tokens.shape[1]
            pieces = [
                _piece(draws, i, stops, finish, last=left == 0)
                for i, finish in enumerate(finishes)
            ]
            finishes = [piece.finish for piece in pieces]
            rows, windows = _extended(rows, pieces), _extended(windows, pieces)
            yield pieces
            if all(finishes):
                break


def _extended(rows: Sequence[np.ndarray], pieces: list[Piece]) -> list[np.ndarray]:
    pairs = zip(rows, pieces, strict=True)
    return [np.concatenate([row, piece.tokens]) for row, piece in pairs]


def first_windows(
    rows: Sequence[np.ndarray], cfg: GPTConfig, max_new_tokens: int, overflow: Overflow
) -> list[np.ndarray]:
    """Check prompts, and give what of each is to be read at first."""
    C = cfg.context_length
    if max_new_tokens < 1:
        raise ConfigError(f"max_new_tokens must be >= 1, got {max_new_tokens}")
    if overflow not in get_args(Overflow):
        raise ConfigError(
            f"overflow must be one of {', '.join(get_args(Overflow))}, got {overflow!r}"
        )
    if overflow == "keep_last" and max_new_tokens >= C:
        raise ConfigError(
            f"max_new_tokens must be < {C}, the context, so that a part of the prompt "
            f"can be kept, got {max_new_tokens}"
        )
    for row in rows:
        if not len(row):
            raise DataError("a prompt must have at least one token, got none")
        gpt.check_ids(row, cfg)
        if overflow == "error" and len(row) + max_new_tokens > C:
            raise DataError(
                f"a prompt of {len(row)} tokens and {max_new_tokens} new ones exceed "
                f"the context of {C}; shorten one of them, read the end of the prompt "
                'with overflow="keep_last", or let the window slide with "slide"'
            )
    kept = C - max_new_tokens if overflow == "keep_last" else 0
    return [row[-kept:] for row in rows]


def _asked_sampling(
    sampling: Sampling | Sequence[Sampling] | None, how: dict[str, Any]
) -> Sampling | Sequence[Sampling]:
    """Give how tokens are chosen: what is given, or made of its fields by name."""
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
    if given.ndim == 1 and np.issubdtype(given.dtype, np.number):
        with np.errstate(invalid="ignore"):  # a NaN is none, and is not equal below
            ids = given.astype(np.int32)
        if np.array_equal(ids, given):
            return ids
    raise DataError(
        f"a prompt must be a row of token ids, whole numbers of 32 bits, got {given}"
    )


def _check_lookahead(lookahead: int, settings: Settings, logprobs: int | None) -> None:
    if not 0 <= lookahead < PIECE:
        raise ConfigError(f"lookahead must be in [0, {PIECE}), got {lookahead}")
    others = settings._replace(bias=None)._asdict()
    asked = [name for name, value in others.items() if value is not None]
    if lookahead and (asked or logprobs is not None):
        raise ConfigError(
            "lookahead needs plain greedy decoding, temperature=0, got "
            + ", ".join(asked or ["logprobs"])
        )


def _row_keys(key: Any, settings: Settings, shape: tuple[int, int, int]) -> Array:
    """Give a key of each row, or the noise that is given.

    Args:
      shape: what noise must have, or more of along the first axis: tokens, rows and
        vocabulary.
    """
    if key is None:
        if settings.temperature is not None:
            raise ConfigError(
                f"a temperature of {settings.temperature.max()} draws at random: give "
                "a key, or temperature=0"
            )
        key = jax.random.key(0)
    key = samplers.typed_keys(key)
    n, B, V = shape
    if not samplers.are_keys(key):
        if key.ndim != 3 or len(key) < n or key.shape[1:] != (B, V):
            raise ConfigError(
                f"noise must be ({n} or more, {B}, {V}), a number for each token to "
                f"draw, each prompt and each token of the vocabulary, got {key.shape}"
            )
        return jnp.asarray(key)
    if key.ndim and key.shape != (B,):
        raise ConfigError(
            f"key must be one key, or one for each of {B} prompts, got {key.shape}"
        )
    if key.ndim:
        return key
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(B))


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
    if (kept.tokens < 0).any():
        raise DivergenceError(samplers.NOT_FINITE)
    finish = finish or ("stop" if at.size else "length" if last else None)
    return Piece(kept.tokens, kept.logprobs, finish)
