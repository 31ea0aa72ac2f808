"""Tokens in as they come, text out: whole characters, up to a stop string.

A token may end inside a character, and a text inside what may become a stop string:
both wait for the tokens that follow, so what is shown is never taken back.
"""

import codecs
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from jaxllm.data.tokenizers import Tokenizer
from jaxllm.inference.generate import Finish, Piece
from jaxllm.inference.sampling import Logprobs


class TextState(NamedTuple):
    """What the next token needs to know of those before it."""

    last: int | None = None  # the token before; None at the beginning of a text
    waiting: bytes = b""  # the beginning of a character
    held: str = ""  # text that may be the beginning of a stop string
    stopped: bool = False  # a stop string has come; nothing follows it


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
    shown, held, stopped = _split_at_stop(state.held + text, stops)
    return TextState(token, data[n:], held, stopped), shown


def end_text(state: TextState, stops: Sequence[str] = ()) -> str:
    """Give what waits when no token follows; bytes of no whole character as U+FFFD."""
    if state.stopped:
        return ""
    text = state.held + state.waiting.decode("utf-8", errors="replace")
    shown, held, stopped = _split_at_stop(text, stops)
    return shown if stopped else shown + held


def text_of(
    tokens: Iterable[int],
    tokenizer: Tokenizer,
    *,
    stops: Sequence[str] = (),
    after: int | None = None,
) -> Iterator[str]:
    """Decode the tokens of one row as they come, up to the first stop string.

    Bytes that are no text become U+FFFD.

    Args:
      after: the token in front of them, where they go on from a text.
    """
    state = TextState(after)
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
    after: Sequence[int | None],
) -> Iterator[list[tuple[str, Piece]]]:
    """Decode each row of a batch as its pieces come; see `stream_pieces`.

    Yields:
      For each row its new text, and its piece: one that a stop string has ended goes as
      far as the token that completed it. The last item comes when all rows have ended.

    Args:
      after: the last token of each prompt.
    """
    states = [TextState(last) for last in after]
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
