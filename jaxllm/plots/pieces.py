"""The bytes of tokens in, coloured text out: for a terminal, or as a page of HTML.

White space is shown by a sign, and bytes that are no character of their own by their
numbers, so that every token can be seen, also where it ends inside a character.
"""

import html
from collections.abc import Sequence

# Pale enough for black letters; neighbours differ in lightness, not in hue alone.
_COLOURS = ("#cfe7f7", "#f0bd5b", "#d3efe5", "#dba0c1")
# The same in the palette of 256 colours of terminals.
_TERMINAL = (195, 215, 194, 175)
_SIGNS = {" ": "·", "\n": "⏎", "\t": "→", "\r": "␍"}


def visible(token: bytes) -> str:
    """Write a token so that all of it can be seen.

    >>> visible(b" the"), visible(b"\\n"), visible("é".encode()[:1])
    ('·the', '⏎', '\\\\xc3')
    """
    text = token.decode("utf-8", errors="backslashreplace")
    shown = (_SIGNS.get(c, c if c.isprintable() else ascii(c)[1:-1]) for c in text)
    return "".join(shown)


def terminal_text(tokens: Sequence[bytes], *, colour: bool = True) -> str:
    """Colour tokens in turn for a terminal, or set bars between them.

    Line breaks are kept behind their signs.

    >>> terminal_text([b"Hello", b",", b" world"], colour=False)
    'Hello|,|·world'
    """
    if not colour:
        return "|".join(visible(token) for token in tokens)
    return "".join(
        f"\x1b[30;48;5;{_TERMINAL[i % len(_TERMINAL)]}m{visible(token)}\x1b[0m"
        + "\n" * token.endswith(b"\n")
        for i, token in enumerate(tokens)
    )


def html_page(tokens: Sequence[bytes], ids: Sequence[int], *, title: str) -> str:
    """Write a page that shows each token in colour; its id appears under the pointer.

    >>> "<span title='id 11'" in html_page([b","], [11], title="gpt2")
    True
    """
    spans = [
        f"<span title='id {id}' style='background:{_COLOURS[i % len(_COLOURS)]}'>"
        f"{html.escape(visible(token))}</span>" + "<br>" * token.endswith(b"\n")
        for i, (token, id) in enumerate(zip(tokens, ids, strict=True))
    ]
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        f"<title>{html.escape(title)}</title>\n"
        "<style>body{font:16px/1.9 ui-monospace,monospace;color:#000;background:#fff;"
        "margin:2em auto;max-width:60em}"
        # Browsers print no backgrounds unless they are told to; edges they do.
        "span{border:1px solid #888;border-radius:3px;padding:1px 0;"
        "print-color-adjust:exact}"
        "h1{font-size:1em}</style></head>\n"
        f"<body><h1>{html.escape(title)}: {len(tokens):,} tokens</h1>\n<p>"
        + "".join(spans)
        + "</p></body></html>\n"
    )
