"""A file of rows to records: JSON, JSON lines, Parquet, CSV, TSV; and their parts.

A record is a dict from the names of the columns to the values. Records are examples of
a task, thousands of them, so they are read at once; texts by the gigabyte are streamed
by text_files.
"""

import codecs
import csv
import io
import itertools
import json
import math
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jaxllm.data import disk, text_files
from jaxllm.errors import DataError

Record = dict[str, Any]

DELIMITERS = {".csv": ",", ".tsv": "\t"}


def read_records(
    path: str | os.PathLike[str],
    *,
    columns: Sequence[str] | None = None,
    quoted: bool | None = None,
) -> list[Record]:
    r"""Read the records of a file, in the form that its suffix names.

    .json: one array of objects, or an object per line; .jsonl and .ndjson: an object
    per line; .parquet: a table; .csv and .tsv: a record per line, fields between commas
    or tabs.

    Args:
      columns: names of the columns of a .csv or .tsv file; None reads them from its
        first line.
      quoted: whether `"` around a field of such a file keeps delimiters, line ends and
        doubled quotes in it (RFC 4180), or is a character like any other. None means
        quoted for .csv and not for .tsv.

    Raises:
      DataError: the file cannot be read, or is not what its suffix says.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "a.tsv")
    ...     _ = path.write_text('ham\tSee "you"\nspam\tYou won!\n')
    ...     read_records(path, columns=["label", "text"])[0]
    {'label': 'ham', 'text': 'See "you"'}
    """
    path = pathlib.Path(path)
    suffix = path.suffix.lower()
    if suffix in DELIMITERS:
        quoted = suffix == ".csv" if quoted is None else quoted
        records = _table(path, columns, quoted)
    elif columns is not None or quoted is not None:
        raise DataError(f"columns and quoted are for {_listed(DELIMITERS)}, got {path}")
    elif suffix == ".parquet":
        records = _parquet(path)
    elif suffix in (".json", ".jsonl", ".ndjson"):
        records = _json(path)
    else:
        raise DataError(
            "a file of records must be .json, .jsonl, .ndjson, .parquet, .csv or .tsv, "
            f"got {path}"
        )
    if not records:
        raise DataError(f"a file of records must hold one, {path} holds none")
    return records


def split(items: Any, fractions: Sequence[float]) -> list[Any]:
    """Cut items into parts in their order; the last part takes what is left over.

    Args:
      items: anything that can be sliced: records, or row numbers in a shuffled order.
      fractions: the share of each part, rounded down; they sum to 1.

    Raises:
      DataError: the fractions are not shares of a whole, or a part is empty.

    >>> split(list("abcdefghi"), (0.7, 0.1, 0.2))
    Traceback (most recent call last):
    jaxllm.errors.DataError: every part must hold something, 9 items in shares of
    (0.7, 0.1, 0.2) give 6, 0, 3
    >>> split(list("abcdefghij"), (0.7, 0.1, 0.2))
    [['a', 'b', 'c', 'd', 'e', 'f', 'g'], ['h'], ['i', 'j']]
    """
    if min(fractions) < 0 or not math.isclose(sum(fractions), 1):
        raise DataError(f"fractions must be >= 0 and sum to 1, got {tuple(fractions)}")
    # 0.29 * 100 is a little less than 29 in floating point.
    sizes = [math.floor(f * len(items) + 1e-9) for f in fractions[:-1]]
    ends = np.cumsum([0, *sizes]).tolist()
    parts = [items[i:j] for i, j in zip(ends, [*ends[1:], len(items)], strict=True)]
    if not all(map(len, parts)):
        raise DataError(
            f"every part must hold something, {len(items)} items in shares of "
            f"{tuple(fractions)} give {', '.join(str(len(part)) for part in parts)}"
        )
    return parts


def batch_rows(
    order: np.ndarray, batch_size: int, *, drop_last: bool = False
) -> list[np.ndarray]:
    """Cut an order of rows into batches; the last may be short, or be dropped.

    >>> batch_rows(np.array([4, 2, 0, 1, 3]), 2)
    [array([4, 2]), array([0, 1]), array([3])]
    """
    if batch_size < 1:
        raise DataError(f"batch_size must be >= 1, got {batch_size}")
    end = len(order) - len(order) % batch_size if drop_last else len(order)
    return [order[i : i + batch_size] for i in range(0, end, batch_size)]


def _table(
    path: pathlib.Path, columns: Sequence[str] | None, quoted: bool
) -> list[Record]:
    """Read fields between delimiters, and name them."""
    records = []
    for line, row in _rows(path, quoted):
        if columns is None:
            columns = row
        elif row:
            records.append(_named(columns, row, f"line {line} of {path}"))
    return records


def _rows(path: pathlib.Path, quoted: bool) -> list[tuple[int, list[str]]]:
    """Read rows of fields and where each begins; a quoted field may have many lines."""
    text = _read_text(path)
    # Left to itself the reader takes a field that begins with a quote for quoted. The
    # empty line behind the text is a row without fields, unless it is within quotes.
    reader = csv.reader(
        itertools.chain(io.StringIO(text, newline=""), [""]),
        delimiter=DELIMITERS[path.suffix.lower()],
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
    )
    rows, line = [], 1
    limit = csv.field_size_limit(len(text))  # no field is too long for its own file
    try:
        for row in reader:
            rows.append((line, row))
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"line {line} of {path} cannot be read: {error}") from error
    finally:
        csv.field_size_limit(limit)
    line, row = rows.pop()
    if row:
        raise DataError(
            f"a quote that is opened must be closed, {path} ends within the quotes of "
            f"the record that begins in line {line}"
        )
    return rows


def _named(columns: Sequence[str], row: Sequence[str], where: str) -> Record:
    if len(row) != len(columns):
        raise DataError(
            f"{where} must have {len(columns)} columns, {_listed(columns)}, "
            f"got {len(row)}"
        )
    if len(set(columns)) < len(columns):
        raise DataError(f"columns must have different names, got {_listed(columns)}")
    return dict(zip(columns, row, strict=True))


def _json(path: pathlib.Path) -> list[Record]:
    text = _read_text(path)
    if path.suffix.lower() == ".json" and text.lstrip().startswith("["):
        array = _parsed(text, str(path))
        rows = [(row, f"record {i} of {path}") for i, row in enumerate(array, 1)]
    else:
        lines = [
            (line, f"line {i} of {path}") for i, line in enumerate(text.split("\n"), 1)
        ]
        rows = [(_parsed(line, where), where) for line, where in lines if line.strip()]
    for row, where in rows:
        if not isinstance(row, dict):
            raise DataError(f"{where} must be a JSON object, got {str(row)[:40]!r}")
    return [row for row, _ in rows]


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"{where} must be JSON: {error}") from error


def _parquet(path: pathlib.Path) -> list[Record]:
    pyarrow, parquet = text_files.import_pyarrow(path)
    try:
        return parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}") from error


def _read_text(path: pathlib.Path) -> str:
    with disk.explain_refusal("read", path):
        data = path.read_bytes()
    try:
        return data.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"a file of records must be UTF-8, {path} has the byte "
            f"0x{data[error.start]:02x} at byte offset {error.start}"
        ) from error


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
