"""A run in, its steps out: placed ahead of use, and several to a dispatch if asked.

While the devices compute one dispatch, the host fetches and places the batches of the
next. Where steps are short, several of them are one compiled loop, so that the time
that Python takes between two programs is paid once for all of them.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxllm import heap
from jaxllm.distributed import sharding
from jaxllm.training import speed
from jaxllm.training.preparation import Run
from jaxllm.training.state import TrainState
from jaxllm.types import Array


class Taken(NamedTuple):
    """Where a run stands after a dispatch."""

    steps: range  # that it took, counted from 1
    state: TrainState  # gone once the next dispatch is asked for
    position: dict[str, Any]  # of the data, for a checkpoint
    metrics: dict[str, Array]  # (steps,) each, or () for one; perhaps under way


class _Placed(NamedTuple):
    size: int
    batch: Any  # of `size` batches along a leading axis, where there are several
    position: dict[str, Any]


def dispatch_sizes(
    first: int, total: int, size: int, every: Iterable[int]
) -> Iterator[int]:
    """Cut the steps that are left into dispatches of `size` steps or of one.

    None goes past a step after which something happens, `every` so many steps. There
    are no other sizes, so that only two programs are compiled.

    >>> list(dispatch_sizes(0, 10, 4, every=[6]))
    [4, 1, 1, 4]
    """
    step, every = first, tuple(every)
    while step < total:
        end = min(total, *((step // n + 1) * n for n in every))
        taken = size if end - step >= size else 1
        yield taken
        step += taken


def dispatches(run: Run, sizes: Iterable[int], lap: speed.Lap) -> Iterator[Taken]:
    """Take the steps of a run, so many at a time.

    Adds to the lap the seconds in which the devices waited for data, and those in
    which programs were compiled.
    """
    step, state, compiled = int(run.state.step), run.state, set()
    several = several_steps(run.train_step)
    placed = _placed(run, sizes)
    with speed.timed(lap, "data"):
        here = next(placed, None)
    while here is not None:
        take = run.train_step if here.size == 1 else several
        with speed.timed(lap, "dispatch" if here.size in compiled else "compile"):
            state, metrics = take(state, here.batch)
        if here.size not in compiled:
            heap.give_back()
            compiled.add(here.size)
        start = time.perf_counter()
        ahead = next(placed, None)
        if all(value.is_ready() for value in metrics.values()):
            # The devices have nothing left to do: they wait for this batch.
            lap["data"] += time.perf_counter() - start
        steps = range(step + 1, step + here.size + 1)
        step += here.size
        yield Taken(steps, state, here.position, metrics)
        here = ahead


def several_steps(train_step: Callable) -> Callable:
    """Make of a step one program that takes several: (state, batches) as its state.

    The batches, and the metrics that come out, have a leading axis of steps.
    """

    def take(state: TrainState, batches: Any) -> tuple[TrainState, dict[str, Array]]:
        return jax.lax.scan(train_step, state, batches)

    return jax.jit(take, donate_argnums=0)


def _placed(run: Run, sizes: Iterable[int]) -> Iterator[_Placed]:
    """Put batches on the devices, with where the data stands after each."""
    for size in sizes:
        batches = [next(run.batches) for _ in range(size)]
        batch = batches[0]
        if size > 1:
            batch = jax.tree.map(lambda *rows: np.stack(rows), *batches)
        placed = sharding.place_batch(batch, run.mesh, stacked=size > 1)
        yield _Placed(size, placed, run.batches.state())
