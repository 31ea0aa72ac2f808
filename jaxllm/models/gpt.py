"""Token ids in, logits out: the GPT, and the functions by which it is used.

Parameters are a plain nested dict. The blocks' parameters are stacked along a leading
layer axis, which a compiled loop reads slice by slice: compile time does not grow with
depth, and `cfg.unroll` trades it back without another layout.
"""

import functools
import math
from typing import Any, overload

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import core

from jaxllm.config import GPTConfig
from jaxllm.errors import ConfigError, DataError
from jaxllm.models import places, positions
from jaxllm.models.blocks import Block, LayerNorm
from jaxllm.models.cache import Cache, LayerCache, joined_layers
from jaxllm.models.dropout import Noise, branch, dropout, per_layer
from jaxllm.models.embeddings import Embedding, unembed
from jaxllm.models.places import Places
from jaxllm.models.shares import keep_apart
from jaxllm.types import Array, Params

NOISE = ("embedding", "blocks")


class GPT(nn.Module):
    """Token ids to final hidden states; the head is `unembed`."""

    cfg: GPTConfig
    traced: bool = False

    @nn.compact
    def __call__(
        self,
        tokens: Array,
        cache: Cache | None = None,
        noise: Noise = None,
        segments: Array | None = None,
    ) -> tuple[Array, Cache | None, dict]:
        cfg = self.cfg
        T = tokens.shape[1]
        if segments is not None:
            where = places.in_segments(segments)
        else:
            where = places.in_rows(T, None if cache is None else cache.length)
            if cache is None and cfg.positions in ("learned", "sinusoidal"):
                check_length(T, cfg)

        table = Embedding(cfg, cfg.vocab_size, name="token_embedding")()
        if not cfg.tied_head and self.is_initializing():
            Embedding(cfg, cfg.vocab_size, is_head=True, name="head")()
        x = table[tokens]  # (B, T, D)
        if cfg.positions == "learned":
            order = Embedding(cfg, cfg.context_length, name="position_embedding")()
            x = x + order[where.position]
        elif cfg.positions == "sinusoidal":
            # Scaled as in Vaswani et al. 2017, section 3.4, lest the waves drown it.
            waves = positions.sinusoidal_table(cfg.context_length, cfg.emb_dim)
            x = x * math.sqrt(cfg.emb_dim) + jnp.asarray(waves)[where.position]
        x = dropout(keep_apart(x), cfg.drop_rate, branch(noise, "embedding", NOISE))
        embedded = x

        x = x.astype(cfg.dtype)
        if self.has_variable("params", "block_0"):
            inside, layers = {}, []
            for i in range(cfg.n_layers):
                block = self.get_variable("params", f"block_{i}")
                layer = None if cache is None else cache.layer(i)
                x, layer = _apply_block(block, x, layer, where, cfg)
                layers.append(layer)
            cache = None if cache is None else joined_layers(layers)
        else:
            noise = per_layer(branch(noise, "blocks", NOISE), cfg.n_layers)
            (x, _), inside = self._blocks()((x, None), noise, where)
        x = LayerNorm(cfg, name="final_norm")(x)
        if cache is not None:
            cache = cache._replace(length=cache.length + T)
        return x, cache, {"embedded": embedded, "blocks": inside, "hidden": x}

    def _blocks(self) -> nn.Module:
        block = Block
        if self.cfg.remat != "none":
            policy = None
            if self.cfg.remat == "dots":
                policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
            # In a loop of single blocks nothing can merge the two computations.
            block = nn.remat(Block, prevent_cse=unrolled(self.cfg) > 1, policy=policy)
        # Drawing a block's parameters is compiled once for all blocks.
        unroll = 1 if self.is_initializing() else unrolled(self.cfg)
        per_layer_or_shared: Any = (0, nn.broadcast)  # noise, where
        return nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=per_layer_or_shared,
            length=self.cfg.n_layers,
            unroll=unroll,
        )(self.cfg, self.traced, name="blocks")


@functools.partial(jax.jit, static_argnames="cfg")
def _apply_block(
    params: Params, x: Array, cache: LayerCache | None, where: Places, cfg: GPTConfig
) -> tuple[Array, LayerCache | None]:
    """Run a block that has parameters of its own.

    Jitted, so that JAX traces and lowers one block for all: GPT-2 124M with a cache in
    0.3 s, not 2.4 s, on a busy machine. XLA puts them together again.
    """
    variables: Any = {"params": params}
    results: Any = Block(cfg, parent=None).apply(variables, (x, cache), None, where)
    (x, cache), _ = results
    return x, cache


def unrolled(cfg: GPTConfig) -> int:
    """Choose how many blocks an iteration of the loop over layers holds.

    Without a loop a training step is 5 to 16 % faster on a CPU (0.8M to 124M
    parameters) and 12 % on a GPU (124M), and compiles in 17 s instead of 13 for 12
    blocks; more would take ever longer.

    >>> unrolled(GPTConfig(unroll=2))
    2
    """
    if cfg.unroll is not None:
        return cfg.unroll
    if jax.default_backend() != "tpu" and cfg.remat == "none":
        return min(cfg.n_layers, 12)
    return 1


