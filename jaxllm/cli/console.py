"""What a person sees: results on standard output, progress on standard error."""

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

# Seconds between two lines of progress where nobody watches a terminal.
LOG_INTERVAL = 10.0

T = TypeVar("T")


class Report(Protocol):
    """Tells how much is done, of how much where that is known, and a note beside it."""

    def __call__(self, done: int, total: int | None = None, note: str = "") -> None: ...


@contextlib.contextmanager
def progress(label: str) -> Iterator[Report]:
    """Show how far long work is, with its rate and the time left.

    A bar on a terminal; in a log, a plain line every ten seconds and one at the end.
    """
    if not sys.stderr.isatty():
        yield _log_lines(label)
        return
    from rich import console, progress

    bar = progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(bar_width=16),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[note]}"),
        console=console.Console(stderr=True),
    )
    with bar:
        yield _bar_updates(bar, label)


def _bar_updates(bar: Any, label: str) -> Report:
    task = None

    def report(done: int, total: int | None = None, note: str = "") -> None:
        nonlocal task
        if task is None:  # What was done before is no measure of speed.
            task = bar.add_task(label, total=total, completed=done, note=note)
        bar.update(task, completed=done, total=total, note=note)

    return report


def _log_lines(label: str) -> Report:
    start = last = time.monotonic()
    begun: int | None = None

    def report(done: int, total: int | None = None, note: str = "") -> None:
        nonlocal last, begun
        now = time.monotonic()
        begun = done if begun is None else begun
        if done != total and now - last < LOG_INTERVAL:
            return
        last = now
        rate = (done - begun) / max(now - start, 1e-9)
        print(
            progress_line(label, done, total, rate, note), file=sys.stderr, flush=True
        )

    return report


def progress_line(
    label: str, done: int, total: int | None, rate: float, note: str = ""
) -> str:
    """Write one line of progress; rate is in units per second.

    >>> progress_line("training", 250, 1000, 12.5, "loss 3.21")
    'training  250/1,000  25%  12.5/s  1:00 left  loss 3.21'
    """
    parts = [label, f"{done:,}"]
    if total:
        parts = [label, f"{done:,}/{total:,}", f"{done / total:.0%}"]
    if rate > 0:
        parts.append(f"{rate:,.1f}/s")
        if total and done < total:
            parts.append(f"{duration((total - done) / rate)} left")
    return "  ".join([*parts, note] if note else parts)


def counted(
    items: Iterable[T], report: Report, total: int | None = None
) -> Iterator[T]:
    """Pass items on, and report how many have gone by."""
    for done, item in enumerate(items, 1):
        yield item
        report(done, total)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print columns; the first is aligned to the left, the others to the right.

    >>> table(("name", "size"), [("a", "10"), ("bcdef", "9")])
    name   size
    a        10
    bcdef     9
    """
    lines = [head, *rows]
    first, *widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for left, *cells in lines:
        right = (f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        print("  ".join([f"{left:<{first}}", *right]).rstrip())


def duration(seconds: float) -> str:
    """Write a time span.

    >>> duration(75), duration(3675)
    ('1:15', '1:01:15')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def count(number: float) -> str:
    """Write a large number in thousands, millions, billions or trillions.

    >>> count(999), count(12_345), count(124_439_808), count(1.6e12)
    ('999', '12.3K', '124.4M', '1.6T')
    """
    for unit in ("", "K", "M", "B"):
        if abs(number) < 999.95:
            return f"{number:.1f}{unit}" if unit else f"{number:.0f}"
        number /= 1000
    return f"{number:.1f}T"
