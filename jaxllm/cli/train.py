"""`jaxllm train`: a config in, a trained model and its run directory out."""

import collections
import contextlib
import dataclasses
import pathlib
import sys
import time
from collections.abc import Iterator
from typing import Any

from jaxllm.cli import arguments, console, runtime
from jaxllm.config import ProcessConfig, TrainConfig
from jaxllm.errors import ConfigError

# Seconds between two drawings of the loss curve while a run goes on.
PLOT_INTERVAL = 30.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(TrainConfig):
    """Train a model from a config, or go on with a run that was stopped.

    Ctrl-C ends a run after the step under way, with a checkpoint.
    """

    process: ProcessConfig = dataclasses.field(default_factory=ProcessConfig)
    """The other processes of the job."""
    resume: str | None = None
    """Run directory to go on with, after its last good checkpoint."""
    restart: bool = False
    """Go on with run_dir if it has begun, else begin it: the same line each time."""
    profile: int = 0
    """Steps to trace into the run's folder `profile`, for Perfetto or TensorBoard."""


def main(argv: list[str]) -> int:
    """Train, show how it goes, and say what came of it."""
    argv, resumed = arguments.resuming(argv)
    if resumed is not None:
        _require_training(resumed)
    options = arguments.parse(Options, argv, "jaxllm train")
    cfg = arguments.config_in(options, TrainConfig)

    from jaxllm.data import pool
    from jaxllm.distributed import startup
    from jaxllm.inference import samples
    from jaxllm.training import loop, runs

    # Asked before the others are joined, who could have begun it meanwhile.
    resume = resumed is not None or (options.restart and runs.has_trained(cfg.run_dir))
    runtime.one_program_at_a_time()
    startup.initialize(options.process)
    with shown(cfg) as on_event:
        result = loop.train(
            cfg,
            resume=resume,
            processes=pool.cores(),
            on_event=on_event,
            sample=samples.continue_prompts,
            profile_steps=options.profile,
        )
    return 130 if result.interrupted else 0


def _require_training(run: str) -> None:
    from jaxllm.finetuning import opening

    if opening.is_finetuned(run):
        raise ConfigError(
            f"{run} is a run of finetuning; go on with `jaxllm finetune --resume {run}`"
        )


@contextlib.contextmanager
def shown(cfg: TrainConfig) -> Iterator[Any]:
    """Give the on_event of the loop that shows a run, and sums it up at its end."""
    facts: dict[str, Any] = {}  # the latest of each
    seconds = collections.Counter()
    report: console.Report | None = None
    drawn = time.monotonic()
    with contextlib.ExitStack() as bars:

        def on_event(kind: str, record: dict[str, Any]) -> None:
            nonlocal report, drawn
            facts.update(record)
            seconds.update(record.get("seconds", {}))
            match kind:
                case "tokenizing":
                    report = report or bars.enter_context(
                        console.progress("characters")
                    )
                    report(record["characters"])
                case "damaged":
                    say(f"{record['reason']}; going on from the checkpoint before it")
                case "start":
                    bars.close()
                    report = bars.enter_context(console.progress("training"))
                    say(description(record))
                case "train" if report:
                    report(record["step"], facts["total_steps"], speed_line(facts))
                case "evaluation":
                    say(f"step {record['step']:,}: {quality_line(record)}")
                    if time.monotonic() - drawn > PLOT_INTERVAL:
                        draw_loss(cfg.run_dir)
                        drawn = time.monotonic()

        yield on_event
    if "total_steps" in facts:
        draw_loss(cfg.run_dir)
        print(summary(cfg, facts | {"seconds": dict(seconds)}))


def say(line: str) -> None:
    """Print a line above the progress bar."""
    print(line, file=sys.stderr, flush=True)


