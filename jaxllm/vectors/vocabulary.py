"""Text in; words, their frequencies, and the text as word ids on disk out.

Two passes, each in bounded memory: the first counts words, the second writes their ids.
Words are numbered from the most frequent one down, so the rows that are used most lie
together.
"""

import collections
import json
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from jaxllm.data import corpora, disk
from jaxllm.errors import DataError
from jaxllm.vectors.config import Word2VecConfig

# Distinct words that are counted at once; word2vec prunes in the same way.
MAX_DISTINCT = 20_000_000

WORDS, IDS = "vocabulary.json", "words.ids"

# The most words of an update, and how many may on average be the same word. Texts of 2
# to 3,226 different words, from equally frequent ones to Zipf's law squared, were all
# learned with 2.2 the same; the first to diverge did so with 3.3.
MAX_BATCH, MAX_REPEATS = 1024, 2.0

Progress = Callable[[str, int], None]
"""Called with the name of a pass and the words it has seen."""


class Vocabulary(NamedTuple):
    """Words from the most frequent down, and how often each occurs."""

    words: list[str]
    counts: np.ndarray  # (V,) int64


def units(cfg: Word2VecConfig) -> Iterator[tuple[list[str], bool]]:
    """Yield the words of a corpus, and whether a window may reach back across the cut.

    >>> cfg = Word2VecConfig(corpus="python-stdlib")
    >>> words, goes_on = next(units(cfg))
    >>> words[:4], goes_on
    (['record', 'of', 'phased', 'in'], False)
    """
    pattern = re.compile(cfg.pattern)

    def find(text: str) -> list[str]:
        return [match[0] for match in pattern.finditer(text) if match[0]]

    for piece in corpora.pieces(cfg.corpus, text_column=cfg.text_column):
        text = piece.text.lower() if cfg.lowercase else piece.text
        if cfg.unit == "line":
            yield from ((find(line), False) for line in text.splitlines())
        else:
            yield find(text), not piece.first


def count_words(
    units: Iterable[list[str]],
    *,
    min_count: int = 1,
    max_words: int | None = None,
    max_distinct: int = MAX_DISTINCT,
) -> Vocabulary:
    """Count words; equally frequent ones stand in the order of their letters.

    Args:
        max_distinct: when more words than this are known, the rarest are forgotten, as
            word2vec does: memory stays bounded, and only rare words can be miscounted.

    >>> count_words([["the", "cat"], ["the", "dog"]]).words
    ['the', 'cat', 'dog']
    """
    counter: collections.Counter[str] = collections.Counter()
    rarest = 1
    for words in units:
        counter.update(words)
        while len(counter) > max_distinct:
            rarest += 1
            kept = {word: n for word, n in counter.items() if n >= rarest}
            counter = collections.Counter(kept)
    kept = [(word, n) for word, n in counter.items() if n >= min_count]
    kept.sort(key=lambda pair: (-pair[1], pair[0]))
    kept = kept[:max_words]
    if len(kept) < 2:
        raise DataError(
            f"a text must have at least 2 words that occur {min_count} times or more, "
            f"got {len(kept)} of {len(counter)}"
        )
    words, counts = zip(*kept, strict=True)
    return Vocabulary(list(words), np.array(counts, np.int64))


def keep_probability(counts: np.ndarray, threshold: float) -> np.ndarray:
    """Compute with what probability an occurrence of each word is kept.

    word2vec's own formula, sqrt(t / f) + t / f of a word's frequency f, which differs
    from the paper's; a threshold t of 0 keeps all. Returns (V,) float32.

    >>> keep_probability(np.array([63, 1]), 1 / 64).round(2)
    array([0.14, 1.  ], dtype=float32)
    """
    if threshold == 0:
        return np.ones(len(counts), np.float32)
    ratio = threshold * counts.sum() / counts
    return np.minimum(np.sqrt(ratio) + ratio, 1).astype(np.float32)


def batch_size(counts: np.ndarray, cfg: Word2VecConfig) -> int:
    """Derive how many words an update may have, in whole blocks, one at least.

    The gradients of an update do not know of each other: where the same words come too
    often, their sum overshoots, each time further.

    >>> batch_size(np.full(20, 100), Word2VecConfig(subsample=0, block_size=8))
    40
    >>> batch_size(np.full(2000, 100), Word2VecConfig(subsample=0, block_size=8))
    1024
    """
    kept = counts * keep_probability(counts, cfg.subsample)
    share = kept / kept.sum()
    same = float(share @ share)  # the chance that two words of the text are one
    most = min(MAX_BATCH, cfg.chunk_size, round(MAX_REPEATS / same))
    return max(1, most // cfg.block_size) * cfg.block_size


def noise_distribution(counts: np.ndarray, power: float = 0.75) -> np.ndarray:
    """Compute the distribution of noise words: frequency to a power. (V,) float64.

    >>> noise_distribution(np.array([16, 1])).round(3).tolist()
    [0.889, 0.111]
    """
    weights = counts.astype(np.float64) ** power
    return weights / weights.sum()


def encode(units: Iterable[tuple[list[str], bool]], words: list[str]) -> Iterator:
    """Yield (n,) int32 ids; -1 stands where a window must not cross.

    Words that are not in the vocabulary vanish: their neighbours move together.

    >>> pieces = [(["the", "cat", "sat"], False), (["the"], True), (["cat"], False)]
    >>> [ids.tolist() for ids in encode(pieces, ["the", "cat"])]
    [[-1, 0, 1], [0], [-1, 1]]
    """
    ids = {word: i for i, word in enumerate(words)}
    for piece, goes_on in units:
        found = [] if goes_on else [-1]
        found += [i for i in map(ids.get, piece) if i is not None]
        yield np.array(found, np.int32)


def prepare(cfg: Word2VecConfig, progress: Progress = lambda name, n: None) -> None:
    """Write vocabulary.json and words.ids into the run directory."""
    run_dir = pathlib.Path(cfg.run_dir)
    vocabulary = count_words(
        _counted((words for words, _ in units(cfg)), "counting words", progress),
        min_count=cfg.min_count,
        max_words=cfg.max_words,
    )
    with disk.atomic_writer(run_dir / IDS) as file:
        seen = 0
        for ids in encode(units(cfg), vocabulary.words):
            file.write(ids.astype("<i4").tobytes())
            progress("writing ids", seen := seen + len(ids))
    words, counts = vocabulary.words, vocabulary.counts.tolist()
    with disk.atomic_writer(run_dir / WORDS) as file:
        file.write(json.dumps({"words": words, "counts": counts}).encode())


def read(run_dir: str | os.PathLike[str]) -> tuple[Vocabulary, np.ndarray]:
    """Open what `prepare` wrote: the vocabulary, and the ids, memory-mapped."""
    run_dir = pathlib.Path(run_dir)
    found = disk.read_json(run_dir / WORDS)
    vocabulary = Vocabulary(found["words"], np.array(found["counts"], np.int64))
    with disk.explain_refusal("read", run_dir / IDS):
        ids = np.memmap(run_dir / IDS, dtype="<i4", mode="r")
    return vocabulary, ids


def _counted(
    units: Iterable[list[str]], name: str, progress: Progress
) -> Iterator[list[str]]:
    seen = 0
    for words in units:
        yield words
        seen += len(words)
        progress(name, seen)
