"""A size in, an empty figure out; a figure in, a file out.

Colours are those of Okabe and Ito 2008, which also the colour-blind tell apart; lines
differ in dashes or markers as well, so that a print without colour can be read.
"""

import os
import pathlib
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxllm.data import disk
from jaxllm.errors import ConfigError

BLUE, ORANGE, GREEN, PINK = "#0072B2", "#E69F00", "#009E73", "#CC79A7"
SKY, RED, YELLOW, BLACK = "#56B4E9", "#D55E00", "#F0E442", "#000000"
COLOURS = (BLUE, ORANGE, GREEN, PINK, SKY, RED, YELLOW, BLACK)

# Amounts, and values around zero: lightness alone tells them, as a print must. So no
# scale that is dark at both of its ends.
AMOUNTS, SIGNED = "Blues", "cividis"

_FORMATS = ("png", "svg", "pdf")


def new_figure(width: float = 7.0, height: float = 4.2) -> tuple[Figure, Axes]:
    """Make a figure of one plot, in inches.

    It needs no display, and leaves pyplot's global state alone.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure in the format that the file's name ends in: png, svg or pdf.

    The file appears whole or not at all; the same figure gives the same bytes.

    >>> save(new_figure()[0], "picture.bmp")
    Traceback (most recent call last):
    jaxllm.errors.ConfigError: a picture's name must end in .png, .svg or .pdf, got
    picture.bmp
    """
    ending = pathlib.Path(path).suffix.removeprefix(".").lower()
    if ending not in _FORMATS:
        raise ConfigError(
            f"a picture's name must end in .png, .svg or .pdf, got {os.fspath(path)}"
        )
    # Otherwise an SVG has random ids, and both it and a PDF the time of day.
    stable: Any = {"svg.hashsalt": "jaxllm", "svg.fonttype": "none"}
    dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}
    with matplotlib.rc_context(stable), disk.atomic_writer(path) as file:
        figure.savefig(file, format=ending, dpi=150, metadata=dates[ending])
