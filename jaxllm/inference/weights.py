"""Parameters as trained in, as decoding reads them fastest out."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxllm.config import GPTConfig
from jaxllm.errors import ConfigError
from jaxllm.models import embeddings, packed
from jaxllm.models.packed import Packed, Weights
from jaxllm.types import Array, Params


def decoding_params(
    params: Params,
    cfg: GPTConfig,
    weights: Weights | None = None,
    *,
    donate: bool = False,
) -> Params:
    """Turn parameters into those that `generate` reads fastest, in as many bits.

    Blocks stand apart, and each kernel and the head are stored output by output; those
    of queries, keys and values are one. Tables that are looked up, biases and norms
    stay as they are. `generate` does this itself if it is given parameters as trained;
    do it once where you ask often.

    Args:
      weights: bfloat16 and int8 halve and quarter what is read for each token, and
        round; None is cfg.dtype, in which the model multiplies anyway.
      donate: give the parameters up: each layer is deleted when it is packed, so that
        memory holds both forms of one layer only.

    Raises:
      ConfigError: the parameters are prepared already, in other weights.

    >>> from jaxllm.models import gpt
    >>> cfg = GPTConfig(vocab_size=7, emb_dim=4, n_heads=1, n_layers=1)
    >>> params = gpt.init_params(jax.random.key(0), cfg)
    >>> small = decoding_params(params, cfg, "int8")
    >>> small["block_0"]["mlp"]["up"]["kernel"].values.dtype
    dtype('int8')
    """
    if is_prepared(params):
        kind = packed.weights_of(embeddings.head_matrix(params))
        if weights not in (None, kind):
            raise ConfigError(
                f"parameters are prepared in {kind}: give weights={kind!r} or none, or "
                f"the parameters as trained, got weights={weights!r}"
            )
        return params
    weights = weights or cfg.dtype
    panels = jax.default_backend() == "cpu"

    def pack_layer(path: tuple, layer: Any) -> list[Params]:
        stored = _pack_layer(layer, _n_inputs(path[-1].key), weights, panels)
        if donate:
            jax.tree.map(lambda leaf: leaf.delete(), layer)
        return stored

    head: Array = embeddings.head_matrix(params)
    # In float32 it is stored so already; a compiled function would copy it.
    pack = packed.pack if weights == "float32" else _pack
    packed_head = pack(head, head.shape[:1], weights, panels=panels)
    if donate and not cfg.tied_head and weights != "float32":
        head.delete()
    layers = jax.tree_util.tree_map_with_path(
        pack_layer, _with_joined_heads(params["blocks"]), is_leaf=_is_layer
    )
    apart = {
        f"block_{i}": jax.tree.map(
            lambda rows, i=i: rows[i], layers, is_leaf=lambda x: isinstance(x, list)
        )
        for i in range(cfg.n_layers)
    }
    rest = {name: part for name, part in params.items() if name != "blocks"}
    return rest | apart | {"head": {"embedding": packed_head}}


def is_prepared(params: Params) -> bool:
    """Find out whether parameters went through `decoding_params`."""
    return isinstance(embeddings.head_matrix(params), Packed)


def rounded_params(params: Params, weights: Weights) -> Params:
    """Round parameters as `decoding_params` does, and leave them in their layout.

    So the loss of a model with such weights is measured as any other's.
    """
    return params if weights == "float32" else _rounded(params, weights)


_pack = jax.jit(packed.pack, static_argnames=("outputs", "weights", "panels"))


def _with_joined_heads(blocks: Params) -> Params:
    """Put queries, keys and values into one layer, qkv: one product for three."""
    attention = dict(blocks["attention"])
    layers = [attention.pop(name) for name in ("query", "key", "value")]
    attention["qkv"] = {name: [layer[name] for layer in layers] for name in layers[0]}
    return blocks | {"attention": attention}


def _is_layer(part: Params) -> bool:
    return not any(isinstance(inside, dict) for inside in part.values())


@functools.partial(jax.jit, static_argnames=("n_inputs", "weights", "panels"))
def _pack_layer(
    layer: Params, n_inputs: int, weights: Weights, panels: bool
) -> list[Params]:
    """Pack one layer of all blocks, stacked, into one of each."""
    heads_axis = {"kernel": 2, "bias": 1}  # of (L, D, N, H) and (L, N, H)
    whole: Params = {
        name: jnp.concatenate(part, heads_axis[name])
        if isinstance(part, list)
        else part
        for name, part in layer.items()
    }

    def pack_kernel(kernel: Array) -> Packed:
        matrix = kernel.reshape(math.prod(kernel.shape[:n_inputs]), -1).T
        return _pack(matrix, kernel.shape[n_inputs:], weights, panels=panels)

    n_layers = len(jax.tree.leaves(whole)[0])
    return [
        {
            name: pack_kernel(part[i]) if name == "kernel" else part[i]
            for name, part in whole.items()
        }
        for i in range(n_layers)
    ]


@functools.partial(jax.jit, static_argnames="weights")
def _rounded(params: Params, weights: Weights) -> Params:
    def round_matrix(matrix: Array) -> Array:
        return packed.unpack(
            packed.pack(matrix, matrix.shape[:1], weights, panels=False)
        )

    def round_kernel(path: tuple, leaf: Array) -> Array:
        *_, layer, name = (key.key for key in path)
        if name != "kernel":
            return leaf
        n_layers, n_in = len(leaf), math.prod(leaf.shape[1 : 1 + _n_inputs(layer)])
        matrices = leaf.reshape(n_layers, n_in, -1).swapaxes(1, 2)
        return jax.vmap(round_matrix)(matrices).swapaxes(1, 2).reshape(leaf.shape)

    rounded = jax.tree_util.tree_map_with_path(round_kernel, params)
    return rounded | {
        "head": {"embedding": round_matrix(embeddings.head_matrix(params))}
    }


def _n_inputs(layer: str) -> int:
    """Count the axes that a layer's kernel contracts."""
    return 2 if layer == "out" else 1
