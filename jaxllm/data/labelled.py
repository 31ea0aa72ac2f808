"""Labelled text: files to texts and labels, balanced, split, encoded and padded.

Rows are chosen by their numbers and stay where they are, so a choice can be written
down, compared and made again.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxllm.data import records
from jaxllm.data.text_tokenizers import Tokenizer
from jaxllm.errors import DataError

Permute = Callable[[int], np.ndarray]
"""From n to an order of range(n): np.random.default_rng(seed).permutation is one."""


class Labelled(NamedTuple):
    """Texts, each with one of a few labels."""

    texts: list[str]
    labels: np.ndarray  # (n,) int32, places in names
    names: tuple[str, ...]  # of the labels


class TextBatch(NamedTuple):
    """Texts to learn from, a row each. A pytree."""

    inputs: np.ndarray  # (B, T) int32, padded behind each text
    lengths: np.ndarray  # (B,) int32, 0 where there is no text
    labels: np.ndarray  # (B,) int32
    weights: np.ndarray  # (B,) float32, of each text in the loss


class Encoded(NamedTuple):
    """Texts as rows of one width."""

    ids: np.ndarray  # (n, T) int32, padded behind each text
    lengths: np.ndarray  # (n,) int32, how many ids of a row are the text's
    truncated: np.ndarray  # (n,) bool, whether a text lost its end


def read_labelled(
    path: str | os.PathLike[str],
    *,
    text_column: str = "text",
    label_column: str = "label",
    names: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    quoted: bool | None = None,
) -> Labelled:
    """Read labelled texts from a file that `records.read_records` can read.

    Args:
      names: of the labels, in the order of their numbers; None sorts those that occur.
      columns, quoted: of a .csv or .tsv file, as `records.read_records` takes them.

    Raises:
      DataError: the file cannot be read or lacks a column, a text or a label is empty,
        a label is not among the names, or all labels are the same.
    """
    rows = records.read_records(path, columns=columns, quoted=quoted)
    try:
        return label(rows, text_column, label_column, names)
    except DataError as error:
        raise DataError(f"{error} (in {os.fspath(path)})") from error


def label(
    rows: Sequence[records.Record],
    text_column: str = "text",
    label_column: str = "label",
    names: Sequence[str] | None = None,
) -> Labelled:
    """Take texts and labels out of records, and number the labels.

    Labels may be any JSON value but null; their names are what `str` makes of them.

    >>> label([{"text": "Hi", "label": "ham"}, {"text": "Win!", "label": "spam"}])
    Labelled(texts=['Hi', 'Win!'], labels=array([0, 1], dtype=int32),
             names=('ham', 'spam'))
    """
    texts = [_text(row, text_column, i) for i, row in enumerate(rows, 1)]
    labels = [_label(row, label_column, i) for i, row in enumerate(rows, 1)]
    found = sorted(set(labels))
    if len(found) < 2:
        raise DataError(
            f"there must be at least two labels, column {label_column!r} holds only "
            f"{', '.join(map(repr, found)) or 'no row'}"
        )
    names = tuple(found if names is None else names)
    if strangers := [name for name in found if name not in names]:
        raise DataError(
            f"a label must be one of {', '.join(map(repr, names))}, "
            f"got {strangers[0]!r} in record {labels.index(strangers[0]) + 1}"
        )
    numbers = {name: number for number, name in enumerate(names)}
    return Labelled(
        texts, np.array([numbers[name] for name in labels], np.int32), names
    )


def take(data: Labelled, rows: np.ndarray) -> Labelled:
    """Take the rows of these numbers, in their order.

    >>> data = Labelled(["a", "b", "c"], np.array([0, 1, 1], np.int32), ("x", "y"))
    >>> take(data, np.array([2, 0])).texts
    ['c', 'a']
    """
    return Labelled([data.texts[i] for i in rows], data.labels[rows], data.names)


def balanced_rows(labels: np.ndarray, permute: Permute) -> np.ndarray:
    """Choose as many rows of each label as the rarest has: under-sampling.

    Args:
      labels: (n,) integers.
      permute: gives an order of each larger label's rows, of which the first are taken.
        The rows of a label with no more than the rarest all stay, in their order.

    Returns:
      (labels x rarest,) row numbers, label by label. Shuffle them before a split.

    >>> balanced_rows(np.array([0, 1, 0, 0, 1]), lambda n: np.arange(n)[::-1])
    array([3, 2, 1, 4])
    """
    groups = [np.flatnonzero(labels == value) for value in np.unique(labels)]
    least = min(map(len, groups))
    return np.concatenate(
        [
            rows if len(rows) == least else rows[permute(len(rows))[:least]]
            for rows in groups
        ]
    )


def class_weights(labels: np.ndarray, n_classes: int) -> np.ndarray:
    """Weigh labels so that each class counts alike, and the mean row counts 1.

    The weight of a row is n / (classes that occur x rows of its label); a class without
    a row has weight 0. Returns (n_classes,) float32.

    >>> class_weights(np.array([0, 0, 0, 1]), 2)
    array([0.6666667, 2.       ], dtype=float32)
    """
    counts = np.bincount(labels, minlength=n_classes)
    weights = len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return np.where(counts, weights, 0).astype(np.float32)


def encode_texts(
    texts: Sequence[str],
    tokenizer: Tokenizer,
    *,
    max_length: int | None = None,
    pad_id: int | None = None,
) -> Encoded:
    """Encode texts into rows of one width, and tell how long each really is.

    A special token in a text is plain text: a text to classify steers nothing.

    Args:
      max_length: the width; a longer text loses its end. None takes the longest text's.
      pad_id: stands behind a text; None takes the tokenizer's end of text, or 0.

    Raises:
      DataError: a text has no token.

    >>> from jaxllm.data.text_tokenizers import CharTokenizer
    >>> tokenizer = CharTokenizer(characters="abc")
    >>> encode_texts(["cab", "b"], tokenizer, max_length=2)
    Encoded(ids=array([[2, 0], [1, 0]], dtype=int32),
            lengths=array([2, 1], dtype=int32), truncated=array([ True, False]))
    """
    rows = [tokenizer.encode_ordinary(text) for text in texts]
    for row, text in zip(rows, texts, strict=True):
        if not len(row):
            raise DataError(f"a text must have at least one token, got {text!r}")
    lengths = np.array([len(row) for row in rows], np.int32)
    width = int(lengths.max(initial=1)) if max_length is None else max_length
    if width < 1:
        raise DataError(f"max_length must be >= 1, got {width}")
    if pad_id is None:
        pad_id = tokenizer.end_of_text or 0
    ids = np.full((len(rows), width), pad_id, np.int32)
    for place, row in zip(ids, rows, strict=True):
        place[: len(row)] = row[:width]
    return Encoded(ids, np.minimum(lengths, width), lengths > width)


def collate_texts(
    rows: np.ndarray,
    encoded: Encoded,
    labels: np.ndarray,
    weights: np.ndarray,
    *,
    width: int | None = None,
) -> TextBatch:
    """Take rows of encoded texts as a batch.

    Args:
      rows: (B,) row numbers; -1 is a row without a text.
      weights: (classes,) of the texts of each class in the loss.
      width: of the batch; None takes that of its longest text.

    >>> cut = np.array([False, False])
    >>> encoded = Encoded(np.array([[2, 0], [1, 5]]), np.array([1, 2]), cut)
    >>> collate_texts(np.array([0, -1]), encoded, np.array([1, 0]), np.ones(2))
    TextBatch(inputs=array([[2], [0]], dtype=int32),
              lengths=array([1, 0], dtype=int32), labels=array([1, 0], dtype=int32),
              weights=array([1., 0.], dtype=float32))
    """
    there = rows >= 0
    lengths = np.where(there, encoded.lengths[rows], 0)
    width = max(1, int(lengths.max())) if width is None else width
    labels = np.where(there, labels[rows], 0)
    return TextBatch(
        np.where(there[:, None], encoded.ids[rows, :width], 0).astype(np.int32),
        lengths.astype(np.int32),
        labels.astype(np.int32),
        np.where(there, weights[labels], 0).astype(np.float32),
    )


def _text(row: records.Record, column: str, number: int) -> str:
    text = _value(row, column, number)
    if not isinstance(text, str) or not text.strip():
        raise DataError(
            f"column {column!r} must hold a text, got {text!r} in record {number}"
        )
    return text


def _label(row: records.Record, column: str, number: int) -> str:
    value = _value(row, column, number)
    if value is None or not str(value).strip():
        raise DataError(
            f"column {column!r} must hold a label, got {value!r} in record {number}"
        )
    return str(value)


def _value(row: records.Record, column: str, number: int) -> Any:
    if column not in row:
        raise DataError(
            f"record {number} has no column {column!r}; it has "
            f"{', '.join(map(repr, row))}"
        )
    return row[column]
