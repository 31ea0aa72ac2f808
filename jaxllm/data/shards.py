"""Encoded jobs to shards of raw ids on the disk, and shards back to sequences.

A shard is one stretch of the corpus. It has a file for each stream: one stream where
the split is made by counting tokens at the end, two where documents are held out as
they come.
"""

import contextlib
import hashlib
import itertools
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from jaxllm.data import disk, encoding
from jaxllm.data.token_sequence import TokenSequence
from jaxllm.errors import DataError

STREAMS = {"tokens": ("tokens",), "documents": ("train", "validation")}
"""The streams of each way to split."""


def group_jobs(
    jobs: Iterable[encoding.Job], characters: int
) -> Iterator[Iterator[encoding.Job]]:
    """Yield the jobs of one shard after the other, each until it holds enough text.

    Each group must be read to its end before the next is asked for.
    """
    jobs = iter(jobs)
    for first in jobs:
        yield _take(itertools.chain([first], jobs), characters)


def _take(jobs: Iterable[encoding.Job], characters: int) -> Iterator[encoding.Job]:
    """Yield jobs until they hold that many characters."""
    taken = 0
    for job in jobs:
        yield job
        taken += job.characters
        if taken >= characters:
            return


def write_shard(
    encoded: Iterable[tuple[encoding.Job, tuple[np.ndarray, np.ndarray]]],
    number: int,
    folder: pathlib.Path,
    split: str,
    vocab_size: int,
) -> dict[str, Any]:
    """Write the ids of one shard, whole or not at all, and return its record."""
    text = hashlib.sha256()
    counts = {"documents": 0, "characters": 0, "bytes": 0}
    files = [
        {"stream": stream, "name": f"{stream}-{number:05d}.bin", "tokens": 0}
        for stream in STREAMS[split]
    ]
    hashes = [hashlib.sha256() for _ in files]
    with contextlib.ExitStack() as stack:
        writers = [
            stack.enter_context(disk.atomic_writer(folder / file["name"]))
            for file in files
        ]
        for job, parts in encoded:
            data = "".join(job.texts).encode()
            text.update(data)
            counts["documents"] += job.documents
            counts["characters"] += job.characters
            counts["bytes"] += len(data)
            # Where there is one stream, the held-out part is empty.
            for i, ids in enumerate(parts[: len(files)]):
                raw = _to_bytes(ids, vocab_size)
                writers[i].write(raw)
                hashes[i].update(raw)
                files[i]["tokens"] += len(ids)
    for file, digest in zip(files, hashes, strict=True):
        file["sha256"] = digest.hexdigest()
    return {"text_sha256": text.hexdigest()} | counts | {"files": files}


def _to_bytes(ids: np.ndarray, vocab_size: int) -> bytes:
    if ids.size and not 0 <= ids.min() <= ids.max() < vocab_size:
        raise DataError(
            f"token ids must be in [0, {vocab_size}), the tokenizer gave "
            f"{ids.min()} to {ids.max()}"
        )
    return ids.astype(id_dtype(vocab_size)).tobytes()


def id_dtype(vocab_size: int) -> str:
    """Choose the narrowest little-endian integer for the ids of a vocabulary.

    >>> id_dtype(50257), id_dtype(65537)
    ('<u2', '<u4')
    """
    return "<u2" if vocab_size <= 2**16 else "<u4"


def text_sha256(jobs: Iterable[encoding.Job]) -> str:
    """Compute what a shard's record has under this name, from its text alone."""
    text = hashlib.sha256()
    for job in jobs:
        text.update("".join(job.texts).encode())
    return text.hexdigest()


def check_shard(
    record: dict[str, Any], folder: pathlib.Path, vocab_size: int, *, verify: bool
) -> None:
    """Raise DataError where a shard's files are not as its record says.

    Their sizes are compared and, with verify, their sha256.
    """
    for file in record["files"]:
        path = folder / file["name"]
        due = file["tokens"] * np.dtype(id_dtype(vocab_size)).itemsize
        with disk.explain_refusal("read", path):
            size = path.stat().st_size
        if size != due:
            raise DataError(
                f"{path} must have {due} bytes, it has {size}; prepare the corpus again"
            )
        if verify and (found := disk.file_sha256(path)) != file["sha256"]:
            raise DataError(
                f"{path} must have sha256 {file['sha256']}, it has {found}; "
                "prepare the corpus again"
            )


def open_stream(
    folder: pathlib.Path,
    manifest: dict[str, Any],
    stream: str,
    start: int = 0,
    stop: int | None = None,
) -> TokenSequence:
    """Open ids start to stop of a stream, over all shards."""
    files = [
        (folder / file["name"], file["tokens"])
        for record in manifest["shards"]
        for file in record["files"]
        if file["stream"] == stream
    ]
    return TokenSequence(files, manifest["dtype"], start, stop)
