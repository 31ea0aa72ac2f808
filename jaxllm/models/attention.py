"""Vectors in, vectors that have looked at each other out.

First the variants of the notes as pure functions of one input and its weights, each a
step further than the last; then the attention of a GPT, as a module around the same
`attend`, which can read its past from a cache.
"""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxllm.config import GPTConfig
from jaxllm.models import linear, positions
from jaxllm.models.cache import Cache, write_cache
from jaxllm.models.dropout import Noise, branch, dropout
from jaxllm.types import Array


def simple_attention(x: Array) -> tuple[Array, Array]:
    """Let each vector take a softmax-weighted mean of all, with nothing trained.

    Args:
      x: (T, D).

    Returns:
      context (T, D) and weights (T, T); each row of the weights sums to 1.

    >>> context, weights = simple_attention(jnp.eye(2))
    >>> (100 * weights).round().astype(int).tolist()
    [[73, 27], [27, 73]]
    """
    weights = jax.nn.softmax(jnp.einsum("td,sd->ts", x, x), axis=-1)
    return jnp.einsum("ts,sd->td", weights, x), weights


def self_attention(
    x: Array, w_query: Array, w_key: Array, w_value: Array
) -> tuple[Array, Array]:
    """Attend through trained projections, with scores scaled by 1 / sqrt(H).

    Scaled dot-product attention, Vaswani et al. 2017, equation 1.

    Args:
      x: (..., T, D).
      w_query, w_key, w_value: (D, H).

    Returns:
      context (..., T, H) and weights (..., T, T).

    >>> context, _ = self_attention(jnp.eye(2), *3 * [jnp.eye(2)])
    >>> (100 * context).round().astype(int).tolist()
    [[67, 33], [33, 67]]
    """
    return _single_head(x, w_query, w_key, w_value, mask=None)


def causal_attention(
    x: Array,
    w_query: Array,
    w_key: Array,
    w_value: Array,
    *,
    drop_rate: float = 0.0,
    key: Noise = None,
) -> tuple[Array, Array]:
    """Attend to the present and the past only, with dropout on the weights.

    Args:
      x: (..., T, D).
      w_query, w_key, w_value: (D, H).
      key: None, a random key, or a (..., T, T) mask of the weights to keep.

    Returns:
      context (..., T, H) and weights (..., T, T), after dropout.

    >>> _, weights = causal_attention(jnp.eye(2), *3 * [jnp.eye(2)])
    >>> (100 * weights).round().astype(int).tolist()
    [[100, 0], [33, 67]]
    """
    mask = causal_mask(x.shape[-2])
    return _single_head(x, w_query, w_key, w_value, mask, drop_rate, key)


def stacked_heads(
    x: Array, heads: list[tuple[Array, Array, Array]]
) -> tuple[Array, Array]:
    """Run single causal heads side by side and join what they found.

    Args:
      x: (..., T, D).
      heads: N triples of (D, H) weights for query, key and value.

    Returns:
      context (..., T, N x H) and weights (..., N, T, T).
    """
    contexts, weights = zip(
        *(causal_attention(x, *head) for head in heads), strict=True
    )
    return jnp.concatenate(contexts, axis=-1), jnp.stack(weights, axis=-3)


def multi_head_attention(
    x: Array,
    w_query: Array,
    w_key: Array,
    w_value: Array,
    n_heads: int,
    *,
    w_out: Array | None = None,
    b_out: Array | None = None,
) -> tuple[Array, Array]:
    """Run all causal heads as one product, split by columns: the stacked heads, fast.

    Args:
      x: (B, T, D).
      w_query, w_key, w_value: (D, N x H), the heads' weights side by side.
      w_out, b_out: (N x H, D) and (D,), mix the heads; left out if None.

    Returns:
      context (B, T, D or N x H) and weights (B, N, T, T).
    """
    B, T, _ = x.shape

    def heads(w: Array) -> Array:
        return (x @ w).reshape(B, T, n_heads, -1)

    context, weights, _ = attend(
        heads(w_query), heads(w_key), heads(w_value), causal_mask(T)[None, None]
    )
    context = context.reshape(B, T, -1)
    if w_out is not None:
        context = context @ w_out
    if b_out is not None:
        context = context + b_out[None, None]
    return context, weights


