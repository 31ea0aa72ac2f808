"""Examples of many lengths in, batches with little padding out: grouped, or packed.

A batch of examples of about one length is hardly padded. Nor is a packed row, which
holds several examples one behind the other; all rows of all batches then have one
width, which is compiled once. Segments tell the examples of a row apart, so that none
sees another.
"""

from collections.abc import Sequence

import numpy as np

from jaxllm.data import instructions
from jaxllm.data.instructions import Example
from jaxllm.errors import DataError
from jaxllm.types import Batch

POOL = 50
"""Batches among which examples are sorted: enough for little padding, few enough for
batches that are new in each epoch."""


def group_by_length(
    lengths: Sequence[int] | np.ndarray, order: np.ndarray, batch_size: int
) -> list[np.ndarray]:
    """Regroup a shuffled order into batches of examples of about one length.

    A stretch of POOL batches is sorted by length and cut; the batches of a stretch then
    go back to a random order, which the given one decides.

    Args:
      order: of the examples, each by its place in lengths.

    Returns:
      batches of batch_size, one of which may be smaller.

    >>> group_by_length([5, 2, 4, 1, 3], np.array([4, 0, 1, 3, 2]), 2)
    [array([4, 2]), array([0]), array([3, 1])]
    """
    lengths = np.asarray(lengths)
    # What is random in the order: whose turn came first.
    turns = {item: turn for turn, item in enumerate(order.tolist())}
    batches = []
    for start in range(0, len(order), POOL * batch_size):
        pool = order[start : start + POOL * batch_size]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        cut = [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
        batches += sorted(cut, key=lambda batch: turns[batch[0]])
    return batches


def pack(lengths: Sequence[int] | np.ndarray, width: int) -> list[list[int]]:
    """Share items out to rows of a width: the longest first, each where it fits first.

    First-fit decreasing: at most 11/9 of the fewest rows possible, and 6/9 of one more
    (Dósa 2007, "The tight bound of first fit decreasing bin-packing algorithm").

    Args:
      lengths: of the items, each in 1..width.

    Returns:
      the items of each row, by their places in lengths.

    >>> pack([2, 5, 3, 4], 7)
    [[1, 0], [3, 2]]
    """
    lengths = np.asarray(lengths, np.int64)
    outside = lengths[(lengths < 1) | (lengths > width)]
    if outside.size:
        raise DataError(f"what is packed must be 1 to {width} long, got {outside[0]}")
    rows: list[list[int]] = []
    room = np.full(len(lengths), width)  # of every row there could be
    for item in np.argsort(-lengths, kind="stable").tolist():
        row = int(np.argmax(room >= lengths[item]))
        if row == len(rows):
            rows.append([])
        rows[row].append(item)
        room[row] -= lengths[item]
    return rows


def collate_packed(
    rows: Sequence[Sequence[Example]],
    padding: int,
    width: int,
    *,
    response_only: bool = False,
) -> Batch:
    """Join examples into one batch, several to a row, one behind the other.

    The arguments and the mask are those of `instructions.collate`.

    Returns:
      a batch with segments (B, T) int32: 1 for the first example of a row, 2 for the
      second, and so on; 0 where it is padded.

    >>> examples = [Example(np.array(ids), np.ones(len(ids), bool))
    ...             for ids in ([1, 2, 3, 0], [5, 6, 0])]
    >>> batch = collate_packed([examples], 0, width=6)
    >>> batch.inputs, batch.segments
    (array([[1, 2, 3, 5, 6, 0]], dtype=int32), array([[1, 1, 1, 2, 2, 0]], dtype=int32))
    >>> np.where(batch.mask, batch.targets, -100)
    array([[   2,    3,    0,    6,    0, -100]], dtype=int32)
    """
    inputs, targets = np.full((2, len(rows), width), padding, np.int32)
    mask, segments = np.zeros(inputs.shape, bool), np.zeros(inputs.shape, np.int32)
    for b, row in enumerate(rows):
        alone = instructions.collate(row, padding, response_only=response_only)
        lengths = np.array([max(len(example.ids) - 1, 0) for example in row], np.int64)
        n = int(lengths.sum())
        if n > width:
            raise DataError(f"a packed row must be at most {width} long, got {n}")
        is_text = np.arange(alone.inputs.shape[1]) < lengths[:, None]
        inputs[b, :n], targets[b, :n] = alone.inputs[is_text], alone.targets[is_text]
        mask[b, :n] = np.asarray(alone.mask)[is_text]
        segments[b, :n] = np.repeat(np.arange(1, len(row) + 1), lengths)
    return Batch(inputs, targets, mask, segments)
