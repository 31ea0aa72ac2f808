"""Pieces of text to token ids: in order, on several processes, in bounded memory."""

import collections
import contextlib
import functools
import hashlib
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from typing import Any, NamedTuple

import numpy as np

from jaxllm.data import text_files, tokenizers
from jaxllm.errors import DataError

JOB_CHARACTERS = 2**20
"""Text that goes to a process at once."""


class Job(NamedTuple):
    """Some consecutive pieces of text, each for the training or the held-out part."""

    texts: list[str]
    held_out: list[bool]
    joined: list[bool]  # whether the end of another document comes before the piece
    documents: int  # how many begin here
    characters: int


def group_pieces(
    pieces: Iterable[text_files.Piece], held_out_fraction: float
) -> Iterator[Job]:
    """Group pieces into jobs, and hold out documents by the hash of their first piece.

    >>> pieces = [text_files.Piece("one", True), text_files.Piece("two", True)]
    >>> [job.joined for job in group_pieces(pieces, 0.0)]
    [[False, True]]
    """
    job = Job([], [], [], 0, 0)
    begun = set()  # the parts that have a document already
    out = False
    for text, first in pieces:
        if first:
            out = _hash_fraction(text) < held_out_fraction
        job.texts.append(text)
        job.held_out.append(out)
        job.joined.append(first and out in begun)
        job = job._replace(
            documents=job.documents + first, characters=job.characters + len(text)
        )
        begun.add(out)
        if job.characters >= JOB_CHARACTERS:
            yield job
            job = Job([], [], [], 0, 0)
    if job.texts:
        yield job


def _hash_fraction(text: str) -> float:
    """Map a text to a number in [0, 1) that depends on nothing else."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64


def encode_job(
    job: Job, *, tokenizer_path: str, tokenizer_hash: str, allow_special: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Turn a job into the ids of its training part and of its held-out part."""
    tokenizer = _load_once(tokenizer_path, tokenizer_hash)
    end = [] if tokenizer.end_of_text is None else [tokenizer.end_of_text]
    parts: tuple[list[Any], list[Any]] = ([[]], [[]])
    for text, out, joined in zip(job.texts, job.held_out, job.joined, strict=True):
        if joined:
            parts[out].append(end)
        if allow_special:
            parts[out].append(tokenizer.encode(text, allow_special=True))
        else:
            parts[out].append(tokenizer.encode_ordinary(text))
    train, held_out = (np.concatenate(part).astype(np.int32) for part in parts)
    return train, held_out


@functools.lru_cache(maxsize=1)
def _load_once(path: str, hash: str) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.load(path)
    if tokenizer.hash != hash:
        raise DataError(f"{path} must have the hash {hash}, it has {tokenizer.hash}")
    return tokenizer


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
            "a process that tokenizes died: use fewer workers if memory ran out; a "
            "script must start its work under `if __name__ == '__main__':`"
        ) from error
