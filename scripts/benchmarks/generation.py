"""Greedy generation with GPT-2's shapes: tokens per second, and time to the first one.

All read the same folder of weights, drawn at random and written by save_pretrained, so
that nothing has to be downloaded; and all must write the same tokens.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks import contestant, processes
from benchmarks.suites import Options, Row

CONTESTANTS = {
    "jaxllm": "benchmarks.generation:jaxllm",
    "jaxllm, context 256": "benchmarks.generation:jaxllm_short",
    "jaxllm process": "benchmarks.generation:jaxllm_process",
    "transformers": "benchmarks.peers.generation:transformers_eager",
    "transformers compiled": "benchmarks.peers.generation:transformers_compiled",
    "CTranslate2": "benchmarks.peers.generation:ctranslate2",
    "CTranslate2 process": "benchmarks.peers.generation:ctranslate2_process",
}

GPT2 = {"emb_dim": 768, "n_heads": 12, "n_layers": 12, "context_length": 1024}
TEXT = "Every effort moves you"
TINY = {"emb_dim": 32, "n_heads": 2, "n_layers": 2}


def rows(device: str, smoke: bool) -> list[Row]:
    """List the rows: precisions, batch sizes, and what the time to the first is."""
    if device == "gpu":
        peers = ("transformers compiled",)  # the faster of its two ways by far
        table = [
            _row("bfloat16-batch-1", peers, dtype="bfloat16", device="gpu"),
            _row("bfloat16-batch-64", peers, dtype="bfloat16", batch=64, device="gpu"),
        ]
    else:
        table = [
            _row("float32-batch-1", ("transformers", "CTranslate2")),
            _row("int8-batch-1", ("CTranslate2",), dtype="int8"),
            _row("bfloat16-batch-8", ("transformers",), dtype="bfloat16", batch=8),
            _row("bound-1024", ("jaxllm, context 256",)),
            _first_token("prompt-900", ("jaxllm", "transformers"), prompt=900),
            _first_token("process", ("jaxllm process", "CTranslate2 process")),
        ]
    return [_shrunk(row) for row in table] if smoke else table


def _row(name: str, peers: tuple[str, ...], **changes: Any) -> Row:
    options = {"device": "cpu", "model": GPT2, "dtype": "float32"}
    options |= {"batch": 1, "prompt": 32, "new": 128} | changes
    work = (
        f"GPT-2 124M, {options['dtype']}, batch {options['batch']}, "
        f"{options['new']} tokens after {options['prompt']}"
    )
    on_gpu = options["device"] == "gpu"
    contestants = ("jaxllm", *peers)
    return Row(name, work, contestants, options, together=not on_gpu, files="gpt2")


def _first_token(name: str, contestants: tuple[str, ...], prompt: int = 32) -> Row:
    row = _row(f"first-token-{name}", (), prompt=prompt, new=1)
    since = "process start" if name == "process" else "the prompt"
    work = f"GPT-2 124M, float32, from {since} to the first token after {prompt}"
    return row._replace(work=work, contestants=contestants, unit="s")


def _shrunk(row: Row) -> Row:
    tiny = {"device": "cpu", "model": row.options["model"] | TINY, "new": 4}
    tiny["dtype"] = row.options["dtype"].replace("bfloat16", "float32")
    return row._replace(options=row.options | tiny, rounds=2)


def prepare(options: Options) -> None:
    """Write the folder of weights that all of them read."""
    import jax

    from jaxllm.config import GPTConfig
    from jaxllm.data import tokenizers
    from jaxllm.models import gpt
    from jaxllm.pretrained import save

    cfg = GPTConfig(**options["model"])
    params = gpt.init_params(jax.random.key(0), cfg)
    save.save_pretrained(params, cfg, tokenizers.load("gpt2"), options["folder"])


def prompts(options: Options) -> np.ndarray:
    """Draw the prompts, (batch, prompt) int32; the same for all."""
    shape = options["batch"], options["prompt"]
    return np.random.default_rng(0).integers(0, 50256, shape).astype(np.int32)


def measured(
    options: Options, generate: Callable[[], list[list[int]]]
) -> Iterator[dict[str, Any]]:
    """Yield rounds of calls that return the new tokens of every row."""
    contestant.forget_peak()
    tokens = generate()
    if options["device"] == "gpu":  # where graphs of kernels are recorded by repeating
        generate()
    yield {"tokens": tokens}
    while True:
        start = time.perf_counter()
        generate()
        seconds = time.perf_counter() - start
        yield {"amount": options["batch"] * options["new"], "seconds": seconds}


def jaxllm(options: Options) -> Iterator[dict[str, Any]]:
    """Generate as `jaxllm.generate` does."""
    import jax

    params, cfg, generate = _loaded(options)
    inputs = list(prompts(options))

    def call() -> list[list[int]]:
        rows = generate(params, inputs, cfg, options["new"])
        return [row[options["prompt"] :].tolist() for row in rows]

    # Other lengths, within the same powers of two, must find all compiled.
    shorter = [row[: options["prompt"] - 1] for row in inputs]
    generate(params, shorter, cfg, max(1, options["new"] - 1))
    compiled: list[str] = []

    def listen(event: str, duration_secs: float, **_: Any) -> None:
        if "backend_compile" in event:
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    rounds = measured(options, call)
    yield next(rounds) | {"compiled_by_second_call": len(compiled)}
    yield from rounds


def jaxllm_short(options: Options) -> Iterator[dict[str, Any]]:
    """Generate with room for 256 tokens only."""
    params, cfg, generate = _loaded(options)
    cfg = dataclasses.replace(cfg, context_length=256)
    table = params["position_embedding"]["embedding"]
    params = params | {"position_embedding": {"embedding": table[:256]}}
    inputs = list(prompts(options))

    def call() -> list[list[int]]:
        rows = generate(params, inputs, cfg, options["new"])
        return [row[options["prompt"] :].tolist() for row in rows]

    yield from measured(options, call)


def _loaded(options: Options) -> tuple[Any, Any, Callable]:
    from jaxllm.cli import runtime

    runtime.start()
    from jaxllm.inference import generate, weights
    from jaxllm.pretrained import load

    params, cfg, _ = load.load_pretrained(options["folder"])
    if options["device"] == "gpu":
        cfg = dataclasses.replace(cfg, dtype=options["dtype"])
    # As `jaxllm generate --weights` does.
    params = weights.decoding_params(params, cfg, options["dtype"], donate=True)

    def call(params: Any, inputs: Any, cfg: Any, new: int) -> Any:
        return generate.generate(params, inputs, cfg, max_new_tokens=new, temperature=0)

    return params, cfg, call


def jaxllm_process(options: Options) -> Iterator[dict[str, Any]]:
    """Start `jaxllm generate` anew each time; its compilation cache is warm."""
    words = "-m jaxllm.cli.main generate --max_new_tokens 1 --temperature 0".split()
    return processes.first_lines(*words, "--prompt", TEXT, options["folder"])
