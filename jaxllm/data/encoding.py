"""Pieces of text to jobs for several processes, and a job to its token ids."""

import functools
import hashlib
from collections.abc import Iterable, Iterator
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
