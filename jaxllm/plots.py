"""Figures of a run in, pictures out: the only file that knows matplotlib."""

import io
import os
from typing import Any

from matplotlib.figure import Figure

from jaxllm.data import disk


def loss_curve(
    records: list[dict[str, Any]],
    path: str | os.PathLike[str],
    *,
    unigram_entropy: float | None = None,
) -> None:
    """Draw training and validation loss over steps, as a PNG.

    Args:
      records: lines of metrics.jsonl: their kind, step, and loss or validation_loss.
      unigram_entropy: a line to be under: the loss of knowing only how often each
        token occurs.
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="loss in nats per token")
    axes.plot(*_points(records, "train", "loss"), label="training", linewidth=1)
    held_out = _points(records, "evaluation", "validation_loss")
    axes.plot(*held_out, label="validation", marker=".")
    if unigram_entropy is not None:
        axes.axhline(
            unigram_entropy, color="gray", linestyle=":", label="unigram entropy"
        )
    axes.grid(alpha=0.3)
    axes.legend()
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=150)
    with disk.atomic_writer(path) as file:
        file.write(image.getvalue())


def _points(
    records: list[dict[str, Any]], kind: str, name: str
) -> tuple[list[int], list[float]]:
    chosen = [record for record in records if record["kind"] == kind]
    return [record["step"] for record in chosen], [record[name] for record in chosen]
