"""Numbers of tokens or bytes in, bars out."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from jaxllm.plots import figure as figures

# With the colours, so that neighbours differ also in print.
_HATCHES = ("", "//", "..", "xx", "\\\\", "++")


def length_histogram(
    lengths: np.ndarray, *, context_length: int | None = None
) -> Figure:
    """Draw how many texts have how many tokens.

    Args:
      lengths: (n,) tokens of each text.
      context_length: drawn as a line; what lies beyond it does not fit.

    >>> figure = length_histogram(np.array([3, 4, 4, 9]), context_length=8)
    >>> figure.axes[0].get_title()
    '4 texts: median 4, longest 9 tokens; 25.0% over 8'
    """
    figure, axes = figures.new_figure()
    title = (
        f"{len(lengths):,} texts: median {np.median(lengths):,.0f}, "
        f"longest {lengths.max():,} tokens"
    )
    bins = min(60, int(lengths.max()) + 1)
    axes.hist(lengths, bins=bins, color=figures.BLUE, edgecolor="white", linewidth=0.4)
    if context_length is not None:
        over = float((lengths > context_length).mean())
        title += f"; {over:.1%} over {context_length:,}"
        axes.axvline(context_length, color=figures.RED, linestyle="--")
    axes.set(title=title, xlabel="tokens", ylabel="texts")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_axisbelow(True)
    axes.grid(axis="y", alpha=0.3)
    return figure


def memory_bars(
    held: Mapping[str, Mapping[str, int]], *, memory: float | None = None
) -> Figure:
    """Draw what fills a device's memory, one bar for each kind of work.

    Args:
      held: for each kind of work, bytes by part, as `training_bytes` counts them.
      memory: bytes of the device, drawn as a line.

    >>> figure = memory_bars({"training": {"parameters": 4_000_000_000}}, memory=8e9)
    >>> figure.axes[0].get_xlabel()
    'GB'
    """
    parts = list(dict.fromkeys(part for column in held.values() for part in column))
    most = max(sum(column.values()) for column in held.values())
    unit, name = (1e9, "GB") if max(most, memory or 0) >= 1e9 else (1e6, "MB")
    figure, axes = figures.new_figure(height=1.6 + 0.6 * len(held))
    for i, part in enumerate(parts):
        widths, starts = [], []
        for column in held.values():
            before = [column.get(other, 0) for other in parts[:i]]
            starts.append(sum(before) / unit)
            widths.append(column.get(part, 0) / unit)
        axes.barh(
            list(held),
            widths,
            left=starts,
            label=part,
            color=figures.COLOURS[i % len(figures.COLOURS)],
            hatch=_HATCHES[i % len(_HATCHES)],
            edgecolor="white",
            linewidth=0.4,
        )
    if memory is not None:
        label = f"device, {memory / unit:,.0f} {name}"
        axes.axvline(memory / unit, color=figures.BLACK, linestyle="--", label=label)
    axes.set_xlim(0, 1.03 * max(most, memory or 0) / unit)
    axes.invert_yaxis()
    axes.set_xlabel(name)
    figure.legend(loc="outside upper center", ncols=4, fontsize=8, frameon=False)
    return figure
