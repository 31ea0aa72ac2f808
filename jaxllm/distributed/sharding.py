"""A tree of parameters and a mesh in, the place of every array out.

Model code names no device. What is split over which axis of the mesh is decided here,
by rules on paths, and given to jit as the shardings of its arguments and results.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxllm import paths
from jaxllm.errors import ConfigError
from jaxllm.models.shares import ROWS, TOKENS

# fsdp splits the width D of every matrix; tensor splits what heads, hidden units and
# vocabulary rows do independently of each other (Shoeybi et al. 2019). The leading
# layer axis of block parameters stays whole: the loop over layers runs along it.
# Vectors of length D are small, and whole on every device.
RULES = (
    (r"(token_embedding|head)/embedding$", P("tensor", "fsdp")),  # (V, D)
    (r"position_embedding/embedding$", P(None, "fsdp")),  # (C, D)
    # (L, D, N, H) and (L, N, H), or K heads in place of N
    (r"attention/(query|key|value)/kernel$", P(None, "fsdp", "tensor")),
    (r"attention/(query|key|value)/bias$", P(None, "tensor")),
    (r"attention/out/kernel$", P(None, "tensor", None, "fsdp")),  # (L, N, H, D)
    (r"mlp/up/kernel$", P(None, "fsdp", "tensor")),  # (L, D, F)
    (r"mlp/up/bias$", P(None, "tensor")),  # (L, F)
    (r"mlp/down/kernel$", P(None, "tensor", "fsdp")),  # (L, F, D)
    (r"(attention/out|mlp/down)/bias$", P()),  # (L, D)
    (r"norm/(scale|bias)$", P()),  # (L, D)
    (r"classifier/(kernel|bias)$", P()),  # (D, K), (K,)
    (r"/[ab]$", P()),  # of an adapter, whose one axis is the rank
)

# What a training state holds beside parameters and their moments.
SCALAR_RULES = ((r"(^|/)(step|key|count|ns_coeffs)$", P()),)


def tree_shardings(tree: Any, mesh: Mesh) -> Any:
    """Find the sharding of every array in a tree of parameters or of training state.

    Moments are split like their parameters, since their paths end alike. `tree` may
    hold arrays or, from jax.eval_shape, only their shapes.

    >>> from jaxllm.config import MeshConfig
    >>> from jaxllm.distributed import mesh as meshes
    >>> mesh = meshes.make_mesh(MeshConfig(), jax.devices()[:1])
    >>> bias = jax.ShapeDtypeStruct((2, 8), "float32")
    >>> tree_shardings({"mlp": {"up": {"bias": bias}}}, mesh)["mlp"]["up"]["bias"].spec
    P(None, 'tensor')
    """
    rules = RULES + SCALAR_RULES
    return paths.map_with_path(
        lambda path, leaf: NamedSharding(
            mesh, fit(paths.first_match(path, rules), leaf.shape, mesh.shape)
        ),
        tree,
    )


def placed_shapes(shapes: Any, mesh: Mesh) -> Any:
    """Give each shape of a tree, as jax.eval_shape finds it, its sharding."""
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=place
        ),
        shapes,
        tree_shardings(shapes, mesh),
    )


def fit(spec: P, shape: tuple[int, ...], axis_sizes: Any) -> P:
    """Leave out of a spec the mesh axes that do not divide their dimension.

    GPT-2's 50,257 rows can't be shared out evenly; every device then holds them all.

    >>> fit(P("tensor", "fsdp"), (50257, 768), {"tensor": 8, "fsdp": 2})
    P(None, 'fsdp')
    """
    return P(
        *(
            axis if axis is not None and size % axis_sizes[axis] == 0 else None
            for axis, size in zip(spec, shape, strict=False)
        )
    )


def batch_spec(mesh: Mesh, shape: tuple[int, ...]) -> P:
    """Find how an array of a batch, (B,) or (B, ..., T), is split.

    Rows are split over data and fsdp, and the tokens of each over sequence.
    """
    tokens = (*(None,) * (len(shape) - 2), TOKENS) if len(shape) > 1 else ()
    return P(ROWS, *fit(P(*tokens), shape[1:], mesh.shape))


class Share(NamedTuple):
    """Which rows of every batch a process gives: `part` of `parts` even ones."""

    part: int
    parts: int
    copies: int  # processes that give the same rows


@functools.cache
def process_share(mesh: Mesh) -> Share:
    """Find the share of this process in every batch.

    Where the devices that split a model or a sequence belong to several processes,
    each of these gives the same rows.

    >>> from jaxllm.config import MeshConfig
    >>> from jaxllm.distributed import mesh as meshes
    >>> process_share(meshes.make_mesh(MeshConfig(), jax.devices()[:1]))
    Share(part=0, parts=1, copies=1)
    """
    owners = np.vectorize(lambda device: device.process_index)(mesh.devices)
    n_rows = mesh.shape["data"] * mesh.shape["fsdp"]
    return share_of(jax.process_index(), owners.reshape(n_rows, -1))


def share_of(process: int, owners: np.ndarray) -> Share:
    """Find the share of a process in every batch.

    Args:
      owners: (data x fsdp, sequence x tensor) the process that has each device.

    >>> share_of(1, np.array([[0, 0], [1, 1]]))
    Share(part=1, parts=2, copies=1)
    >>> share_of(1, np.array([[0, 1]]))
    Share(part=0, parts=1, copies=2)
    """
    n_rows = len(owners)
    (mine,) = np.nonzero((owners == process).any(axis=1))
    first, size = int(mine[0]), len(mine)
    if first % size or n_rows % size or mine[-1] != first + size - 1:
        raise ConfigError(
            f"mesh data x fsdp = {n_rows} can't be shared out evenly: "
            f"process {process} would hold the parts {mine.tolist()}"
        )
    return Share(first // size, n_rows // size, len(np.unique(owners[mine])))


def place_batch(batch: Any, mesh: Mesh, *, stacked: bool = False) -> Any:
    """Put this process's share of a batch, a pytree of rows, on its devices.

    The result is the whole batch, of global shape.

    Args:
      stacked: whether several batches lie one behind the other along a leading axis.
    """
    if mesh.size == 1:
        return _unchanged(mesh)(batch)
    share = process_share(mesh)
    lead = (None,) * stacked

    def place(rows: np.ndarray) -> jax.Array:
        local = rows.shape[stacked]
        shape = (*rows.shape[:stacked], local * share.parts, *rows.shape[stacked + 1 :])
        spec = batch_spec(mesh, shape[stacked:])
        before = local * share.part

        def mine(where: Any) -> np.ndarray:
            start, stop, _ = where[stacked].indices(shape[stacked])
            here = slice(start - before, stop - before)
            return rows[(*where[:stacked], here, *where[stacked + 1 :])]

        return jax.make_array_from_callback(
            shape, NamedSharding(mesh, P(*lead, *spec)), mine
        )

    return jax.tree.map(place, batch)


@functools.cache
def _unchanged(mesh: Mesh) -> Callable[[Any], Any]:
    """Place a batch on one device by a compiled function that does nothing to it.

    JAX calls those through C++: a CPU has the two arrays of a batch in a quarter of the
    time that `jax.device_put` takes.
    """
    there = NamedSharding(mesh, P())
    return jax.jit(lambda batch: batch, in_shardings=there, out_shardings=there)


def check_batch_size(
    name: str, batch_size: int, mesh: Mesh, accumulation_steps: int = 1
) -> None:
    """Refuse a batch that can't be shared out evenly.

    Raises ConfigError unless its size is a multiple of the devices that share it times
    the slices that each of them takes one after the other.
    """
    shares = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch_size % (shares * accumulation_steps):
        raise ConfigError(
            f"{name} must be a multiple of {shares * accumulation_steps} "
            f"(mesh data x fsdp = {shares}, accumulation_steps = "
            f"{accumulation_steps}), got {batch_size}"
        )
