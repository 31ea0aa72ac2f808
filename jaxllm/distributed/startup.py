"""The start of a process: alone, or one of many that train together."""

import os
from collections.abc import Callable, Mapping
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

Result = TypeVar("Result")

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


def first_alone(work: Callable[[], Result]) -> Result:
    """Do something in the first process, and then in the others, which find it done."""
    if jax.process_count() == 1:
        return work()
    first = [work()] if jax.process_index() == 0 else []
    multihost_utils.sync_global_devices("first alone")
    return first[0] if first else work()


def any_process(flag: bool) -> bool:
    """Tell every process whether the flag is set in one of them; all have to ask."""
    return sum_of_processes(int(flag)) > 0


def sum_of_processes(value: int) -> int:
    """Add up a number of every process, for every process; all have to give theirs.

    >>> sum_of_processes(3)
    3
    """
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.process_allgather(np.array(value)).sum())
