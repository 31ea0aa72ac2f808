"""The name of a corpus, a file or a folder to its documents, one after the other."""

import dataclasses
import difflib
import hashlib
import http.client
import os
import pathlib
import sys
import sysconfig
import tokenize
import urllib.request
from collections.abc import Callable, Iterator

from jaxllm.data import disk, text_files
from jaxllm.errors import DataError

Progress = Callable[[int, int | None], None]
"""Called with how much is done, and with how much there is where that is known."""


@dataclasses.dataclass(frozen=True)
class Remote:
    """A text with a known address and content."""

    url: str
    file: str
    sha256: str


STANDARD_LIBRARY = "python-stdlib"

REMOTE = {
    "the-verdict": Remote(
        "https://raw.githubusercontent.com/rasbt/LLMs-from-scratch/main/"
        "ch02/01_main-chapter-code/the-verdict.txt",
        "the-verdict.txt",
        "b41e41a68f0398a3154ae69e2e4c0e2694e17fe0d66730536837f1b01935b31f",
    ),
    "tinyshakespeare": Remote(
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/"
        "data/tinyshakespeare/input.txt",
        "tinyshakespeare.txt",
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    ),
}


def corpus_names() -> tuple[str, ...]:
    """List the corpora that have a name.

    >>> corpus_names()
    ('python-stdlib', 'the-verdict', 'tinyshakespeare')
    """
    return (STANDARD_LIBRARY, *REMOTE)


def documents(
    name_or_path: str | os.PathLike[str],
    *,
    text_column: str = "text",
    progress: Progress | None = None,
) -> Iterator[str]:
    """Yield the documents of a corpus, one string each, in a fixed order.

    Args:
      name_or_path: a name of `corpus_names`; a text file (one document); JSON lines
        (.jsonl, .ndjson, .json) or Parquet (.parquet), a document per row; any of
        them but Parquet as .gz or .zst; or a folder of such files, read
        recursively in the order of their paths, hidden and empty ones left out.
      text_column: the field that holds the text in JSON lines and Parquet.
      progress: told the bytes fetched, where a named corpus is not on this machine.

    Raises:
      DataError: the corpus is unknown, empty, binary, not UTF-8, or damaged.

    >>> sum(1 for text in documents("python-stdlib")) > 200
    True
    """
    parts: list[str] = []
    for piece in pieces(name_or_path, text_column=text_column, progress=progress):
        if piece.first and parts:
            yield "".join(parts)
            parts = []
        parts.append(piece.text)
    yield "".join(parts)


def pieces(
    name_or_path: str | os.PathLike[str],
    *,
    text_column: str = "text",
    progress: Progress | None = None,
) -> Iterator[text_files.Piece]:
    """Yield the documents of a corpus as `documents` does, long texts in pieces."""
    path = find(name_or_path, progress=progress)
    if path is None:
        yield from (text_files.Piece(text, first=True) for text in _standard_library())
        return
    empty = True
    for file in _files(path) if path.is_dir() else [path]:
        for piece in text_files.read_pieces(file, text_column):
            empty = False
            yield piece
    if empty:
        raise DataError(f"a corpus must hold some text, {path} holds none")


def texts(
    name_or_path: str | os.PathLike[str], *, text_column: str = "text"
) -> Iterator[str]:
    """Yield all text of a corpus, long documents in pieces: to learn a vocabulary."""
    for piece in pieces(name_or_path, text_column=text_column):
        yield piece.text


def find(
    name_or_path: str | os.PathLike[str], *, progress: Progress | None = None
) -> pathlib.Path | None:
    """Find the file or folder of a corpus, fetched if need be; of Python's own, None.

    Raises:
      DataError: the corpus is unknown, or can't be fetched.
    """
    if name_or_path == STANDARD_LIBRARY:
        return None
    if name_or_path in REMOTE:
        return find_remote(str(name_or_path), progress=progress)
    return _existing(name_or_path)


