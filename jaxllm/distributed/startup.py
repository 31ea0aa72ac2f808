"""The start of a process: alone, or one of many that train together."""

import os
from collections.abc import Mapping

import jax

# Where launchers write the number of processes of a job. In Slurm it is that of the
# step: the script that calls srun runs alone, though its job has many tasks.
_PROCESS_COUNTS = ("JAX_NUM_PROCESSES", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")


def initialize(environment: Mapping[str, str] = os.environ) -> None:
    """Join the other processes of a job, where there are any, before JAX is used.

    Slurm, Open MPI and Cloud TPU are found by what they leave in the environment.
    Elsewhere the variables JAX_COORDINATOR_ADDRESS ("host:port"), JAX_NUM_PROCESSES
    and JAX_PROCESS_ID say it. A process on its own is left as it is.
    """
    if jax.distributed.is_initialized() or process_count(environment) == 1:
        return
    if "JAX_NUM_PROCESSES" in environment:
        jax.distributed.initialize(
            coordinator_address=environment["JAX_COORDINATOR_ADDRESS"],
            num_processes=int(environment["JAX_NUM_PROCESSES"]),
            process_id=int(environment["JAX_PROCESS_ID"]),
        )
    else:
        jax.distributed.initialize()


def process_count(environment: Mapping[str, str]) -> int:
    """Read from the environment how many processes were launched for this job.

    >>> process_count({"SLURM_STEP_NUM_TASKS": "4"})
    4
    >>> process_count({"TPU_WORKER_HOSTNAMES": "host-0,host-1"})
    2
    >>> process_count({})
    1
    """
    for name in _PROCESS_COUNTS:
        if name in environment:
            return int(environment[name])
    return len(environment.get("TPU_WORKER_HOSTNAMES", "").split(","))
