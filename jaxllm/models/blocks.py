"""Vectors in, better vectors out: normalise, attend, normalise, think, twice added."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxllm.config import GPTConfig
from jaxllm.models import attention, gradients
from jaxllm.models.cache import LayerCache
from jaxllm.models.dropout import Noise, branch, dropout
from jaxllm.models.linear import Linear
from jaxllm.models.places import Places
from jaxllm.models.shares import keep_apart
from jaxllm.types import Array


def layer_norm(x: Array, scale: Array, bias: Array, eps: float = 1e-5) -> Array:
    """Give each vector mean 0 and variance 1, then scale and shift it.

    Ba et al. 2016, equation 4, with the biased variance, in float32.

    Args:
      x: (..., D).
      scale, bias: (D,).

    >>> layer_norm(jnp.array([1.0, 3.0]), jnp.ones(2), jnp.zeros(2)).round(4).tolist()
    [-1.0, 1.0]
    """
    y = x.astype(jnp.float32)
    y = y - y.mean(axis=-1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.square(y).mean(axis=-1, keepdims=True) + eps)
    lead = tuple(range(x.ndim - 1))
    y = y * jnp.expand_dims(scale, lead) + jnp.expand_dims(bias, lead)
    return y.astype(x.dtype)


def gelu(x: Array, approximate: bool = True) -> Array:
    """Weigh each value by the chance that a standard normal lies below it.

    Hendrycks & Gimpel 2016: x Phi(x), exactly with erf, or by their tanh form, which is
    GPT-2's.

    >>> gelu(jnp.array([-1.0, 0.0, 1.0])).round(4).tolist()
    [-0.158..., 0.0, 0.841...]
    """
    return jax.nn.gelu(x, approximate=approximate)


class LayerNorm(nn.Module):
    """`layer_norm` with its parameters: scale (D,) ones and bias (D,) zeros."""

    cfg: GPTConfig

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (self.cfg.emb_dim,)
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        if self.cfg.gradients == "derived":
            return layer_norm(x, scale, bias, self.cfg.norm_eps)
        rows = x.reshape(-1, self.cfg.emb_dim)
        rows: Array = gradients.layer_norm(rows, scale, bias, self.cfg.norm_eps)
        return rows.reshape(x.shape)


class FeedForward(nn.Module):
    """Widen to F, bend, narrow to D, for each token alone."""

    cfg: GPTConfig

    @nn.compact
    def __call__(self, x: Array) -> Array:
        cfg = self.cfg
        x = Linear(cfg, (cfg.emb_dim,), (cfg.mlp_dim,), name="up")(x)  # (B, T, F)
        if cfg.gradients == "written" and cfg.activation == "gelu_tanh":
            x = gradients.gelu_tanh(x)
        else:
            x = gelu(x, approximate=cfg.activation == "gelu_tanh")
        return Linear(cfg, (cfg.mlp_dim,), (cfg.emb_dim,), residual=True, name="down")(
            x
        )


class Block(nn.Module):
    """One transformer block with the norms in front (pre-norm), as in GPT-2.

    Written to be scanned over layers: the first argument and result are carried from
    block to block, `noise` is this block's own, `where` is the same for all. The second
    result is what `trace` collects. What is carried has a cache where blocks are run
    one by one: this block's part of it.
    """

    cfg: GPTConfig
    traced: bool = False

    @nn.compact
    def __call__(
        self,
        carry: tuple[Array, LayerCache | None],
        noise: Noise,
        where: Places,
    ) -> tuple[tuple[Array, LayerCache | None], dict[str, Array]]:
        cfg = self.cfg
        x, cache = carry

        h = LayerNorm(cfg, name="attention_norm")(x)
        attend = attention.MultiHeadAttention(cfg, self.traced, name="attention")
        h, cache, inside = attend(h, where, cache, noise)
        h = dropout(h, cfg.drop_rate, branch(noise, "attention", attention.NOISE))
        x = keep_apart(x + h)
        inside["after_attention"] = x

        h = LayerNorm(cfg, name="mlp_norm")(x)
        h = FeedForward(cfg, name="mlp")(h)
        h = dropout(h, cfg.drop_rate, branch(noise, "mlp", attention.NOISE))
        x = keep_apart(x + h)
        inside["after_mlp"] = x

        return (x, cache), inside if self.traced else {}
