"""Metrics in, pictures out: the only door to matplotlib."""

import os
from collections.abc import Iterable
from typing import Any

from matplotlib.figure import Figure

from jaxllm.data import disk


def loss_curve(
    metrics: Iterable[dict[str, Any]],
    path: str | os.PathLike[str] | None = None,
    *,
    unigram_entropy: float | None = None,
) -> Figure:
    """Draw training and validation loss over the steps of a run.

    Args:
      metrics: the records of a run's metrics.jsonl; each has a kind and a step.
      path: where to save the picture as PNG; None to save nothing.
      unigram_entropy: drawn as a line, in nats: what a model reaches that knows how
        often each token occurs and no more.

    >>> records = [{"kind": "train", "step": 1, "loss": 4.2},
    ...            {"kind": "train", "step": 2, "loss": 3.1},
    ...            {"kind": "evaluation", "step": 2, "validation_loss": 3.3}]
    >>> axes = loss_curve(records).axes[0]
    >>> [line.get_label() for line in axes.lines]
    ['training', 'validation']
    """
    # A Figure of its own needs no display, and leaves pyplot's global state alone.
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    records = list(metrics)
    for kind, field, label, style in (
        ("train", "loss", "training", {"linewidth": 1, "alpha": 0.7}),
        ("evaluation", "validation_loss", "validation", {"marker": "o", "ms": 4}),
    ):
        points = [(r["step"], r[field]) for r in records if r["kind"] == kind]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, **style)
    if unigram_entropy is not None:
        axes.axhline(
            unigram_entropy,
            label="unigram entropy",
            color="gray",
            linestyle="--",
            linewidth=1,
        )
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats per token)")
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()
    if path is not None:
        with disk.atomic_writer(path) as file:
            figure.savefig(file, format="png", dpi=150)
    return figure
