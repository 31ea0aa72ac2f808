"""Points and the sizes of their names in, spots at which no name hides another out."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np


class Spot(NamedTuple):
    """Where a label stands: a shift from its point, and how it is aligned there."""

    x: float
    y: float
    horizontal: str
    vertical: str
    is_far: bool = False  # then a line leads to it


_BESIDE = (
    Spot(4, 3, "left", "bottom"),
    Spot(-4, 3, "right", "bottom"),
    Spot(4, -3, "left", "top"),
    Spot(-4, -3, "right", "top"),
    Spot(0, 5, "center", "bottom"),
    Spot(0, -5, "center", "top"),
    Spot(7, 0, "left", "center"),
    Spot(-7, 0, "right", "center"),
)
# Rings around the point, from the inmost outwards, and in each the flat lines first.
_AROUND = tuple(
    Spot(
        side * reach * math.cos(turn),
        reach * math.sin(turn),
        "left" if side > 0 else "right",
        "center",
        is_far=True,
    )
    for reach in (16, 24, 34, 46, 60)
    for turn in np.array([0, 1, -1, 2, -2, 3, -3]) * math.tau / 14
    for side in (1, -1)
)
# What part of a label lies left of, or below, the spot at which it is aligned.
_PART = {"left": 0, "bottom": 0, "center": 0.5, "right": 1, "top": 1}
# What stays free around a label, so that two names do not read as one.
_GAP = np.array([-4, -1, 4, 1])


def find_spots(
    points: np.ndarray, sizes: Iterable[np.ndarray], frame: np.ndarray
) -> list[Spot | None]:
    """Find a spot for each label in turn: beside its point, or off at a line's end.

    Args:
      points: (n, 2), in the unit of shifts.
      sizes: (2,) of each label.
      frame: (4,), left, bottom, right, top; no label leaves it.

    Returns:
      None for a label that finds no spot.

    >>> frame, sizes = np.array([0, 0, 50, 50]), np.array([[20, 8], [20, 8]])
    >>> spots = find_spots(np.array([[9, 19], [9, 19]]), sizes, frame)
    >>> [(spot.horizontal, spot.vertical) for spot in spots]
    [('left', 'bottom'), ('left', 'top')]
    """
    dots = np.concatenate([points - 1.5, points + 1.5], 1)  # (n, 4), as the frame
    names = np.zeros((0, 4))
    found: list[Spot | None] = []
    for point, size in zip(points, sizes, strict=True):
        found.append(None)
        for spot in (*_BESIDE, *_AROUND):
            end = point + np.array([spot.x, spot.y])
            corner = end - size * [_PART[spot.horizontal], _PART[spot.vertical]]
            label = np.concatenate([corner, corner + size])
            # A line is a row of small boxes. It may pass a dot, but no name.
            way = np.linspace(0.1, 0.95, 12 * spot.is_far)[:, None]
            line = np.tile(point + (end - point) * way, 2)
            is_inside = (label[:2] >= frame[:2]).all() and (
                label[2:] <= frame[2:]
            ).all()
            if (
                is_inside
                and not _meet(label[None] + _GAP, np.concatenate([dots, names]))
                and not _meet(line, names)
            ):
                names = np.concatenate([names, label[None], line])
                found[-1] = spot
                break
    return found


def _meet(some: np.ndarray, others: np.ndarray) -> bool:
    """Tell whether one of some boxes (m, 4) overlaps one of others (n, 4)."""
    a, b = some[:, None], others[None]
    return bool(((a[..., :2] < b[..., 2:]) & (b[..., :2] < a[..., 2:])).all(-1).any())
