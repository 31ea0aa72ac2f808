"""Word ids in, blocks to learn from out: what a step needs, drawn on the host.

A block is `block_size` successive words, their neighbours on either side, and one draw
of noise words. As it is rectangular, its gradient is three matrix products; a list of
pairs would move six rows per word where this moves three.
"""

from typing import NamedTuple

import numpy as np

from jaxllm.types import Array
from jaxllm.vectors.config import Word2VecConfig


class Blocks(NamedTuple):
    """Blocks in the order in which they are learned from; a pytree.

    The letters: N updates, B blocks per update, T words per block, w window, K noise.
    """

    words: Array  # (N, B, w + T + w) int32, the words and their neighbours
    noise: Array  # (N, B, K) int32
    before: Array  # (N, B, T) int32, neighbours that count to the left of each word
    after: Array  # (N, B, T) int32, and to the right
    rate: Array  # (N,) float32, learning rate of each update


class AliasTable(NamedTuple):
    """A distribution over n words, from which a word is drawn in constant time."""

    threshold: np.ndarray  # (n,) float32
    alias: np.ndarray  # (n,) int32


def alias_table(probabilities: np.ndarray) -> AliasTable:
    """Cut a distribution into n columns of two words each (Vose 1991).

    >>> table = alias_table(np.array([0.75, 0.25]))
    >>> table.threshold.tolist(), table.alias.tolist()
    ([1.0, 0.5], [0, 0])
    """
    n = len(probabilities)
    height = (probabilities * n).tolist()
    threshold, alias = np.ones(n, np.float32), np.arange(n, dtype=np.int32)
    low = [i for i in range(n) if height[i] < 1]
    high = [i for i in range(n) if height[i] >= 1]
    while low and high:
        small, large = low.pop(), high[-1]
        threshold[small], alias[small] = height[small], large
        height[large] -= 1 - height[small]
        if height[large] < 1:
            low.append(high.pop())
    return AliasTable(threshold, alias)


def draw(table: AliasTable, size: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Draw words from an alias table. Returns `size` int32."""
    column = rng.integers(len(table.alias), size=size, dtype=np.int32)
    keep = rng.random(size, np.float32) < table.threshold[column]
    return np.where(keep, column, table.alias[column])


def subsample(
    ids: np.ndarray, keep: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Drop occurrences of frequent words at random; the marks of -1 stay.

    Args:
        ids: (n,) int32.
        keep: (V,), the probability with which each word stays.
    """
    stays = rng.random(len(ids), np.float32) < keep[ids]
    return ids[stays | (ids < 0)]


def window_reach(
    ids: np.ndarray, window: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Take the marks out, and draw how far each word looks to either side.

    Returns:
        words, before, after: (n,) int32 each. A reach is drawn from 1 to window, and
        ends where the unit of text does.

    >>> rng = np.random.default_rng(0)
    >>> [x.tolist() for x in window_reach(np.array([-1, 7, 8, -1, 9]), 1, rng)]
    [[7, 8, 9], [0, 1, 0], [1, 0, 0]]
    """
    is_mark = ids < 0
    words = ids[~is_mark].astype(np.int32)
    # The index, among words, at which the unit of each begins and ends.
    cuts = np.flatnonzero(is_mark) - np.arange(is_mark.sum())
    bounds = np.unique(np.concatenate([[0], cuts, [len(words)]]))
    lengths = np.diff(bounds)
    place = np.arange(len(words)) - np.repeat(bounds[:-1], lengths)
    reach = rng.integers(1, window, size=len(words), endpoint=True)
    before = np.minimum(reach, place)
    after = np.minimum(reach, np.repeat(lengths, lengths) - 1 - place)
    return words, before.astype(np.int32), after.astype(np.int32)


def make_blocks(
    ids: np.ndarray,
    keep: np.ndarray,
    noise: AliasTable,
    cfg: Word2VecConfig,
    *,
    rng: np.random.Generator,
) -> tuple[Blocks, int]:
    """Draw everything that is random about a chunk of text, and lay it out in blocks.

    Args:
        ids: (n,) int32, at most chunk_size of them.

    Returns:
        blocks, with room for a whole chunk, so that all chunks have one shape (rate is
        0 throughout: who knows the progress fills it in); and the number N of updates
        that have words, or 1 where none has. What is past the last word looks nowhere
        and teaches nothing.
    """
    words, before, after = window_reach(subsample(ids, keep, rng), cfg.window, rng=rng)
    assert cfg.batch_size is not None, "vocabulary.batch_size tells it"
    B, T, w = cfg.batch_size // cfg.block_size, cfg.block_size, cfg.window
    n_updates = max(1, -(-len(words) // (B * T)))
    room = -(-cfg.chunk_size // (B * T))
    n = n_updates * B * T
    padded = np.pad(words, (w, n - len(words) + w))
    views = np.lib.stride_tricks.sliding_window_view(padded, w + T + w)[::T]
    parts = [
        views,
        *(np.pad(x, (0, n - len(x))).reshape(-1, T) for x in (before, after)),
    ]
    # Blocks that are neighbours in the text go into different updates: a word that its
    # text repeats is then not changed by many stale gradients at once.
    spread = (x.reshape(B, n_updates, -1).swapaxes(0, 1) for x in parts)
    tail = room - n_updates
    words, before, after = (np.pad(x, ((0, tail), (0, 0), (0, 0))) for x in spread)
    drawn = draw(noise, (room, B, cfg.noise_words), rng)
    return Blocks(words, drawn, before, after, np.zeros(room, np.float32)), n_updates
