"""Where the time of a run goes, and how fast its steps are."""

import collections
import contextlib
import time
from collections.abc import Iterator
from typing import Any

from jaxllm import accounting
from jaxllm.config import GPTConfig

# Its start on the clock, and what has been counted since: seconds by kind of work,
# steps and tokens.
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


def figures(lap: Lap, steps_left: int, cfg: GPTConfig) -> dict[str, Any]:
    """Tell how fast a lap went, where its time was spent, and how long the rest takes.

    Args:
      lap: with its steps and tokens, and the seconds of data, compile, checkpoint and
        evaluation. What is left of the time went into steps.
      steps_left: until the end of the run.

    Returns:
      tokens_per_second and flops_per_second of steps and the wait for their data;
      seconds_left at that speed; seconds, in all and of each kind of work.
    """
    total = time.perf_counter() - lap["start"]
    seconds = {
        work: lap[work] for work in ("data", "compile", "checkpoint", "evaluation")
    }
    seconds["step"] = total - sum(seconds.values())
    training = max(seconds["step"] + seconds["data"], 1e-9)
    tokens_per_second = lap["tokens"] / training
    return {
        "tokens_per_second": tokens_per_second,
        "flops_per_second": tokens_per_second * accounting.training_flops(cfg),
        "seconds_left": training / max(lap["steps"], 1) * steps_left,
        "seconds": {"total": total} | seconds,
    }