@functools.partial(jax.jit, static_argnames="cfg")
def init_params(key: Array, cfg: GPTConfig) -> Params:
    """Draw the initial parameters of a GPT.

    Compiled as a whole, so that a run and a line of Python draw the same bits.

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
    params: Params,
    tokens: Array,
    cfg: GPTConfig,
    *,
    segments: Array | None = None,
    key: Noise = None,
) -> tuple[Array, None]: ...


@overload
def hidden_states(
    params: Params, tokens: Array, cfg: GPTConfig, *, cache: Cache
) -> tuple[Array, Cache]: ...


def hidden_states(
    params: Params,
    tokens: Array,
    cfg: GPTConfig,
    *,
    cache: Cache | None = None,
    segments: Array | None = None,
    key: Noise = None,
) -> tuple[Array, Cache | None]:
    """Read tokens into the vectors from which the next ones are predicted.

    Args:
      tokens: (B, T) int32. Ids outside the vocabulary are clamped by JAX: check them
        on the host (`check_tokens`).
      cache: None to read the tokens from position 0; or the past, behind which they
        stand. Their keys and values are added to the cache that is returned, which must
        have room: behind its last slot comes the first.
      segments: (B, T) int32, where rows hold several texts, each in one piece: a token
        sees its own text only, and positions restart in each. Not with a cache.
      key: None for no dropout; a random key; or the masks themselves, True = keep:
        {"embedding": (B, T, D), "blocks": {"weights": (L, B, N, T, T),
        "attention": (L, B, T, D), "mlp": (L, B, T, D)}}. Not with a cache.

    Returns:
      hidden states (B, T, D) in cfg.dtype, after the final norm, and the cache.

    Raises:
      ConfigError: what is given does not go together.
      DataError: there is no token, or there are more than positions, or than slots in
        the cache. Behind a cache positions are counted where its length is known, that
        is outside `jit`; inside, those beyond the last are clamped by JAX.
    """
    T = tokens.shape[1]
    if not T:
        raise DataError("a sequence must have at least one token, got none")
    if key is not None and "blocks" not in params:
        raise ConfigError("parameters prepared for decoding know no dropout, got a key")
    if cache is not None:
        if not cfg.causal:
            raise ConfigError("a cache needs causal attention, got causal=False")
        if segments is not None:
            raise ConfigError("a cache holds one text per row, got segments too")
        if key is not None:
            raise ConfigError("what is read through a cache knows no dropout")
        slots = cache.key[0].shape[1]
        if slots < T:
            raise DataError(f"a cache of {slots} slots has no room for {T} tokens")
        is_known = not isinstance(cache.length, core.Tracer)
        if is_known and cfg.positions in ("learned", "sinusoidal"):
            check_length(int(cache.length.max()) + T, cfg)
        params = blocks_apart(params)
    results: Any = GPT(cfg).apply({"params": params}, tokens, cache, key, segments)
    hidden, cache, _ = results
    return hidden, cache


def apply(
    params: Params,
    tokens: Array,
    cfg: GPTConfig,
    *,
    segments: Array | None = None,
    key: Noise = None,
) -> Array:
    """Score every token of the vocabulary as the next one, at every position.

    Args:
      tokens: (B, T) int32, T <= context_length.
      segments, key: as for `hidden_states`; None for one text per row, and no dropout.

    Returns:
      logits (B, T, V) float32; logits[b, t] depend on tokens[b, :t + 1] only, if
      cfg.causal.

    >>> cfg = GPTConfig(vocab_size=5, emb_dim=6, n_heads=2, n_layers=3)
    >>> params = init_params(jax.random.key(0), cfg)
    >>> apply(params, jnp.array([[3, 1, 4]]), cfg).shape
    (1, 3, 5)
    """
    hidden, _ = hidden_states(params, tokens, cfg, segments=segments, key=key)
    return unembed(params, hidden, cfg)


def trace(params: Params, tokens: Array, cfg: GPTConfig) -> dict:
    """Run the model, with plain attention, and keep everything that it computed.

    Returns:
      embedded (B, T, D); blocks: scores and weights (L, B, N, T, T), after_attention
      and after_mlp (L, B, T, D), the residual stream behind each shortcut;
      residual_norm (L + 1, B, T), its length in front of and behind each block;
      hidden (B, T, D) after the final norm; logits (B, T, V).
    """
    if "blocks" not in params:
        raise ConfigError("trace needs parameters as trained, got prepared ones")
    results: Any = GPT(cfg, traced=True).apply({"params": params}, tokens)
    _, _, inside = results
    stream = jnp.concatenate([inside["embedded"][None], inside["blocks"]["after_mlp"]])
    inside["residual_norm"] = jnp.linalg.norm(stream.astype(jnp.float32), axis=-1)
    inside["logits"] = unembed(params, inside["hidden"], cfg)
    return inside


def blocks_apart(params: Params) -> Params:
    """Give each block parameters of its own, from block_0 on, if it has not.

    Reading from a stack inside a compiled loop would copy each block's part every time.

    >>> blocks_apart({"blocks": {"bias": jnp.array([[1], [2]])}})["block_1"]
    {'bias': Array([2], dtype=int32)}
    """
    if "blocks" not in params:
        return params
    stacked = params["blocks"]
    n_layers = jax.tree.leaves(stacked)[0].shape[0]
    apart = {
        f"block_{i}": jax.tree.map(lambda leaf, i=i: leaf[i], stacked)
        for i in range(n_layers)
    }
    return {name: leaf for name, leaf in params.items() if name != "blocks"} | apart


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
    check_length(tokens.shape[-1], cfg)
    check_ids(tokens, cfg)


def check_ids(tokens: np.ndarray, cfg: GPTConfig) -> None:
    """Refuse ids that the model has no row for."""
    outside = tokens[(tokens < 0) | (tokens >= cfg.vocab_size)]
    if outside.size:
        raise DataError(f"token ids must be in [0, {cfg.vocab_size}), got {outside[0]}")


def check_length(length: int, cfg: GPTConfig) -> None:
    """Refuse sequences that the model has no position for."""
    if length > cfg.context_length:
        raise DataError(
            f"a sequence must have at most {cfg.context_length} tokens "
            f"(context_length), got {length}"
        )
