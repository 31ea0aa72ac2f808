"""Text to words to ids and back: a vocabulary is a dict from a token to its id.

One pattern cuts text, builds vocabularies and joins tokens again, so no step can
disagree with another about what a token is. Tokens come in two modes:

- as in the study notes (the default): white space is dropped, and `decode` puts one
  blank between tokens, none before a mark. What it writes is readable, not the text
  that was encoded; only splitting it again gives the same tokens;
- lossless (`keep_space=True`): each white-space character is a token, and joining the
  tokens gives the text back.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from jaxllm.errors import TokenizerError

END_OF_TEXT = "<|endoftext|>"
UNKNOWN = "<|unk|>"

MARKS = r"""[,.:;?_!"()']"""
PATTERN = rf"({MARKS}|--|\s)"


class UnknownTokenError(TokenizerError, KeyError):
    """Tokens of a text that a vocabulary does not have: `tokens` holds every one."""

    def __init__(self, tokens: Iterable[str]) -> None:
        self.tokens = tuple(dict.fromkeys(tokens))
        super().__init__(self.tokens)

    def __str__(self) -> str:
        named = ", ".join(map(repr, self.tokens))
        return f"every token must be in the vocabulary, got unknown {named}"


def split(
    text: str,
    *,
    special_tokens: Iterable[str] = (),
    keep_space: bool = False,
    pattern: str = PATTERN,
) -> list[str]:
    """Split text into words and marks; special tokens stay whole.

    >>> split("Is this-- a test?")
    ['Is', 'this', '--', 'a', 'test', '?']
    >>> split("Is this-- a test?", keep_space=True)
    ['Is', ' ', 'this', '--', ' ', 'a', ' ', 'test', '?']
    >>> split("the end.<|end_of_page|>", special_tokens=["<|end_of_page|>"])
    ['the', 'end', '.', '<|end_of_page|>']
    """
    # The longest first, or a token that begins with another would be cut in two.
    specials = sorted(special_tokens, key=len, reverse=True)
    if specials:
        pattern = f"({'|'.join(map(re.escape, specials))})|{pattern}"
    pieces = [piece for piece in re.split(pattern, text) if piece]
    return pieces if keep_space else [p for p in pieces if not p.isspace()]


def build_vocabulary(
    tokens: Iterable[str], special_tokens: Sequence[str] = ()
) -> dict[str, int]:
    """Number the distinct tokens in sorted order, then the special tokens as given.

    >>> build_vocabulary(["the", "cat", "the"], [END_OF_TEXT])
    {'cat': 0, 'the': 1, '<|endoftext|>': 2}
    """
    ordinary = sorted(set(tokens) - set(special_tokens))
    return {token: i for i, token in enumerate([*ordinary, *special_tokens])}


def encode(tokens: Iterable[str], vocabulary: Mapping[str, int]) -> list[int]:
    """Look up the id of each token; one without an id becomes `<|unk|>`.

    A vocabulary without `<|unk|>` is strict: UnknownTokenError, a KeyError, then names
    every token that it does not have.

    >>> encode(split("the dog, the cat"), {",": 0, "cat": 1, "the": 2, UNKNOWN: 3})
    [2, 3, 0, 2, 1]
    """
    tokens = list(tokens)
    if UNKNOWN in vocabulary:
        return [vocabulary.get(token, vocabulary[UNKNOWN]) for token in tokens]
    if unknown := [token for token in tokens if token not in vocabulary]:
        raise UnknownTokenError(unknown)
    return [vocabulary[token] for token in tokens]


def decode(tokens: Iterable[str], *, keep_space: bool = False) -> str:
    """Join tokens into text, in the mode in which they were split.

    >>> decode(["'", "Is", "this", "--", "a", "test", "?"])
    "' Is this -- a test?"
    >>> decode(split("a  b\\n", keep_space=True), keep_space=True)
    'a  b\\n'
    """
    if keep_space:
        return "".join(tokens)
    return re.sub(rf"\s+({MARKS})", r"\1", " ".join(tokens))
