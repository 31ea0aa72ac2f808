"""Parameters as trained in, as decoding reads them fastest out."""

import functools
import math

import jax
import jax.numpy as jnp

from jaxllm.config import GPTConfig
from jaxllm.models import embeddings, gpt, packed
from jaxllm.models.packed import Packed, Weights
from jaxllm.types import Array, Params


def decoding_params(
    params: Params, cfg: GPTConfig, weights: Weights | None = None
) -> Params:
    """Turn parameters into those that `generate` reads fastest, in as many bits.

    Blocks stand apart, and each kernel and the head are stored output by output; those
    of queries, keys and values are one. Tables that are looked up, biases and norms
    stay as they are. `generate` does this itself if it is given parameters as trained;
    do it once where you ask often.

    Args:
      weights: bfloat16 and int8 halve and quarter what is read for each token, and
        round; None is cfg.dtype, in which the model multiplies anyway.

    >>> cfg = gpt.GPTConfig(vocab_size=7, emb_dim=4, n_heads=1, n_layers=1)
    >>> params = gpt.init_params(jax.random.key(0), cfg)
    >>> small = decoding_params(params, cfg, "int8")
    >>> small["block_0"]["mlp"]["up"]["kernel"].values.dtype
    dtype('int8')
    """
    if is_prepared(params):
        return params
    on_cpu = jax.default_backend() == "cpu"
    return _prepared(params, weights or cfg.dtype, panels=on_cpu)


def is_prepared(params: Params) -> bool:
    """Find out whether parameters went through `decoding_params`."""
    return isinstance(embeddings.head_matrix(params), Packed)


def rounded_params(params: Params, weights: Weights) -> Params:
    """Round parameters as `decoding_params` does, and leave them in their layout.

    So the loss of a model with such weights is measured as any other's.
    """
    return params if weights == "float32" else _rounded(params, weights)


@functools.partial(jax.jit, static_argnames=("weights", "panels"))
def _prepared(params: Params, weights: Weights, panels: bool) -> Params:
    def pack_kernel(path: tuple, leaf: Array) -> Array | Packed:
        n_inputs = _n_inputs(path)
        if not n_inputs:
            return leaf
        matrix = leaf.reshape(math.prod(leaf.shape[:n_inputs]), -1).T
        return packed.pack(matrix, leaf.shape[n_inputs:], weights, panels=panels)

    head: Array = embeddings.head_matrix(params)
    apart = {
        name: _with_joined_heads(part) if name.startswith("block_") else part
        for name, part in gpt.blocks_apart(params).items()
    }
    stored = jax.tree_util.tree_map_with_path(pack_kernel, apart)
    head = packed.pack(head, head.shape[:1], weights, panels=panels)
    return stored | {"head": {"embedding": head}}


def _with_joined_heads(block: Params) -> Params:
    """Join queries, keys and values into one layer, qkv: one product for three."""
    attention = dict(block["attention"])
    layers = [attention.pop(name) for name in ("query", "key", "value")]
    heads_axis = {"kernel": 1, "bias": 0}  # of (D, N, H) and (N, H)
    attention["qkv"] = {
        name: jnp.concatenate([layer[name] for layer in layers], heads_axis[name])
        for name in layers[0]
    }
    return block | {"attention": attention}


@functools.partial(jax.jit, static_argnames="weights")
def _rounded(params: Params, weights: Weights) -> Params:
    def round_matrix(matrix: Array) -> Array:
        return packed.unpack(
            packed.pack(matrix, matrix.shape[:1], weights, panels=False)
        )

    def round_kernel(path: tuple, leaf: Array) -> Array:
        n_inputs = _n_inputs(path)
        if not n_inputs:
            return leaf
        n_layers, n_in = leaf.shape[0], math.prod(leaf.shape[1 : 1 + n_inputs])
        matrices = leaf.reshape(n_layers, n_in, -1).swapaxes(1, 2)
        return jax.vmap(round_matrix)(matrices).swapaxes(1, 2).reshape(leaf.shape)

    rounded = jax.tree_util.tree_map_with_path(round_kernel, params)
    return rounded | {
        "head": {"embedding": round_matrix(embeddings.head_matrix(params))}
    }


def _n_inputs(path: tuple) -> int:
    """Count the axes that the kernel at a path contracts; 0 if it is none."""
    *_, layer, name = (key.key for key in path)
    if name != "kernel":
        return 0
    return 2 if layer == "out" else 1
