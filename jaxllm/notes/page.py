"""The table of figures in, a page of Markdown out: what to paste, what comes out."""

import textwrap

from jaxllm.notes import figure, figures

_KINDS = {
    "E": "exact",
    "R": "PyTorch's random stream",
    "W": "GPT-2's published weights",
}

_OPENING = """\
# The figures of the notes

Every figure that the study notes and their book print, with the line of Python that
gives it. Paste this first, then any of the lines below; the last one shows the figure.

```python
{preamble}```

The Verdict, the notes' text, is looked for in the folder `$JAXLLM_DATA`, then in the
cache, then on the network; the messages of chapter 6, `SMSSpamCollection.tsv`, and the
records of chapter 7, `instruction-data.json`, in the first two. GPT-2's published
weights are looked for in the folder `$JAXLLM_WEIGHTS`, or that of `--weights FOLDER`.
`jaxllm verify` runs the lines whose files are there, with `--figure NAME` one of them,
with `--long` those that take minutes too.

Decimals hold to one unit of the last digit printed; everything else is equal. Each
figure says what it stands on: nothing else, where it is exact; PyTorch's random stream
(`jaxllm.notes.stream`); or GPT-2's published weights.
"""


def notes_page() -> str:
    """Write the page `docs/notes.md`."""
    parts = [_OPENING.format(preamble=figures.PREAMBLE)]
    for chapter in figures.CHAPTERS:
        parts.append(f"## Chapter {chapter.number}: {chapter.title}\n")
        parts += [_figure(row) for row in chapter.figures]
        if chapter.left_out:
            parts.append("### Left out\n")
            parts.append("".join(map(_left_out, chapter.left_out)))
    return "\n".join(parts)


def _figure(row: figure.Figure) -> str:
    where = f"{row.source}; {_KINDS[row.kind]}" + (
        "; takes minutes" if row.long else ""
    )
    remark = f"\n{_wrapped(row.remark)}\n" if row.remark else ""
    return (
        f"### {row.name}\n\n{_wrapped(where[0].upper() + where[1:] + '.')}\n\n"
        f"```python\n{row.call}\n```\n\n"
        f"```text\n{figure.show(row, row.expected)}\n```\n{remark}"
    )


def _left_out(row: figure.LeftOut) -> str:
    line = f"**{row.name}** ({row.source}): {row.reason}."
    return _wrapped(line, first="- ", then="  ") + "\n"


def _wrapped(text: str, first: str = "", then: str = "") -> str:
    return textwrap.fill(
        text,
        width=88,
        initial_indent=first,
        subsequent_indent=then,
        break_long_words=False,
        break_on_hyphens=False,
    )
