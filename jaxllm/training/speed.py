"""Where the time of a run goes, and how fast its steps are."""

import collections
import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

# Its start on the clock, and what has been counted since: seconds by kind of work,
# steps and targets.
Lap = dict[str, float]


def start_lap() -> Lap:
    """Begin to count anew."""
    return collections.defaultdict(float, start=time.perf_counter())


@contextlib.contextmanager
def timed(lap: Lap, work: str) -> Iterator[None]:
    """Add the seconds that the body takes to those of its kind of work.

    >>> lap = start_lap()
    >>> with timed(lap, "data"):
    ...     pass
    >>> 0 < lap["data"] < 1
    True
    """
    start = time.perf_counter()
    try:
        yield
    finally:
        lap[work] += time.perf_counter() - start


def figures(
    lap: Lap,
    steps_left: int,
    unit: str = "tokens",
    flops_per_token: float | None = None,
) -> dict[str, Any]:
    """Tell how fast a lap went, where its time was spent, and how long the rest takes.

    Args:
      lap: with its steps and targets, and the seconds of data, compile, checkpoint and
        evaluation. What is left of the time went into steps.
      steps_left: until the end of the run.
      unit: what the targets are.
      flops_per_token: operations of a step on one token, where they are known.

    Returns:
      tokens_per_second, and flops_per_second if known, of steps and the wait for their
      data; seconds_left at that speed; seconds, in all and of each kind of work.
    """
    seconds = seconds_of(lap)
    training = max(seconds["step"] + seconds["data"], 1e-9)
    rates = {f"{unit}_per_second": lap["targets"] / training}
    if flops_per_token is not None:
        rates["flops_per_second"] = rates["tokens_per_second"] * flops_per_token
    return rates | {
        "seconds_left": training / max(lap["steps"], 1) * steps_left,
        "seconds": seconds,
    }


def seconds_of(lap: Lap) -> dict[str, float]:
    """Tell how long a lap took in all, and how long each kind of work."""
    total = time.perf_counter() - lap["start"]
    seconds = {
        work: lap[work] for work in ("data", "compile", "checkpoint", "evaluation")
    }
    return {"total": total} | seconds | {"step": total - sum(seconds.values())}


@contextlib.contextmanager
def tracer(folder: str, steps: range) -> Iterator[Callable[[int], None]]:
    """Record what the devices and the host do in some steps, for Perfetto.

    Gives a function that is told of every step that has ended. No steps, no trace.
    """
    recording = False

    def note(step: int) -> None:
        nonlocal recording
        if steps and step == steps.start - 1:
            jax.profiler.start_trace(folder)
            recording = True
        if recording and step >= steps.stop - 1:
            jax.profiler.stop_trace()
            recording = False

    try:
        yield note
    finally:
        if recording:
            jax.profiler.stop_trace()
