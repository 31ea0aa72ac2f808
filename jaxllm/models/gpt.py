"""Token ids in, logits out: the GPT, and the functions by which it is used.

Parameters are a plain nested dict. The blocks' parameters are stacked along a leading
layer axis, which a compiled loop reads slice by slice: compile time does not grow with
depth, and `cfg.unroll` trades it back without another layout.
"""

import math
from typing import Any, overload

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxllm.config import GPTConfig
from jaxllm.errors import DataError
from jaxllm.models import positions
from jaxllm.models.blocks import Block, LayerNorm
from jaxllm.models.cache import Cache
from jaxllm.models.dropout import Noise, branch, dropout, per_layer
from jaxllm.models.embeddings import Embedding, unembed
from jaxllm.types import Array, Params

NOISE = ("embedding", "blocks")


class GPT(nn.Module):
    """Token ids to final hidden states; the head is `unembed`."""

    cfg: GPTConfig
    traced: bool = False

    @nn.compact
    def __call__(
        self, tokens: Array, cache: Cache | None = None, noise: Noise = None
    ) -> tuple[Array, Cache | None, dict]:
        cfg = self.cfg
        T = tokens.shape[1]
        where = jnp.arange(T)[None]  # (1, T), or (B, T) behind what the cache holds
        if cache is not None:
            where = cache.length[:, None] + where

        table = Embedding(cfg, cfg.vocab_size, name="token_embedding")()
        if not cfg.tied_head:
            Embedding(cfg, cfg.vocab_size, is_head=True, name="head")()
        x = table[tokens]  # (B, T, D)
        if cfg.positions == "learned":
            x = (
                x
                + Embedding(cfg, cfg.context_length, name="position_embedding")()[where]
            )
        elif cfg.positions == "sinusoidal":
            # Scaled as in Vaswani et al. 2017, section 3.4, lest the waves drown it.
            waves = positions.sinusoidal_table(cfg.context_length, cfg.emb_dim)
            x = x * math.sqrt(cfg.emb_dim) + jnp.asarray(waves)[where]
        x = dropout(x, cfg.drop_rate, branch(noise, "embedding", NOISE))
        embedded = x

        (x, cache), inside = self._blocks()(
            (x.astype(cfg.dtype), cache),
            jnp.arange(cfg.n_layers),
            per_layer(branch(noise, "blocks", NOISE), cfg.n_layers),
            where,
        )
        x = LayerNorm(cfg, name="final_norm")(x)
        if cache is not None:
            cache = cache._replace(length=cache.length + T)
        return x, cache, {"embedded": embedded, "blocks": inside, "hidden": x}

    def _blocks(self) -> nn.Module:
        block = Block
        if self.cfg.remat == "block":
            # Inside a loop nothing can merge the two computations, so no barrier.
            block = nn.remat(Block, prevent_cse=False)
        per_layer_or_shared: Any = (0, 0, nn.broadcast)  # layer, noise, where
        return nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=per_layer_or_shared,
            length=self.cfg.n_layers,
            unroll=self.cfg.unroll,
        )(self.cfg, self.traced, name="blocks")


def init_params(key: Array, cfg: GPTConfig) -> Params:
    """Draw the initial parameters of a GPT.

    Returns:
      Nested dict of float32 arrays; a path such as blocks/attention/query/kernel has
      its L layers along the first axis: (L, D, N, H).

    >>> cfg = GPTConfig(vocab_size=5, emb_dim=6, n_heads=2, n_layers=3)
    >>> params = init_params(jax.random.key(0), cfg)
    >>> params["blocks"]["attention"]["query"]["kernel"].shape
    (3, 6, 2, 3)
    """
    variables: Any = GPT(cfg).init(key, jnp.zeros((1, 1), jnp.int32))
    return variables["params"]


@overload
def hidden_states(
    params: Params, tokens: Array, cfg: GPTConfig, *, key: Noise = None
) -> tuple[Array, None]: ...


