"""Files of word vectors to arrays and back: word2vec's text and binary forms, GloVe.

    name.bin          word2vec's binary: a line "V D"; each word, a blank, D floats
    name.txt, .vec    word2vec's text: the same, with the numbers in digits
    name.glove        GloVe's text has no first line, which is how it is known
    name.npy          the rows as NumPy's own file, the words in a list in name.words

All but the last may be gzipped (.gz). The rows of .bin and .npy are mapped, not read:
they need not fit into memory.
"""

import contextlib
import dataclasses
import functools
import gzip
import json
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import numpy as np

from jaxllm.data import disk
from jaxllm.errors import ConfigError, DataError
from jaxllm.types import Array
from jaxllm.vectors import mapped, records

Path = str | os.PathLike[str]


@dataclasses.dataclass(frozen=True, eq=False)
class Embeddings:
    """Words, and a row of numbers for each."""

    words: list[str]
    rows: Array  # (V, D) float32, or MappedRows, which stay in their file

    @functools.cached_property
    def index(self) -> dict[str, int]:
        """The row of each word."""
        return {word: i for i, word in enumerate(self.words)}


def read(path: Path, *, limit: int | None = None) -> Embeddings:
    """Read word vectors; the end of the name and the first line tell the form.

    Of a word that comes twice, the first counts.

    Args:
        limit: read the first so many only; the rest of the file is not touched.

    Raises:
        DataError: the file is in no known form, or ends early: then the word in which
            it ends is named.
    """
    path = pathlib.Path(path)
    _check_limit(limit)
    if path.suffix == ".npy":
        return _read_npy(path, limit)
    if path.suffix == ".bin":
        return Embeddings(*mapped.open_binary(path, limit))
    with records.opened(path, limit) as (size, found):
        known = [n for n in (size.words, limit) if n is not None and n >= 0]
        rows = np.empty((min(known, default=1024), size.dims), np.float32)
        words: list[str] = []
        for word, numbers in found:
            if len(words) == len(rows):
                rows = np.concatenate([rows, np.empty_like(rows)])
            rows[len(words)] = records.as_row(numbers, word, size)
            words.append(word)
    return Embeddings(words, rows[: len(words)])


def write(embeddings: Embeddings, path: Path) -> None:
    """Write word vectors in the form that the end of the name says; GloVe is .glove.

    These forms end a word at a blank, so `file_words` writes what they can hold.

    >>> import tempfile
    >>> rows = np.array([[1, 0.5], [0, -1]], np.float32)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(Embeddings(["New York", "b"], rows), folder + "/a.txt")
    ...     print(pathlib.Path(folder, "a.txt").read_text(), end="")
    ...     read(folder + "/a.txt").words
    2 2
    New_York 1 0.5
    b 0 -1
    ['New_York', 'b']
    """
    rows = np.asarray(embeddings.rows, np.float32)
    _write(pathlib.Path(path), embeddings.words, rows, rows.shape[1])


def convert(source: Path, target: Path, *, limit: int | None = None) -> tuple[int, int]:
    """Write a file in another form, row by row: only its words have to fit in memory.

    It is read twice, as most forms begin with the number of words.

    Returns:
        the number of words and of dimensions.
    """
    source, target = pathlib.Path(source), pathlib.Path(target)
    _check_limit(limit)
    if source.suffix == ".npy":
        embeddings = _read_npy(source, limit)
        write(embeddings, target)
        return len(embeddings.words), embeddings.rows.shape[1]
    with records.opened(source, limit) as (_, found):
        words = [word for word, _ in found]
    with records.opened(source, limit) as (size, found):
        rows = (records.as_row(numbers, word, size) for word, numbers in found)
        _write(target, words, rows, size.dims)
    return len(words), size.dims


def file_words(words: Iterable[str]) -> Iterator[str]:
    """Yield words without white space, all different: what a word2vec file can hold.

    White space becomes "_", as in word2vec's own phrases; where two words would become
    one, the later one gets more of them.

    >>> list(file_words(["New York", "New_York", "", "a\\n"]))
    ['New_York', 'New_York_', '_', 'a_']
    """
    taken = set()
    for word in words:
        written = "".join("_" if c.isspace() else c for c in word) or "_"
        while written in taken:
            written += "_"
        taken.add(written)
        yield written


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise ConfigError(f"limit must be >= 1, got {limit}")


def _write(
    path: pathlib.Path, words: list[str], rows: Iterable[np.ndarray], dims: int
) -> None:
    if path.suffix == ".npy":
        return _write_npy(path, words, rows, dims)
    inner = path.name.removesuffix(".gz")
    if not inner.endswith((".bin", ".txt", ".vec", ".glove")):
        raise DataError(
            "a file of vectors must end in .bin, .txt, .vec or .glove, perhaps with "
            f".gz, or in .npy; got {path.name!r}"
        )
    with disk.atomic_writer(path) as raw, _packed(raw, path) as file:
        if not inner.endswith(".glove"):
            file.write(f"{len(words)} {dims}\n".encode())
        as_line = _binary_line if inner.endswith(".bin") else _text_line
        for word, row in zip(file_words(words), rows, strict=True):
            file.write(word.encode("utf-8", records.ERRORS) + b" " + as_line(row))


def _text_line(row: np.ndarray) -> bytes:
    # Nine digits give the same float32 again.
    return " ".join(f"{x:.9g}" for x in row.tolist()).encode() + b"\n"


def _binary_line(row: np.ndarray) -> bytes:
    return np.asarray(row, "<f4").tobytes() + b"\n"


@contextlib.contextmanager
def _packed(raw: BinaryIO, path: pathlib.Path) -> Iterator[BinaryIO]:
    if path.suffix != ".gz":
        yield raw
        return
    with gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file:
        yield file  # type: ignore  # a GzipFile writes as a BinaryIO does


def _read_npy(path: pathlib.Path, limit: int | None) -> Embeddings:
    with disk.explain_refusal("read", path):
        try:
            rows = np.lib.format.open_memmap(path, mode="r")
        except ValueError as error:
            raise DataError(
                f"{path} must be as numpy.save writes arrays of numbers: {error}"
            ) from None
    words = _read_words(_words_path(path))
    if rows.ndim != 2 or len(words) != len(rows):
        raise DataError(
            f"{path} must have a row per word, got the shape {rows.shape} for "
            f"{len(words)} words"
        )
    return Embeddings(words[:limit], rows[:limit])


def _read_words(path: pathlib.Path) -> list[str]:
    with disk.explain_refusal("read", path):
        data = path.read_bytes()
    try:
        words = json.loads(data)
    except ValueError as error:
        raise DataError(f"{path} must be JSON: {error}") from None
    if not isinstance(words, list) or not all(isinstance(w, str) for w in words):
        raise DataError(f"{path} must hold a list of words")
    return words


def _write_npy(
    path: pathlib.Path, words: list[str], rows: Iterable[np.ndarray], dims: int
) -> None:
    shape = {"descr": "<f4", "fortran_order": False, "shape": (len(words), dims)}
    with disk.atomic_writer(path) as file:
        np.lib.format.write_array_header_1_0(file, shape)
        for _, row in zip(words, rows, strict=True):
            file.write(np.asarray(row, "<f4").tobytes())
    with disk.atomic_writer(_words_path(path)) as file:
        file.write(json.dumps(words).encode())


def _words_path(path: pathlib.Path) -> pathlib.Path:
    return path.with_suffix(".words")
