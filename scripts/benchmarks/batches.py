"""Windows of a text, shuffled, in batches, on the device: as fast as they come.

The peer is a DataLoader over a Dataset as books teach it, which keeps a tensor of
inputs and one of targets for every window.
"""

import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks import texts
from benchmarks.suites import Options, Row

CONTESTANTS = {
    "jaxllm": "benchmarks.batches:jaxllm",
    "jaxllm placed": "benchmarks.batches:jaxllm_placed",
    "PyTorch DataLoader": "benchmarks.peers.batches:data_loader",
}
_ROUND_SECONDS = 1.0


def rows(device: str, smoke: bool) -> list[Row]:
    """List the rows: sizes of batches, in host memory and placed on the device."""
    table = []
    for batch, tokens in ((8, 256), (64, 256), (16, 1024)):
        options = {
            "device": "cpu" if smoke else device,
            "bytes": 200_000 if smoke else 40_000_000,
            "batch": batch,
            "tokens": tokens,
            "seconds": 0.01 if smoke else _ROUND_SECONDS,
        }
        for ours, where in (("jaxllm", "in host memory"), ("jaxllm placed", "placed")):
            name = f"{batch}x{tokens}" + "-placed" * (where == "placed")
            work = f"shuffled batches of {batch} × {tokens}, {where}"
            table.append(Row(name, work, (ours, "PyTorch DataLoader"), options))
    return table


def prepare(options: Options) -> None:
    """Tokenize text into a store."""
    from jaxllm.data import token_store, tokenizers

    folder = pathlib.Path(options["folder"])
    texts.write_documents(options["bytes"], folder / "documents.jsonl")
    tokenizer = tokenizers.load("gpt2")
    token_store.prepare(folder / "documents.jsonl", tokenizer, folder / "store")


def measured(options: Options, take: Callable[[], Any]) -> Iterator[dict[str, Any]]:
    """Take batches for a while, round after round; the first ones are not counted."""
    for _ in range(20):
        take()
    yield {}
    while True:
        start, count = time.perf_counter(), 0
        while (seconds := time.perf_counter() - start) < options["seconds"]:
            take()
            count += 1
        amount = count * options["batch"] * options["tokens"]
        yield {"amount": amount, "seconds": seconds}


def jaxllm(options: Options) -> Iterator[dict[str, Any]]:
    """Read the store as `jaxllm train` does."""
    from jaxllm.cli import runtime

    runtime.start()
    with _batches(options) as ready:
        yield from measured(options, lambda: next(ready))


def jaxllm_placed(options: Options) -> Iterator[dict[str, Any]]:
    """Put every batch on the device, too."""
    from jaxllm.cli import runtime

    runtime.start()
    import jax

    from jaxllm.config import MeshConfig
    from jaxllm.distributed import mesh as meshes
    from jaxllm.distributed import sharding

    mesh = meshes.make_mesh(MeshConfig(), jax.devices()[:1])
    with _batches(options) as ready:

        def take() -> None:
            jax.block_until_ready(sharding.place_batch(next(ready), mesh))

        yield from measured(options, take)


def _batches(options: Options) -> Any:
    from jaxllm.config import DataConfig
    from jaxllm.data import batches, token_store

    store = token_store.open_store(pathlib.Path(options["folder"]) / "store")
    cfg = DataConfig(batch_size=options["batch"])
    return batches.training_batches(store.train, options["tokens"], cfg)
