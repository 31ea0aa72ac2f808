"""A tree of parameters and a mesh in, the place of every array out.

Model code names no device. What is split over which axis of the mesh is decided here,
by rules on paths, and given to jit as the shardings of its arguments and results.
"""

from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxllm import paths
from jaxllm.errors import ConfigError
from jaxllm.types import Batch

# fsdp splits the width D of every matrix; tensor splits what heads, hidden units and
# vocabulary rows do independently of each other (Shoeybi et al. 2019). The leading
# layer axis of block parameters stays whole: the loop over layers runs along it.
# Vectors of length D are small, and whole on every device.
RULES = (
    (r"(token_embedding|head)/embedding$", P("tensor", "fsdp")),  # (V, D)
    (r"position_embedding/embedding$", P(None, "fsdp")),  # (C, D)
    (r"attention/(query|key|value)/kernel$", P(None, "fsdp", "tensor")),  # (L, D, N, H)
    (r"attention/(query|key|value)/bias$", P(None, "tensor")),  # (L, N, H)
    (r"attention/out/kernel$", P(None, "tensor", None, "fsdp")),  # (L, N, H, D)
    (r"mlp/up/kernel$", P(None, "fsdp", "tensor")),  # (L, D, F)
    (r"mlp/up/bias$", P(None, "tensor")),  # (L, F)
    (r"mlp/down/kernel$", P(None, "tensor", "fsdp")),  # (L, F, D)
    (r"(attention/out|mlp/down)/bias$", P()),  # (L, D)
    (r"norm/(scale|bias)$", P()),  # (L, D)
)

# What a training state holds beside parameters and their moments.
SCALAR_RULES = ((r"(^|/)(step|key|count)$", P()),)

# The rows of a batch are shared by every device that holds another part of the data.
BATCH_SPEC = P(("data", "fsdp"))


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


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Find the sharding of a batch: its rows over the axes data and fsdp."""
    return NamedSharding(mesh, BATCH_SPEC)


def place_batch(batch: Batch, mesh: Mesh) -> Batch:
    """Put this process's rows of a batch on its devices.

    Each process gives its own rows; the result is the whole batch, of global shape.
    """
    sharding = batch_sharding(mesh)
    return jax.tree.map(
        lambda rows: jax.make_array_from_process_local_data(sharding, rows), batch
    )


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
