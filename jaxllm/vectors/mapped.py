"""A binary file of word vectors in, its words out, and rows that stay in the file."""

import mmap
import pathlib
from typing import Any

import numpy as np

from jaxllm.vectors import records


class MappedRows:
    """The rows of a binary file, (V, D) float32, each read when it is asked for.

    Words of any length stand between them, so they are no array that could be mapped.
    An integer gives a row, a list or an array of them that many; a slice gives rows
    that are in the file still, and `np.asarray` all.
    """

    def __init__(self, anywhere: np.ndarray, starts: np.ndarray):
        self._anywhere = anywhere  # (bytes, D): the floats that begin at each byte
        self._starts = starts  # (V,) int64, the bytes at which rows do begin
        self.shape = len(starts), anywhere.shape[1]

    def __len__(self) -> int:
        """Count the rows."""
        return len(self._starts)

    def __getitem__(self, which: Any) -> Any:
        """Take rows as NumPy would."""
        if isinstance(which, slice):
            return MappedRows(self._anywhere, self._starts[which])
        return self._anywhere[self._starts[which]]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Read all rows."""
        return self[np.arange(len(self))].astype(dtype or np.float32, copy=False)


def open_binary(
    path: pathlib.Path, limit: int | None = None
) -> tuple[list[str], MappedRows]:
    """Find the words of a file in word2vec's binary form, and where their rows are.

    Args:
        limit: the first so many only; the rest of the file is not touched.
    """
    words, starts = [], []
    with records.unpacked(path) as file:
        size = records.binary_size(file, path)
        for word, (start, _) in records.different(
            records.binary_places(file, size), limit
        ):
            words.append(word)
            starts.append(start)
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    shape = max(0, len(mapped) - 4 * size.dims + 1), size.dims
    anywhere = np.ndarray(shape, "<f4", mapped, strides=(1, 4))
    return words, MappedRows(anywhere, np.array(starts, np.int64))
