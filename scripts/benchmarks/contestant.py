"""A contestant in a process of its own: a word comes in, a line of JSON goes out."""

import importlib.metadata
import json
import os
import pathlib
import resource
import sys
from typing import Any

from benchmarks import suites

# Whose version is told, where a contestant has imported it.
_PACKAGES = (
    "jax jaxlib flax optax grain numpy torch transformers ctranslate2 tiktoken gensim"
).split()


def serve(suite: str, name: str, options: str) -> None:
    """Make ready, then answer each line on stdin with a round, until stdin ends.

    The name "prepare" makes the files of the row instead.
    """
    # What libraries print must not stand among the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(record: dict[str, Any]) -> None:
        print(json.dumps(record), file=answers, flush=True)

    if name == "prepare":
        suites.prepare(suite, json.loads(options))
        answer({})
        return
    try:
        rounds = suites.find(suite, name)(json.loads(options))
        answer(next(rounds))
    except ImportError as error:
        answer({"absent": f'{error}; pip install "jaxllm[bench]"'})
        return
    for word in sys.stdin:
        if word.strip() == "round":
            answer(next(rounds))
        else:
            peak = gpu_peak_bytes() or peak_bytes()
            answer({"peak_bytes": peak, "versions": versions()})


def versions() -> dict[str, str]:
    """Tell the versions of what has been imported."""
    return {
        name: importlib.metadata.version(name)
        for name in _PACKAGES
        if name in sys.modules
    }


def peak_bytes() -> int:
    """Tell the most memory that this process, or one that it started, has held."""
    children = _most_bytes(resource.RUSAGE_CHILDREN)
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return max(children, int(lines["VmHWM"].split()[0]) * 1024)
    return max(children, _most_bytes(resource.RUSAGE_SELF))


def _most_bytes(who: int) -> int:
    """Tell the most memory that processes have held: macOS counts bytes, Linux KiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(who).ru_maxrss * unit


def gpu_peak_bytes() -> int:
    """Tell the most of a GPU's memory that arrays have held; 0 where none is used."""
    torch, jax = sys.modules.get("torch"), sys.modules.get("jax")
    if torch and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    if jax and jax.default_backend() == "gpu":
        stats = jax.local_devices()[0].memory_stats() or {}
        return stats.get("peak_bytes_in_use", 0)
    return 0


def forget_peak() -> None:
    """Count the peak of memory from here on: after reading the weights in, say."""
    place = pathlib.Path("/proc/self/clear_refs")
    if place.exists():
        place.write_text("5")
