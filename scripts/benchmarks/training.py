"""Training steps: the same weights, batches and optimizer as PyTorch's, in turns.

Both load the same file of weights and read the same text in the same order, and the
losses of both are told: they must agree at the first step, and stay together.
"""

import functools
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks import contestant, texts
from benchmarks.suites import Options, Row

CONTESTANTS = {
    "jaxllm": "benchmarks.training:jaxllm",
    "PyTorch": "benchmarks.peers.training:eager",
    "PyTorch compiled": "benchmarks.peers.training:compiled",
}

CHARS_SMALL = {"emb_dim": 128, "n_heads": 4, "n_layers": 4, "context_length": 64}
CHARS = {"emb_dim": 384, "n_heads": 6, "n_layers": 6, "context_length": 256}
GPT2 = {"emb_dim": 768, "n_heads": 12, "n_layers": 12, "context_length": 1024}
GPT2_XL = {"emb_dim": 1600, "n_heads": 25, "n_layers": 48, "context_length": 1024}
TINY = {"emb_dim": 32, "n_heads": 2, "n_layers": 2, "context_length": 16}

# The optimizer of all contestants.
OPTIMIZER: dict[str, Any] = {
    "learning_rate": 3e-4,
    "beta1": 0.9,
    "beta2": 0.95,
    "weight_decay": 0.1,
    "grad_clip": 1.0,
}
# Batches in the file of ids; they come again when all have been read.
_BATCHES = 32


def rows(device: str, smoke: bool) -> list[Row]:
    """List the rows: models, precisions and batch sizes."""
    if device == "gpu":
        compiled = {"device": "gpu", "peers": ("PyTorch compiled",)}
        table = [
            _row("gpt2-124M", GPT2, "bfloat16", 32, steps=16, **compiled),
            _row("gpt2-124M", GPT2, "bfloat16", 64, steps=8, **compiled),
            _row("gpt2-1558M", GPT2_XL, "bfloat16", 8, steps=6, **compiled),
            _row("gpt2-1558M", GPT2_XL, "bfloat16", 16, steps=3, **compiled),
        ]
    else:
        both = ("PyTorch", "PyTorch compiled")
        table = [
            _row("chars-0.8M", CHARS_SMALL, "float32", 12, steps=60, peers=both),
            _row("chars-10.7M", CHARS, "float32", 8, steps=4),
            _row("chars-10.7M", CHARS, "bfloat16", 8, steps=4),
            _row("gpt2-124M", GPT2, "float32", 4, steps=1, tokens=256),
            _row("gpt2-124M", GPT2, "bfloat16", 4, steps=1, tokens=256),
        ]
    return [_shrunk(row) for row in table] if smoke else table


def _row(
    name: str,
    shape: dict[str, int],
    dtype: str,
    batch_size: int,
    *,
    steps: int,
    tokens: int | None = None,
    device: str = "cpu",
    peers: tuple[str, ...] = ("PyTorch",),
) -> Row:
    """Describe a row; on a GPU one process at a time, and the batch is in the name."""
    tokens = tokens or shape["context_length"]
    on_gpu = device == "gpu"
    return Row(
        name=f"{name}-{dtype}" + (f"-batch-{batch_size}" if on_gpu else ""),
        work=f"{name}, {dtype}, {batch_size} × {tokens} tokens",
        contestants=("jaxllm", *peers),
        options={
            "device": device,
            "model": {"vocab_size": 50257 if "gpt2" in name else 97} | shape,
            "dtype": dtype,
            "batch_size": batch_size,
            "tokens": tokens,
            "steps": steps,
        },
        together=not on_gpu,
    )


def _shrunk(row: Row) -> Row:
    tiny = {"device": "cpu", "model": row.options["model"] | TINY, "dtype": "float32"}
    tiny |= {"batch_size": 2, "tokens": 16, "steps": 2}
    return row._replace(options=row.options | tiny, rounds=2)


