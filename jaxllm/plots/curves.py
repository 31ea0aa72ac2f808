"""The metrics of a run in, curves over its steps out."""

from collections.abc import Iterable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from jaxllm.errors import DataError
from jaxllm.plots import figure as figures


def loss_curve(metrics: Iterable[dict[str, Any]]) -> Figure:
    """Draw training and validation loss over the steps of a run.

    Where evaluations tell the loss on training examples, it is drawn as theirs is, and
    the losses of single batches behind both. Where they tell the unigram entropy, which
    a model reaches that knows how often each token occurs and no more, it is a line.

    Args:
      metrics: the records of a run's metrics.jsonl; each has a kind and a step.

    >>> records = [{"kind": "train", "step": 1, "loss": 4.2},
    ...            {"kind": "train", "step": 2, "loss": 3.1},
    ...            {"kind": "evaluation", "step": 2, "validation_loss": 3.3}]
    >>> axes = loss_curve(records).axes[0]
    >>> [line.get_label() for line in axes.lines]
    ['training', 'validation']
    """
    records = _with_steps(metrics)
    figure, axes = figures.new_figure()
    style = {"label": "training", "color": figures.SKY, "linewidth": 1}
    if any("training_loss" in record for record in records):
        behind = {"label": "training batches", "color": "lightgray"}
        _draw(axes, records, "train", "loss", style | behind)
        over = {"label": "training", "color": figures.SKY, "marker": "s", "ms": 4}
        _draw(axes, records, "evaluation", "training_loss", over)
    else:
        _draw(axes, records, "train", "loss", style)
    style = {"label": "validation", "color": figures.RED, "marker": "o", "ms": 4}
    _draw(axes, records, "evaluation", "validation_loss", style)
    known = [r["unigram_entropy"] for r in records if "unigram_entropy" in r]
    if known:
        axes.axhline(
            known[-1],
            label="unigram entropy",
            color="gray",
            linestyle="--",
            linewidth=1,
        )
    axes.set_xlabel("step")
    axes.set_ylabel(f"loss (nats per {_unit(records)})")
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()
    return figure


def accuracy_curve(metrics: Iterable[dict[str, Any]]) -> Figure:
    """Draw the share of right answers over the steps of a run.

    Args:
      metrics: the records of a run's metrics.jsonl.

    >>> records = [{"kind": "evaluation", "step": 5, "training_accuracy": 0.9,
    ...             "validation_accuracy": 0.8}]
    >>> [line.get_label() for line in accuracy_curve(records).axes[0].lines]
    ['training', 'validation']
    """
    records = _with_steps(metrics)
    figure, axes = figures.new_figure()
    for split, colour, marker in (
        ("training", figures.SKY, "s"),
        ("validation", figures.RED, "o"),
    ):
        style = {"label": split, "color": colour, "marker": marker, "ms": 4}
        # A point at 100 % would be cut in half by the edge of the plot.
        _draw(
            axes, records, "evaluation", f"{split}_accuracy", style | {"clip_on": False}
        )
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    axes.set_xlim(left=0)
    axes.set_ylim(top=1)
    axes.set_xlabel("step")
    axes.set_ylabel("accuracy")
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(loc="lower right")
    return figure


def learning_rate_curve(metrics: Iterable[dict[str, Any]]) -> Figure:
    """Draw the learning rate and the norm of the gradient over the steps of a run.

    Args:
      metrics: the records of a run's metrics.jsonl.

    >>> records = [{"kind": "train", "step": 1, "learning_rate": 1e-3, "grad_norm": 2}]
    >>> [axes.get_ylabel() for axes in learning_rate_curve(records).axes]
    ['learning rate', 'norm of the gradient']
    """
    records = _with_steps(metrics)
    figure, axes = figures.new_figure()
    style: dict[str, Any] = {"color": figures.BLUE}
    _draw(axes, records, "train", "learning_rate", style)
    axes.set_ylabel("learning rate", **style)
    norms = axes.twinx()
    style = {"color": figures.RED}
    _draw(norms, records, "train", "grad_norm", style | {"ls": ":", "linewidth": 1})
    norms.set_ylabel("norm of the gradient", **style)
    for side in (axes, norms):
        side.set_ylim(bottom=0)
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)
    return figure


def _with_steps(metrics: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    records = list(metrics)
    found = [record for record in records if "step" in record]
    if records and not found:
        raise DataError(
            "metrics must have steps to be drawn over, got records of "
            f"{', '.join(records[0])}"
        )
    return found


def _unit(records: list[dict[str, Any]]) -> str:
    """Find what losses are a mean over: tokens, texts or pairs, by their speed."""
    names = (name for record in records for name in record if name in _SPEEDS)
    return next((name.removesuffix("s_per_second") for name in names), "token")


_SPEEDS = ("tokens_per_second", "texts_per_second", "pairs_per_second")


def _draw(
    axes: Axes,
    records: list[dict[str, Any]],
    kind: str,
    field: str,
    style: dict[str, Any],
) -> None:
    points = [
        (record["step"], record[field])
        for record in records
        if record["kind"] == kind and field in record
    ]
    if points:
        axes.plot(*zip(*points, strict=True), **style)
