"""The number of a batch to the windows it holds: a pure function, without memory.

So a position in the data is one integer, any process can tell its own share, and an
epoch's order is never written down.
"""

import dataclasses
import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxllm.data import windows
from jaxllm.errors import DataError


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class BatchPlan:
    """Everything that decides which windows a batch holds."""

    n_tokens: int
    max_length: int
    stride: int
    batch_size: int
    seed: int
    shuffle: bool
    drop_last: bool
    epochs: int | None
    order: np.ndarray | None = None
    text: str | None = None
    process_index: int = 0
    process_count: int = 1

    @property
    def windows_per_epoch(self) -> int:
        if self.order is not None:
            return len(self.order)
        return windows.window_count(self.n_tokens, self.max_length, self.stride)

    @property
    def batches_per_epoch(self) -> int:
        if self.drop_last:
            return self.windows_per_epoch // self.batch_size
        return -(-self.windows_per_epoch // self.batch_size)

    @property
    def local_batch_size(self) -> int:
        return self.batch_size // self.process_count


def window_indices(plan: BatchPlan, numbers: np.ndarray) -> np.ndarray:
    """Tell which windows the batches of these numbers hold, for all processes.

    Returns (len(numbers), batch_size) int64; -1 where an epoch's last batch is filled.

    >>> plan = BatchPlan(n_tokens=8, max_length=1, stride=1, batch_size=3, seed=0,
    ...                  shuffle=False, drop_last=False, epochs=None)
    >>> window_indices(plan, np.array([0, 2, 3]))
    array([[ 0,  1,  2],
           [ 6, -1, -1],
           [ 0,  1,  2]])
    """
    n, B = plan.windows_per_epoch, plan.batch_size
    epoch, number = np.divmod(numbers[:, None], plan.batches_per_epoch)
    position = number * B + np.arange(B)  # (numbers, B)
    filled = position >= n
    position[filled] = 0
    if plan.order is not None:
        index = plan.order[position]
    elif plan.shuffle:
        seed = _mix(np.array([plan.seed], np.uint64))
        index = permute(position, n, _mix(seed + epoch.astype(np.uint64)))
    else:
        index = position
    return np.where(filled, -1, index)


def permute(position: np.ndarray, n: int, key: np.ndarray) -> np.ndarray:
    """Map positions in range(n) to indices in range(n), one to one for each key.

    The keys are uint64, and broadcast against the positions.

    A Feistel network over a rectangle just larger than n; what falls outside goes
    through it again (Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains").
    It takes no memory and, unlike grain's own shuffle, computes a chunk at once and
    shares no order between epoch 1 of a seed and epoch 0 of the next. With eight turns,
    the distance of two neighbours in 20,000 orders of ten is as frequent as it should
    be within 4 %; with four turns, within 40 %.

    >>> sorted(permute(np.arange(10), 10, np.array([7], np.uint64)).tolist())
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    width = math.isqrt(n - 1) + 1
    sides = np.uint64(-(-n // width)), np.uint64(width)
    keys = [_mix(key + np.uint64(turn)) for turn in range(8)]
    index = _scramble(position.astype(np.uint64), sides, keys)
    # A few at most: the rectangle is less than a row and a column too large.
    outside = np.nonzero(index >= n)
    while outside[0].size:
        own = [np.broadcast_to(key, index.shape)[outside] for key in keys]
        index[outside] = _scramble(index[outside], sides, own)
        still = index[outside] >= n
        outside = tuple(axis[still] for axis in outside)
    return index.astype(np.int64)


def _scramble(
    index: np.ndarray, sides: tuple[np.uint64, np.uint64], keys: list[np.ndarray]
) -> np.ndarray:
    """Move each row of the rectangle by its noise, then each column, and so on.

    The noise has 32 bits and is scaled to a side: a division takes as long as all the
    rest (Lemire 2019, "Fast Random Integer Generation in an Interval").
    """
    here, other = np.divmod(index, sides[1])
    for turn, key in enumerate(keys):
        side = sides[turn % 2]
        noise = (other + key) * _ODD
        noise = ((noise ^ (noise >> _HALF)) * _ODD) >> _HALF
        moved = here + ((noise * side) >> _HALF)
        # Below 2 side; where it is below side already, the difference wraps around.
        here, other = other, np.minimum(moved, moved - side)
    return here * sides[1] + other


_ODD, _HALF = np.uint64(0xBF58476D1CE4E5B9), np.uint64(32)


def _mix(x: np.ndarray) -> np.ndarray:
    """Scatter 64 bits over 64 bits (Steele et al. 2014, SplitMix64)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def identity(plan: BatchPlan) -> dict[str, Any]:
    """Tell what must be the same for a position in the data to mean the same."""
    order = plan.order
    return {
        "n_tokens": plan.n_tokens,
        "max_length": plan.max_length,
        "stride": plan.stride,
        "batch_size": plan.batch_size,
        "seed": plan.seed,
        "shuffle": plan.shuffle,
        "drop_last": plan.drop_last,
        "order": None if order is None else hashlib.sha256(order.tobytes()).hexdigest(),
        "text": plan.text,
    }


def check_plan(plan: BatchPlan) -> None:
    """Raise DataError where a plan has no batch, or a value out of range."""
    check_shares(plan.batch_size, plan.process_index, plan.process_count)
    if plan.epochs is not None and plan.epochs < 1:
        raise DataError(f"epochs must be >= 1, got {plan.epochs}")
    if not 0 <= plan.seed < 2**64:
        raise DataError(f"seed must be in [0, 2**64), got {plan.seed}")
    if not plan.batches_per_epoch:
        raise DataError(
            f"a batch of {plan.batch_size} windows needs as many, there are "
            f"{plan.windows_per_epoch}; lower batch_size or turn drop_last off"
        )


def checked_order(order: Sequence[int] | np.ndarray, n_windows: int) -> np.ndarray:
    """Return an order of windows as int64; DataError where it names another thing.

    >>> checked_order([2, 0], n_windows=3)
    array([2, 0])
    """
    order = np.asarray(order)
    if order.ndim != 1 or order.dtype.kind not in "iu" or not order.size:
        raise DataError(
            "order must be a sequence of window indices, "
            f"got shape {order.shape} of {order.dtype}"
        )
    if order.min() < 0 or order.max() >= n_windows:
        raise DataError(
            f"order must hold indices in [0, {n_windows}), "
            f"got {order.min()} to {order.max()}"
        )
    return order.astype(np.int64)


def check_shares(batch_size: int, process_index: int, process_count: int) -> None:
    """Raise DataError where a batch cannot be shared out evenly.

    >>> check_shares(batch_size=6, process_index=0, process_count=4)
    Traceback (most recent call last):
    jaxllm.errors.DataError: process_count must divide batch_size, got process_count=4
    and batch_size=6
    """
    if batch_size < 1:
        raise DataError(f"batch_size must be >= 1, got {batch_size}")
    if process_count < 1 or batch_size % process_count:
        raise DataError(
            "process_count must divide batch_size, "
            f"got process_count={process_count} and batch_size={batch_size}"
        )
    if not 0 <= process_index < process_count:
        raise DataError(
            f"process_index must be in [0, {process_count}), got {process_index}"
        )
