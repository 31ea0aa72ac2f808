"""A tensor on disk: which bytes of which file, and of what type.

Both forms in which GPT-2 was published come down to a table from names to these, so
everything after the two readers is the same code.
"""

import math
import pathlib
from typing import NamedTuple

import ml_dtypes
import numpy as np

# The types a parameter comes in; bytes are little-endian in both forms.
FLOATS = {
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype("<f4"),
}


class StoredTensor(NamedTuple):
    """Says where a tensor lies; `map_tensor` and `read_tensor` read it."""

    name: str  # as the file calls it
    path: pathlib.Path
    offset: int  # bytes from the start of the file
    shape: tuple[int, ...]
    dtype: np.dtype
    scale: "StoredTensor | None" = None  # what int8 numbers are multiplied by

    @property
    def size(self) -> int:
        """Return how many bytes the tensor takes."""
        return math.prod(self.shape) * self.dtype.itemsize


def map_tensor(stored: StoredTensor) -> np.ndarray:
    """Map a tensor's bytes into memory, read-only; nothing is read until it is used.

    Each call makes a map of its own, which goes away with the array, so the pages that
    were read do not stay on this process's account.
    """
    if not stored.size:
        return np.empty(stored.shape, stored.dtype)
    return np.memmap(
        stored.path, stored.dtype, mode="r", offset=stored.offset, shape=stored.shape
    )


def read_tensor(stored: StoredTensor) -> np.ndarray:
    """Give a tensor's numbers: its map, or what its scales make of it."""
    array = map_tensor(stored)
    return array if stored.scale is None else array * map_tensor(stored.scale)
