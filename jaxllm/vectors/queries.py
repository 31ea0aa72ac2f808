"""A table of embeddings and a question in, words and likenesses out.

The meaning of each question is that of gensim's KeyedVectors: vectors are brought to
length 1, the mean of what is asked for is compared with every row by its cosine, and
words of the question are no answers. Answers are exact.
"""

import difflib
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.errors import DataError
from jaxllm.types import Array
from jaxllm.vectors.files import Embeddings

# Rows that are compared at once: with 300 dimensions, 79 MB.
CHUNK_ROWS = 65536


def similarity(embeddings: Embeddings, first: str, second: str) -> float:
    """Compute the cosine between the vectors of two words.

    >>> embeddings = Embeddings(["a", "b"], np.array([[1.0, 0.0], [1.0, 1.0]]))
    >>> round(similarity(embeddings, "a", "b"), 4)
    0.7071
    """
    rows = unit(word_rows(embeddings, [first, second]))
    return rows.prod(0).sum().item()


def most_similar(
    embeddings: Embeddings,
    positive: Sequence[str] = (),
    negative: Sequence[str] = (),
    *,
    top_n: int = 10,
) -> list[tuple[str, float]]:
    """Find the words nearest to the mean of some and of the opposites of others.

    >>> words = ["king", "man", "woman", "queen", "tree"]
    >>> rows = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [-1, 0, 0]])
    >>> embeddings = Embeddings(words, rows.astype(np.float32))
    >>> most_similar(embeddings, ["king", "woman"], ["man"], top_n=1)
    [('queen', 0.9...)]
    """
    asked = [*positive, *negative]
    if not asked:
        raise DataError("a question must have at least 1 word, got none")
    signs = np.repeat(np.array([1, -1], np.float32), [len(positive), len(negative)])
    mean = (signs[:, None] * unit(word_rows(embeddings, asked))).mean(0)
    own = row_ids(embeddings, asked)
    ids, scores = nearest(embeddings.rows, mean[None], top_n, exclude=own[None])
    return _named(embeddings, ids[0], scores[0])


def analogy(
    embeddings: Embeddings, a: str, b: str, c: str, *, top_n: int = 10
) -> list[tuple[str, float]]:
    """Complete "a is to b as c is to": the words nearest to b - a + c."""
    return most_similar(embeddings, [b, c], [a], top_n=top_n)


def doesnt_match(embeddings: Embeddings, words: Sequence[str]) -> str:
    """Find the word that is farthest from the mean of all.

    >>> rows = np.array([[1.0, 0.1], [1.0, 0.0], [0.0, 1.0]])
    >>> doesnt_match(Embeddings(["cat", "dog", "tax"], rows), ["tax", "cat", "dog"])
    'tax'
    """
    if not words:
        raise DataError("a question must have at least 1 word, got none")
    rows = unit(word_rows(embeddings, words))
    likeness = rows @ unit(rows.mean(0))
    return words[int(likeness.argmin())]


def nearest_words(
    embeddings: Embeddings, vectors: Array, *, top_n: int = 10
) -> list[list[tuple[str, float]]]:
    """Find the words nearest to each of some vectors, (Q, D)."""
    ids, scores = nearest(embeddings.rows, vectors, top_n)
    return [_named(embeddings, *pair) for pair in zip(ids, scores, strict=True)]


