"""Attention weights in, a heat map for each head out."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from jaxllm.plots import figure as figures

# Inches per token on an axis: enough for a label of 7 points.
_CELL = 0.14


def attention_maps(
    weights: np.ndarray, tokens: Sequence[str], *, title: str = ""
) -> Figure:
    """Draw whom every token looks at, one square per head.

    A row is the token that looks; its weights, left to right, sum to 1.

    Args:
      weights: (N, T, T), as `trace` gives them for one layer and one text.
      tokens: T labels for both axes.

    >>> attention_maps(np.full((2, 3, 3), 1 / 3), ["a", "b", "c"]).axes[0].get_title()
    'head 0'
    """
    N, T, _ = weights.shape
    columns = math.ceil(math.sqrt(N))
    rows = math.ceil(N / columns)
    side = max(1.8, 0.7 + _CELL * T)
    figure = Figure(figsize=(columns * side + 0.8, rows * side), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[N:]:
        axes.set_visible(False)
    image = None
    for head, axes in enumerate(grid.flat[:N]):
        # One scale for all heads, so that a pale one is pale; of roots, so that a head
        # that looks at many tokens is not white.
        scale = PowerNorm(0.5, vmin=0, vmax=1)
        image = axes.imshow(weights[head], cmap=figures.AMOUNTS, norm=scale)
        axes.set_title(f"head {head}", fontsize=8)
        # A dollar would begin a formula.
        style: dict[str, Any] = {"fontsize": 7, "parse_math": False}
        axes.set_xticks(range(T), tokens, rotation=90, **style)
        axes.set_yticks(range(T), tokens, **style)
        axes.tick_params(length=0, labelbottom=head + columns >= N)
    if image is not None:
        figure.colorbar(image, ax=grid, label="weight", shrink=0.6)
    figure.suptitle(title, fontsize=10, parse_math=False)
    return figure
