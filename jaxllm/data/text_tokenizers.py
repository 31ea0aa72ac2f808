"""Text to token ids and back: what a tokenizer is, and the kinds whose tokens are text.

A tokenizer is a value: it never changes, it pickles, and its hash says which one it is,
so that a token store or a checkpoint can refuse any other.
"""

import dataclasses
import functools
import hashlib
import json
import re
import sys
from collections.abc import Iterable
from concurrent import futures
from typing import Any, ClassVar

import numpy as np

from jaxllm.data import bpe, pool, words
from jaxllm.errors import TokenizerError

Ids = Iterable[int] | np.ndarray

FILE_VERSION = 1


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Tokenizer:
    """What every kind can do; a kind adds how ordinary text becomes ids, and back.

    Special tokens such as `<|endoftext|>` steer a model, so text that contains one is
    an error unless the caller says what it means: `allow_special=True` makes it one id,
    `encode_ordinary` takes it for plain text. The end_token is the one that stands
    between documents, if it is among them.
    """

    kind: ClassVar[str]
    special_tokens: dict[str, int] = dataclasses.field(default_factory=dict)
    end_token: str = words.END_OF_TEXT

    def __repr__(self) -> str:
        name, special = type(self).__name__, [*self.special_tokens]
        return f"{name}(vocab_size={self.vocab_size}, special_tokens={special})"

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        raise NotImplementedError

    @property
    def end_of_text(self) -> int | None:
        """The id that stands between documents, where there is one."""
        return self.special_tokens.get(self.end_token)

    @functools.cached_property
    def hash(self) -> str:
        """The sha256, in hex, of everything that decides an id."""
        return canonical_hash(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Write everything that decides an id as what JSON can hold."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        if self.end_token == words.END_OF_TEXT:
            del fields["end_token"]  # goes without saying, in a file and in a hash
        return {"kind": self.kind, "version": FILE_VERSION, **fields}

    def encode(self, text: str, *, allow_special: bool = False) -> np.ndarray:
        """Turn text into ids, (T,) int32; a special token in it must be allowed."""
        if allow_special:
            ids = [
                np.array([self.special_tokens[part]], np.int32)
                if place % 2
                else self.encode_ordinary(part)
                for place, part in enumerate(self.split_special(text))
            ]
            return np.concatenate(ids)
        if found := self._special_pattern.search(text):
            raise TokenizerError(
                "special tokens in text must be allowed by allow_special=True, or "
                f"taken as plain text by encode_ordinary, got {found[0]!r} at "
                f"character {found.start()}"
            )
        return self.encode_ordinary(text)

    def encode_ordinary(self, text: str) -> np.ndarray:
        """Turn text in which nothing is special into ids, (T,) int32."""
        raise NotImplementedError

    def split_special(self, text: str) -> list[str]:
        """Cut a text at its special tokens, which then stand at the odd places."""
        return self._special_pattern.split(text)

    def encode_batch(
        self, texts: Iterable[str], *, allow_special: bool = False
    ) -> list[np.ndarray]:
        """Encode many texts, in as many threads as there are cores."""
        encode = functools.partial(self.encode, allow_special=allow_special)
        with futures.ThreadPoolExecutor(pool.cores()) as executor:
            return list(executor.map(encode, texts))

    def decode(self, ids: Ids) -> str:
        """Turn ids into text; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Ids) -> bytes:
        """Turn ids into exactly their bytes."""
        raise NotImplementedError

    def token_bytes(self, id: int) -> bytes:
        """Look up the bytes of one token."""
        return self.decode_bytes([id])

    @functools.cached_property
    def _special_pattern(self) -> re.Pattern[str]:
        # The longest first, or a token that begins with another would be cut in two;
        # "(?!)" never matches.
        names = sorted(self.special_tokens, key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, names)) or '(?!)'})")

    def _valid(self, ids: Ids) -> list[int]:
        array = np.asarray(ids if hasattr(ids, "__len__") else list(ids))
        if array.shape == (0,):
            return []
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise TokenizerError(
                "ids must be one row of integers, "
                f"got shape {array.shape} of {array.dtype}"
            )
        for extreme in (array.min(), array.max()):
            if not 0 <= extreme < self.vocab_size:
                raise TokenizerError(
                    f"ids must be in 0..{self.vocab_size - 1}, got {extreme}"
                )
        return array.tolist()


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class CharTokenizer(Tokenizer):
    """A token is a character; its id is its place among the sorted `characters`.

    >>> tokenizer = CharTokenizer(characters="abc")
    >>> tokenizer.encode("cab")
    array([2, 0, 1], dtype=int32)
    >>> tokenizer.decode([2, 0, 1])
    'cab'
    """

    kind: ClassVar[str] = "char"
    characters: str

    def __post_init__(self) -> None:
        bpe.encode_utf8(self.characters)
        if list(self.characters) != sorted(set(self.characters)):
            raise TokenizerError("characters must be sorted, and each be there once")
        _require_next_ids(self.special_tokens, len(self.characters))

    @property
    def vocab_size(self) -> int:
        return len(self._tokens)

    @functools.cached_property
    def _tokens(self) -> tuple[str, ...]:
        return (*self.characters, *self.special_tokens)

    @functools.cached_property
    def _ids(self) -> np.ndarray:
        ids = np.full(sys.maxunicode + 1, -1, np.int32)
        ids[_code_points(self.characters)] = np.arange(len(self.characters))
        return ids

    def encode_ordinary(self, text: str) -> np.ndarray:
        ids = self._ids[_code_points(text)]
        if (ids < 0).any():
            raise words.UnknownTokenError(c for c in text if c not in self.characters)
        return ids

    def decode_bytes(self, ids: Ids) -> bytes:
        return "".join([self._tokens[i] for i in self._valid(ids)]).encode()


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class WordTokenizer(Tokenizer):
    """A token is a word or a mark, as in the study notes (see jaxllm.data.words).

    Without `<|unk|>` among the special tokens it is strict. With keep_space, white
    space has ids too, and decoding gives the text back.

    >>> tokenizer = WordTokenizer(vocabulary=(",", "cat", "the"))
    >>> tokenizer.encode("the  cat, the cat")
    array([2, 1, 0, 2, 1], dtype=int32)
    >>> tokenizer.decode([2, 1, 0, 2, 1])
    'the cat, the cat'
    """

    kind: ClassVar[str] = "word"
    vocabulary: tuple[str, ...]
    keep_space: bool = False

    def __post_init__(self) -> None:
        bpe.encode_utf8("".join(self.vocabulary))
        if len(set(self.vocabulary)) < len(self.vocabulary):
            raise TokenizerError("each word of a vocabulary must be there once")
        _require_next_ids(self.special_tokens, len(self.vocabulary))

    @property
    def vocab_size(self) -> int:
        return len(self._tokens)

    @functools.cached_property
    def _tokens(self) -> tuple[str, ...]:
        return (*self.vocabulary, *self.special_tokens)

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        unknown = self.special_tokens.get(words.UNKNOWN)
        ids = {token: i for i, token in enumerate(self.vocabulary)}
        return ids if unknown is None else ids | {words.UNKNOWN: unknown}

    def encode_ordinary(self, text: str) -> np.ndarray:
        tokens = words.split(text, keep_space=self.keep_space)
        return np.array(words.encode(tokens, self._ids), np.int32)

    def decode(self, ids: Ids) -> str:
        tokens = [self._tokens[i] for i in self._valid(ids)]
        return words.decode(tokens, keep_space=self.keep_space)

    def decode_bytes(self, ids: Ids) -> bytes:
        return self.decode(ids).encode()


def canonical_hash(data: dict[str, Any]) -> str:
    """Hash what JSON can hold, whatever the order of its keys.

    >>> canonical_hash({"a": 1, "b": 2}) == canonical_hash({"b": 2, "a": 1})
    True
    """
    canonical = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _require_next_ids(special_tokens: dict[str, int], first: int) -> None:
    ids = list(special_tokens.values())
    if ids != list(range(first, first + len(ids))):
        raise TokenizerError(
            f"special tokens must have the ids from {first} on, got {special_tokens}"
        )


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
