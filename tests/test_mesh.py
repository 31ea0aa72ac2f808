"""Devices fill a named mesh, or the config says why they can't."""

import jax
import pytest
from jax.sharding import AxisType

from jaxllm.config import MeshConfig, ProcessConfig
from jaxllm.distributed import mesh as meshes
from jaxllm.distributed import startup
from jaxllm.errors import ConfigError


@pytest.mark.parametrize(
    ("cfg", "shape"),
    [
        (MeshConfig(), (8, 1, 1, 1)),
        (MeshConfig(data=1, fsdp=-1), (1, 8, 1, 1)),
        (MeshConfig(data=1, tensor=8), (1, 1, 1, 8)),
        (MeshConfig(data=2, fsdp=2, tensor=2), (2, 2, 1, 2)),
        (MeshConfig(sequence=4), (2, 1, 4, 1)),
    ],
)
def test_eight_devices_fill_the_mesh(cfg, shape):
    mesh = meshes.make_mesh(cfg)
    assert tuple(mesh.shape.values()) == shape
    assert mesh.axis_names == ("data", "fsdp", "sequence", "tensor")
    assert mesh.axis_types == (AxisType.Auto,) * 4


def test_a_mesh_takes_the_devices_it_is_given():
    mesh = meshes.make_mesh(MeshConfig(), jax.devices()[:2])
    assert mesh.devices.size == 2


@pytest.mark.parametrize("cfg", [MeshConfig(data=3), MeshConfig(fsdp=3)])
def test_sizes_that_leave_devices_over_are_refused(cfg):
    with pytest.raises(ConfigError, match="number of devices, 8"):
        meshes.make_mesh(cfg)


def test_a_process_on_its_own_does_not_wait_for_others():
    startup.initialize(environment={})
    startup.initialize(environment={"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"})
    assert not jax.distributed.is_initialized()


@pytest.mark.parametrize(
    "name", ["JAX_NUM_PROCESSES", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"]
)
def test_a_variable_with_nothing_in_it_is_not_set(name):
    assert startup.process_count({name: ""}) == 1
    cfg = startup.with_environment(ProcessConfig(), {name: "", "JAX_PROCESS_ID": " "})
    assert (cfg.num_processes, cfg.process_id, cfg.detect) == (1, None, False)


@pytest.mark.parametrize("name", ["JAX_NUM_PROCESSES", "JAX_PROCESS_ID"])
def test_a_variable_that_must_be_a_number_is_named(name):
    with pytest.raises(ConfigError, match=f"{name} must be a number, got 'two'"):
        startup.with_environment(ProcessConfig(), {name: "two"})
