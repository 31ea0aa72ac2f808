"""A file or the standard input in, its text or its lines out."""

import codecs
import sys

from jaxllm.data import disk
from jaxllm.errors import DataError


def read_text(path: str | None = None) -> str:
    """Read a text of UTF-8, from the standard input if no file is named.

    A mark at its beginning that says it is UTF-8 is no part of it, and each of its
    lines ends in a line feed alone.

    Raises:
        DataError: the file cannot be read, or is not UTF-8.
    """
    if path is None:
        data = sys.stdin.buffer.read()
    else:
        with disk.explain_refusal("read", path), open(path, "rb") as file:
            data = file.read()
    try:
        text = data.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"a text must be UTF-8, {path or 'the standard input'} has the byte "
            f"0x{data[error.start]:02x} at byte offset {error.start}"
        ) from error
    return text.replace("\r\n", "\n")


def read_lines(path: str | None = None) -> list[str]:
    """Read the lines of such a text.

    Only a line feed ends one: str.splitlines would cut at form feeds as well, and the
    answers to the lines of a file would no longer stand beside them.
    """
    text = read_text(path)
    return text.removesuffix("\n").split("\n") if text else []
