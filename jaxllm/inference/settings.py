"""What the rows of a batch ask for in, arrays out.

So a call with other numbers compiles nothing, and what no row asks for is not computed.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxllm.errors import ConfigError
from jaxllm.types import Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen: in the order of the fields, from top to bottom.

    >>> Sampling(top_p=1.5)
    Traceback (most recent call last):
    ...
    jaxllm.errors.ConfigError: top_p must be in (0, 1], got 1.5
    """

    repetition_penalty: float = 1.0
    """Divides the logits of tokens of the text so far; above 1 against repetition."""
    presence_penalty: float = 0.0
    """Is taken off the logits of tokens that were drawn before."""
    frequency_penalty: float = 0.0
    """Is taken off the logits of a token once for each time that it was drawn."""
    bias: Mapping[int, float] = dataclasses.field(default_factory=dict)
    """Is added to the logits of these tokens; -inf bans one."""
    ban: Sequence[int] = ()
    """Tokens that are never drawn."""
    min_new_tokens: int = 0
    """Stop tokens are ruled out until so many tokens have been drawn."""
    temperature: float = 1.0
    """Divides the logits; 0 takes the likeliest token (greedy), whatever is below."""
    top_k: int | None = None
    """Draw among the k likeliest tokens only, and those that tie with the last."""
    top_p: float | None = None
    """Draw among the fewest tokens whose probabilities sum to p or more, and those that
    tie with the last."""
    min_p: float | None = None
    """Draw among tokens at least p times as probable as the likeliest one."""
    typical_p: float | None = None
    """Draw among the fewest tokens of expected surprise that sum to p or more, and
    those that tie with the last."""
    force: Sequence[int] = ()
    """The first tokens, whatever else is asked for."""

    def __post_init__(self) -> None:
        for name in ("top_p", "typical_p"):
            p = getattr(self, name)
            if p is not None and not 0 < p <= 1:
                raise ConfigError(f"{name} must be in (0, 1], got {p}")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise ConfigError(f"min_p must be in [0, 1], got {self.min_p}")
        if not 0 <= self.temperature < math.inf:
            raise ConfigError(f"temperature must be >= 0, got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(f"top_k must be >= 1, got {self.top_k}")
        if not 0 < self.repetition_penalty < math.inf:
            raise ConfigError(
                f"repetition_penalty must be > 0, got {self.repetition_penalty}"
            )
        for name in ("presence_penalty", "frequency_penalty"):
            if not math.isfinite(getattr(self, name)):
                raise ConfigError(f"{name} must be finite, got {getattr(self, name)}")
        if self.min_new_tokens < 0:
            raise ConfigError(f"min_new_tokens must be >= 0, got {self.min_new_tokens}")
        for token, bias in self.bias.items():
            if not bias < math.inf:
                raise ConfigError(
                    f"bias must be a number below inf, got {bias} for token {token}"
                )


class Settings(NamedTuple):
    """What each row asks for, (B,) where nothing else is said; None: no row does."""

    repetition_penalty: Array | None
    presence_penalty: Array | None
    frequency_penalty: Array | None
    bias: Array | None  # (B, V) float32, -inf where banned
    min_new_tokens: Array | None
    stops: Array | None  # (1, V) bool, the tokens that min_new_tokens rules out
    temperature: Array | None  # None: every row is greedy
    top_k: Array | None
    top_p: Array | None
    min_p: Array | None
    typical_p: Array | None
    force: Array | None  # (B, F) int32; -1 leaves a token free, as the last one is


def make_settings(
    sampling: Sampling | Sequence[Sampling],
    n_rows: int,
    vocab_size: int,
    stop_tokens: Sequence[int] = (),
) -> Settings:
    """Turn what rows ask for into arrays.

    Args:
      sampling: for all rows, or one for each.

    Raises:
      ConfigError: there are not as many as rows, a token is outside the vocabulary, or
        a row may say nothing at all.

    >>> settings = make_settings([Sampling(top_k=5), Sampling()], 2, 100)
    >>> settings.top_k, settings.top_p
    (array([  5, 100], dtype=int32), None)
    """
    rows = [sampling] * n_rows if isinstance(sampling, Sampling) else list(sampling)
    if len(rows) != n_rows:
        raise ConfigError(
            f"sampling must be one for all rows or one for each, got {len(rows)} "
            f"for {n_rows} rows"
        )
    greedy = [row.temperature == 0 for row in rows]

    def collect(name: str, dtype: type, neutral: float) -> np.ndarray | None:
        values = [getattr(row, name) for row in rows]
        values = [neutral if value is None else value for value in values]
        if name in _FILTERS:  # Typical sampling would else rule the likeliest out.
            pairs = zip(values, greedy, strict=True)
            values = [neutral if is_greedy else value for value, is_greedy in pairs]
        if dtype is np.int32:
            values = np.minimum(values, np.iinfo(dtype).max)
        array = np.array(values, dtype)
        return array if (array != neutral).any() else None

    stops = _marked([stop_tokens], vocab_size, "stop_tokens")
    min_new_tokens = collect("min_new_tokens", np.int32, 0)
    if min_new_tokens is None or not stops.any():
        min_new_tokens = None
    bias = _biases(rows, vocab_size)
    _check_choice(bias, stops, min_new_tokens)
    return Settings(
        repetition_penalty=collect("repetition_penalty", np.float32, 1),
        presence_penalty=collect("presence_penalty", np.float32, 0),
        frequency_penalty=collect("frequency_penalty", np.float32, 0),
        bias=bias if bias.any() else None,
        min_new_tokens=min_new_tokens,
        stops=None if min_new_tokens is None else stops,
        temperature=collect("temperature", np.float32, 0),
        top_k=collect("top_k", np.int32, vocab_size),
        top_p=collect("top_p", np.float32, 1),
        min_p=collect("min_p", np.float32, 0),
        typical_p=collect("typical_p", np.float32, 1),
        force=_forced(rows, vocab_size),
    )


_FILTERS = ("top_k", "top_p", "min_p", "typical_p")


def _biases(rows: Sequence[Sampling], vocab_size: int) -> np.ndarray:
    bias = np.zeros((len(rows), vocab_size), np.float32)
    for i, row in enumerate(rows):
        _check_tokens(row.bias, vocab_size, "bias")
        bias[i, [*row.bias]] = [*row.bias.values()]
    banned = _marked([row.ban for row in rows], vocab_size, "ban")
    return np.where(banned, np.float32(-np.inf), bias)


def _forced(rows: Sequence[Sampling], vocab_size: int) -> np.ndarray | None:
    longest = max(len(row.force) for row in rows)
    if not longest:
        return None
    # Rounded up, so that few compilations serve all; the last one is always free.
    forced = np.full((len(rows), 1 << longest.bit_length()), -1, np.int32)
    for i, row in enumerate(rows):
        _check_tokens(row.force, vocab_size, "force")
        forced[i, : len(row.force)] = row.force
    return forced


def _marked(rows, vocab_size: int, name: str) -> np.ndarray:
    """Mark tokens of the vocabulary: (B, V) bool."""
    marks = np.zeros((len(rows), vocab_size), bool)
    for i, tokens in enumerate(rows):
        _check_tokens(tokens, vocab_size, name)
        marks[i, [*tokens]] = True
    return marks


def _check_tokens(tokens, vocab_size: int, name: str) -> None:
    for token in tokens:
        if not 0 <= token < vocab_size:
            raise ConfigError(
                f"{name} must name tokens in [0, {vocab_size}), got {token}"
            )


def _check_choice(
    bias: np.ndarray, stops: np.ndarray, min_new_tokens: np.ndarray | None
) -> None:
    ruled_out = np.isneginf(bias)
    if min_new_tokens is not None:
        ruled_out |= stops & (min_new_tokens > 0)[:, None]
    if ruled_out.all(axis=1).any():
        raise ConfigError("ban and bias must leave a token to draw, got all banned")
