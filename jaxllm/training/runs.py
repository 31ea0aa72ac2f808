"""A run directory: what lies in it, how it grows, how it is read back.

    config.yaml      the run, as it was asked for, with everything that followed from it
    tokenizer.json   the tokenizer
    tokens/          the corpus as token ids, where it was not a token store already
    checkpoints/     a folder per step that is kept
    metrics.jsonl    a line per logged step and per evaluation
    samples.md       what the model wrote on the way
    plots/           the loss curve
    profile/         traces of steps, where they were asked for

It can be moved, zipped and opened elsewhere. The one thing that it needs from outside
is a token store, where it learns from one; should that move, data.corpus says where to.
"""

import contextlib
import json
import os
import pathlib
import shutil
import textwrap
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeVar, overload

import jax

from jaxllm import config_files
from jaxllm.config import GPTConfig, TrainConfig
from jaxllm.data import disk, tokenizers
from jaxllm.errors import CheckpointError
from jaxllm.models import gpt
from jaxllm.training import checkpoints
from jaxllm.types import Params

Folder = str | os.PathLike[str]

Config = TypeVar("Config")

# Told (kind, record) of what happens in a run.
OnEvent = Callable[[str, dict[str, Any]], None]

CONFIG, TOKENIZER, TOKENS = "config.yaml", "tokenizer.json", "tokens"
CHECKPOINTS, METRICS, SAMPLES = "checkpoints", "metrics.jsonl", "samples.md"
PROFILE = "profile"

# Bytes in the files that grow, as a checkpoint remembers them.
NOTHING_WRITTEN = {METRICS: 0, SAMPLES: 0}


def is_run(run_dir: Folder) -> bool:
    """Tell whether a folder holds a run."""
    return (pathlib.Path(run_dir) / CONFIG).is_file()


def require_run(run_dir: Folder) -> None:
    """Refuse a folder that holds no run."""
    if not is_run(run_dir):
        raise CheckpointError(f"there is no run in {os.fspath(run_dir)}: no {CONFIG}")


def has_trained(run_dir: Folder) -> bool:
    """Tell whether a run has come to anything that could be lost."""
    return any(
        (pathlib.Path(run_dir) / name).exists() for name in (METRICS, CHECKPOINTS)
    )


def forget_tokens(run_dir: Folder) -> None:
    """Delete the tokenizer and the tokens of a run."""
    run_dir = pathlib.Path(run_dir)
    (run_dir / TOKENIZER).unlink(missing_ok=True)
    shutil.rmtree(run_dir / TOKENS, ignore_errors=True)


def load_run(
    run_dir: Folder, *, step: int | Literal["last", "best"] = "last"
) -> tuple[Params, GPTConfig, tokenizers.Tokenizer]:
    """Open what a run has learned: parameters, model and tokenizer.

    Args:
      step: of a checkpoint; "best" is the one with the lowest validation loss.

    Raises:
      CheckpointError: there is no such run or checkpoint, or it is damaged.
    """
    run_dir = pathlib.Path(run_dir)
    cfg = read_config(run_dir).model
    folder, step = run_dir / CHECKPOINTS, find_step(run_dir, step)
    shapes = jax.eval_shape(lambda: gpt.init_params(jax.random.key(0), cfg))
    params = checkpoints.restore_params(folder, step, shapes)
    return params, cfg, tokenizers.load(run_dir / TOKENIZER)


def find_step(run_dir: Folder, step: int | Literal["last", "best"]) -> int:
    """Find the step of a run's last or best checkpoint; a number is itself."""
    if not isinstance(step, str):
        return step
    last = checkpoints.latest_step(pathlib.Path(run_dir) / CHECKPOINTS)
    if last is None:
        raise CheckpointError(f"the run {run_dir} has no checkpoint yet")
    best = best_step(run_dir) if step == "best" else None
    return last if best is None else best


@overload
def read_config(run_dir: Folder) -> TrainConfig: ...


@overload
def read_config(run_dir: Folder, cls: type[Config]) -> Config: ...


def read_config(run_dir: Folder, cls: type = TrainConfig) -> Any:
    """Read the config of a run, of training if no other kind is named."""
    require_run(run_dir)
    return config_files.read_config(pathlib.Path(run_dir) / CONFIG, cls)


