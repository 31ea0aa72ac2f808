"""`jaxllm train`: a config in, a trained model and its run directory out."""

import contextlib
import dataclasses
import os
import pathlib
import sys
import time
from collections.abc import Iterator
from typing import Any

from jaxllm.cli import arguments, console
from jaxllm.config import TrainConfig
from jaxllm.errors import CheckpointError

# Seconds between two drawings of the loss curve while a run goes on.
PLOT_INTERVAL = 30.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(TrainConfig):
    """Train a model from a config, or go on with a run that was stopped.

    Ctrl-C ends a run after the step under way, with a checkpoint.
    """

    resume: str | None = None
    """Run directory to go on with, after its last good checkpoint."""


def main(argv: list[str]) -> int:
    """Train, show how it goes, and say what came of it."""
    resumed = arguments.peek(argv, "resume")
    if resumed is not None:
        own = pathlib.Path(resumed) / "config.yaml"
        if not own.is_file():
            raise CheckpointError(f"resume must be a run directory, {own} is missing")
        # A run may have been moved, so where it is counts, not where it was.
        argv = ["--config", str(own), *argv, "--run_dir", resumed]
    cfg = _train_config(arguments.parse(Options, argv, "jaxllm train"))

    from jaxllm.distributed import startup
    from jaxllm.inference import samples
    from jaxllm.training import loop

    startup.initialize()
    with shown(cfg) as on_event:
        result = loop.train(
            cfg,
            resume=resumed is not None,
            processes=os.cpu_count() or 1,
            on_event=on_event,
            sample=samples.continue_prompts,
        )
    return 130 if result.interrupted else 0


@contextlib.contextmanager
def shown(cfg: TrainConfig) -> Iterator[Any]:
    """Give the on_event of the loop that shows a run, and sums it up at its end."""
    facts: dict[str, Any] = {}  # the latest of each
    report: console.Report | None = None
    drawn = time.monotonic()
    with contextlib.ExitStack() as bars:

        def on_event(kind: str, record: dict[str, Any]) -> None:
            nonlocal report, drawn
            facts.update(record)
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
                        draw_loss(cfg.run_dir, facts)
                        drawn = time.monotonic()

        yield on_event
    if "total_steps" in facts:
        draw_loss(cfg.run_dir, facts)
        print(summary(cfg, facts))


def say(line: str) -> None:
    """Print a line above the progress bar."""
    print(line, file=sys.stderr, flush=True)


def description(start: dict[str, Any]) -> str:
    """Tell what is about to be trained, on what.

    >>> description({"parameters": 10_700_000, "train_tokens": 1_003_854,
    ...     "validation_tokens": 111_540, "devices": 1, "platform": "cpu"})
    '10.7M parameters, 1.0M tokens to train on, 111.5K held out, 1 cpu device'
    """
    parameters, tokens, held_out = (
        console.count(start[name])
        for name in ("parameters", "train_tokens", "validation_tokens")
    )
    devices = f"{start['devices']} {start['platform']} device"
    return (
        f"{parameters} parameters, {tokens} tokens to train on, {held_out} held out, "
        + (devices if start["devices"] == 1 else f"{devices}s")
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


def draw_loss(run_dir: str, facts: dict[str, Any]) -> None:
    """Draw the loss curve of a run from its metrics."""
    from jaxllm import plots
    from jaxllm.training import runs

    plots.loss_curve(
        runs.read_metrics(run_dir),
        pathlib.Path(run_dir) / "plots" / "loss.png",
        unigram_entropy=facts["unigram_entropy"],
    )


def _train_config(options: Options) -> TrainConfig:
    fields = dataclasses.fields(TrainConfig)
    return TrainConfig(**{f.name: getattr(options, f.name) for f in fields})