@overload
def hidden_states(
    params: Params, tokens: Array, cfg: GPTConfig, *, cache: Cache, key: Noise = None
) -> tuple[Array, Cache]: ...


def hidden_states(
    params: Params,
    tokens: Array,
    cfg: GPTConfig,
    *,
    cache: Cache | None = None,
    key: Noise = None,
) -> tuple[Array, Cache | None]:
    """Read tokens into the vectors from which the next ones are predicted.

    Args:
      tokens: (B, T) int32. Ids outside the vocabulary are clamped by JAX: check them
        on the host (`check_tokens`).
      cache: None to read the tokens from position 0; or the past, behind which they
        stand. Their keys and values are added to the cache that is returned.
      key: None for no dropout; a random key; or the masks themselves, True = keep:
        {"embedding": (B, T, D), "blocks": {"weights": (L, B, N, T, T),
        "attention": (L, B, T, D), "mlp": (L, B, T, D)}}.

    Returns:
      hidden states (B, T, D) in cfg.dtype, after the final norm, and the cache.
    """
    results: Any = GPT(cfg).apply({"params": params}, tokens, cache, key)
    hidden, cache, _ = results
    return hidden, cache


def apply(params: Params, tokens: Array, cfg: GPTConfig, *, key: Noise = None) -> Array:
    """Score every token of the vocabulary as the next one, at every position.

    Args:
      tokens: (B, T) int32, T <= context_length.
      key: as for `hidden_states`; None for no dropout.

    Returns:
      logits (B, T, V) float32; logits[b, t] depend on tokens[b, :t + 1] only.

    >>> cfg = GPTConfig(vocab_size=5, emb_dim=6, n_heads=2, n_layers=3)
    >>> params = init_params(jax.random.key(0), cfg)
    >>> apply(params, jnp.array([[3, 1, 4]]), cfg).shape
    (1, 3, 5)
    """
    hidden, _ = hidden_states(params, tokens, cfg, key=key)
    return unembed(params, hidden, cfg)


def trace(params: Params, tokens: Array, cfg: GPTConfig) -> dict:
    """Run the model and keep everything that it computed on the way.

    Returns:
      embedded (B, T, D); blocks: scores and weights (L, B, N, T, T), after_attention
      and after_mlp (L, B, T, D), the residual stream behind each shortcut;
      residual_norm (L + 1, B, T), its length in front of and behind each block;
      hidden (B, T, D) after the final norm; logits (B, T, V).
    """
    results: Any = GPT(cfg, traced=True).apply({"params": params}, tokens)
    _, _, inside = results
    stream = jnp.concatenate([inside["embedded"][None], inside["blocks"]["after_mlp"]])
    inside["residual_norm"] = jnp.linalg.norm(stream.astype(jnp.float32), axis=-1)
    inside["logits"] = unembed(params, inside["hidden"], cfg)
    return inside


def count_params(cfg: GPTConfig) -> int:
    """Count parameters without making them.

    >>> from jaxllm.config import gpt2_config
    >>> count_params(gpt2_config("124M"))
    124439808
    """
    shapes = jax.eval_shape(lambda: init_params(jax.random.key(0), cfg))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def check_tokens(tokens: np.ndarray, cfg: GPTConfig) -> None:
    """Refuse ids that the model has no row for, and sequences it has no position for.

    Runs on the host, before a compiled function in which JAX would clamp such ids.

    >>> check_tokens(np.array([[7]]), GPTConfig(vocab_size=5))
    Traceback (most recent call last):
    ...
    jaxllm.errors.DataError: token ids must be in [0, 5), got 7
    """
    if tokens.shape[-1] > cfg.context_length:
        raise DataError(
            f"a sequence must have at most {cfg.context_length} tokens "
            f"(context_length), got {tokens.shape[-1]}"
        )
    outside = tokens[(tokens < 0) | (tokens >= cfg.vocab_size)]
    if outside.size:
        raise DataError(f"token ids must be in [0, {cfg.vocab_size}), got {outside[0]}")
