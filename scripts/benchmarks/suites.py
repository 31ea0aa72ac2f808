"""A suite's name in, its rows and the functions of its contestants out."""

import importlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

SUITES = {
    "train": "benchmarks.training",
    "generate": "benchmarks.generation",
    "tokenize": "benchmarks.tokenizing",
    "data": "benchmarks.batches",
    "startup": "benchmarks.startup",
    "vectors": "benchmarks.vectors",
}

Options = dict[str, Any]
# Yields first what it has made ready, then the amount and the seconds of each round.
Contestant = Callable[[Options], Iterator[dict[str, Any]]]


class Row(NamedTuple):
    """One piece of work, done by several contestants; the first one is ours."""

    name: str
    work: str  # as the table says it
    contestants: tuple[str, ...]
    options: Options  # what each of them is told; JSON
    unit: str = "tokens/s"  # or "s", for how long one takes
    rounds: int = 5
    together: bool = True  # whether the processes live side by side and take turns
    files: str = ""  # rows with the same word read the same files, made once


def rows(suite: str, device: str, *, smoke: bool) -> list[Row]:
    """List the rows of a suite for a device: cpu or gpu."""
    return importlib.import_module(SUITES[suite]).rows(device, smoke)


def find(suite: str, name: str) -> Contestant:
    """Find the function of a contestant, which alone imports what it needs."""
    place = importlib.import_module(SUITES[suite]).CONTESTANTS[name]
    module, _, function = place.partition(":")
    return getattr(importlib.import_module(module), function)


def prepare(suite: str, options: Options) -> None:
    """Make the files that the contestants of a row read, in options["folder"]."""
    importlib.import_module(SUITES[suite]).prepare(options)