def write_config(run_dir: Folder, cfg: Any) -> None:
    """Write the config of a run, whole or not at all."""
    with disk.atomic_writer(pathlib.Path(run_dir) / CONFIG) as file:
        file.write(config_files.to_yaml(cfg).encode())


@contextlib.contextmanager
def recorder(
    run_dir: Folder, tensorboard: bool, step: int, on_event: OnEvent
) -> Iterator[OnEvent]:
    """Write down what happens in a run from a step on, and pass it on.

    Gives a function of (kind, record). Of many processes, the first one writes.
    """
    if jax.process_index() > 0:
        yield lambda kind, record: None
        return
    with contextlib.ExitStack() as stack:
        write_events = None
        if tensorboard:
            write_events = stack.enter_context(_tensorboard(run_dir, step))

        def tell(kind: str, record: dict[str, Any]) -> None:
            if kind in ("train", "evaluation"):
                _append(run_dir, METRICS, json.dumps({"kind": kind} | record))
                if write_events:
                    write_events(record)
            if kind == "sample" and record["texts"]:
                _append(run_dir, SAMPLES, sample_text(**record))
            on_event(kind, record)

        yield tell


def sample_text(step: int, texts: list[str]) -> str:
    """Lay out samples as Markdown; the indent keeps any text a block of its own.

    >>> print(sample_text(5, ["def f():\\n    pass"]))
    ## Step 5
    <BLANKLINE>
        def f():
            pass
    <BLANKLINE>
    """
    blocks = [textwrap.indent(text, "    ", lambda _: True) for text in texts]
    return f"## Step {step}\n\n" + "\n\n---\n\n".join(blocks) + "\n"


def read_metrics(run_dir: Folder) -> list[dict[str, Any]]:
    """Read the metrics of a run; a last line that was cut short by a kill is no line.

    Each has a kind, train or evaluation, and a step.
    """
    path = pathlib.Path(run_dir) / METRICS
    if not path.exists():
        return []
    with disk.explain_refusal("read", path):
        lines = path.read_text("utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def best_step(run_dir: Folder) -> int | None:
    """Find the checkpoint with the lowest validation loss; None before there is one."""
    there = set(checkpoints.steps(pathlib.Path(run_dir) / CHECKPOINTS))
    losses = validation_losses(run_dir)
    evaluated = [step for step in losses if step in there]
    return min(evaluated, key=lambda step: losses[step], default=None)


def validation_losses(run_dir: Folder) -> dict[int, float]:
    """Read the validation loss of each step that was evaluated."""
    return {
        record["step"]: record["validation_loss"]
        for record in read_metrics(run_dir)
        if record["kind"] == "evaluation"
    }


def sizes(run_dir: Folder) -> dict[str, int]:
    """Tell how long the files are that grow; a checkpoint remembers it."""
    paths = {name: pathlib.Path(run_dir) / name for name in NOTHING_WRITTEN}
    return {n: p.stat().st_size if p.exists() else 0 for n, p in paths.items()}


def cut_back(run_dir: Folder, sizes: dict[str, int]) -> None:
    """Forget what was written after a checkpoint: it will be written again."""
    for name, size in sizes.items():
        path = pathlib.Path(run_dir) / name
        if path.exists() and path.stat().st_size > size:
            with disk.explain_refusal("write", path):
                os.truncate(path, size)


def _append(run_dir: Folder, name: str, text: str) -> None:
    path = pathlib.Path(run_dir) / name
    with disk.explain_refusal("write", path), open(path, "a", encoding="utf-8") as file:
        file.write(text + "\n")


@contextlib.contextmanager
def _tensorboard(
    run_dir: Folder, step: int
) -> Iterator[Callable[[dict[str, Any]], None]]:
    # Imported where it is asked for: it takes seconds.
    import tensorboardX

    folder = str(pathlib.Path(run_dir) / "tensorboard")
    with tensorboardX.SummaryWriter(folder, purge_step=step + 1) as writer:

        def write(record: dict[str, Any]) -> None:
            for name, value in record.items():
                if name != "step" and not isinstance(value, dict):
                    writer.add_scalar(name, value, record["step"])

        yield write
