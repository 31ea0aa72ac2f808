"""Text to token ids: `jaxllm prepare` into a store on the disk, and tiktoken bare.

tiktoken gets the documents as a list in memory and gives lists of ids back; jaxllm
reads them from a file, checks and splits them, and writes shards with their sha256.
"""

import json
import pathlib
import time
from collections.abc import Iterator
from typing import Any

from benchmarks import machine, texts
from benchmarks.suites import Options, Row

CONTESTANTS = {
    "jaxllm": "benchmarks.tokenizing:jaxllm",
    "tiktoken": "benchmarks.tokenizing:tiktoken",
}


def rows(device: str, smoke: bool) -> list[Row]:
    """List the one row; on a machine with many cores too."""
    megabytes = 0.1 if smoke else 100
    work = f"{megabytes} MB with GPT-2's vocabulary, {machine.cores()} cores"
    options = {"bytes": int(megabytes * 1e6)}
    contestants = ("jaxllm", "tiktoken")
    return [Row("gpt2", work, contestants, options, "bytes/s", rounds=3)]


def prepare(options: Options) -> None:
    """Write the documents as JSON lines."""
    texts.write_documents(options["bytes"], _path(options))


def _path(options: Options) -> pathlib.Path:
    return pathlib.Path(options["folder"]) / "documents.jsonl"


def jaxllm(options: Options) -> Iterator[dict[str, Any]]:
    """Prepare a store from the file, with a process per core."""
    from jaxllm.data import token_store, tokenizers

    tokenizer = tokenizers.load("gpt2")
    yield {}
    number = 0
    while True:
        number += 1
        folder = pathlib.Path(options["folder"]) / f"store-{number}"
        start = time.perf_counter()
        store = token_store.prepare(_path(options), tokenizer, folder)
        seconds = time.perf_counter() - start
        ids = len(store.train) + len(store.validation)
        yield {"amount": options["bytes"], "seconds": seconds, "ids": ids}


def tiktoken(options: Options) -> Iterator[dict[str, Any]]:
    """Encode the list of documents in as many threads as there are cores."""
    from jaxllm.data import tokenizers

    with _path(options).open(encoding="utf-8") as file:
        documents = [json.loads(line)["text"] for line in file]
    tokenizer: Any = tokenizers.load("gpt2")
    encoding = tokenizer.encoding
    yield {}
    while True:
        start = time.perf_counter()
        ids = encoding.encode_ordinary_batch(documents, num_threads=machine.cores())
        seconds = time.perf_counter() - start
        # prepare puts the end of a text between two documents.
        count = sum(map(len, ids)) + len(ids) - 1
        yield {"amount": options["bytes"], "seconds": seconds, "ids": count}