def description(start: dict[str, Any]) -> str:
    """Tell what is about to be trained, on what.

    >>> description({"parameters": 10_700_000, "train_tokens": 1_003_854, "devices": 1,
    ...     "validation_tokens": 111_540, "platform": "cpu", "attention": "blocked"})
    '10.7M parameters, 1.0M tokens to train on, ..., 1 cpu device, blocked attention'
    """
    parameters, tokens, held_out = (
        console.count(start[name])
        for name in ("parameters", "train_tokens", "validation_tokens")
    )
    devices = f"{start['devices']} {start['platform']} device"
    return (
        f"{parameters} parameters, {tokens} tokens to train on, {held_out} held out, "
        + (devices if start["devices"] == 1 else f"{devices}s")
        + f", {start['attention']} attention"
    )


def speed_line(facts: dict[str, Any]) -> str:
    """Write the loss and the speed of the latest steps.

    >>> speed_line({"loss": 3.2071, "validation_loss": 3.3, "tokens_per_second": 5012,
    ...     "flops_per_second": 4.2e10})
    'loss 3.207  val 3.300  5.0K tokens/s  42.0 GFLOP/s'
    """
    validation = ""
    if "validation_loss" in facts:
        validation = f"val {facts['validation_loss']:.3f}  "
    tokens = console.count(facts["tokens_per_second"])
    flops = facts["flops_per_second"] / 1e9
    return (
        f"loss {facts['loss']:.3f}  {validation}{tokens} tokens/s  {flops:.1f} GFLOP/s"
    )


def quality_line(figures: dict[str, Any]) -> str:
    """Write what an evaluation found.

    >>> quality_line({"validation_loss": 1.5, "perplexity": 4.4817})
    'validation loss 1.5000, perplexity 4.48'
    """
    line = f"validation loss {figures['validation_loss']:.4f}"
    line += f", perplexity {figures['perplexity']:,.2f}"
    if "bits_per_byte" in figures:
        line += f", {figures['bits_per_byte']:.3f} bits per byte"
    return line


def summary(cfg: TrainConfig, facts: dict[str, Any]) -> str:
    """Say how a run ended: its quality, a sample, and where everything is."""
    run = pathlib.Path(cfg.run_dir)
    lines = []
    if "validation_loss" in facts:
        entropy = facts["unigram_entropy"]
        lines += [
            quality_line(facts),
            f"unigram entropy {entropy:.4f}: what knowing only frequencies would lose",
        ]
    for text in facts.get("texts", []):
        lines += ["", text]
    if lines:
        lines.append("")
    lines.append(time_line(facts["seconds"]))
    if (run / "profile").is_dir():
        lines.append(
            f"traces in {run / 'profile'}: open a *.trace.json.gz in "
            "https://ui.perfetto.dev, or all with tensorboard --logdir"
        )
    lines.append(
        f"loss plot: {run / 'plots' / 'loss.png'}; samples: {run / 'samples.md'}"
    )
    if facts["step"] < facts["total_steps"]:
        lines.append(
            f"stopped after step {facts['step']:,} of {facts['total_steps']:,};"
        )
        lines.append(f"to go on: jaxllm train --resume {run}")
    else:
        lines.append(f"to read more: jaxllm generate {run} --prompt ...")
    return "\n".join(lines)


def time_line(seconds: dict[str, float]) -> str:
    """Say where the time of a run went.

    >>> time_line({"total": 200.0, "data": 0.1, "compile": 6.0, "checkpoint": 1.0,
    ...     "evaluation": 8.0, "step": 184.9})
    '200 s: steps 92.5 %, waiting for data 0.1 %, compiling 3.0 %, evaluation 4.0 %,
    checkpoints 0.5 %'
    """
    words = {
        "step": "steps",
        "data": "waiting for data",
        "compile": "compiling",
        "evaluation": "evaluation",
        "checkpoint": "checkpoints",
    }
    total = max(seconds["total"], 1e-9)
    parts = (f"{word} {seconds[n] / total:.1%}" for n, word in words.items())
    return f"{total:,.0f} s: " + ", ".join(parts).replace("%", " %")


def draw_loss(run_dir: str) -> None:
    """Draw the loss curve of a run from its metrics."""
    from jaxllm.plots import curves, figure
    from jaxllm.training import runs

    picture = curves.loss_curve(runs.read_metrics(run_dir))
    figure.save(picture, pathlib.Path(run_dir) / "plots" / "loss.png")
