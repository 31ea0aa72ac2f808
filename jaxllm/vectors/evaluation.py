"""Embeddings and a set of questions in, scores and their coverage out."""

import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from jaxllm.data import disk
from jaxllm.errors import DataError
from jaxllm.vectors import queries
from jaxllm.vectors.files import Embeddings

Path = str | os.PathLike[str]

# Questions that are asked at once.
_BATCH = 256


class AnalogyScore(NamedTuple):
    """How many of the questions of a section were answered, and how many rightly."""

    correct: int
    asked: int  # all of whose words are in the vocabulary
    total: int

    @property
    def accuracy(self) -> float:
        return self.correct / self.asked if self.asked else float("nan")

    @property
    def coverage(self) -> float:
        return self.asked / self.total if self.total else float("nan")


class SimilarityScore(NamedTuple):
    """How well cosines order pairs as people do."""

    spearman: float
    pearson: float
    asked: int
    total: int

    @property
    def coverage(self) -> float:
        return self.asked / self.total if self.total else float("nan")


def read_analogies(path: Path) -> dict[str, list[tuple[str, ...]]]:
    """Read Google's questions-words form: ": section" lines, then four words a line.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
    ...     _ = file.write(": capitals\\nathens greece oslo norway\\n")
    ...     file.flush()
    ...     read_analogies(file.name)
    {'capitals': [('athens', 'greece', 'oslo', 'norway')]}
    """
    sections: dict[str, list[tuple[str, ...]]] = {}
    section = ""
    for number, line in _lines(path):
        if line.startswith(":"):
            section = line[1:].strip()
            sections.setdefault(section, [])
            continue
        question = tuple(line.split())
        if len(question) != 4:
            raise DataError(
                f"{path}, line {number}: a question must have 4 words, got "
                f"{len(question)}"
            )
        sections.setdefault(section, []).append(question)
    return sections


def read_similarities(path: Path) -> list[tuple[str, str, float]]:
    """Read pairs of words with a score, cut by tabs, commas or blanks; # is a remark.

    A first line whose score is no number is a heading.
    """
    pairs = []
    lines = [(n, line) for n, line in _lines(path) if not line.startswith("#")]
    for number, line in lines:
        cut = next((mark for mark in "\t,;" if mark in line), None)
        parts = [part.strip() for part in line.split(cut)]
        try:
            pairs.append((parts[0], parts[1], float(parts[2])))
        except (IndexError, ValueError):
            if number != lines[0][0]:
                raise DataError(
                    f"{path}, line {number}: a pair must be two words and a score, got "
                    f"{line!r}"
                ) from None
    if not pairs:
        raise DataError(f"{path} must hold pairs of words, each with a score, got none")
    return pairs


def evaluate_analogies(
    embeddings: Embeddings,
    sections: dict[str, list[tuple[str, ...]]],
    *,
    restrict: int | None = 300_000,
    ignore_case: bool = True,
) -> dict[str, AnalogyScore]:
    """Answer "a is to b as c is to d" for each question; a, b and c are no answers.

    Args:
        restrict: answers come from this many first words, the most frequent ones.
        ignore_case: whether "Oslo" may stand for "oslo"; of two such words the first
            in the vocabulary counts. As gensim does.

    Returns:
        a score per section, and one of them all under "total".
    """
    # Every batch of questions is compared with all of these, so they are read once.
    rows = np.asarray(embeddings.rows[:restrict])
    pool = Embeddings(embeddings.words[:restrict], rows)
    fold = str.upper if ignore_case else str
    index = _first_index(map(fold, pool.words))
    names = [fold(word) for word in pool.words]
    scores = {}
    for section, questions in sections.items():
        ids = [[index.get(fold(word), -1) for word in q] for q in questions]
        known = np.array([q for q in ids if min(q) >= 0], np.int32).reshape(-1, 4)
        correct = sum(
            _count_right(pool, names, known[start : start + _BATCH])
            for start in range(0, len(known), _BATCH)
        )
        scores[section] = AnalogyScore(correct, len(known), len(questions))
    sums = np.array(list(scores.values()), int).reshape(-1, 3).sum(0).tolist()
    return scores | {"total": AnalogyScore(*sums)}


def _count_right(pool: Embeddings, names: list[str], questions: np.ndarray) -> int:
    """Count the questions (Q, 4) whose first answer, other than a, b and c, is d."""
    # The last batch is filled up, so that every batch has one compiled shape.
    filled = np.concatenate([questions, np.repeat(questions[:1], _BATCH, 0)])[:_BATCH]
    a, b, c, _ = (queries.unit(pool.rows[filled[:, i]]) for i in range(4))
    # Some more than one, for words that differ from a, b or c in case only.
    ids, _ = queries.nearest(pool.rows, b - a + c, 5, exclude=filled[:, :3])
    right = 0
    for question, answers in zip(questions, ids, strict=False):
        own = {names[i] for i in question[:3]}
        answer = next((names[i] for i in answers if names[i] not in own), None)
        right += answer == names[question[3]]
    return right


def evaluate_similarities(
    embeddings: Embeddings,
    pairs: Sequence[tuple[str, str, float]],
    *,
    ignore_case: bool = True,
) -> SimilarityScore:
    """Compare the cosines of pairs of words with people's scores for them."""
    fold = str.upper if ignore_case else str
    index = _first_index(map(fold, embeddings.words))
    known = [
        (index[fold(a)], index[fold(b)], score)
        for a, b, score in pairs
        if fold(a) in index and fold(b) in index
    ]
    if len(known) < 2:
        nan = float("nan")
        return SimilarityScore(nan, nan, len(known), len(pairs))
    first, second, scores = zip(*known, strict=True)
    a, b = (queries.unit(embeddings.rows[list(ids)]) for ids in (first, second))
    cosines = np.einsum("qd,qd->q", a, b)
    return SimilarityScore(
        correlation(ranks(cosines), ranks(np.array(scores))),
        correlation(cosines, np.array(scores)),
        len(known),
        len(pairs),
    )


def ranks(values: np.ndarray) -> np.ndarray:
    """Rank values from 1 up; equal ones share the mean of their ranks.

    >>> ranks(np.array([0.5, 0.1, 0.5, 0.9])).tolist()
    [2.5, 1.0, 2.5, 4.0]
    """
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Compute Pearson's correlation; of ranks, it is Spearman's."""
    return float(np.corrcoef(x, y)[0, 1])


def _first_index(names: Iterable[str]) -> dict[str, int]:
    index: dict[str, int] = {}
    for i, name in enumerate(names):
        index.setdefault(name, i)
    return index


def _lines(path: Path) -> list[tuple[int, str]]:
    with disk.explain_refusal("read", path):
        data = pathlib.Path(path).read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} must be UTF-8: {error.reason}") from None
    lines = enumerate(text.splitlines(), 1)
    return [(number, line.strip()) for number, line in lines if line.strip()]
