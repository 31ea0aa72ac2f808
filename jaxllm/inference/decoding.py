"""Windows of text in, the tokens drawn behind them out: prefill and the decode loop.

A window is read into the cache in pieces (prefill); then one compiled loop feeds each
token back (decode), several per call, so the host is asked only now and then. Widths
and slots are powers of two, and the cache grows: few compilations serve all lengths.
"""

import dataclasses
import functools
import inspect
import itertools
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.config import GPTConfig
from jaxllm.inference import sampling
from jaxllm.inference.penalties import History
from jaxllm.inference.sampling import Logprobs
from jaxllm.inference.settings import Settings
from jaxllm.models import cache, gpt, packed
from jaxllm.types import Array, Params

# Tokens of a row that are read at a time: enough for products at full speed.
PIECE = 256
# Tokens that the loop draws per dispatch at most, and the seconds that it aims at: long
# enough to hide the host, short enough to stream.
_LOOP, _SECONDS = 64, 0.1
# Tokens per dispatch on an accelerator, where a loop of known length needs no word
# from the host for each. The next dispatch waits there before these are read, so the
# length is no matter of speed; what is drawn after all rows have ended is for nothing.
_TRIPS = 16
# Slots of the smallest cache; it doubles.
_SLOTS = 128
# XLA's library of element-wise loops (YNN) is slower than what XLA compiles itself: 45
# times for a product with int8 panels. Its products are the fastest there are.
_CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT"}


class Draws(NamedTuple):
    """Tokens drawn for each row, and their log-probabilities where asked for."""

    tokens: Array  # (B, n) int32
    logprobs: Logprobs | None  # (B, n), (B, n, k), (B, n, k)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked of a batch."""

    settings: Settings  # of each row
    keys: Array  # (B,) keys, or the noise itself: (tokens, B, V)
    cfg: GPTConfig = dataclasses.field(metadata={"static": True})
    logprobs: int | None = dataclasses.field(metadata={"static": True})
    lookahead: int = dataclasses.field(metadata={"static": True})


def decode_windows(
    params: Params,
    windows: list[np.ndarray],
    history: History,
    n: int,
    request: Request,
) -> Iterator[Draws]:
    """Prefill, then yield the draws of (B, 1), (B, some), ... tokens up to n."""
    dispatches = _dispatched(params, windows, history, n, request)
    if jax.default_backend() != "cpu":
        dispatches = _one_ahead(dispatches)
    for draws, count in dispatches:
        yield jax.tree.map(lambda leaf, n=count: np.asarray(leaf)[:, :n], draws)


def _dispatched(
    params: Params,
    windows: list[np.ndarray],
    history: History,
    n: int,
    request: Request,
) -> Iterator[tuple[Draws, int]]:
    """Yield draws that may still be under way, and how many of them count."""
    cfg = request.cfg
    filled, last = prefill(params, windows, cfg)
    state, draws = compiled(_first)(params, filled, last, history, request)
    yield draws, 1
    on_cpu = jax.default_backend() == "cpu"
    loop, step = (_decode, 4) if on_cpu else (_decode_fixed, _TRIPS)
    longest, left = max(map(len, windows)), n - 1
    while left:
        step = min(left, step)
        # What is drawn beyond the last token may have no room: nothing reads it.
        filled = with_room(state.cache, cfg, longest, 1 if on_cpu else step)
        step = min(step, room(filled, cfg, longest))
        begin = time.perf_counter()
        trips = step if on_cpu else _TRIPS
        state, draws = compiled(loop)(
            params, state._replace(cache=filled), trips, request
        )
        count, left, longest = step, left - step, longest + step
        if on_cpu:
            jax.block_until_ready(draws)
            pace = count / (time.perf_counter() - begin)
            step = max(1, min(_LOOP, int(pace * _SECONDS)))
        yield draws, count


def _one_ahead(items: Iterator) -> Iterator:
    """Ask for the next item before handing over the one at hand.

    >>> list(_one_ahead(iter("abc")))
    ['a', 'b', 'c']
    """
    for this, _ in itertools.pairwise(itertools.chain(items, [None])):
        yield this


def prefill(
    params: Params, windows: list[np.ndarray], cfg: GPTConfig
) -> tuple[cache.Cache, Array]:
    """Read a window of each row, of any lengths, piece by piece.

    Returns:
      The cache, and the hidden state (B, D) of the last token of each row.
    """
    lengths = np.array([len(window) for window in windows], np.int32)
    start, longest = 0, max(map(len, windows))
    filled = cache.init_cache(cfg, len(windows), 0)
    last = jnp.zeros((len(windows), cfg.emb_dim), cfg.dtype)
    for width in piece_widths(longest):
        tokens = np.zeros((len(windows), width), np.int32)
        for row, window in zip(tokens, windows, strict=True):
            part = window[start : start + width]
            row[: len(part)] = part
        filled = with_room(filled, cfg, start, width)
        ends = bool(np.any((start < lengths) & (lengths <= start + width)))
        filled, last = compiled(_read)(params, filled, last, tokens, lengths, ends, cfg)
        start += width
    return filled, last


