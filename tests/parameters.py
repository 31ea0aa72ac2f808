"""Values for tests that are tried every time, and more for the long run."""

from collections.abc import Iterable
from typing import Any

import pytest


def quick(values: Iterable[Any], count: int = 1) -> list[Any]:
    """Leave all but the first `count` values to the long run."""
    values = list(values)
    long = [_marked(value) for value in values[count:]]
    return values[:count] + long


def _marked(value: Any) -> Any:
    several = value if isinstance(value, tuple) else (value,)
    return pytest.param(*several, marks=pytest.mark.long)
