"""From the start of a process to the first finished step of the quickstart's model.

The text is tokenized before. What counts is imports, the state's birth, compilation and
the step itself.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

from benchmarks import processes
from benchmarks.suites import Options, Row

CONTESTANTS = {
    "jaxllm": "benchmarks.startup:warm",
    "jaxllm cold": "benchmarks.startup:cold",
    "PyTorch": "benchmarks.startup:torch",
}
_CORPUS_BYTES = 4_000_000


def rows(device: str, smoke: bool) -> list[Row]:
    """List the rows: with an empty and with a filled compilation cache."""
    options = {"device": device, "corpus_bytes": 40_000 if smoke else _CORPUS_BYTES}
    work = "quickstart model, process start to first step"
    return [
        Row(f"{cache}-cache", f"{work}, {cache} cache", (ours, "PyTorch"), options, "s")
        for cache, ours in (("cold", "jaxllm cold"), ("warm", "jaxllm"))
    ]


def prepare(options: Options) -> None:
    """Tokenize a corpus with a vocabulary of its own, as the quickstart does."""
    from benchmarks import texts
    from jaxllm.config import TokenizerConfig
    from jaxllm.data import token_store, tokenizers

    folder = pathlib.Path(options["folder"])
    texts.write_documents(options["corpus_bytes"], folder / "corpus.jsonl")
    learned = tokenizers.learn(
        texts.varied_documents(options["corpus_bytes"]),
        TokenizerConfig(kind="bpe", vocab_size=4096),
    )
    token_store.prepare(
        folder / "corpus.jsonl",
        learned,
        folder / "store",
        validation_fraction=0.05,
        workers=0,
    )


def warm(options: Options) -> Iterator[dict[str, Any]]:
    """Start with all compiled programs in the cache."""
    return processes.first_lines("-m", "benchmarks.startup", options["folder"])


def cold(options: Options) -> Iterator[dict[str, Any]]:
    """Start with an empty cache each time."""
    return processes.first_lines(
        "-m",
        "benchmarks.startup",
        options["folder"],
        fresh=("JAX_COMPILATION_CACHE_DIR",),
    )


def torch(options: Options) -> Iterator[dict[str, Any]]:
    """Start PyTorch, eager."""
    import torch  # pyright: ignore[reportMissingImports]  # the peer's, not ours

    return processes.first_lines(
        "-m",
        "benchmarks.peers.first_step",
        options["folder"],
        torch=torch.__version__,
    )


def first_step(folder: pathlib.Path) -> None:
    """Do what `jaxllm train` does up to its first step, and print the loss."""
    import tempfile

    from jaxllm.cli import runtime

    runtime.start()
    runtime.one_program_at_a_time()
    import jax

    from jaxllm import config_files
    from jaxllm.config import TrainConfig
    from jaxllm.distributed import sharding
    from jaxllm.training import preparation

    configs = pathlib.Path(__file__).parents[2] / "configs"
    with tempfile.TemporaryDirectory() as run_dir:
        cfg = config_files.read_config(configs / "quickstart.yaml", TrainConfig)
        data = dataclasses.replace(cfg.data, corpus=str(folder / "store"))
        cfg = dataclasses.replace(cfg, run_dir=run_dir, data=data)
        _, run = preparation.prepare_run(
            cfg, resume=False, processes=1, on_event=lambda kind, record: None
        )
        with jax.set_mesh(run.mesh), run.batches:
            batch = sharding.place_batch(next(run.batches), run.mesh)
            _, metrics = run.train_step(run.state, batch)
            print(float(metrics["loss"]), flush=True)


if __name__ == "__main__":
    first_step(pathlib.Path(sys.argv[1]))
