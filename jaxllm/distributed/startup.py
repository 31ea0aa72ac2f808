"""The start of a process: alone, or one of many that train together."""

import contextlib
import dataclasses
import itertools
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax._src import distributed  # its barrier has no other name yet
from jax.experimental import multihost_utils

from jaxllm.config import ProcessConfig
from jaxllm.errors import ConfigError, JaxllmError, ProcessLostError

Result = TypeVar("Result")

# Milliseconds that processes wait for each other: those of a year.
_WITHOUT_END = 365 * 24 * 3600 * 1000
_meetings = itertools.count()  # each needs a name of its own

# Where launchers write the number of processes of a job. In Slurm it is that of the
# step: the script that calls srun runs alone, though its job has many tasks.
_PROCESS_COUNTS = ("JAX_NUM_PROCESSES", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")

# What collectives and the coordination service say of a process that is gone.
_GONE = re.compile("gloo|nccl|UNAVAILABLE|DEADLINE_EXCEEDED|barrier", re.IGNORECASE)


def initialize(
    cfg: ProcessConfig | None = None, environment: Mapping[str, str] = os.environ
) -> None:
    """Join the other processes of a job, where there are any, before JAX is used.

    The config counts first, then JAX_COORDINATOR_ADDRESS ("host:port"),
    JAX_NUM_PROCESSES and JAX_PROCESS_ID, then what JAX learns from Slurm, Open MPI,
    Kubernetes or Cloud TPU. A process on its own is left as it is.

    From here on a process that dies takes the others with it: at once where they wait
    for it in a collective of the CPU, and after cfg.heartbeat_timeout elsewhere.

    Raises:
      ConfigError: it is not said, and can't be found out, which process this is.
    """
    cfg = with_environment(cfg or ProcessConfig(), environment)
    if jax.distributed.is_initialized() or not cfg.detect:
        return
    known = None not in (cfg.coordinator_address, cfg.num_processes, cfg.process_id)
    try:
        jax.distributed.initialize(
            cfg.coordinator_address,
            cfg.num_processes,
            cfg.process_id,
            cluster_detection_method="deactivate" if known else None,
            initialization_timeout=cfg.start_timeout,
            heartbeat_timeout_seconds=cfg.heartbeat_timeout,
            # Of no more use to wait for: it is gone, or would be found dead by now.
            shutdown_timeout_seconds=cfg.heartbeat_timeout,
        )
    except ValueError as error:
        raise ConfigError(
            "give coordinator_address, num_processes and process_id, by flag or as "
            "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID: "
            f"no cluster is found that says it ({error})"
        ) from error


def with_environment(
    cfg: ProcessConfig, environment: Mapping[str, str]
) -> ProcessConfig:
    """Fill in what the environment says; detect becomes whether to join others.

    >>> alone = with_environment(ProcessConfig(), {})
    >>> alone.num_processes, alone.detect
    (1, False)
    >>> job = {"JAX_COORDINATOR_ADDRESS": "host-0:1234", "JAX_NUM_PROCESSES": "2"}
    >>> cfg = with_environment(ProcessConfig(), job | {"JOB_COMPLETION_INDEX": "1"})
    >>> cfg.num_processes, cfg.process_id, cfg.detect
    (2, 1, True)
    """
    address = cfg.coordinator_address or environment.get("JAX_COORDINATOR_ADDRESS")
    count, index = cfg.num_processes, cfg.process_id
    if count is None:
        count = _number("JAX_NUM_PROCESSES", environment)
    if index is None:
        index = _number("JAX_PROCESS_ID", environment)
    # Kubernetes numbers the pods of an indexed job, as JobSet makes them.
    if index is None and count is not None:
        index = _number("JOB_COMPLETION_INDEX", environment)
    found = process_count(environment) if count is None else count
    detect = found > 1 if cfg.detect is None else cfg.detect
    return dataclasses.replace(
        cfg,
        coordinator_address=address,
        num_processes=count if detect else found,
        process_id=index,
        detect=detect,
    )


def process_count(environment: Mapping[str, str]) -> int:
    """Read from the environment how many processes were launched for this job.

    >>> process_count({"SLURM_STEP_NUM_TASKS": "4"})
    4
    >>> process_count({"TPU_WORKER_HOSTNAMES": "host-0,host-1"})
    2
    >>> process_count({})
    1
    """
    counts = (_number(name, environment) for name in _PROCESS_COUNTS)
    hosts = environment.get("TPU_WORKER_HOSTNAMES", "").split(",")
    return next((n for n in counts if n is not None), len(hosts))


def _number(name: str, environment: Mapping[str, str]) -> int | None:
    """Read a number from the environment; a variable with nothing in it is not set."""
    word = environment.get(name, "").strip()
    try:
        return int(word) if word else None
    except ValueError:
        raise ConfigError(f"{name} must be a number, got {word!r}") from None


@contextlib.contextmanager
def explain_loss() -> Iterator[None]:
    """Say in one line that another process is gone, where that is why JAX failed."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        known = isinstance(error, JaxllmError) or jax.process_count() == 1
        if known or not _GONE.search(str(error)):
            raise
        reason = str(error).splitlines()[0][:200]
        raise ProcessLostError(
            f"process {jax.process_index()} of {jax.process_count()} has lost another "
            f"process of the job, whose log may say why ({reason})"
        ) from error


def first_alone(work: Callable[[], Result]) -> Result:
    """Do something in the first process, and then in the others, which find it done."""
    if jax.process_count() == 1:
        return work()
    first = [work()] if jax.process_index() == 0 else []
    wait_for_all()
    return first[0] if first else work()


def wait_for_all() -> None:
    """Wait, however long it takes, until every process of the job has come here.

    By the service that watches over the processes, which finds out if one dies: a
    collective of the CPU gives up after 30 s.
    """
    if jax.process_count() == 1:
        return
    service: Any = distributed.global_state.client
    with explain_loss():
        service.wait_at_barrier(f"jaxllm {next(_meetings)}", _WITHOUT_END)


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
