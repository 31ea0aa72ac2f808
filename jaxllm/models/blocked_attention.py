"""Queries, keys and values in, what `attention.attend` finds out, with no (T, T) array.

Queries go block by block and look only at the keys that their mask may show them: under
a causal mask half of all, in a window fewer still. The backward pass computes the
weights of a block again from the logarithm of their sum (Dao et al. 2022, algorithm 4),
so that nothing of size T x T is kept from one pass to the other.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from jaxllm.config import GPTConfig
from jaxllm.models import places, positions
from jaxllm.models.places import Places
from jaxllm.types import Array


def attend(
    query: Array, key: Array, value: Array, where: Places, cfg: GPTConfig
) -> Array:
    """Let every query take a weighted mean of the values that it may see.

    Args:
      query: (B, T, N, H).
      key, value: (B, T, K, H).
      where: the places of the T tokens; with cfg, they tell the mask.

    Returns:
      context (B, T, N, H) in the dtype of the values.
    """
    B, T, N, H = query.shape
    K = key.shape[2]
    scaled = (query / math.sqrt(H)).astype(value.dtype)
    grouped = scaled.reshape(B, T, K, N // K, H).transpose(0, 2, 3, 1, 4)
    context: Array = _blocked(
        grouped, key.swapaxes(1, 2), value.swapaxes(1, 2), where, cfg
    )  # (B, K, G, T, H)
    return context.transpose(0, 3, 1, 2, 4).reshape(B, T, N, H)


def blocks(length: int, cfg: GPTConfig) -> list[tuple[slice, slice]]:
    """Cut the queries into blocks; find the keys that each of them may see.

    >>> blocks(8, GPTConfig())
    [(slice(0, 8, None), slice(0, 8, None))]
    >>> [(q.start, s.start, s.stop) for q, s in blocks(256, GPTConfig())]
    [(0, 0, 64), (64, 0, 128), (128, 0, 192), (192, 0, 256)]
    """
    count = max(1, min(_MOST_BLOCKS, length // _LEAST_ROWS))
    size = -(-length // count)
    reach = length if cfg.attention_window is None else cfg.attention_window - 1
    cut = []
    for start in range(0, length, size):
        stop = min(start + size, length)
        last = stop if cfg.causal else min(length, stop + reach)
        cut.append((slice(start, stop), slice(max(0, start - reach), last)))
    return cut


# More blocks skip more of what is masked, and take longer to compile.
_MOST_BLOCKS, _LEAST_ROWS = 4, 64


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _blocked(query, key, value, where, cfg):
    return _forward(query, key, value, where, cfg)[0]


def _forward(query, key, value, where, cfg):
    contexts, sums = [], []
    for rows, columns in blocks(query.shape[3], cfg):
        q, k, v = _block(query, rows), key[:, :, columns], value[:, :, columns]
        scores = _masked(_product(q, k, _EACH_ROW), where, cfg, rows, columns)
        largest = scores.max(axis=-1, keepdims=True)
        weights = jnp.exp(scores - largest)
        total = weights.sum(axis=-1, keepdims=True)
        context = _product(weights, v, _MATRICES) / total
        contexts.append(_unblock(context.astype(value.dtype), query.shape[2]))
        sums.append(_unblock(largest + jnp.log(total), query.shape[2]))
    context = jnp.concatenate(contexts, axis=3)
    return context, (query, key, value, where, context, jnp.concatenate(sums, axis=3))


def _backward(cfg, saved, dcontext):
    query, key, value, where, context, sums = saved
    product = context.astype(jnp.float32) * dcontext.astype(jnp.float32)
    shift = product.sum(axis=-1, keepdims=True)  # (B, K, G, T, 1)
    dqueries = []
    dkey, dvalue = (jnp.zeros(x.shape, jnp.float32) for x in (key, value))
    for rows, columns in blocks(query.shape[3], cfg):
        q, k, v = _block(query, rows), key[:, :, columns], value[:, :, columns]
        dc = _block(dcontext, rows)
        scores = _masked(_product(q, k, _EACH_ROW), where, cfg, rows, columns)
        weights = jnp.exp(scores - _block(sums, rows))
        dscores = weights * (_product(dc, v, _EACH_ROW) - _block(shift, rows))
        dqueries.append(_unblock(_product(dscores, k, _MATRICES), query.shape[2]))
        dkey = _add(dkey, _product(dscores, q, _EACH_COLUMN), columns)
        dvalue = _add(dvalue, _product(weights, dc, _EACH_COLUMN), columns)
    dquery = jnp.concatenate(dqueries, axis=3)
    gradients = (dquery, dkey, dvalue)
    inputs = (query, key, value)
    return *(g.astype(x.dtype) for g, x in zip(gradients, inputs, strict=True)), None


_blocked.defvjp(_forward, _backward)


def _block(x: Array, rows: slice) -> Array:
    """Cut out the rows of a block, those of a group of heads one below the other.

    Keys are shared by a group, and products of matrices are what compilers run fast:
    (B, K, G, T, H) to (B, K, G t, H).
    """
    B, K, _, _, H = x.shape
    return x[:, :, :, rows].reshape(B, K, -1, H)


def _unblock(x: Array, n_groups: int) -> Array:
    B, K, _, H = x.shape
    return x.reshape(B, K, n_groups, -1, H)


# The axes that are contracted: A @ B.T, A @ B, and A.T @ B.
_EACH_ROW, _MATRICES, _EACH_COLUMN = ((3,), (3,)), ((3,), (2,)), ((2,), (2,))


def _product(a: Array, b: Array, axes: tuple[tuple[int], tuple[int]]) -> Array:
    """Multiply matrices, (B, K, rows, columns), in the dtype of b with float32 sums."""
    dimensions = (axes, ((0, 1), (0, 1)))
    return lax.dot_general(
        a.astype(b.dtype), b, dimensions, preferred_element_type=jnp.float32
    )


def _masked(scores, where, cfg, rows, columns):
    """Bias the scores of a block, (B, K, G t, s), and hide what it may not see."""
    B, K, _, S = scores.shape
    near = Places(*(field if field is None else field[:, rows] for field in where))
    mask = places.visible(near, columns, cfg, where.segment)[:, :, None]
    scores = scores.reshape(B, K, -1, mask.shape[3], S)
    if cfg.positions == "alibi":
        slots = jnp.arange(columns.start, columns.stop)
        bias = positions.alibi_bias(near.slot, slots, cfg.n_heads)
        scores = scores + bias.reshape(-1, *scores.shape[1:3], *bias.shape[2:])
    scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    return scores.reshape(B, K, -1, S)


def _add(total: Array, part: Array, columns: slice) -> Array:
    """Add what some of the keys get to what all of them have, (B, K, S, H)."""
    before = lax.slice_in_dim(total, columns.start, columns.stop, axis=2)
    return lax.dynamic_update_slice_in_dim(total, before + part, columns.start, axis=2)
