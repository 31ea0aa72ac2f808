"""Vectors in, vectors that have looked at each other out.

First the variants of the notes as pure functions of one input and its weights, each a
step further than the last; then the attention of a GPT, as a module around the same
`attend`, which can read its past from a cache.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxllm.config import GPTConfig
from jaxllm.models import blocked_attention, linear, places, positions
from jaxllm.models.cache import LayerCache
from jaxllm.models.cached_attention import attend_cached
from jaxllm.models.dropout import Noise, branch, dropout
from jaxllm.models.places import Places
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
      key, value: (B, S, K, H); head n of the queries uses head n // (N / K) of these.
      mask: (B or 1, 1, T, S) bool, True = may attend.
      bias: (B or 1, N, T, S), added to the scores.

    Returns:
      context (B, T, N, H) in the dtype of the values; weights after dropout and
      scores before the mask, both (B, N, T, S) float32.
    """
    B, T, N, H = query.shape
    S, K = key.shape[1:3]
    groups = query.reshape(B, T, K, N // K, H)
    scores = jnp.einsum(
        "btkgh,bskh->bkgts", groups, key, preferred_element_type=jnp.float32
    ).reshape(B, N, T, S) / math.sqrt(H)
    if bias is not None:
        scores = scores + bias
    weights = dropout(jax.nn.softmax(_masked(scores, mask), axis=-1), drop_rate, noise)
    groups = weights.astype(value.dtype).reshape(B, K, N // K, T, S)
    context = jnp.einsum("bkgts,bskh->btkgh", groups, value)
    return context.reshape(B, T, N, H), weights, scores


def choose(
    cfg: GPTConfig,
    *,
    dropout: bool,
    kernels: Literal["cpu", "cudnn", "other"],
    whole_rows: bool = True,
) -> Literal["plain", "blocked", "cudnn"]:
    """Choose how the tokens of a row attend to each other.

    Args:
      dropout: whether weights are dropped, which needs all of them at once.
      kernels: what this machine has, as `kernels_here` tells.
      whole_rows: whether a device has all tokens of a row, and an even number of them
        where rows hold several texts, as NVIDIA's kernel asks.

    >>> cfg = GPTConfig(dtype="bfloat16")
    >>> [choose(cfg, dropout=False, kernels=there) for there in ("cpu", "cudnn")]
    ['blocked', 'cudnn']
    >>> choose(cfg, dropout=True, kernels="cudnn")
    'plain'
    """
    if dropout or cfg.attention == "plain":
        return "plain"
    if cfg.attention != "auto":
        return cfg.attention
    if kernels == "cudnn" and cfg.fits_cudnn and whole_rows:
        return "cudnn"
    if kernels == "cpu" and cfg.gradients == "written":
        return "blocked"
    return "plain"


def kernels_here() -> Literal["cpu", "cudnn", "other"]:
    """Find out whether the first device is a CPU, or an NVIDIA GPU from Ampere on."""
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return "cpu"
    # Such as 9.0 or 12.0; AMD's devices have names there.
    generation, dot, _ = str(getattr(device, "compute_capability", "")).partition(".")
    nvidia = device.platform == "gpu" and dot and generation.isdigit()
    return "cudnn" if nvidia and int(generation) >= 8 else "other"


def _attend_cudnn(query, key, value, where: Places, cfg: GPTConfig) -> Array:
    """Hand over to NVIDIA's kernel, which keeps no weights either."""
    window, mask = None, None
    if cfg.attention_window is not None:
        window = (cfg.attention_window - 1, 0)
    if where.segment is not None:
        mask = places.visible(where, slice(0, key.shape[1]), cfg, where.segment)
    return jax.nn.dot_product_attention(
        query,
        key,
        value,
        mask=mask,
        is_causal=cfg.causal,
        local_window_size=window,
        implementation="cudnn",
    )


class MultiHeadAttention(nn.Module):
    """The attention of one block: project, attend, mix the heads.

    Args of the call:
      x: (B, T, D).
      where: the places of the tokens.
      cache: None, or where keys and values are written to and read from.

    Returns:
      (B, T, D), the cache, and what a reader may want to see of the inside.
    """

    cfg: GPTConfig
    traced: bool = False

    @nn.compact
    def __call__(
        self, x: Array, where: Places, cache: LayerCache | None, noise: Noise
    ) -> tuple[Array, LayerCache | None, dict[str, Array]]:
        cfg = self.cfg
        N, K, H, D = cfg.n_heads, cfg.kv_heads, cfg.head_dim, cfg.emb_dim

        def heads(name: str, n_heads: int) -> linear.Linear:
            return linear.Linear(cfg, (D,), (n_heads, H), bias=cfg.qkv_bias, name=name)

        if self.has_variable("params", "qkv"):  # of `decoding_params`
            joined = heads("qkv", N + 2 * K)(x)
            query, key, value = jnp.split(joined, (N, N + K), axis=2)
        else:
            query, key, value = linear.side_by_side(
                x, [heads("query", N), heads("key", K), heads("value", K)]
            )  # (B, T, heads, H)
        if cfg.positions == "rotary":
            query = positions.rotate(query, where.position)
            key = positions.rotate(key, where.position)
        if cache is not None:
            context, cache = attend_cached(query, key, value, cache, cfg)
            return self._mixed(context), cache, {}
        inside: dict[str, Array] = {}
        how = "plain"
        if not self.traced:
            whole = jax.sharding.get_abstract_mesh().shape.get("sequence", 1) == 1
            even = where.segment is None or x.shape[1] % 2 == 0
            how = choose(
                cfg,
                dropout=noise is not None and cfg.drop_rate > 0,
                kernels=kernels_here(),
                whole_rows=whole and even,
            )
        if how == "cudnn":
            context = _attend_cudnn(query, key, value, where, cfg)
        elif how == "blocked":
            context = blocked_attention.attend(query, key, value, where, cfg)
        else:
            slots = slice(0, key.shape[1])
            bias = None
            if cfg.positions == "alibi":
                bias = positions.alibi_bias(where.slot, jnp.arange(slots.stop), N)
            context, inside["weights"], inside["scores"] = attend(
                query,
                key,
                value,
                places.visible(where, slots, cfg, where.segment),
                bias=bias,
                drop_rate=cfg.drop_rate,
                noise=branch(noise, "weights", NOISE),
            )
        return self._mixed(context), None, inside

    def _mixed(self, context: Array) -> Array:
        inputs, outputs = context.shape[2:], (self.cfg.emb_dim,)
        mix = linear.Linear(self.cfg, inputs, outputs, residual=True, name="out")
        return mix(context)


# The places in a block where dropout acts, in the order in which they are reached.
NOISE = ("weights", "attention", "mlp")
