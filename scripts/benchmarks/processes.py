"""A program in; the seconds from its start to its first line out, again and again."""

import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

_ROOT = pathlib.Path(__file__).parents[2]


def first_lines(
    *words: str, fresh: tuple[str, ...] = (), **facts: Any
) -> Iterator[dict[str, Any]]:
    """Start `python WORDS` again and again, and time it until its first whole line.

    The first start is not counted: it fills the disk's cache, and caches of programs.

    Args:
      fresh: variables of the environment that name an empty folder at every start.
      facts: what is told beside the first line.
    """
    _, line = _start(words, {})
    yield {"first_line": line} | facts
    number = 0
    while True:
        folder = pathlib.Path(words[-1])
        number += 1
        empty = {name: str(folder / f"{name}-{number}") for name in fresh}
        seconds, _ = _start(words, empty)
        yield {"amount": 1, "seconds": seconds}


def _start(words: tuple[str, ...], changes: dict[str, str]) -> tuple[float, str]:
    path = os.pathsep.join([str(_ROOT), str(_ROOT / "scripts")])
    environment = os.environ | {"PYTHONPATH": path} | changes
    start = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, *words],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = time.perf_counter() - start
    if process.returncode:
        raise RuntimeError(f"{words[:2]} ended with exit status {process.returncode}")
    return seconds, line.strip()
