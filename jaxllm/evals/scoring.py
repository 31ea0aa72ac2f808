"""Contexts and continuations in, the log-likelihood of each continuation out."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.config import GPTConfig
from jaxllm.data.tokenizers import Tokenizer
from jaxllm.errors import ConfigError, DataError
from jaxllm.inference import decoding
from jaxllm.models import gpt
from jaxllm.types import Array, Params


class Score(NamedTuple):
    """How likely a model finds a continuation."""

    log_likelihood: float  # nats, summed over the continuation's tokens
    greedy: bool  # whether each of its tokens is the likeliest one


def score_continuations(
    params: Params,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    cfg: GPTConfig,
    *,
    batch_size: int = 8,
) -> list[Score]:
    """Score each continuation behind its context.

    Args:
      pairs: token ids of context and continuation, at least one of each. A context
        that does not fit with its continuation loses its beginning.
      batch_size: pairs that go through the model at once. Pairs of about the same
        length go together, so that little is padded; results come in the order given.

    Raises:
      DataError: a part is empty, or a continuation is longer than the model's context.
      ConfigError: batch_size is not positive.

    >>> cfg = GPTConfig(vocab_size=4, emb_dim=2, n_heads=1, n_layers=1)
    >>> zeros = jax.tree.map(jnp.zeros_like, gpt.init_params(jax.random.key(0), cfg))
    >>> (score,) = score_continuations(zeros, [([0, 1], [2, 3])], cfg)
    >>> round(score.log_likelihood, 4)  # 2 log 1/4
    -2.7726
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size must be >= 1, got {batch_size}")
    rows = [_fitted(context, continuation, cfg) for context, continuation in pairs]
    scores: list[Score | None] = [None] * len(rows)
    by_length = sorted(range(len(rows)), key=lambda i: -len(rows[i][0]))
    for first in range(0, len(rows), batch_size):
        chosen = by_length[first : first + batch_size]
        width = decoding.bucket(len(rows[chosen[0]][0]) - 1, cfg.context_length)
        tokens = np.zeros((batch_size, width + 1), np.int32)
        counted = np.zeros((batch_size, width), bool)
        for row, i in enumerate(chosen):
            ids, n_scored = rows[i]
            tokens[row, : len(ids)] = ids
            counted[row, len(ids) - 1 - n_scored : len(ids) - 1] = True
        sums, greedy = jax.device_get(_score(params, tokens, counted, cfg))
        for row, i in enumerate(chosen):
            scores[i] = Score(float(sums[row]), bool(greedy[row]))
    return [score for score in scores if score is not None]


@functools.partial(jax.jit, static_argnames="cfg")
def _score(
    params: Params, tokens: Array, counted: Array, cfg: GPTConfig
) -> tuple[Array, Array]:
    logits = gpt.apply(params, tokens[:, :-1], cfg)  # (B, T, V)
    targets = tokens[:, 1:, None]
    chosen = jnp.take_along_axis(logits, targets, axis=-1)[..., 0]
    losses = jax.nn.logsumexp(logits, axis=-1) - chosen
    likeliest = logits.argmax(-1) == targets[..., 0]
    sums = -jnp.where(counted, losses, 0).sum(axis=1)
    return sums, jnp.where(counted, likeliest, True).all(axis=1)


def score_text(
    params: Params,
    ids: Sequence[int],
    cfg: GPTConfig,
    *,
    start: int,
    batch_size: int = 8,
) -> float:
    """Sum the log-likelihoods of all tokens of a text of any length, each once.

    Behind the first window, a window is the last context_length tokens that end with
    what is to be scored, so that every token is predicted from as many as possible.

    Args:
      start: the id that stands before the text, such as that of the end of a text.
    """
    pairs = windows_of(ids, start, cfg.context_length)
    scores = score_continuations(params, pairs, cfg, batch_size=batch_size)
    return sum(score.log_likelihood for score in scores)


def windows_of(
    ids: Sequence[int], start: int, length: int
) -> list[tuple[list[int], list[int]]]:
    """Cut a text into pairs of context and continuation, of `length` inputs each.

    >>> windows_of([1, 2, 3, 4, 5], start=0, length=4)
    [([0], [1, 2, 3, 4]), ([1, 2, 3, 4], [5])]
    """
    pairs, row = [], [start, *ids]
    for first in range(1, len(row), length):
        end = min(first + length, len(row))
        pairs.append((row[max(0, end - length - 1) : first], row[first:end]))
    return pairs


def encode_pair(
    context: str, continuation: str, tokenizer: Tokenizer
) -> tuple[list[int], list[int]]:
    """Turn a context and what follows it into ids, as the whole text is cut.

    Blanks that end the context go to the continuation, whose first token has them. An
    empty context is the end of the text before.

    Raises DataError where nothing is left of the continuation.

    >>> from jaxllm.data import tokenizers
    >>> encode_pair("I like ", "tea", tokenizers.load("gpt2"))
    ([40, 588], [8887])
    """
    kept = context.rstrip()
    whole = tokenizer.encode(context + continuation, allow_special=True).tolist()
    before = tokenizer.encode(kept, allow_special=True).tolist()
    if not before:
        if tokenizer.end_of_text is None:
            raise DataError("a context must not be empty: no token ends a text")
        whole, before = [tokenizer.end_of_text, *whole], [tokenizer.end_of_text]
    if len(whole) <= len(before):
        raise DataError(f"a continuation must have a token, got {continuation!r}")
    return whole[: len(before)], whole[len(before) :]


def _fitted(
    context: Sequence[int], continuation: Sequence[int], cfg: GPTConfig
) -> tuple[np.ndarray, int]:
    if not len(context) or not len(continuation):
        raise DataError("context and continuation must each have at least one token")
    if len(continuation) > cfg.context_length:
        raise DataError(
            f"a continuation must have at most {cfg.context_length} tokens, the "
            f"model's context, got {len(continuation)}"
        )
    # The last token is predicted, and never read.
    ids = np.array([*context, *continuation], np.int32)[-cfg.context_length - 1 :]
    gpt.check_tokens(ids[:-1], cfg)
    gpt.check_tokens(ids[-1:], cfg)
    return ids, len(continuation)
