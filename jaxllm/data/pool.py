"""A function and many inputs in; its results, in order, from several processes, out."""

import collections
import contextlib
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from typing import Any

from jaxllm.errors import DataError


def cores() -> int:
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def processes(count: int) -> Iterator[futures.Executor | None]:
    """Start processes that end with this one, however it ends; None for count < 2."""
    if count < 2:
        yield None
        return
    executor = futures.ProcessPoolExecutor(
        count,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_follow_parent,
    )
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


def _follow_parent() -> None:
    """Leave Ctrl-C to the parent, and end when a signal has killed it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def map_ahead(
    executor: futures.Executor | None,
    function: Callable[[Any], Any],
    jobs: Iterable[Any],
    ahead: int,
) -> Iterator[tuple[Any, Any]]:
    """Yield (job, function(job)) in order, with at most `ahead` jobs under way.

    >>> list(map_ahead(None, len, ["a", "bc"], ahead=2))
    [('a', 1), ('bc', 2)]
    """
    if executor is None:
        yield from ((job, function(job)) for job in jobs)
        return
    jobs = iter(jobs)
    waiting = collections.deque(
        (job, executor.submit(function, job)) for job in itertools.islice(jobs, ahead)
    )
    try:
        while waiting:
            job, future = waiting.popleft()
            result = future.result()
            for following in itertools.islice(jobs, 1):
                waiting.append((following, executor.submit(function, following)))
            yield job, result
    except futures.process.BrokenProcessPool as error:
        raise DataError(
            "a process that reads text died: use fewer workers if memory ran out; a "
            "script must start its work under `if __name__ == '__main__':`"
        ) from error
