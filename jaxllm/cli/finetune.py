"""`jaxllm finetune`: a base and examples in, a model for a task and its run out."""

import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Iterator
from typing import Any

from jaxllm.cli import arguments, console, runtime
from jaxllm.cli.train import PLOT_INTERVAL, say
from jaxllm.finetuning.config import FinetuneConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(FinetuneConfig):
    """Finetune a model for a task, or go on with a run that was stopped.

    Ctrl-C ends a run after the step under way, with a checkpoint.
    """

    resume: str | None = None
    """Run directory to go on with, after its last good checkpoint."""


def main(argv: list[str]) -> int:
    """Finetune, show how it goes, and say what came of it."""
    argv, resumed = arguments.resuming(argv)
    options = arguments.parse(Options, argv, "jaxllm finetune")
    cfg = arguments.config_in(options, FinetuneConfig)

    from jaxllm.data import pool
    from jaxllm.distributed import startup
    from jaxllm.finetuning import run

    runtime.one_program_at_a_time()
    startup.initialize()
    with shown(cfg) as on_event:
        result = run.finetune(
            cfg,
            resume=resumed is not None,
            processes=pool.cores(),
            on_event=on_event,
        )
    return 130 if result.interrupted else 0


@contextlib.contextmanager
def shown(cfg: FinetuneConfig) -> Iterator[Any]:
    """Give the on_event of a run that shows it, and sums it up at its end."""
    facts: dict[str, Any] = {}  # the latest of each
    test: dict[str, Any] = {}
    report: console.Report | None = None
    drawn = time.monotonic()
    with contextlib.ExitStack() as bars:

        def on_event(kind: str, record: dict[str, Any]) -> None:
            nonlocal report, drawn
            if kind == "test":
                test.update(record)
                return
            facts.update(record)
            match kind:
                case "warning":
                    say(f"warning: {record['text']}")
                case "damaged":
                    say(f"{record['reason']}; going on from the checkpoint before it")
                case "start":
                    report = bars.enter_context(console.progress("finetuning"))
                    say(description(record))
                case "train" if report:
                    loss = f"loss {record['loss']:.3f}"
                    report(record["step"], facts["total_steps"], loss)
                case "evaluation":
                    say(f"step {record['step']:,}: {figures_line(record)}")
                    if time.monotonic() - drawn > PLOT_INTERVAL:
                        draw(cfg.run_dir)
                        drawn = time.monotonic()

        yield on_event
    if "total_steps" in facts:
        draw(cfg.run_dir)
        print(summary(cfg, facts))
    if test:
        print_test(test)


def description(start: dict[str, Any]) -> str:
    """Tell what is about to be trained, on what.

    >>> description({"parameters": 124_441_346, "trainable_parameters": 7_090_946,
    ...     "train": 1045, "validation": 149, "test": 300, "platform": "cpu"})
    '7.1M of 124.4M parameters train on 1,045 examples; 149 validate, 300 test; on cpu'
    """
    trained, all_of_them = (
        console.count(start[name]) for name in ("trainable_parameters", "parameters")
    )
    return (
        f"{trained} of {all_of_them} parameters train on {start['train']:,} examples; "
        f"{start['validation']:,} validate, {start['test']:,} test; "
        f"on {start['platform']}"
    )


def figures_line(figures: dict[str, Any]) -> str:
    """Write what an evaluation found.

    >>> figures_line({"step": 9, "validation_loss": 0.5, "validation_accuracy": 0.75})
    'validation loss 0.500, validation accuracy 75.00 %'
    """
    words = []
    for name, value in figures.items():
        title = name.replace("_", " ").replace("f1", "F1")
        if name.endswith(("accuracy", "f1", "preferred")):
            words.append(f"{title} {100 * value:.2f} %")
        elif isinstance(value, float):
            words.append(f"{title} {value:.3f}")
    return ", ".join(words)


def summary(cfg: FinetuneConfig, facts: dict[str, Any]) -> str:
    """Say how a run ended, and where everything is."""
    run = pathlib.Path(cfg.run_dir)
    lines = [f"plots: {run / 'plots'}; metrics: {run / 'metrics.jsonl'}"]
    if facts["step"] < facts["total_steps"]:
        lines += [
            f"stopped after step {facts['step']:,} of {facts['total_steps']:,};",
            f"to go on: jaxllm finetune --resume {run}",
        ]
    elif cfg.task == "classify":
        lines.append(f'to ask it: jaxllm classify {run} "TEXT"')
    else:
        lines.append(f"answers: {run / 'samples.md'}; to ask it: jaxllm chat {run}")
    return "\n".join(lines)


def print_test(test: dict[str, Any]) -> None:
    """Print the figures of a test; those of a classifier as tables."""
    plain = {f"test_{n}": v for n, v in test.items() if isinstance(v, float)}
    print(figures_line(plain))
    if "labels" not in test:
        return
    print()
    console.table(
        ("label", "precision", "recall", "F1", "texts"),
        [
            (
                name,
                *(f"{100 * row[key]:.2f} %" for key in ("precision", "recall", "f1")),
                f"{row['texts']:,}",
            )
            for name, row in test["labels"].items()
        ],
    )
    print()
    names = list(test["labels"])
    rows = zip(names, test["confusion"], strict=True)
    console.table(
        ("label \\ taken for", *names),
        [(name, *(f"{count:,}" for count in row)) for name, row in rows],
    )


def draw(run_dir: str) -> None:
    """Draw the curves of a run from its metrics."""
    from jaxllm.plots import curves, figure
    from jaxllm.training import runs

    metrics, folder = runs.read_metrics(run_dir), pathlib.Path(run_dir) / "plots"
    figure.save(curves.loss_curve(metrics), folder / "loss.png")
    if any("validation_accuracy" in record for record in metrics):
        figure.save(curves.accuracy_curve(metrics), folder / "accuracy.png")
