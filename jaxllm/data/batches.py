"""Windows to batches: shuffled, shared out to processes, read ahead, resumable.

batch_plan tells which windows a batch holds. grain reads ahead, a chunk of batches at a
time: one gather for a chunk costs less than one per window.
"""

import functools
import signal
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxllm.config import DataConfig
from jaxllm.data import batch_plan, windows
from jaxllm.data.batch_plan import BatchPlan
from jaxllm.errors import DataError
from jaxllm.types import Batch

CHUNK_TOKENS = 2**20
"""Tokens that are gathered at once, where batches are smaller."""


class TrainingBatches:
    """An iterator over batches whose position can be saved and restored.

    Made by `training_batches`. `close` ends what reads ahead; so does the end of a
    `with` block.
    """

    def __init__(self, tokens: Any, plan: BatchPlan, workers: int) -> None:
        self.plan = plan
        self._tokens, self._workers = tokens, workers
        self._reader: Any = None
        self._seek(0)

    def __iter__(self) -> "TrainingBatches":
        return self

    def __next__(self) -> Batch:
        if not self._ready:
            if self._reader is None:
                self._reader = _chunk_reader(
                    self._tokens, self.plan, self._next_batch, self._workers
                )
            inputs, targets, *mask = next(self._reader)
            masks = mask[0] if mask else [None] * len(inputs)
            self._ready = list(map(Batch, inputs, targets, masks))[::-1]
        self._next_batch += 1
        return self._ready.pop()

    def __enter__(self) -> "TrainingBatches":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def state(self) -> dict[str, Any]:
        """Tell the position, and what it is a position in, for a checkpoint's JSON."""
        return {"next_batch": self._next_batch} | batch_plan.identity(self.plan)

    def restore(self, state: dict[str, Any]) -> None:
        """Go on after the batch at which `state` was told.

        The number of processes and workers may differ: the batches are the same.

        Raises:
          DataError: the state belongs to other windows or another order.
        """
        for name, here in batch_plan.identity(self.plan).items():
            if state.get(name, here) != here:
                raise DataError(
                    f"batches can go on only with the same {name}: "
                    f"saved {state[name]!r}, now {here!r}"
                )
        self._seek(int(state["next_batch"]))

    def close(self) -> None:
        """End the threads or processes that read ahead."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _seek(self, batch: int) -> None:
        self.close()
        self._next_batch, self._ready = batch, []


def training_batches(
    tokens: Any,
    max_length: int,
    cfg: DataConfig,
    *,
    seed: int = 0,
    epochs: int | None = None,
    order: Sequence[int] | np.ndarray | None = None,
    text: str | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> TrainingBatches:
    """Iterate over a process's share of the batches, in an order the seed decides.

    Every batch is int32 and of the same shape (batch_size / process_count, max_length).
    Where cfg.drop_last is off, every batch has a mask, and the rows that fill an
    epoch's last batch up are masked out.

    Args:
      tokens: (n,) ids: an array, a memory map, or a split of a token store. With
        cfg.workers, each process gets a copy of the first two, and none of the last.
      max_length: tokens per window.
      cfg: batch_size (over all processes), stride, shuffle, drop_last, workers.
      seed: decides each epoch's order where cfg.shuffle is on.
      epochs: passes over the windows; None goes on for ever.
      order: window indices of one epoch, in place of a shuffle: a curriculum, or the
        recorded order of another run. A window may come twice, or not at all.
      text: a digest of the text, so that a position in another one is refused.
      process_index: which share: rows index * size to (index + 1) * size.
      process_count: shares in all.

    Raises:
      DataError: no window fits, no batch is full, or the shares are not even.

    >>> cfg = DataConfig(batch_size=2, stride=4, shuffle=False)
    >>> with training_batches(np.arange(100, 120), 4, cfg, epochs=1) as batches:
    ...     batch = next(batches)
    >>> batch.inputs
    array([[100, 101, 102, 103],
           [104, 105, 106, 107]], dtype=int32)
    >>> batches.state()["next_batch"]
    1
    """
    windows.require_window(len(tokens), max_length)
    stride = max_length if cfg.stride is None else cfg.stride
    n_windows = windows.window_count(len(tokens), max_length, stride)
    plan = BatchPlan(
        n_tokens=len(tokens),
        max_length=max_length,
        stride=stride,
        batch_size=cfg.batch_size,
        seed=seed,
        shuffle=cfg.shuffle and order is None,
        drop_last=cfg.drop_last,
        epochs=epochs,
        order=None if order is None else batch_plan.checked_order(order, n_windows),
        text=text,
        process_index=process_index,
        process_count=process_count,
    )
    batch_plan.check_plan(plan)
    return TrainingBatches(tokens, plan, cfg.workers)


def evaluation_batches(
    tokens: Any,
    max_length: int,
    batch_size: int,
    *,
    count: int | None = None,
    tail: bool = False,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """Yield the first batches of the windows side by side, the same ones each time.

    Every batch has the same shape and a mask; rows that fill the last one up are
    masked out, so that a token-weighted mean is over the text and nothing else.

    Args:
      tokens: (n,) ids, as in `training_batches`.
      max_length: tokens per window, and between the starts of two.
      batch_size: windows per batch over all processes.
      count: how many batches; None for all.
      tail: whether what is left after the last window counts too, in a row of its
        own whose end is masked out; then every token but the first is a target once.
      process_index: which share of the rows.
      process_count: shares in all.

    >>> for batch in evaluation_batches(np.arange(12), 2, batch_size=4):
    ...     batch.inputs[:, 0], batch.mask.sum()
    (array([0, 2, 4, 6], dtype=int32), np.int64(8))
    (array([8, 0, 0, 0], dtype=int32), np.int64(2))
    """
    batch_plan.check_shares(batch_size, process_index, process_count)
    windows.require_window(len(tokens), 1 if tail else max_length)
    end = len(tokens) - 1 if tail else len(tokens) - max_length
    starts = range(0, end, max_length)
    share = batch_size // process_count
    n_batches = -(-len(starts) // batch_size)
    for batch in range(n_batches if count is None else min(count, n_batches)):
        first = batch * batch_size + process_index * share
        rows = np.zeros((share, max_length + 1), np.int32)
        n_targets = np.zeros((share, 1), np.int64)
        last = min((batch + 1) * batch_size, first + share)
        for row, start in enumerate(starts[first:last]):
            ids = tokens[start : start + max_length + 1]
            rows[row, : len(ids)] = ids
            n_targets[row] = len(ids) - 1
        mask = np.arange(max_length) < n_targets
        yield Batch(rows[:, :-1].copy(), rows[:, 1:].copy(), mask)


def _chunk_reader(tokens: Any, plan: BatchPlan, start: int, workers: int) -> Any:
    """Read ahead from batch `start` on: a grain iterator over chunks of batches."""
    # Half a second to import, which only what reads batches should wait for.
    import absl.flags
    import grain

    size = max(1, CHUNK_TOKENS // (plan.local_batch_size * (plan.max_length + 1)))
    stop = 2**62 if plan.epochs is None else plan.epochs * plan.batches_per_epoch
    chunks = grain.MapDataset.range(max(0, -(-(stop - start) // size)))
    chunks = chunks.map(
        functools.partial(_read_chunk, tokens, plan, start=start, stop=stop, size=size)
    )
    if not workers:
        ahead = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
        return iter(chunks.to_iter_dataset(ahead))
    # grain 0.2.18 reads this flag, which only absl's own main function would parse:
    # https://github.com/google/grain/issues/1355
    if "grain_enable_multiprocess_worker_profiling" in absl.flags.FLAGS:
        absl.flags.FLAGS["grain_enable_multiprocess_worker_profiling"].present = 1
    alone = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    processes = grain.MultiprocessingOptions(
        num_workers=workers, per_worker_buffer_size=2
    )
    ahead = chunks.to_iter_dataset(alone).mp_prefetch(processes, _leave_signals)
    return iter(ahead)


def _leave_signals(worker: int, workers: int) -> None:
    """Read on where a whole group of processes is told to stop.

    The run ends itself, after its step and with a checkpoint, and needs batches so far.
    """
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, signal.SIG_IGN)


def _read_chunk(
    tokens: Any,
    plan: BatchPlan,
    chunk: int,
    *,
    start: int,
    stop: int,
    size: int,
) -> tuple[np.ndarray, ...]:
    """Gather (batches, rows, T) inputs and targets, and a mask if need be."""
    first = start + chunk * size
    numbers = np.arange(first, min(first + size, stop))
    share = plan.local_batch_size
    mine = slice(plan.process_index * share, (plan.process_index + 1) * share)
    index = batch_plan.window_indices(plan, numbers)[:, mine]  # (batches, rows)
    starts = np.maximum(index, 0).ravel() * plan.stride
    ids = windows.read_windows(tokens, starts, plan.max_length + 1)
    shape = (*index.shape, plan.max_length)
    inputs = ids[:, :-1].astype(np.int32).reshape(shape)
    targets = ids[:, 1:].astype(np.int32).reshape(shape)
    if plan.drop_last:
        return inputs, targets
    counts = index >= 0
    inputs[~counts] = targets[~counts] = 0
    return inputs, targets, np.repeat(counts[..., None], plan.max_length, axis=-1)
