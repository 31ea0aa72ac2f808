"""Plans of epochs in, batches of examples out, in an order that can be taken up again.

A plan of an epoch is the rows of each of its batches; it depends on the seed and the
number of the epoch alone, so the place of a run in its data is two numbers, and the
digest of the file that holds the examples. -1 stands for no row: it fills up a batch,
and counts nowhere.
"""

import os
from collections.abc import Callable, Iterator
from typing import Any, Self

import numpy as np

from jaxllm.data import disk, records
from jaxllm.errors import DataError

Plan = Callable[[int], list[np.ndarray]]
"""From the number of an epoch to the rows of its batches, all of one size."""

Collate = Callable[[np.ndarray], Any]
"""From rows to a batch: a NamedTuple of arrays of as many rows, or None."""


def shuffled_plan(
    n: int, batch_size: int, *, seed: int = 0, drop_last: bool = True
) -> Plan:
    """Plan epochs that visit n examples in orders of their own.

    Raises:
      DataError: there is no full batch, and a last one that is not full is left out.

    >>> plan = shuffled_plan(5, 2, drop_last=False)
    >>> [batch.tolist() for batch in plan(0)]
    [[2, 4], [3, 0], [1, -1]]
    >>> [batch.tolist() for batch in plan(1)]
    [[1, 4], [3, 0], [2, -1]]
    """
    if drop_last and n < batch_size:
        raise DataError(
            f"batch_size must be <= {n}, the examples there are, where drop_last is "
            f"true, got {batch_size}"
        )

    def plan(epoch: int) -> list[np.ndarray]:
        order = np.random.default_rng([seed, epoch]).permutation(n)
        batches = records.batch_rows(order, batch_size, drop_last=drop_last)
        return [fill_up(rows, batch_size) for rows in batches]

    return plan


def fill_up(rows: np.ndarray, size: int) -> np.ndarray:
    """Append -1 to rows until there are `size`.

    >>> fill_up(np.array([3, 1]), 3)
    array([ 3,  1, -1])
    """
    return np.append(rows, np.full(size - len(rows), -1, rows.dtype))


def ordered_batches(
    n: int, batch_size: int, collate: Collate, *, count: int | None = None
) -> Iterator[Any]:
    """Yield the first batches of n examples in their order; the last is filled up.

    Args:
      count: how many batches; None for all.
    """
    batches = records.batch_rows(np.arange(n), batch_size)
    for rows in batches[:count]:
        yield collate(fill_up(rows, batch_size))


class ExampleBatches:
    """A process's share of the batches of epoch after epoch, without an end.

    Args:
      file: that holds the examples; None for those that are in no file.

    >>> batches = ExampleBatches(shuffled_plan(4, 2), lambda rows: (rows,))
    >>> next(batches)
    (array([2, 0]),)
    >>> batches.state()
    {'epoch': 0, 'batch': 1, 'sha256': None}
    """

    def __init__(
        self,
        plan: Plan,
        collate: Collate,
        *,
        file: str | os.PathLike[str] | None = None,
        process_index: int = 0,
        process_count: int = 1,
    ) -> None:
        self._plan, self._collate, self._file = plan, collate, file
        self._sha256 = None if file is None else disk.file_sha256(file)
        self._share = process_index, process_count
        self._seek(0, 0)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        if self._batch == len(self._batches):
            self._seek(self._epoch + 1, 0)
        rows = self._batches[self._batch]
        self._batch += 1
        # Joined before it is shared out: all processes then have batches of one width.
        return share_of(self._collate(rows), *self._share)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    @property
    def batches_per_epoch(self) -> int:
        """Batches of the epoch under way."""
        return len(self._batches)

    def state(self) -> dict[str, Any]:
        """Tell which batch comes next, and the digest of the examples."""
        return {"epoch": self._epoch, "batch": self._batch, "sha256": self._sha256}

    def restore(self, state: dict[str, Any]) -> None:
        """Go to where `state` was asked for.

        Raises:
          DataError: it was asked for of other examples.
        """
        # Of a checkpoint that is older than the digest, nothing can be told.
        if state.get("sha256", self._sha256) != self._sha256:
            raise DataError(
                f"{self._file} must hold the examples that the run was begun with, its "
                "sha256 is another one"
            )
        self._seek(state["epoch"], state["batch"])

    def _seek(self, epoch: int, batch: int) -> None:
        self._epoch, self._batch, self._batches = epoch, batch, self._plan(epoch)


def share_of(batch: Any, process_index: int, process_count: int) -> Any:
    """Take a process's rows of a batch, a NamedTuple of arrays or None.

    >>> from jaxllm.types import Batch
    >>> share_of(Batch(np.arange(4), np.arange(4)), 1, 2).inputs
    array([2, 3])
    """
    if process_count == 1:
        return batch

    def share(rows: np.ndarray | None) -> np.ndarray | None:
        if rows is None:
            return None
        size = len(rows) // process_count
        return rows[process_index * size : (process_index + 1) * size]

    return type(batch)(*map(share, batch))
