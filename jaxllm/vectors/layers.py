"""Ids in, vectors out: what an embedding layer is, and the vectors that a GPT learned.

A layer that looks up rows is a linear layer whose input is one-hot: the product with a
one-hot vector picks a row, so the values are the same, and so is the gradient; a lookup
only leaves out the multiplications by 0.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.config import GPTConfig
from jaxllm.data import tokenizers
from jaxllm.errors import DataError, TokenizerError
from jaxllm.models import gpt
from jaxllm.types import Array, Params
from jaxllm.vectors.files import Embeddings


def look_up(table: Array, ids: Array) -> Array:
    """Pick the row of each id. table (V, D), ids (...) int32 -> (..., D).

    >>> table = jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    >>> ids = jnp.array([2, 0, 2])
    >>> look_up(table, ids).tolist()
    [[5.0, 6.0], [1.0, 2.0], [5.0, 6.0]]
    >>> bool((look_up(table, ids) == one_hot_product(table, ids)).all())
    True
    """
    return table[ids]


def one_hot_product(table: Array, ids: Array) -> Array:
    """Compute the same as `look_up`, as a linear layer of one-hot vectors.

    The gradient shows what the layer learns: of each row, the sum over its occurrences.

    >>> table, ids = jnp.zeros((3, 2)), jnp.array([2, 0, 2])
    >>> jax.grad(lambda table: one_hot_product(table, ids).sum())(table).tolist()
    [[1.0, 1.0], [0.0, 0.0], [2.0, 2.0]]
    >>> jax.grad(lambda table: look_up(table, ids).sum())(table).tolist()
    [[1.0, 1.0], [0.0, 0.0], [2.0, 2.0]]
    """
    one_hot = jax.nn.one_hot(ids, len(table), dtype=table.dtype)  # (..., V)
    return jnp.einsum("...v,vd->...d", one_hot, table, precision="highest")


def token_and_position(tokens: Array, positions: Array, ids: Array) -> Array:
    """Add to the vector of each token that of its place: what a GPT's blocks get.

    Args:
        tokens: (V, D), a row per token.
        positions: (C, D), a row per place.
        ids: (B, T) int32.

    >>> tokens, positions = jnp.array([[1.0], [2.0]]), jnp.array([[10.0], [20.0]])
    >>> token_and_position(tokens, positions, jnp.array([[1, 1]])).tolist()
    [[[12.0], [22.0]]]
    """
    T = ids.shape[1]
    return look_up(tokens, ids) + positions[None, :T]


def token_embeddings(params: Params, tokenizer: tokenizers.Tokenizer) -> Embeddings:
    """Take a GPT's own table of token embeddings, each row named by its token.

    Bytes that are no UTF-8 are written as \\\\x escapes; an id that the vocabulary
    skips has an empty name.
    """
    rows = np.asarray(params["token_embedding"]["embedding"], np.float32)

    def name(id: int) -> str:
        try:
            return tokenizer.token_bytes(id).decode("utf-8", "backslashreplace")
        except TokenizerError:
            return ""

    names = [name(id) for id in range(min(len(rows), tokenizer.vocab_size))]
    return Embeddings(names, rows[: len(names)])


def text_vectors(
    params: Params,
    texts: Sequence[str],
    cfg: GPTConfig,
    tokenizer: tokenizers.Tokenizer,
) -> np.ndarray:
    """Make a vector of each text: the mean of its last hidden states.

    Returns:
        (n, D) float32.

    Raises:
        DataError: a text is empty, or longer than the context.
    """
    rows = [tokenizer.encode_ordinary(text) for text in texts]
    for text, ids in zip(texts, rows, strict=True):
        if not 0 < len(ids) <= cfg.context_length:
            raise DataError(
                f"a text must have 1 to {cfg.context_length} tokens, {text[:40]!r} "
                f"has {len(ids)}"
            )
    longest = max(map(len, rows))
    tokens = np.stack([np.pad(ids, (0, longest - len(ids))) for ids in rows])
    lengths = np.array([len(ids) for ids in rows])
    # What pads a text is no part of it, also where tokens see what follows.
    segments = jnp.asarray(np.arange(longest) < lengths[:, None], jnp.int32)
    hidden, _ = gpt.hidden_states(
        params, jnp.asarray(tokens, jnp.int32), cfg, segments=segments
    )
    return np.asarray(mean_pool(hidden, jnp.asarray(lengths)))


def mean_pool(hidden: Array, lengths: Array) -> Array:
    """Average the states of each text's own tokens. (B, T, D), (B,) -> (B, D).

    >>> hidden = jnp.array([[[1.0], [3.0], [9.0]]])
    >>> mean_pool(hidden, jnp.array([2])).tolist()
    [[2.0]]
    """
    T = hidden.shape[1]
    is_own = jnp.arange(T)[None] < lengths[:, None]  # (B, T)
    sums = jnp.einsum("btd,bt->bd", hidden.astype(jnp.float32), is_own)
    return sums / lengths[:, None]
