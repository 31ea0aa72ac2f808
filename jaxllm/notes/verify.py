"""The table of figures in, results out: what the notes printed, and what came here."""

import dataclasses
import fnmatch
import itertools
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from jaxllm.errors import ConfigError, DataError
from jaxllm.notes import book, figure, figures

Verdict = Literal["holds", "differs", "not checked", "left out"]


@dataclasses.dataclass(frozen=True)
class Result:
    """What became of a figure."""

    figure: figure.Figure
    verdict: Verdict
    expected: str
    got: str
    """The value, in the figure's own digits; or why there is none."""


def check(
    chosen: Iterable[figure.Figure], names: dict[str, Any] | None = None
) -> Iterator[Result]:
    """Recompute figures, one after the other, on what the preamble imports.

    A figure whose text is not on this machine is not checked, and one whose published
    weights are not here is left out; any other error is a figure that differs.
    """
    names = namespace() if names is None else names
    for row in chosen:
        verdict, got = _checked(row, names)
        yield Result(row, verdict, figure.show(row, row.expected), got)


def _checked(row: figure.Figure, names: dict[str, Any]) -> tuple[Verdict, str]:
    if row.weights and book.find_published(row.weights) is None:
        return "left out", f"no weights of {row.weights}: --weights names their folder"
    try:
        value = figure.compute(row, names)
    except DataError as error:
        return "not checked", str(error)
    except Exception as error:
        return "differs", f"{type(error).__name__}: {error}"
    verdict = "holds" if figure.agrees(row, value) else "differs"
    return verdict, figure.show(row, value)


def namespace() -> dict[str, Any]:
    """Import what the preamble of the figures imports."""
    names: dict[str, Any] = {}
    exec(figures.PREAMBLE, names)
    return names


def select(
    *, chapter: int | None = None, name: str | None = None, long: bool = False
) -> list[tuple[figures.Chapter, list[figure.Figure]]]:
    """Choose figures: of a chapter, by name or pattern, with or without the long ones.

    A figure that is named is chosen however long it takes.

    >>> [(chapter, rows)] = select(name="verdict-tokens")
    >>> chapter.number, len(rows)
    (2, 1)
    """
    numbers = [part.number for part in figures.CHAPTERS]
    if chapter is not None and chapter not in numbers:
        known = ", ".join(map(str, numbers))
        raise ConfigError(f"chapter must be one of {known}, got {chapter}")
    chosen = [
        (part, [row for row in part.figures if _wanted(row, name, long)])
        for part in figures.CHAPTERS
        if chapter in (None, part.number)
    ]
    chosen = [(part, rows) for part, rows in chosen if rows]
    if not chosen:
        for row in itertools.chain.from_iterable(p.left_out for p in figures.CHAPTERS):
            if row.name == name:
                raise ConfigError(f"{name} is left out: {row.reason}")
        raise ConfigError(f"no figure is called {name!r}; docs/notes.md names them all")
    return chosen


def _wanted(row: figure.Figure, name: str | None, long: bool) -> bool:
    if name is None:
        return long or not row.long
    return fnmatch.fnmatchcase(row.name, name)
