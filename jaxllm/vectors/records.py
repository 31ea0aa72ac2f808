"""A file of word vectors in, its words and their numbers out, one by one.

Numbers stay bytes until they are asked for: who only wants the words is spared parsing.
"""

import contextlib
import gzip
import itertools
import pathlib
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple, TypeVar

import numpy as np

from jaxllm.data import disk
from jaxllm.errors import DataError

# Words are UTF-8; what is not comes back as it was when it is written again.
ERRORS = "surrogateescape"

Numbers = bytes | list[bytes]
"""The floats of a word: as they lie in memory, or in digits."""

Found = TypeVar("Found")
"""What a file has for a word."""


class Size(NamedTuple):
    """What the first line says: words and dimensions; -1 where it does not."""

    words: int
    dims: int
    path: pathlib.Path


@contextlib.contextmanager
def opened(
    path: pathlib.Path, limit: int | None = None
) -> Iterator[tuple[Size, Iterator[tuple[str, Numbers]]]]:
    """Open a file; yield its size, and its words with their numbers.

    Of a word that comes twice, the first counts.

    Args:
        limit: the first so many only; the rest of the file is not touched.

    Raises:
        DataError: the file is in no known form, or ends early: then the word in which
            it ends is named.
    """
    with unpacked(path) as file:
        if path.name.removesuffix(".gz").endswith(".bin"):
            size = binary_size(file, path)
            places = binary_places(file, size)
            records = ((word, numbers) for word, (_, numbers) in places)
        else:
            records, size = _text_records(file, path)
        try:
            yield size, different(records, limit)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(f"{path} is damaged: {error}") from None


def as_row(numbers: Numbers, word: str, size: Size) -> np.ndarray:
    """Turn a word's numbers into (D,) float32."""
    if isinstance(numbers, bytes):
        return np.frombuffer(numbers, "<f4")
    try:
        return np.array([float(x) for x in numbers], np.float32)
    except ValueError:
        raise DataError(
            f"{size.path} must have {size.dims} numbers for each word, {word!r} has "
            f"{b' '.join(numbers)[:60]!r}"
        ) from None


def different(
    records: Iterator[tuple[bytes, Found]], limit: int | None = None
) -> Iterator[tuple[str, Found]]:
    """Decode words, the first so many, and leave out those that were there before."""
    taken = set()
    for word, found in itertools.islice(records, limit):
        text = word.decode("utf-8", ERRORS)
        if text not in taken:
            taken.add(text)
            yield text, found


@contextlib.contextmanager
def unpacked(path: pathlib.Path) -> Iterator[BinaryIO]:
    """Open a file for reading, unpacked if it is gzipped."""
    with disk.explain_refusal("read", path), open(path, "rb") as file:
        if path.suffix == ".gz":
            with gzip.open(file) as unpacked:
                yield unpacked  # type: ignore  # a GzipFile reads as a BinaryIO does
        elif path.stat().st_size == 0:
            raise DataError(f"{path} must hold word vectors, it is empty")
        else:
            yield file


def binary_size(file: BinaryIO, path: pathlib.Path) -> Size:
    """Read the first line of a file in word2vec's binary form."""
    header = file.readline().split()
    if len(header) != 2 or not all(part.isdigit() for part in header):
        raise DataError(
            f"{path} must begin with a line of two numbers, as word2vec's binary form "
            "does; text is named .txt or .vec"
        )
    return Size(int(header[0]), int(header[1]), path)


def binary_places(
    file: BinaryIO, size: Size
) -> Iterator[tuple[bytes, tuple[int, bytes]]]:
    """Yield each word with its floats: where they begin in the file, and their bytes.

    A megabyte is read at a time.
    """
    buffer, start, n_bytes = b"", 0, 4 * size.dims
    before = file.tell()  # bytes of the file in front of the buffer

    def fill() -> bool:
        nonlocal buffer, start, before
        more = file.read(max(2**20, n_bytes))
        buffer, start, before = buffer[start:] + more, 0, before + start
        return bool(more)

    for number in range(1, size.words + 1):
        # word2vec ends a vector with a line feed, gensim does not.
        while (blank := buffer.find(b" ", start)) < 0:
            if not fill():
                word = buffer[start:].strip(b"\r\n")
                raise _truncated(size, number, word)
        word = buffer[start:blank].lstrip(b"\r\n")
        begin = blank + 1 - start
        while len(buffer) - start < begin + n_bytes:
            if not fill():
                raise _truncated(size, number, word)
        start += begin
        yield word, (before + start, buffer[start : start + n_bytes])
        start += n_bytes


def _text_records(
    file: BinaryIO, path: pathlib.Path
) -> tuple[Iterator[tuple[bytes, list[bytes]]], Size]:
    first = file.readline().removeprefix(b"\xef\xbb\xbf")
    parts = first.split()
    if len(parts) == 2 and all(part.isdigit() for part in parts):
        size = Size(int(parts[0]), int(parts[1]), path)
        return _cut_text(file, b"", size), size
    size = Size(-1, len(parts) - 1, path)
    if size.dims < 1:
        raise DataError(f"{path} must have a word and its numbers in each line")
    return _cut_text(file, first, size), size


def _cut_text(
    file: BinaryIO, first: bytes, size: Size
) -> Iterator[tuple[bytes, list[bytes]]]:
    """Yield each word with its numbers, found from the right: words may have blanks."""
    number = 1 if first else 0
    if first:
        yield _split_line(first, size, number, last=False)
    line = file.readline()
    while line and number != size.words:
        after = file.readline()
        if line.strip():
            number += 1
            yield _split_line(line, size, number, last=not after)
        line = after
    if number < size.words:
        raise DataError(
            f"{size.path} must hold {size.words:,} words, as its first line says, it "
            f"ends after {number:,}"
        )


def _split_line(
    line: bytes, size: Size, number: int, *, last: bool
) -> tuple[bytes, list[bytes]]:
    parts = line.rstrip().rsplit(None, size.dims)
    word = b"" if len(parts) == size.dims else parts[0]
    if len(parts) < size.dims and last:
        raise _truncated(size, number, parts[0].split()[0])
    if len(parts) < size.dims:
        raise DataError(
            f"{size.path} must have {size.dims} numbers for each word, word {number:,} "
            f"has {len(line.split()) - 1}"
        )
    return word, parts[-size.dims :]


def _truncated(size: Size, number: int, word: bytes) -> DataError:
    total = "" if size.words < 0 else f" of {size.words:,}"
    return DataError(
        f"{size.path} ends in the middle of word {number:,}{total}, "
        f"{word.decode('utf-8', 'replace')!r}; fetch it again, or read less of it"
    )