def _single_head(x, w_query, w_key, w_value, mask, drop_rate=0.0, key=None):
    query, keys, value = x @ w_query, x @ w_key, x @ w_value  # (..., T, H)
    scores = jnp.einsum("...th,...sh->...ts", query, keys) / math.sqrt(query.shape[-1])
    if mask is not None:
        scores = _masked(scores, jnp.broadcast_to(mask, scores.shape))
    weights = dropout(jax.nn.softmax(scores, axis=-1), drop_rate, key)
    return jnp.einsum("...ts,...sh->...th", weights, value), weights


def causal_mask(length: int) -> Array:
    """Allow each position itself and the ones before it.

    >>> causal_mask(3).astype(int).tolist()
    [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    """
    return jnp.tril(jnp.ones((length, length), bool))


def _masked(scores: Array, mask: Array) -> Array:
    # The least finite number, not -inf: a row with nothing to see is uniform, not NaN.
    return jnp.where(mask, scores, jnp.finfo(scores.dtype).min)


def attend(
    query: Array,
    key: Array,
    value: Array,
    mask: Array,
    *,
    bias: Array | None = None,
    drop_rate: float = 0.0,
    noise: Noise = None,
) -> tuple[Array, Array, Array]:
    """Let every query take a weighted mean of the values that its mask allows.

    Scores and softmax are float32 whatever the inputs are.

    Args:
      query: (B, T, N, H).
      key, value: (B, S, N, H).
      mask: (B or 1, 1, T, S) bool, True = may attend.
      bias: (B or 1, N, T, S), added to the scores.

    Returns:
      context (B, T, N, H) in the dtype of the values; weights after dropout and
      scores before the mask, both (B, N, T, S) float32.
    """
    scores = jnp.einsum(
        "btnh,bsnh->bnts", query, key, preferred_element_type=jnp.float32
    ) / math.sqrt(query.shape[-1])
    if bias is not None:
        scores = scores + bias
    weights = dropout(jax.nn.softmax(_masked(scores, mask), axis=-1), drop_rate, noise)
    context = jnp.einsum("bnts,bsnh->btnh", weights.astype(value.dtype), value)
    return context, weights, scores


class MultiHeadAttention(nn.Module):
    """The attention of one block: project, attend, mix the heads.

    Args of the call:
      x: (B, T, D).
      where: (B or 1, T) the positions of the tokens.
      cache: None, or the cache that keys and values are written to and read from.
      layer: () int32, this block's place in the cache.

    Returns:
      (B, T, D), the cache, and what a reader may want to see of the inside.
    """

    cfg: GPTConfig

    @nn.compact
    def __call__(
        self, x: Array, where: Array, cache: Cache | None, layer: Array, noise: Noise
    ) -> tuple[Array, Cache | None, dict[str, Array]]:
        cfg = self.cfg
        N, H, D = cfg.n_heads, cfg.head_dim, cfg.emb_dim

        def project(name: str) -> Array:
            heads = linear.Linear(cfg, (D,), (N, H), bias=cfg.qkv_bias, name=name)
            return heads(x)  # (B, T, N, H)

        query, key, value = project("query"), project("key"), project("value")
        if cfg.positions == "rotary":
            query, key = positions.rotate(query, where), positions.rotate(key, where)
        if cache is not None:
            cache = write_cache(cache, layer, key, value)
            key = cache.key[layer].swapaxes(1, 2)  # (B, S, N, H)
            value = cache.value[layer].swapaxes(1, 2)
        slots = jnp.arange(key.shape[1])
        bias = None
        if cfg.positions == "alibi":
            bias = positions.alibi_bias(where, slots, N)
        context, weights, scores = attend(
            query,
            key,
            value,
            (slots[None, None] <= where[:, :, None])[:, None],  # (B or 1, 1, T, S)
            bias=bias,
            drop_rate=cfg.drop_rate,
            noise=branch(noise, "weights", NOISE),
        )
        out = linear.Linear(cfg, (N, H), (D,), residual=True, name="out")(context)
        return out, cache, {"scores": scores, "weights": weights}


# The places in a block where dropout acts, in the order in which they are reached.
NOISE = ("weights", "attention", "mlp")
