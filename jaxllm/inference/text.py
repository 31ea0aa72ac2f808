"""Tokens in as they come, text out: whole characters, up to a stop string.

A token may end inside a character, and a text inside what may become a stop string:
both wait for the tokens that follow, so what is shown is never taken back.
"""

import codecs
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxllm.config import GPTConfig
from jaxllm.data import tokenizers
from jaxllm.data.tokenizers import Tokenizer
from jaxllm.errors import DataError
from jaxllm.inference import generate
from jaxllm.inference.generate import Finish, Piece
from jaxllm.inference.sampling import Logprobs
from jaxllm.inference.settings import Sampling
from jaxllm.types import Params


class TextState(NamedTuple):
    """What the next token needs to know of those before it."""

    last: int | None = None  # the token before; None at the beginning of a text
    waiting: bytes = b""  # the beginning of a character
    held: str = ""  # text that may be the beginning of a stop string
    stopped: bool = False  # a stop string has come; nothing follows it
    waits: int = 0  # tokens to come in which stop strings do not count


def stream_text(
    params: Params,
    prompt: str,
    cfg: GPTConfig,
    tokenizer: Tokenizer,
    *,
    stops: Sequence[str] = (),
    sampling: Sampling | None = None,
    **how: Any,
) -> Iterator[str]:
    """Yield the text that follows a prompt as it comes, up to a stop string.

    The end of a text ends it, too, if the tokenizer has one. Ids without a token are
    never drawn.

    Args:
      prompt: special tokens in it count; an empty one stands for the beginning of a
        text.
      stops: strings that end the text, and are not part of it.
      sampling: how tokens are chosen, or the fields of `Sampling` by name, such as
        temperature=0.8; stop strings do not count in the first min_new_tokens.
      **how: and the other keyword arguments of `generate`.

    Raises:
      TokenizerError: the prompt can't be encoded.
      DataError: it is empty, and the tokenizer has no token that begins a text; and
        what `generate` raises.

    >>> import jax
    >>> from jaxllm.data.tokenizers import CharTokenizer
    >>> from jaxllm.models import gpt
    >>> cfg = GPTConfig(vocab_size=3, emb_dim=4, n_heads=1, n_layers=1)
    >>> params = gpt.init_params(jax.random.key(0), cfg)
    >>> tokenizer = CharTokenizer(characters="abc")
    >>> how = {"bias": {1: 99.0}, "temperature": 0, "max_new_tokens": 4}
    >>> "".join(stream_text(params, "ca", cfg, tokenizer, **how))
    'bbbb'
    """
    ids = encode_prompt(prompt, tokenizer)
    if sampling is None:
        names = {field.name for field in dataclasses.fields(Sampling)} & how.keys()
        sampling = Sampling(**{name: how.pop(name) for name in names})
    without = tokenizers.ids_without_token(tokenizer, cfg.vocab_size)
    sampling = dataclasses.replace(sampling, ban=[*sampling.ban, *without])
    end = tokenizer.end_of_text
    how = {"stop_tokens": () if end is None else (end,)} | how
    pieces = generate.stream(params, [ids], cfg, sampling=sampling, **how)
    return text_of(
        (token for (row,) in pieces for token in row.tolist()),
        tokenizer,
        stops=stops,
        min_new_tokens=sampling.min_new_tokens,
        after=int(ids[-1]),
    )


def encode_prompt(text: str, tokenizer: Tokenizer) -> np.ndarray:
    """Turn a prompt into ids; special tokens in it count, and nothing begins a text.

    Raises:
      DataError: it is empty, and the tokenizer has no token that begins a text.
    """
    ids = tokenizer.encode(text, allow_special=True)
    if len(ids):
        return ids
    if tokenizer.end_of_text is None:
        raise DataError(
            "a prompt must have at least one token, got none, and this tokenizer has "
            "no token that begins a text"
        )
    return np.array([tokenizer.end_of_text], np.int32)