def piece_widths(length: int) -> list[int]:
    """Split a length into powers of two, the last of which may be too wide.

    >>> piece_widths(900), piece_widths(20), piece_widths(5)
    ([256, 256, 256, 128, 16], [32], [16])
    """
    widths, left = [], length
    while left > 0:
        width = min(PIECE, max(16, 1 << int(left - 1).bit_length()))
        if width - left > PIECE // 8:  # more padding than another piece would cost
            width //= 2
        widths.append(width)
        left -= width
    return widths


def with_room(filled: cache.Cache, cfg: GPTConfig, length: int, n: int) -> cache.Cache:
    """Grow a cache, if need be, to hold n more tokens than `length`."""
    if room(filled, cfg, length) >= n:
        return filled
    slots = max(_SLOTS, 1 << int(length + n - 1).bit_length())
    if cfg.attention_window is not None:
        slots = min(slots, cache.ring_slots(cfg.attention_window, PIECE))
    return compiled(cache.grow_cache)(filled, slots)


def room(filled: cache.Cache, cfg: GPTConfig, length: int) -> int:
    """Count the tokens that fit behind the first `length`."""
    slots = filled.key[0].shape[1]
    window = cfg.attention_window
    if window is not None and slots == cache.ring_slots(window, PIECE):
        return PIECE
    return slots - length


@functools.cache
def compiled(function: Callable) -> Callable:
    """Compile a function for the devices here; options and sizes are static."""
    names = inspect.signature(function).parameters
    return jax.jit(
        function,
        static_argnames=[name for name in names if name in _STATIC],
        donate_argnames=[name for name in names if name in _DONATED],
        compiler_options=_CPU_OPTIONS if jax.default_backend() == "cpu" else None,
    )


_STATIC = "cfg ends slots beams room trips".split()
_DONATED = ("filled", "state")


class _Decoding(NamedTuple):
    cache: cache.Cache
    token: Array  # (B,) int32, drawn and not yet read
    history: History


def _read(
    params, filled: cache.Cache, last: Array, tokens: Array, lengths: Array, ends, cfg
) -> tuple[cache.Cache, Array]:
    """Read a piece (B, W); keep the hidden states of the last tokens that it has.

    Where no row ends in it, the compiler leaves out what follows the last block's keys
    and values: 7 % of GPT-2's work.
    """
    W = tokens.shape[1]
    hidden, extended = gpt.hidden_states(params, tokens, cfg, cache=filled)
    if ends:
        end = lengths - 1 - filled.length  # where it ends in this piece
        at = jnp.clip(end, 0, W - 1)[:, None, None]
        is_here = ((end >= 0) & (end < W))[:, None]
        here = jnp.take_along_axis(hidden, at, axis=1)[:, 0]
        last = jnp.where(is_here, here, last)
    return extended._replace(length=jnp.minimum(extended.length, lengths)), last


def _first(
    params, filled: cache.Cache, hidden: Array, history: History, request: Request
) -> tuple[_Decoding, Draws]:
    """Draw behind what was read, as (B, 1)."""
    draws, history = _draw(params, hidden, history, request)
    state = _Decoding(filled, draws.tokens, history)
    return state, jax.tree.map(lambda leaf: leaf[:, None], draws)


def _decode(params, state: _Decoding, n, request: Request) -> tuple[_Decoding, Draws]:
    def step(i, carry):
        state, buffers = carry
        tied = packed.anchored(params, jnp.minimum(i, 0))
        hidden, extended = gpt.hidden_states(
            tied, state.token[:, None], request.cfg, cache=state.cache
        )
        draws, history = _draw(tied, hidden[:, 0], state.history, request)
        buffers = jax.tree.map(lambda all, one: all.at[:, i].set(one), buffers, draws)
        return _Decoding(extended, draws.tokens, history), buffers

    return jax.lax.fori_loop(0, n, step, (state, _buffers(state, request.logprobs)))


def _decode_fixed(
    params, state: _Decoding, trips, request: Request
) -> tuple[_Decoding, Draws]:
    """Decode as many tokens as were known when this was compiled."""
    return _decode(params, state, trips, request)


def _buffers(state: _Decoding, logprobs: int | None) -> Draws:
    """Make room for the draws of a dispatch."""
    shape = (state.token.shape[0], _LOOP)
    tokens = jnp.zeros(shape, jnp.int32)
    if logprobs is None:
        return Draws(tokens, None)
    top = jnp.zeros((*shape, logprobs))
    return Draws(tokens, Logprobs(jnp.zeros(shape), top, top.astype(jnp.int32)))


def _draw(
    params, hidden: Array, history: History, request: Request
) -> tuple[Draws, History]:
    logits = gpt.unembed(params, hidden, request.cfg)  # (B, V)
    noise = request.keys
    if noise.ndim == 1:
        noise = jax.vmap(jax.random.fold_in, in_axes=(0, None))(noise, history.drawn)
    else:
        noise = noise[history.drawn]  # (B, V)
    tokens, history = sampling.draw(logits, request.settings, history, noise)
    if request.logprobs is None:
        return Draws(tokens, None), history
    found = sampling.log_probabilities(logits, tokens, request.logprobs)
    return Draws(tokens, found), history


def bucket(size: int, limit: int) -> int:
    """Round up to a power of two: few compilations serve all sizes."""
    return min(limit, max(16, 1 << int(size - 1).bit_length()))
