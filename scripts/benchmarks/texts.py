"""Real text that every machine has: the standard library, as documents and as ids."""

import itertools
import json
import pathlib
from collections.abc import Iterator

import numpy as np

from jaxllm.data import corpora, tokenizers

_ASCII = "\t\n" + "".join(map(chr, range(32, 127)))


def varied_documents(n_bytes: int) -> Iterator[str]:
    """Yield documents of about n_bytes in all.

    The corpus comes again and again; each time its documents begin a little later, so
    that no text is twice the same.
    """
    done = 0
    for turn in itertools.count():
        for text in corpora.documents(corpora.STANDARD_LIBRARY):
            text = text[37 * turn :]
            if not text:
                continue
            yield text
            done += len(text.encode())
            if done >= n_bytes:
                return


def write_documents(n_bytes: int, path: pathlib.Path) -> None:
    """Write documents as JSON lines."""
    with path.open("w", encoding="utf-8") as file:
        for text in varied_documents(n_bytes):
            file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")


def character_ids(n: int) -> np.ndarray:
    """Turn n characters into ids below 97; what is not ASCII is left out."""
    text = "".join(varied_documents(n + n // 8)).encode("ascii", "ignore").decode()
    tokenizer = tokenizers.CharTokenizer(characters=_ASCII)
    known = str.maketrans("", "", "".join(sorted(set(text) - set(_ASCII))))
    return tokenizer.encode(text.translate(known))[:n]


def gpt2_ids(n: int) -> np.ndarray:
    """Turn text into n ids of GPT-2's vocabulary."""
    tokenizer = tokenizers.load("gpt2")
    parts, done = [], 0
    for text in varied_documents(8 * n):
        parts.append(tokenizer.encode_ordinary(text))
        done += len(parts[-1])
        if done >= n:
            break
    return np.concatenate(parts)[:n]
