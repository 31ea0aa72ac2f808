"""Places in a plane and their names in, a scatter with readable labels out."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from jaxllm.plots import figure as figures
from jaxllm.plots import labels as placing

# Yellow is too pale for a small point on white.
_COLOURS = [colour for colour in figures.COLOURS if colour != figures.YELLOW]
_MARKERS = "osD^vX*P"


def scatter(
    places: np.ndarray,
    labels: Sequence[str],
    *,
    groups: Sequence[int] | None = None,
    title: str = "",
) -> Figure:
    """Draw named points, as many of the names as do not overlap.

    Names are set in the order given, so the first ones are the surest to be seen. Where
    the spots beside a point are taken, its name stands farther off, at the end of a
    line; where those are taken too it is left out, and the point stays.

    Args:
      places: (n, 2).
      groups: a number per point; each group has a colour and a marker of its own.

    >>> figure = scatter(np.array([[0.0, 0.0], [1.0, 1.0]]), ["hour", "day"])
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['hour', 'day']
    """
    figure, axes = figures.new_figure(8.0, 6.5)
    group_of = np.zeros(len(places), int) if groups is None else np.asarray(groups)
    for group in np.unique(group_of):
        points = places[group_of == group]
        colour = _COLOURS[group % len(_COLOURS)]
        marker = _MARKERS[group % len(_MARKERS)]
        axes.scatter(*points.T, s=14, c=colour, marker=marker, linewidths=0)
    axes.margins(0.08)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, parse_math=False)  # A dollar would begin a formula.
    _set_labels(figure, places, labels)
    return figure


def _set_labels(figure: Figure, places: np.ndarray, labels: Sequence[str]) -> None:
    """Set each name where it can be read, with a line to its point if that is far."""
    figure.draw_without_rendering()
    # Where the points lie is settled now; a later layout would move the names.
    figure.set_layout_engine("none")
    (axes,) = figure.axes
    beside: Any = {"textcoords": "offset points", "fontsize": 8}
    line = {"arrowstyle": "-", "color": "gray", "linewidth": 0.5, "shrinkB": 2}
    texts = [
        axes.annotate(name, place, (0, 0), parse_math=False, **beside)
        for name, place in zip(labels, places, strict=True)
    ]
    points_per_pixel = 72 / figure.dpi
    spots = placing.find_spots(
        axes.transData.transform(places) * points_per_pixel,
        [np.array(text.get_window_extent().size) * points_per_pixel for text in texts],
        np.array(axes.bbox.extents) * points_per_pixel,
    )
    for text, place, spot in zip(texts, places, spots, strict=True):
        if spot is None:
            text.remove()
            continue
        shift = spot.x, spot.y
        text.set(position=shift, ha=spot.horizontal, va=spot.vertical)
        if spot.is_far:
            axes.annotate("", place, shift, arrowprops=line, **beside)
