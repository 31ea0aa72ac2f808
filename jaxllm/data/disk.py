"""Files written whole or not at all, and a disk's refusals in one line."""

import contextlib
import errno
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from jaxllm.errors import DataError

_REMEDIES = {
    errno.ENOSPC: "free some space, or name a folder on a larger disk",
    errno.EDQUOT: "free some of your quota, or name a folder elsewhere",
    errno.EFBIG: "raise the limit on file sizes, or name a folder elsewhere",
    errno.EACCES: "allow it, or name a path of your own",
    errno.EPERM: "allow it, or name a path of your own",
    errno.EROFS: "name a folder on a disk that can be written",
    errno.ENOENT: "name a file that exists",
    errno.ENOTDIR: "name a folder whose parents are folders",
    errno.EEXIST: "name a folder, not a file",
}


def cache_folder() -> pathlib.Path:
    """Name the folder for what can be made or fetched again.

    $JAXLLM_CACHE, or ~/.cache/jaxllm.
    """
    folder = os.environ.get("JAXLLM_CACHE") or "~/.cache/jaxllm"
    return pathlib.Path(folder).expanduser()


def data_folders() -> list[pathlib.Path]:
    """Name the folders where known files are looked for: $JAXLLM_DATA, the cache."""
    given = os.environ.get("JAXLLM_DATA")
    folders = [pathlib.Path(given).expanduser()] if given else []
    return [*folders, cache_folder()]


def find_data(name: str) -> pathlib.Path | None:
    """Find a file in the first of the `data_folders` that has it."""
    paths = (folder / name for folder in data_folders())
    return next(filter(pathlib.Path.is_file, paths), None)


@contextlib.contextmanager
def explain_refusal(action: str, path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn an OSError of the body into a DataError that says what would be right.

    >>> with explain_refusal("read", "no/such/file"):
    ...     open("no/such/file")
    Traceback (most recent call last):
    jaxllm.errors.DataError: cannot read no/such/file: No such file or directory; name
    a file that exists
    """
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0)
        raise DataError(
            f"cannot {action} {os.fspath(path)}: {error.strerror or error}"
            + (f"; {remedy}" if remedy else "")
        ) from error


@contextlib.contextmanager
def atomic_writer(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file that takes its name when the body is done, and never before.

    Written beside path, flushed to the disk, renamed; removed if the body raises.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with atomic_writer(folder + "/a.txt") as file:
    ...         _ = file.write(b"whole")
    ...     os.listdir(folder)
    ['a.txt']
    """
    path = pathlib.Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with explain_refusal("write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(partial, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
            _flush_names(path.parent)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)


def _flush_names(folder: pathlib.Path) -> None:
    """Make a rename survive a power cut, where the system lets a folder be opened."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Compute the sha256 of a file's content, in hex."""
    with explain_refusal("read", path), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Read a JSON object."""
    with explain_refusal("read", path):
        text = path.read_bytes()
    try:
        value = json.loads(text)
    except ValueError as error:
        raise DataError(f"{path} must be JSON: {error}") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} must hold a JSON object, got {value!r}")
    return value


def write_json(path: pathlib.Path, value: dict[str, Any]) -> None:
    """Write a JSON object, whole or not at all."""
    with atomic_writer(path) as file:
        file.write(json.dumps(value, indent=1).encode() + b"\n")
