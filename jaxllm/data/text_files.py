"""Files to pieces of text: plain, JSON lines or Parquet; .gz and .zst unpacked.

Everything streams. A plain text is read in pieces of about a megabyte, cut only where
no tokenizer of the GPT family looks across, so encoding the pieces gives the ids of
the whole; memory stays bounded however long the text is.
"""

import codecs
import importlib
import json
import pathlib
import re
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import zstandard

from jaxllm.data import disk
from jaxllm.errors import DataError

PIECE_CHARACTERS = 2**20
"""Length past which a plain text is cut."""


class Piece(NamedTuple):
    """A stretch of a document; a document's pieces come one after the other."""

    text: str
    first: bool  # whether a document begins here


def read_pieces(path: pathlib.Path, text_column: str = "text") -> Iterator[Piece]:
    """Yield a file's documents in pieces; empty documents are left out.

    A .jsonl, .ndjson or .json file (JSON lines) and a .parquet file hold a document
    per row, in the field text_column; any other file is one document.

    Raises:
      DataError: the file is binary, not UTF-8, damaged, or lacks the column.
    """
    packed = path.suffix.lower() in _UNPACKERS
    suffix = (path.with_suffix("") if packed else path).suffix.lower()
    if suffix == ".parquet":
        rows = _parquet_texts(path, text_column)
    elif suffix in (".jsonl", ".ndjson", ".json"):
        rows = _json_texts(path, text_column)
    else:
        yield from _text_pieces(path)
        return
    yield from (Piece(text, first=True) for text in rows if text)


def _text_pieces(path: pathlib.Path) -> Iterator[Piece]:
    first, text = True, ""
    for chunk in _decoded_chunks(path):
        text += chunk
        while len(text) > PIECE_CHARACTERS:
            cut = last_safe_cut(text)
            if not cut and len(text) >= 16 * PIECE_CHARACTERS:
                cut = len(text)  # bounded memory is worth one unusual token
            if not cut:
                break
            yield Piece(text[:cut], first)
            first, text = False, text[cut:]
    if text:
        yield Piece(text, first)


# Before a single space between words, or at a word that begins a line: the split
# patterns from GPT-2's to o200k's all end a token there; so do words and characters.
_SAFE_CUT = re.compile(r"(?<=\S)(?= [^\W\d_])|(?<=\S\n)(?=[^\W\d_])")


def last_safe_cut(text: str) -> int:
    """Find the last place where text can be cut without changing its tokens, or 0.

    >>> text = "To be,  or not"
    >>> text[: last_safe_cut(text)]
    'To be,  or'
    """
    step = 4096
    for start in range(len(text) - step, -step, -step):
        cuts = list(_SAFE_CUT.finditer(text, max(start, 0), start + step + 2))
        if cuts:
            return cuts[-1].start()
    return 0


def _decoded_chunks(path: pathlib.Path) -> Iterator[str]:
    offset, rest = 0, b""
    for chunk in _chunks(path):
        data = rest + chunk
        zero = data.find(b"\0")
        if zero >= 0:
            raise DataError(
                "a text must not be binary, "
                f"{path} has a zero byte at byte offset {offset + zero}"
            )
        text, used = _decode(data, path, offset, final=False)
        yield text.removeprefix("\ufeff") if offset == 0 else text
        offset, rest = offset + used, data[used:]
    _decode(rest, path, offset, final=True)


def _decode(
    data: bytes, path: pathlib.Path, offset: int, *, final: bool
) -> tuple[str, int]:
    """Decode UTF-8 strictly; offset is where data begins in the (unpacked) file."""
    try:
        return codecs.utf_8_decode(data, "strict", final)
    except UnicodeDecodeError as error:
        raise DataError(
            f"a text must be UTF-8, {path} has the byte 0x{data[error.start]:02x} "
            f"at byte offset {offset + error.start}"
        ) from error


def _json_texts(path: pathlib.Path, column: str) -> Iterator[str]:
    offset = 0
    for number, line in enumerate(_lines(_chunks(path)), 1):
        text, _ = _decode(line, path, offset, final=True)
        text = text.removeprefix("\ufeff") if offset == 0 else text
        offset += len(line) + 1
        if not text.strip():
            continue
        where = f"line {number} of {path}"
        try:
            row = json.loads(text)
        except ValueError as error:
            raise DataError(f"{where} must be a JSON object: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f"{where} must be a JSON object, got {text[:40]!r}")
        _require_column(column, row, where)
        yield _checked_text(row[column], column, where)


def import_pyarrow(path: pathlib.Path) -> tuple[Any, Any]:
    """Import pyarrow and pyarrow.parquet, or tell which extra path needs."""
    try:
        pyarrow = importlib.import_module("pyarrow")
        return pyarrow, importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise DataError(
            f"{path} needs pyarrow to be read: pip install 'jaxllm[parquet]'"
        ) from error


def _parquet_texts(path: pathlib.Path, column: str) -> Iterator[str]:
    pyarrow, parquet = import_pyarrow(path)
    try:
        with parquet.ParquetFile(path) as file:
            _require_column(column, file.schema_arrow.names, str(path))
            for batch in file.iter_batches(batch_size=256, columns=[column]):
                for value in batch.column(0).to_pylist():
                    yield _checked_text(value, column, str(path))
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}") from error


def _require_column(column: str, names: Iterable[str], where: str) -> None:
    if column not in names:
        raise DataError(
            f"{where} has no column {column!r}; it has {', '.join(map(repr, names))}"
        )


def _checked_text(value: object, column: str, where: str) -> str:
    """Return a row's text, where null is an empty one."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f"column {column!r} must hold text, got {value!r} in {where}")
    if _SURROGATE.search(value):
        raise DataError(
            f"column {column!r} must hold Unicode text, {where} has half a surrogate "
            "pair"
        )
    return value


# JSON can write half of a UTF-16 pair, which no encoding of text can.
_SURROGATE = re.compile("[\ud800-\udfff]")


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
    if rest:
        yield rest


# Each makes an object that unpacks one member (gzip) or frame (Zstandard), also one
# with the longest window there is, which `zstd --ultra --long=31` writes.
_UNPACKERS = {
    ".gz": lambda: zlib.decompressobj(wbits=31),
    ".zst": lambda: zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj(),
}


def _chunks(path: pathlib.Path) -> Iterator[bytes]:
    """Read a file in chunks of about a megabyte, unpacked where its name says so."""
    with disk.explain_refusal("read", path), open(path, "rb") as file:
        new_unpacker = _UNPACKERS.get(path.suffix.lower())
        if new_unpacker is None:
            yield from iter(lambda: file.read(2**20), b"")
            return
        unpacker = new_unpacker()
        try:
            while packed := file.read(2**16):
                # Zeros may pad what is packed to a whole number of blocks.
                while packed := packed.lstrip(b"\0") if unpacker.eof else packed:
                    if unpacker.eof:
                        unpacker = new_unpacker()
                    yield unpacker.decompress(packed)
                    packed = unpacker.unused_data
        except (zlib.error, zstandard.ZstdError) as error:
            raise DataError(f"{path} is damaged: {error}") from error
        if not unpacker.eof:
            raise DataError(f"{path} is damaged: it ends before its packed text does")
