"""A run small enough for a test; as a script, one that a test can kill.

python tests/small_runs.py FOLDER [--resume] [--no-room-from STEP]
                                  [--steps-per-dispatch STEPS]
"""

import argparse
import json
import pathlib
import resource
import sys

from jaxllm.config import (
    DataConfig,
    GPTConfig,
    LoopConfig,
    OptimizerConfig,
    TokenizerConfig,
    TrainConfig,
)

TEXT = "".join(f"{a} times {b} is {a * b}.\n" for a in range(20) for b in range(10))


def small_run(folder: pathlib.Path, **loop) -> TrainConfig:
    """A run in folder/run on a text beside it, with dropout and accumulation."""
    folder.mkdir(parents=True, exist_ok=True)
    corpus = folder / "text.txt"
    corpus.write_text(TEXT)
    plan = {"steps": 12, "log_every": 2, "eval_every": 6, "eval_batches": 2}
    plan["checkpoint_every"] = 3
    return TrainConfig(
        run_dir=str(folder / "run"),
        model=GPTConfig(
            vocab_size=0,
            context_length=8,
            emb_dim=8,
            n_heads=2,
            n_layers=1,
            drop_rate=0.2,
        ),
        tokenizer=TokenizerConfig(kind="char"),
        data=DataConfig(corpus=str(corpus), batch_size=16),
        optimizer=OptimizerConfig(warmup_steps=2, accumulation_steps=2),
        loop=LoopConfig(**(plan | loop)),
    )


def tell(kind, record) -> None:
    """Write an event on a line of its own, for whoever started the process."""
    sys.stdout.write(json.dumps({"event": kind} | record) + "\n")
    sys.stdout.flush()


def main() -> None:
    import jax

    from jaxllm.training import loop

    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--no-room-from", type=int)
    parser.add_argument("--steps-per-dispatch", type=int, default=1)
    options = parser.parse_args()

    def on_event(kind, record):
        tell(kind, record)
        if kind == "train" and record["step"] == options.no_room_from:
            # The size of files is limited: the nearest to a full disk without one.
            _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))

    # Compiled once for all the processes of a test.
    compiled = str(options.folder.parent / "compiled")
    jax.config.update("jax_compilation_cache_dir", compiled)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    plan = {"steps": 60, "log_every": 1, "eval_every": 20, "checkpoint_every": 4}
    plan["steps_per_dispatch"] = options.steps_per_dispatch
    cfg = small_run(options.folder, **plan)
    loop.train(cfg, resume=options.resume, on_event=on_event)


if __name__ == "__main__":
    main()
