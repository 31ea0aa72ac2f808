"""`jaxllm verify`: the figures of the notes, expected and got, chapter by chapter."""

import dataclasses
import os
import shutil
import time
from typing import Any

from jaxllm.cli import arguments, console


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Recompute the figures of the notes; exit with 0 only if all of them hold.

    docs/notes.md has the line of Python behind each. Without --long it takes about a
    minute on two cores.
    """

    chapter: int | None = None
    """Only the figures of this chapter of the notes' book, 2 to 7."""
    figure: str | None = None
    """Only the figure of this name; * stands for any characters."""
    long: bool = False
    """Whether to pretrain for ten epochs too: a quarter of an hour on two cores."""
    data: str | None = None
    """Folder of the notes' texts; if null, $JAXLLM_DATA, the cache or the network."""
    weights: str | None = None
    """Folder with published GPT-2s in folders of their own: 124M or gpt2, and so on."""


def main(argv: list[str]) -> int:
    """Print the table of each chapter when it is done, and the sum of them all."""
    options = arguments.parse(Options, argv, "jaxllm verify")
    from jaxllm.notes import verify

    if options.data is not None:
        os.environ["JAXLLM_DATA"] = options.data
    if options.weights is not None:
        os.environ["JAXLLM_WEIGHTS"] = options.weights
    start = time.monotonic()
    verdicts = []
    for chapter, figures in verify.select(
        chapter=options.chapter, name=options.figure, long=options.long
    ):
        results = []
        with console.progress(f"chapter {chapter.number}") as report:
            for figure in figures:
                report(len(results), len(figures), figure.name)
                results += verify.check([figure])
            report(len(results), len(figures))
        left_out = chapter.left_out if options.figure is None else ()
        _print_chapter(chapter, results, left_out)
        verdicts += [result.verdict for result in results]
        verdicts += ["left out"] * len(left_out)
    taken = console.duration(time.monotonic() - start)
    hold, differ, unchecked, out = map(verdicts.count, _STYLES)
    print(f"{hold} hold, {differ} differ, {unchecked} not checked, {out} left out")
    print(f"in {taken}" if options.long else f"in {taken}, without those of --long")
    return 0 if differ == unchecked == 0 else 1


_STYLES = {
    "holds": "green",
    "differs": "bold red",
    "not checked": "yellow",
    "left out": "dim",
}


def _print_chapter(chapter: Any, results: list, left_out: tuple) -> None:
    """Print a line per figure, in full where it differs; then what there is to say."""
    from rich import box, table
    from rich.console import Console
    from rich.text import Text

    # Where the width is not known, in a file, lines are long enough for the verdict.
    out = Console(width=shutil.get_terminal_size((120, 24)).columns)
    rows = table.Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False)
    rows.add_column("figure", no_wrap=True)
    rows.add_column("", no_wrap=True)
    rows.add_column("expected", ratio=1, no_wrap=True)
    rows.add_column("got", ratio=1, no_wrap=True)
    rows.add_column("verdict", no_wrap=True)
    notes = []
    for result in results:
        figure, style = result.figure, _STYLES[result.verdict]
        cells = [figure.name, figure.kind, result.expected, result.got]
        rows.add_row(*(Text(_one_line(c)) for c in cells), Text(result.verdict, style))
        if result.verdict in ("differs", "not checked"):
            notes += [(figure.name, f"expected {result.expected}, got {result.got}")]
        if figure.remark:
            notes += [(figure.name, figure.remark)]
    for figure in left_out:
        cells = [figure.name, figure.kind, figure.source, ""]
        rows.add_row(*map(Text, cells), Text("left out", _STYLES["left out"]))
        notes += [(figure.name, f"left out: {figure.reason}.")]
    out.print(Text(f"\nChapter {chapter.number}: {chapter.title}", "bold"))
    out.print(rows)
    for name, note in notes:
        out.print(Text.assemble((name, "bold"), f": {note}"))


def _one_line(text: str) -> str:
    return " ".join(text.split())
