"""A MeshConfig and the devices in, a named mesh out."""

import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh

from jaxllm.config import MeshConfig
from jaxllm.errors import ConfigError

AXES = ("data", "fsdp", "sequence", "tensor")


def make_mesh(cfg: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """Arrange devices, all of them by default, in a mesh with the axes of a MeshConfig.

    Raises ConfigError where the sizes of the axes do not take every device.

    >>> dict(make_mesh(MeshConfig(), jax.devices()[:1]).shape)
    {'data': 1, 'fsdp': 1, 'sequence': 1, 'tensor': 1}
    """
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh(
        mesh_shape(cfg, len(devices)),
        AXES,
        # Auto lets the compiler place what model code leaves open; the default,
        # Explicit, asks every gather in a model for the sharding of its result.
        axis_types=(AxisType.Auto,) * len(AXES),
        devices=devices,
    )


def mesh_shape(cfg: MeshConfig, n_devices: int) -> tuple[int, ...]:
    """Find the sizes of the mesh's axes; an axis of -1 takes the devices left over.

    >>> mesh_shape(MeshConfig(data=-1, fsdp=2), 8)
    (4, 2, 1, 1)
    >>> mesh_shape(MeshConfig(data=3), 8)
    Traceback (most recent call last):
    jaxllm.errors.ConfigError: mesh sizes must multiply to the number of devices, 8,
    got data=3, fsdp=1, sequence=1, tensor=1
    """
    sizes = [getattr(cfg, axis) for axis in AXES]
    asked = ", ".join(f"{axis}={getattr(cfg, axis)}" for axis in AXES)
    if -1 in sizes:
        known = math.prod(size for size in sizes if size != -1)
        sizes[sizes.index(-1)] = n_devices // known
    if math.prod(sizes) != n_devices:
        raise ConfigError(
            f"mesh sizes must multiply to the number of devices, {n_devices}, "
            f"got {asked}"
        )
    return tuple(sizes)
