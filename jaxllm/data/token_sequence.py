"""Files of token ids, one after the other, as one array that stays on the disk."""

import functools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxllm.data import disk, windows


class TokenSequence:
    """A part of the concatenation of several files, read only where it is asked for.

    Behaves as a 1-D array: len, an index, a slice (a copy of that slice and no more),
    np.asarray (everything). Pickles as its paths, so processes share the disk's cache.

    Args:
      files: (path, number of ids) of each file of raw ids.
      dtype: how an id is stored, such as "<u2".
      start, stop: which part of the concatenation this is.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     paths = [pathlib.Path(folder, name) for name in "ab"]
    ...     np.arange(0, 4, dtype="<u2").tofile(paths[0])
    ...     np.arange(4, 6, dtype="<u2").tofile(paths[1])
    ...     ids = TokenSequence([(paths[0], 4), (paths[1], 2)], "<u2", start=1)
    ...     len(ids), ids[2:5], ids.windows(np.array([0, 2]), 3)
    (5, array([3, 4, 5], dtype=uint16), array([[1, 2, 3],
           [3, 4, 5]], dtype=uint16))
    """

    ndim = 1

    def __init__(
        self,
        files: Sequence[tuple[str | os.PathLike[str], int]],
        dtype: str,
        start: int = 0,
        stop: int | None = None,
    ) -> None:
        self.dtype = np.dtype(dtype)
        self._files = [(os.fspath(path), count) for path, count in files if count]
        self._offsets = np.cumsum([0, *(count for _, count in self._files)])
        self._start = start
        self._stop = int(self._offsets[-1]) if stop is None else stop

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenSequence, (self._files, self.dtype.str, self._start, self._stop)

    def __len__(self) -> int:
        return self._stop - self._start

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, slice):
            index = range(len(self))[key]
            return self[index : index + 1][0]
        start, stop, step = key.indices(len(self))
        if step != 1:
            return self.windows(np.arange(start, stop, step), 1)[:, 0]
        start, stop = start + self._start, max(start, stop) + self._start
        parts = [
            ids[max(0, start - first) : max(0, stop - first)]
            for ids, first in zip(self._maps, self._offsets, strict=False)
            if first < stop and start < first + len(ids)
        ]
        return np.concatenate([np.empty(0, self.dtype), *parts])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("a TokenSequence lies on the disk: it must be copied")
        return self[:] if dtype is None else self[:].astype(dtype)

    def windows(self, starts: np.ndarray, length: int) -> np.ndarray:
        """Copy self[s : s + length] for s in starts: (len(starts), length)."""
        first = starts + self._start
        file = np.searchsorted(self._offsets, first, side="right") - 1
        if len(starts) and file[0] == file.max() == file.min():
            begin = self._offsets[file[0]]
            if first.max() + length <= self._offsets[file[0] + 1]:
                return windows.read_windows(self._maps[file[0]], first - begin, length)
        rows = np.empty((len(starts), length), self.dtype)
        within = first + length <= self._offsets[file + 1]
        for number in np.unique(file[within]):
            here = within & (file == number)
            local = first[here] - self._offsets[number]
            rows[here] = windows.read_windows(self._maps[number], local, length)
        for row in np.flatnonzero(~within):
            rows[row] = self[starts[row] : starts[row] + length]
        return rows

    @functools.cached_property
    def _maps(self) -> list[np.ndarray]:
        maps = []
        for path, count in self._files:
            with disk.explain_refusal("read", path):
                ids = np.memmap(path, self.dtype, "r", shape=(count,))
            maps.append(ids.view(np.ndarray))  # slices faster than a memmap
        return maps
