"""A table of stored tensors in, parameters out on their devices; and back into a file.

Each parameter is made in one piece: an array of its final shape is filled layer by
layer out of memory maps, and handed to the device before the next is begun. What a
process holds beside the parameters is one of them, or its devices' part of it.
"""

import functools
import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm import paths
from jaxllm.config import GPTConfig
from jaxllm.distributed import sharding
from jaxllm.errors import CheckpointError
from jaxllm.pretrained import int8, names, safetensors_file, tensors
from jaxllm.pretrained.names import Home
from jaxllm.pretrained.safetensors_file import NewTensor
from jaxllm.pretrained.tensors import FLOATS, StoredTensor
from jaxllm.types import Array, Params

# Buffers, not parameters, that older versions of transformers kept: the causal mask.
_BUFFERS = (".attn.bias", ".attn.masked_bias")
# XLA takes host memory as it is, without a copy, if it begins on such a boundary.
_ALIGNMENT = 64


def read_params(
    table: dict[str, StoredTensor],
    cfg: GPTConfig,
    *,
    mesh: jax.sharding.Mesh | None = None,
) -> Params:
    """Fill the parameters of a GPT from stored tensors.

    Args:
        table: every tensor, by Hugging Face's name; checked as a whole first.
        mesh: devices over which the parameters are split as in training; each reads
            its own part. None puts everything on the default device.

    Returns:
        the parameters, float32.

    Raises:
        CheckpointError: a tensor is missing, has no place in the model, or has a shape
            or a type that does not fit.
    """
    check_table(table, cfg)
    homes = _nest({home.path: home for home in names.homes(cfg)})
    shapes = jax.tree.map(
        lambda home: jax.ShapeDtypeStruct(home.shape(cfg), np.float32), homes
    )
    if mesh is None:
        place = jnp.zeros(()).sharding  # where JAX puts things when it is not told
        places = jax.tree.map(lambda _: place, homes)
    else:
        places = sharding.tree_shardings(shapes, mesh)
    return jax.tree.map(
        lambda home, place: _read(home, table, cfg, place), homes, places
    )


def _read(
    home: Home,
    table: dict[str, StoredTensor],
    cfg: GPTConfig,
    place: jax.sharding.Sharding,
) -> Array:
    sources = [table[name] for name in home.tensor_names(cfg)]
    array = jax.make_array_from_callback(
        home.shape(cfg), place, functools.partial(_fill, sources, home, cfg)
    )
    # Otherwise transfers pile up, and with them what they read from.
    return array.block_until_ready()


def _fill(
    sources: list[StoredTensor], home: Home, cfg: GPTConfig, index: Any
) -> np.ndarray:
    """Make parameter[index], a slice for each axis, reading no more than that."""
    sizes = home.shape(cfg)
    spans = [
        range(*span.indices(size)) for span, size in zip(index, sizes, strict=True)
    ]
    part = _aligned_empty(tuple(len(span) for span in spans))
    rows = part if home.stacked else part[None]
    if home.stacked:
        sources, index = sources[index[0]], index[1:]
    for row, stored in zip(rows, sources, strict=True):
        row[...] = names.view_as_ours(tensors.read_tensor(stored), home, cfg)[index]
    return part


def _aligned_empty(shape: tuple[int, ...]) -> np.ndarray:
    size = int(np.prod(shape)) * np.dtype(np.float32).itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size].view(np.float32).reshape(shape)


def check_table(table: dict[str, StoredTensor], cfg: GPTConfig) -> None:
    """Raise CheckpointError unless the tensors are those of this model."""
    wanted = {
        name: home.tensor_shape(cfg)
        for home in names.homes(cfg)
        for name in home.tensor_names(cfg)
    }
    for name, shape in wanted.items():
        if name not in table:
            raise CheckpointError(f"tensor {name} of shape {shape} is missing")
        stored = table[name]
        is_float = stored.scale is not None or stored.dtype in FLOATS.values()
        if stored.shape != shape or not is_float:
            raise CheckpointError(
                f"{stored.path.name}: tensor {stored.name} must have shape {shape} and "
                f"type {', '.join(FLOATS)}; got {stored.shape} and {stored.dtype}"
            )
    for name in sorted(table.keys() - wanted.keys()):
        if not name.endswith(_BUFFERS):
            raise CheckpointError(
                f"{table[name].path.name}: tensor {table[name].name} of shape "
                f"{table[name].shape} has no place in a GPT-2 of {cfg.n_layers} layers"
            )


def write_params(
    params: Params,
    cfg: GPTConfig,
    path: str | os.PathLike[str],
    dtype: str = "float32",
    *,
    more: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write the parameters of a GPT as a safetensors file with Hugging Face's names.

    Args:
        dtype: float32, which loses nothing; or float16, bfloat16 or int8 (`int8`),
            which round.
        more: further tensors by their names in the file, float32.

    Raises:
        CheckpointError: a parameter is missing, is one too many, or does not have the
            shape that cfg gives it.
    """
    homes = names.homes(cfg)
    leaves = {
        paths.path_of(keys): leaf
        for keys, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    wanted = {home.path: home.shape(cfg) for home in homes}
    for name in wanted | leaves:
        shape = leaves[name].shape if name in leaves else None
        if shape != wanted.get(name):
            raise CheckpointError(
                f"parameter {name} must have shape {wanted.get(name)}, got {shape}"
            )
    places: dict[str, list[tuple[Home, int]]] = {}
    for home in homes:
        for layer, name in enumerate(home.tensor_names(cfg)):
            # As GPT2LMHeadModel calls them: the head alone stands outside.
            full = name if home == names.HEAD else f"transformer.{name}"
            places.setdefault(full, []).append((home, layer))
    news: dict[str, NewTensor] = {}
    for name, inside in places.items():
        home, _ = inside[0]
        make = functools.partial(_tensor, leaves, inside, cfg)
        kind = FLOATS["float32" if dtype == "int8" else dtype]
        new = NewTensor(home.tensor_shape(cfg), kind, make)
        axis = int8.input_axis(home) if dtype == "int8" else None
        news |= {name: new} if axis is None else _in_int8(name, new, axis)
    for name, tensor in (more or {}).items():
        news[name] = NewTensor(
            tensor.shape, FLOATS[dtype], functools.partial(np.asarray, tensor)
        )
    safetensors_file.write(path, news)


def _in_int8(name: str, new: NewTensor, axis: int) -> dict[str, NewTensor]:
    """Write a matrix as int8, and its scales behind it."""
    shape = tuple(1 if i == axis else size for i, size in enumerate(new.shape))
    return {
        name: NewTensor(new.shape, int8.DTYPE, lambda: int8.rounded(new.make(), axis)),
        int8.scale_name(name): NewTensor(
            shape, new.dtype, lambda: int8.scales(new.make(), axis)
        ),
    }


def _tensor(
    leaves: dict[str, Array], places: list[tuple[Home, int]], cfg: GPTConfig
) -> np.ndarray:
    """Make one of GPT-2's tensors out of the parameters that it holds."""
    tensor = np.empty(places[0][0].tensor_shape(cfg), np.float32)
    for home, layer in places:
        leaf = leaves[home.path]
        # Cut where it lies, so that only this layer leaves the device.
        row = leaf[layer] if home.stacked else leaf
        names.view_as_ours(tensor, home, cfg)[...] = np.asarray(row)
    return tensor


def _nest(flat: dict[str, Home]) -> Params:
    tree: Params = {}
    for path, value in flat.items():
        *parents, last = path.split("/")
        branch = tree
        for key in parents:
            branch = branch.setdefault(key, {})
        branch[last] = value
    return tree