def prepare(options: Options) -> None:
    """Write the ids to learn from, and weights as both libraries read them."""
    import jax

    from jaxllm.config import GPTConfig
    from jaxllm.models import gpt
    from jaxllm.pretrained import save

    folder = pathlib.Path(options["folder"])
    cfg = GPTConfig(**options["model"])
    make_ids = texts.gpt2_ids if cfg.vocab_size == 50257 else texts.character_ids
    n = _BATCHES * options["batch_size"] * options["tokens"] + 1
    np.save(folder / "ids.npy", make_ids(n))
    params = gpt.init_params(jax.random.key(0), cfg)
    save.save_pretrained(params, cfg, None, folder)


def read_batches(options: Options) -> Iterator[Any]:
    """Yield inputs and targets (batch_size, tokens) int32, the same ones for all."""
    ids = np.load(pathlib.Path(options["folder"]) / "ids.npy").astype(np.int32)
    shape = options["batch_size"], options["tokens"]
    size = shape[0] * shape[1]
    while True:
        for start in range(0, len(ids) - size, size):
            window = ids[start : start + size + 1]
            yield window[:-1].reshape(shape), window[1:].reshape(shape)


def measured(
    options: Options,
    take_steps: Callable[[], float],
    peak_flops: Callable[[], float],
) -> Iterator[dict[str, Any]]:
    """Yield rounds of a function that takes options["steps"] steps.

    Args:
      take_steps: returns the loss of the first of its steps.
    """
    contestant.forget_peak()
    facts = {"loss": take_steps(), "peak_flops": peak_flops()}
    take_steps()
    yield facts
    amount = options["steps"] * options["batch_size"] * options["tokens"]
    while True:
        start = time.perf_counter()
        loss = take_steps()
        seconds = time.perf_counter() - start
        yield {"amount": amount, "seconds": seconds, "loss": loss}


def jaxllm(options: Options) -> Iterator[dict[str, Any]]:
    """Train as `jaxllm train` does, without its loop."""
    from jaxllm.cli import runtime

    runtime.start()
    runtime.one_program_at_a_time()
    import jax

    from jaxllm import accounting, heap
    from jaxllm.config import GPTConfig, MeshConfig, OptimizerConfig, TrainConfig
    from jaxllm.distributed import mesh as meshes
    from jaxllm.distributed import sharding
    from jaxllm.pretrained import load
    from jaxllm.training import optimizers, preparation
    from jaxllm.training.state import train_state_of
    from jaxllm.types import Batch

    cfg = TrainConfig(
        model=GPTConfig(**options["model"], dtype=options["dtype"]),
        optimizer=OptimizerConfig(schedule="constant", warmup_steps=0, **OPTIMIZER),
    )
    optimizer = optimizers.make_optimizer(cfg.optimizer, total_steps=10_000)
    mesh = meshes.make_mesh(MeshConfig(), jax.devices()[:1])

    params, _, _ = load.load_pretrained(options["folder"], mesh=mesh)
    state = train_state_of(params, optimizer, jax.random.key(0))
    places = sharding.tree_shardings(state, mesh)
    state = jax.block_until_ready(jax.device_put(state, places))
    del params
    step, _ = preparation.compiled_steps(cfg, optimizer, places)
    batches, first = read_batches(options), True

    def take_steps() -> float:
        nonlocal state, first
        losses = []
        for _ in range(options["steps"]):
            batch = sharding.place_batch(Batch(*next(batches)), mesh)
            state, metrics = step(state, batch)
            if first:
                heap.give_back()
                first = False
            losses.append(metrics["loss"])
        jax.block_until_ready(state)
        return float(losses[0])

    with jax.set_mesh(mesh):
        rounds = measured(
            options, take_steps, functools.partial(_peak_flops, options["dtype"])
        )
        per_token = accounting.training_flops(cfg.model, options["tokens"])
        yield next(rounds) | {"flops_per_token": per_token}
        yield from rounds


def _peak_flops(dtype: str) -> float:
    """Measure the operations per second of a large matrix product."""
    import jax
    import jax.numpy as jnp

    size, repeats = (8192, 20) if jax.default_backend() == "gpu" else (2048, 2)
    product = jax.jit(lambda a, b: jnp.matmul(a, b))
    a = b = jnp.ones((size, size), dtype)
    best = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        jax.block_until_ready([product(a, b) for _ in range(repeats)])
        best = min(best, (time.perf_counter() - start) / repeats)
    return 2 * size**3 / best
