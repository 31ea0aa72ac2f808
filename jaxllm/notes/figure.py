"""A line of Python and what the notes printed for it: one row of the table."""

import ast
import dataclasses
import decimal
import math
import re
from collections.abc import Mapping
from typing import Any, Literal

Kind = Literal["E", "R", "W", "H"]
"""E: exact, whatever the random numbers. R: needs PyTorch's stream. W: needs the
published weights of GPT-2. H: depends on the hardware."""


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure of the notes, and the call that gives it.

    The call is the text of the line that a reader can paste, and this text is what is
    run: there is no other computation behind it.
    """

    name: str
    kind: Kind
    source: str
    """Where the figure is printed: a cell of a chapter's notebook, or a note."""
    call: str
    """Lines of Python behind `PREAMBLE`; the value of the last is the figure."""
    expected: Any
    """A Python value, which must be equal; or `Printed` decimals."""
    remark: str = ""
    """What the notes or the book get wrong here, and what is right."""
    long: bool = False
    """Whether it takes minutes."""
    weights: str = ""
    """The size of the published GPT-2 that it needs, such as 124M."""


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """A figure of the notes that is not recomputed, and why."""

    name: str
    kind: Kind
    source: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Chapter:
    """The figures of a chapter of the notes' book."""

    number: int
    title: str
    figures: tuple[Figure, ...]
    left_out: tuple[LeftOut, ...] = ()


@dataclasses.dataclass(frozen=True)
class Printed:
    """Decimals as they were printed; each holds to one unit of its own last digit.

    Brackets and bars between the numbers are for the eye.

    >>> Printed("0.3374 -0.1778").agrees([0.33735, -0.17771])
    True
    >>> Printed("7.4541e-05").agrees(7.456e-05)
    False
    >>> Printed("[1.20 | 3]").like([1.2345, 3.0])
    '[1.23 | 3]'
    """

    text: str

    def agrees(self, got: Any) -> bool:
        """Tell whether the numbers of `got`, rounded alike, are these."""
        values, printed = flat(got), _NUMBER.findall(self.text)
        if len(values) != len(printed):
            return False
        return all(map(_close, printed, values))

    def like(self, got: Any) -> str:
        """Print the numbers of `got` with the digits and brackets of these."""
        values = flat(got)
        if len(values) != len(_NUMBER.findall(self.text)):
            return repr(plain(got))
        following = iter(values)
        return _NUMBER.sub(lambda m: _like(m.group(), next(following)), self.text)


_ZERO = decimal.Decimal(0)
_NUMBER = re.compile(r"-?\d*\.?\d+(?:e[+-]?\d+)?")


def _close(text: str, value: float) -> bool:
    if not math.isfinite(value):
        return False
    rounded = decimal.Decimal(_like(text, value))
    return abs(rounded - decimal.Decimal(text)) <= _unit(text)


def _unit(text: str) -> decimal.Decimal:
    """The last digit's place; zero for a whole number, which must be met exactly."""
    mantissa, _, power = text.partition("e")
    places = len(mantissa.partition(".")[2])
    return decimal.Decimal(f"1e{int(power or 0) - places}") if places else _ZERO


def _like(text: str, value: float) -> str:
    mantissa, e, _ = text.partition("e")
    places = len(mantissa.partition(".")[2])
    return f"{value:.{places}{'e' if e else 'f'}}"


def ids(text: str) -> list[int]:
    """Read whole numbers that stand in a row.

    >>> ids("15496 11 314 716")
    [15496, 11, 314, 716]
    """
    return [int(number) for number in text.split()]


def plain(value: Any) -> Any:
    """Turn arrays, tuples and NumPy scalars into lists and numbers, all the way down.

    >>> import numpy as np
    >>> plain((np.arange(2), {3: np.float64(0.5)}))
    [[0, 1], {3: 0.5}]
    """
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value


def flat(value: Any) -> list[Any]:
    """List the numbers in nested arrays and lists, in reading order.

    >>> flat([1, [2.5, (3,)]])
    [1, 2.5, 3]
    """
    value = plain(value)
    if not isinstance(value, list):
        return [value]
    return [number for item in value for number in flat(item)]


def agrees(figure: Figure, got: Any) -> bool:
    """Tell whether a value is the one that the notes printed.

    >>> agrees(Figure("sum", "E", "", "1 + 1", [2]), (2,))
    True
    """
    if isinstance(figure.expected, Printed):
        return figure.expected.agrees(got)
    return plain(got) == plain(figure.expected)


def show(figure: Figure, value: Any) -> str:
    """Write a value, or what was expected, in the way in which it was printed."""
    if isinstance(value, Printed):
        return value.text
    if isinstance(figure.expected, Printed):
        return figure.expected.like(value)
    return repr(plain(value))


def compute(figure: Figure, names: Mapping[str, Any]) -> Any:
    """Run a figure's call where `names` are known, and return its value.

    >>> compute(Figure("sum", "E", "", "a = one + 1\\na * 2", 4), {"one": 1})
    4
    """
    space = dict(names)
    *before, last = ast.parse(figure.call).body
    where = f"<{figure.name}>"
    exec(compile(ast.Module(before, type_ignores=[]), where, "exec"), space)
    assert isinstance(last, ast.Expr), f"{figure.name} must end with an expression"
    return eval(compile(ast.Expression(last.value), where, "eval"), space)