def read_token(
    state: TextState, token: int, tokenizer: Tokenizer, stops: Sequence[str] = ()
) -> tuple[TextState, str]:
    """Read one more token; give the text that can be shown now.

    >>> from jaxllm.data.tokenizers import CharTokenizer
    >>> tokenizer, state, shown = CharTokenizer(characters="abc"), TextState(), []
    >>> for token in [1, 0, 1, 2]:
    ...     state, text = read_token(state, token, tokenizer, ["bc"])
    ...     shown.append(text)
    >>> shown, state.stopped
    (['', 'ba', '', ''], True)
    """
    if state.stopped:
        return state, ""
    data = state.waiting + _new_bytes(state.last, token, tokenizer)
    text, n = codecs.utf_8_decode(data, "replace")
    if state.waits:
        return TextState(token, data[n:], waits=state.waits - 1), text
    shown, held, stopped = _split_at_stop(state.held + text, stops)
    return TextState(token, data[n:], held, stopped), shown


def end_text(state: TextState, stops: Sequence[str] = ()) -> str:
    """Give what waits when no token follows; bytes of no whole character as U+FFFD."""
    if state.stopped:
        return ""
    text = state.held + state.waiting.decode("utf-8", errors="replace")
    if state.waits:
        return text
    shown, held, stopped = _split_at_stop(text, stops)
    return shown if stopped else shown + held


def text_of(
    tokens: Iterable[int],
    tokenizer: Tokenizer,
    *,
    stops: Sequence[str] = (),
    min_new_tokens: int = 0,
    after: int | None = None,
) -> Iterator[str]:
    """Decode the tokens of one row as they come, up to the first stop string.

    Bytes that are no text become U+FFFD.

    Args:
      min_new_tokens: tokens at the beginning in which stop strings do not count.
      after: the token in front of them, where they go on from a text.
    """
    state = TextState(after, waits=min_new_tokens)
    for token in tokens:
        state, text = read_token(state, int(token), tokenizer, stops)
        if text:
            yield text
        if state.stopped:
            return
    if text := end_text(state, stops):
        yield text


def texts_of(
    pieces: Iterable[list[Piece]],
    tokenizer: Tokenizer,
    *,
    stops: Sequence[str] = (),
    min_new_tokens: int = 0,
    after: Sequence[int | None],
) -> Iterator[list[tuple[str, Piece]]]:
    """Decode each row of a batch as its pieces come; see `stream_pieces`.

    Yields:
      For each row its new text, and its piece: one that a stop string has ended goes as
      far as the token that completed it. The last item comes when all rows have ended.

    Args:
      min_new_tokens: as for `text_of`.
      after: the last token of each prompt.
    """
    states = [TextState(last, waits=min_new_tokens) for last in after]
    finishes: list[Finish | None] = [None] * len(states)
    for rows in pieces:
        shown = []
        for i, piece in enumerate(rows):
            if finish := finishes[i]:
                shown.append(("", _first(piece, 0, finish)))
                continue
            states[i], text, piece = _read_piece(states[i], piece, tokenizer, stops)
            finishes[i] = piece.finish
            shown.append((text, piece))
        yield shown
        if all(finishes):
            return


def _read_piece(
    state: TextState, piece: Piece, tokenizer: Tokenizer, stops: Sequence[str]
) -> tuple[TextState, str, Piece]:
    texts = []
    for token in piece.tokens.tolist():
        state, text = read_token(state, token, tokenizer, stops)
        texts.append(text)
        if state.stopped:
            piece = _first(piece, len(texts), "stop")
            break
    if piece.finish:
        texts.append(end_text(state, stops))
    return state, "".join(texts), piece


def _first(piece: Piece, n: int, finish: Finish) -> Piece:
    logprobs = piece.logprobs and Logprobs(*[leaf[:n] for leaf in piece.logprobs])
    return Piece(piece.tokens[:n], logprobs, finish)


def _new_bytes(last: int | None, token: int, tokenizer: Tokenizer) -> bytes:
    """Find what a token adds to the text; words have a space between them."""
    if last is None:
        return tokenizer.decode_bytes([token])
    before = tokenizer.decode_bytes([last])
    return tokenizer.decode_bytes([last, token])[len(before) :]


def _split_at_stop(text: str, stops: Sequence[str]) -> tuple[str, str, bool]:
    """Split text into what can be shown and what waits; tell whether a stop is in it.

    The stop string that is complete first counts, the longest if several are.
    """
    found = [(at + len(stop), at) for stop in stops if (at := text.find(stop)) >= 0]
    if found:
        return text[: min(found)[1]], "", True
    n = max((_overlap(text, stop) for stop in stops), default=0)
    return text[: len(text) - n], text[len(text) - n :], False


def _overlap(text: str, stop: str) -> int:
    """Count the characters at the end of a text that begin a stop string."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
