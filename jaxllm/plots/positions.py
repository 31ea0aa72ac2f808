"""A table of position vectors in, what it looks like out."""

import numpy as np
from matplotlib.figure import Figure

from jaxllm.plots import figure as figures


def position_maps(table: np.ndarray) -> Figure:
    """Draw a table of positions, and how alike any two of them are.

    Args:
      table: (C, D), a learned table or `sinusoidal_table`.

    Returns:
      two heat maps: the table, and the cosine of every pair of its rows. A model that
      has learned an order shows it as a bright band along the diagonal.

    >>> axes = position_maps(np.eye(3)).axes
    >>> axes[0].get_title(), axes[1].get_title()
    ('position vectors', 'cosine of each pair')
    """
    lengths = np.linalg.norm(table, axis=1, keepdims=True)
    rows = table / np.where(lengths > 0, lengths, 1)
    limit = float(np.percentile(np.abs(table), 99)) or 1.0
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    for axes, values, bound, title, across in zip(
        figure.subplots(1, 2),
        (table, rows @ rows.T),
        (limit, 1.0),
        ("position vectors", "cosine of each pair"),
        ("dimension", "position"),
        strict=True,
    ):
        image = axes.imshow(
            values,
            cmap=figures.SIGNED,
            vmin=-bound,
            vmax=bound,
            aspect="auto",
            interpolation="nearest",
        )
        axes.set(title=title, xlabel=across, ylabel="position")
        figure.colorbar(image, ax=axes)
    return figure