def nearest(
    rows: Array,
    vectors: Array,
    top_n: int,
    *,
    exclude: np.ndarray | None = None,
    chunk_rows: int = CHUNK_ROWS,
) -> tuple[np.ndarray, np.ndarray]:
    """Find the rows with the largest cosine to each vector, exactly.

    The rows go through a compiled step a chunk at a time, so memory is bounded also
    where they are a memory map of millions. Equal rows come in their order.

    Args:
        rows: (V, D).
        vectors: (Q, D).
        exclude: (Q, E) int32, rows that are no answers; -1 stands for none.

    Returns:
        ids (Q, n) int32 and cosines (Q, n) float32 from the best down; n is top_n, or
        less where there are fewer answers.

    >>> ids, _ = nearest(np.eye(3), np.array([[0.0, 2.0, 1.0]]), 2)
    >>> ids.tolist()
    [[1, 2]]
    """
    V, Q = len(rows), len(vectors)
    if exclude is None:
        exclude = np.full((Q, 1), -1, np.int32)
    n_excluded = max(len(set(row[row >= 0].tolist())) for row in exclude)
    top_n = max(0, min(top_n, V - n_excluded))
    if top_n == 0:
        return np.zeros((Q, 0), np.int32), np.zeros((Q, 0), np.float32)
    directions = jnp.asarray(unit(np.asarray(vectors, np.float32)))
    best = (jnp.full((Q, top_n), -1, jnp.int32), jnp.full((Q, top_n), -jnp.inf))
    chunk_rows = min(chunk_rows, V)
    for start in range(0, V, chunk_rows):
        part = np.asarray(rows[start : start + chunk_rows], np.float32)
        n_rows = len(part)
        if n_rows < chunk_rows:
            part = np.pad(part, ((0, chunk_rows - n_rows), (0, 0)))
        best = _merge_best(best, part, directions, exclude, start, n_rows)
    return np.asarray(best[0]), np.asarray(best[1])


@jax.jit
def _merge_best(
    best: tuple[Array, Array],
    rows: Array,
    directions: Array,
    exclude: Array,
    start: Array,
    n_rows: Array,
) -> tuple[Array, Array]:
    """Merge the best of a chunk into the best of those before it."""
    own = jnp.arange(len(rows))
    norms = jnp.linalg.norm(rows, axis=1)
    scores = jnp.einsum("qd,vd->qv", directions, rows, precision="highest")
    scores /= jnp.where(norms > 0, norms, 1)[None]
    is_answer = own < n_rows
    scores = jnp.where(is_answer[None], scores, -jnp.inf)
    # An id outside the chunk is dropped by the scatter; negative ones would wrap.
    outside = jnp.where(exclude < start, len(rows), exclude - start)
    scores = jax.vmap(lambda s, e: s.at[e].set(-jnp.inf, mode="drop"))(scores, outside)
    n = best[0].shape[1]
    top, places = jax.lax.top_k(scores, min(n, len(rows)))
    ids = jnp.concatenate([best[0], (places + start).astype(jnp.int32)], 1)
    merged, order = jax.lax.top_k(jnp.concatenate([best[1], top], 1), n)
    return jnp.take_along_axis(ids, order, 1), merged


def unit(vectors: np.ndarray) -> np.ndarray:
    """Bring vectors to length 1; those of length 0 stay. (..., D) float32."""
    vectors = np.asarray(vectors, np.float32)
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(norms > 0, norms, 1)


def word_rows(embeddings: Embeddings, words: Sequence[str]) -> np.ndarray:
    """Look up the vectors of words. Returns (n, D) float32."""
    ids = row_ids(embeddings, words)
    return np.stack([np.asarray(embeddings.rows[i], np.float32) for i in ids])


def row_ids(embeddings: Embeddings, words: Iterable[str]) -> np.ndarray:
    """Look up the ids of words. Returns (n,) int32.

    Raises:
        DataError: a word is not there; the message names those that are near.

    >>> row_ids(Embeddings(["hour", "day"], np.eye(2)), ["day"]).tolist()
    [1]
    >>> row_ids(Embeddings(["hour", "day"], np.eye(2)), ["hours"])
    Traceback (most recent call last):
    jaxllm.errors.DataError: a word must be in the vocabulary, got 'hours'; did you mean
    'hour'?
    """
    for word in (words := list(words)):
        if word not in embeddings.index:
            near = difflib.get_close_matches(word, embeddings.words[:200_000], n=3)
            hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
            raise DataError(f"a word must be in the vocabulary, got {word!r}{hint}")
    return np.array([embeddings.index[word] for word in words], np.int32)


def _named(
    embeddings: Embeddings, ids: np.ndarray, scores: np.ndarray
) -> list[tuple[str, float]]:
    words = [embeddings.words[i] for i in ids]
    return list(zip(words, scores.tolist(), strict=True))