def stamp(name_or_path: str | os.PathLike[str]) -> str | None:
    """Sum up what can be told of a corpus without reading it; None where it is gone.

    Of a file that is its size and when it was written. Two stamps may differ for the
    same text, as after a copy; a text that was edited has another one.
    """
    if name_or_path in REMOTE:
        return REMOTE[str(name_or_path)].sha256
    if name_or_path == STANDARD_LIBRARY:
        return sys.version
    path = pathlib.Path(name_or_path).expanduser()
    if not path.exists():
        return None
    digest = hashlib.sha256()
    with disk.explain_refusal("read", path):
        for file in _files(path) if path.is_dir() else [path]:
            status = file.stat()
            digest.update(f"{file.relative_to(path)}\0".encode("utf-8", "replace"))
            digest.update(f"{status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def find_remote(name: str, *, progress: Progress | None = None) -> pathlib.Path:
    """Find a corpus of known address: $JAXLLM_DATA, the user's cache, the network.

    The cache is $JAXLLM_CACHE, or ~/.cache/jaxllm. The content is checked each time.
    """
    remote = REMOTE[name]
    path = disk.find_data(remote.file)
    if path is None:
        return _fetch(remote, disk.cache_folder() / remote.file, progress)
    digest = disk.file_sha256(path)
    if digest != remote.sha256:
        raise DataError(
            f"{path} must have sha256 {remote.sha256}, it has {digest}; delete it or "
            "put the right file there"
        )
    return path


def _fetch(
    remote: Remote, path: pathlib.Path, progress: Progress | None
) -> pathlib.Path:
    """Download to path atomically; a wrong content never gets the name."""
    digest, done = hashlib.sha256(), 0
    with disk.atomic_writer(path) as file:
        for chunk, total in _download(remote, path.parent):
            file.write(chunk)
            digest.update(chunk)
            done += len(chunk)
            if progress is not None:
                progress(done, total)
        if digest.hexdigest() != remote.sha256:
            raise DataError(
                f"{remote.url} must have sha256 {remote.sha256}, "
                f"it has {digest.hexdigest()}"
            )
    return path


def _download(
    remote: Remote, folder: pathlib.Path
) -> Iterator[tuple[bytes, int | None]]:
    """Yield the chunks at an address, each with the whole length if it is told."""
    try:
        with urllib.request.urlopen(remote.url, timeout=60) as response:
            total = int(response.headers.get("Content-Length") or 0) or None
            while chunk := response.read(2**16):
                yield chunk, total
    except (OSError, http.client.HTTPException) as error:
        raise DataError(
            f"{remote.url} cannot be fetched ({error}); put {remote.file} into "
            f"{folder} or into the folder that $JAXLLM_DATA names"
        ) from error


def _existing(name_or_path: str | os.PathLike[str]) -> pathlib.Path:
    path = pathlib.Path(name_or_path).expanduser()
    if path.exists():
        return path
    siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(str(name_or_path), corpus_names(), cutoff=0.5)
    near += [
        str(path.parent / name)
        for name in difflib.get_close_matches(path.name, siblings, cutoff=0.7)
    ]
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise DataError(
        f"a corpus must be one of {', '.join(corpus_names())}, or the path of a file "
        f"or folder; got {str(name_or_path)!r}, which does not exist{hint}"
    )


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and path.stat().st_size
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


# Tests are data for a test runner, idlelib is a program, pydoc_data is generated.
_NOT_LIBRARY = {
    *("site-packages", "dist-packages", "test", "tests", "idle_test"),
    *("idlelib", "pydoc_data"),
}


def _standard_library() -> Iterator[str]:
    """Yield the standard library's own source: about 11 MB, a document per file."""
    root = pathlib.Path(sysconfig.get_path("stdlib"))
    found = False
    for path in sorted(root.rglob("*.py"), key=lambda p: p.relative_to(root).parts):
        if _NOT_LIBRARY.intersection(path.relative_to(root).parts):
            continue
        try:
            with tokenize.open(path) as file:  # decodes as PEP 263 says
                text = file.read()
        except (SyntaxError, UnicodeDecodeError, OSError):
            continue
        if text:
            found = True
            yield text
    if not found:
        raise DataError(f"this Python has no source of its standard library in {root}")
